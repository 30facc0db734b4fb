"""The node as a hospital runs it: processes of its own, C-STORE in, C-STORE out, killed at every step."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg_pool import PoolTimeout
from pydicom import dcmread

from node.analyze import dicom_files
from node.deliver.sender import send
from node.deliver.status import Reply, Verdict
from node.demo.pacs import AE_TITLE, SmallPacs
from node.demo.stage import RunningNode, StageError, stage
from node.ledger import overview
from node.service import ledger_of
from tests.chaos.counts import record
from tests.conftest import wait_until

pytestmark = pytest.mark.xdist_group("node")


@contextmanager
def running(pacs: SmallPacs, **sections: Any) -> Iterator[RunningNode]:
    destination = {"name": "pacs", "host": "127.0.0.1", "port": pacs.port, "ae_title": AE_TITLE, "timeout_s": 10}
    defaults: dict[str, Any] = {
        "site": "test",
        "study": {"quiet_s": 1.0},
        "receive": {"port": 0},
        "destinations": [destination],
        "work": {"stalled_after_s": 3.0, "max_attempts": 20, "drain_s": 5},
        "deliver": {"backoff_s": [0.5]},
    }
    with stage(**{**defaults, **sections}) as node:
        yield node


def send_files(node: RunningNode, files: list[Path]) -> int:
    """Send; returns how many were acknowledged."""
    stored = 0

    def replied(_index: int, reply: Reply) -> None:
        nonlocal stored
        stored += reply.verdict is Verdict.STORED

    send(files, "127.0.0.1", node.port, called_ae="SPINENODE", calling_ae="TEST", replied=replied)
    return stored


def studies(node: RunningNode) -> list[dict[str, Any]]:
    with ledger_of(node.settings) as database, database.transaction() as connection:
        return overview.studies(connection)


def finished(node: RunningNode, answers: int) -> bool:
    found = studies(node)
    return (
        bool(found)
        and all(study["state"] == "evaluated" for study in found)
        and sum(study["answers"] for study in found) >= answers
        and not any(study["deliveries"].get("pending") for study in found)
    )


def digests(pacs: SmallPacs) -> dict[str, set[str]]:
    """UID to the digests that were ever sent under it."""
    found: dict[str, set[str]] = {}
    for item in pacs.received:
        found.setdefault(item.sop_instance_uid, set()).add(item.sha256)
    return found


def count(fault: str, pacs: SmallPacs, images: int, **more: Any) -> None:
    """Record a fault of a node that was sent ``images`` images, which all were acknowledged and entered."""
    found = digests(pacs)
    record(
        fault,
        sent=images,
        acknowledged=images,
        expected=len(EVALUATED),
        received=len(found),
        duplicates=len(pacs.received) - len(found),
        **{"in the ledger": images, "digests per UID": dict(Counter(map(len, found.values())))},
        **more,
    )


def kinds(pacs: SmallPacs) -> list[str]:
    """Kinds of the stored objects by SOP class and burned-in text, one per UID."""
    return sorted(dcmread(path, stop_before_pixels=True).SOPClassUID.name for path in pacs.stored().values())


STEPS = ("gate", "localize", "keypoints", "results", "outbox")
"""Steps that the evaluator logs as it enters them; it is killed once in each."""

LONGER = {"quiet_s": 15.0}
"""Longer than a killed process needs to come back: else the half that was sent before is a study of its own."""

EVALUATED = sorted(
    [
        "Secondary Capture Image Storage",
        "Secondary Capture Image Storage",
        "Comprehensive 3D SR Storage",
        "Comprehensive 3D SR Storage",
        "Segmentation Storage",
        "Segmentation Storage",
    ]
)


def test_a_series_is_answered_once_late_slices_make_a_revision_and_a_repeat_makes_nothing(
    tmp_path: Path, phantom_series: Path, shipped_models: Path
) -> None:
    files = [path for path in dicom_files(phantom_series) if path.suffix == ".dcm"]
    by_height = sorted(files, key=lambda p: float(dcmread(p, stop_before_pixels=True).ImagePositionPatient[2]))
    late = by_height[:3]
    with SmallPacs(tmp_path / "pacs") as pacs, running(pacs) as node:
        early = [path for path in files if path not in late]
        assert send_files(node, early) == len(early)
        wait_until(lambda: finished(node, 1), 180, "the first answer")
        first = dict(pacs.stored())
        assert kinds(pacs) == EVALUATED
        source = dcmread(files[0], stop_before_pixels=True)
        for path in first.values():
            result = dcmread(path, stop_before_pixels=True)
            assert (result.StudyInstanceUID, result.PatientID) == (source.StudyInstanceUID, source.PatientID)
            assert result.SeriesInstanceUID != source.SeriesInstanceUID
            assert "research" in result.SeriesDescription

        assert send_files(node, early[:20]) == 20
        time.sleep(3)
        assert finished(node, 1)
        assert set(pacs.stored()) == set(first)

        assert send_files(node, late) == 3
        wait_until(lambda: finished(node, 2), 180, "the revision")
        second = {uid: path for uid, path in pacs.stored().items() if uid not in first}
        assert len(second) == len(first)
        assert all("r2" in dcmread(path, stop_before_pixels=True).SeriesDescription for path in second.values())
        predecessors = {
            item.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            for path in second.values()
            for item in dcmread(path, stop_before_pixels=True).get("PredecessorDocumentsSequence", [])
        }
        assert len(predecessors) == 2
        assert predecessors <= set(first)
        assert all(len(found) == 1 for found in digests(pacs).values())

        # our own results, sent back to us by a PACS that routes everything, are never analysed
        assert send_files(node, list(first.values())) == len(first)
        time.sleep(3)
        wait_until(lambda: finished(node, 2), 60, "the results that came back to be set aside")
        assert len(pacs.stored()) == len(first) + len(second)


def test_what_is_not_eligible_stays_in_the_ledger(tmp_path: Path, phantom_series: Path, shipped_models: Path) -> None:
    scout = dcmread(dicom_files(phantom_series)[1])
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.save_as(tmp_path / "scout.dcm")
    with SmallPacs(tmp_path / "pacs") as pacs, running(pacs) as node:
        assert send_files(node, [tmp_path / "scout.dcm"]) == 1
        wait_until(lambda: finished(node, 0), 60, "the study to be decided")
        with ledger_of(node.settings) as database, database.transaction() as connection:
            found = overview.study(connection, scout.StudyInstanceUID)
        assert found is not None
        assert [(series["outcome"], series["reason_code"]) for series in found["series"]] == [
            ("not_eligible", "LOCALIZER")
        ]
        assert pacs.received == []


def test_a_gap_is_answered_not_evaluable(tmp_path: Path, phantom_series: Path, shipped_models: Path) -> None:
    files = sorted(
        (path for path in dicom_files(phantom_series) if path.suffix == ".dcm"),
        key=lambda p: float(dcmread(p, stop_before_pixels=True).ImagePositionPatient[2]),
    )
    holes = [path for number, path in enumerate(files) if number % 9 != 4]
    with SmallPacs(tmp_path / "pacs") as pacs, running(pacs) as node:
        assert send_files(node, holes) == len(holes)
        wait_until(lambda: finished(node, 1), 120, "the answer")
        assert kinds(pacs) == ["Basic Text SR Storage", "Secondary Capture Image Storage"]
        with ledger_of(node.settings) as database, database.transaction() as connection:
            row = connection.execute("SELECT status, sent, flag, reason_code FROM answer").fetchone()
        assert row == {"status": "not_evaluable", "sent": True, "flag": None, "reason_code": "GAP_IN_SERIES"}


@pytest.mark.chaos
def test_nothing_is_lost_and_nothing_comes_twice_when_each_process_is_killed(
    tmp_path: Path, phantom_series: Path, shipped_models: Path
) -> None:
    """SIGKILL between acknowledgement and ledger, of the whole node, and of the evaluator in each of its steps."""
    files = [path for path in dicom_files(phantom_series) if path.suffix == ".dcm"]
    with SmallPacs(tmp_path / "pacs") as pacs, running(pacs, study=LONGER) as node:
        half = len(files) // 2
        acknowledged = send_files(node, files[:half])
        old = node.pids["receive"]
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: node.pids["receive"] != old and _listens(node), 60, "the listener to be back")
        acknowledged += send_files(node, files[half:])
        assert acknowledged == len(files)
        node.kill()
        offset = len(node.log.read_bytes())
        node.start()
        for step in STEPS:
            _wait_for_step(node, step, offset)
            os.kill(node.pids["evaluate"], signal.SIGKILL)
            offset = len(node.log.read_bytes())
        wait_until(lambda: finished(node, 1), 240, f"the answer after {len(STEPS)} kills: {node.tail()}")
        with ledger_of(node.settings) as database, database.transaction() as connection:
            counts = overview.counts(connection)
            attempts = connection.execute("SELECT attempt FROM answer").fetchall()
        assert counts["instances"] == len(files)
        assert counts["answers"] == 1
        assert attempts[0]["attempt"] >= len(STEPS), "each step was killed"
        assert kinds(pacs) == EVALUATED
        assert {len(found) for found in digests(pacs).values()} == {1}
        assert len(digests(pacs)) == len(EVALUATED)
        killed = {"receive": 1, "everything": 1, "evaluate": len(STEPS)}
        count("killed in each step of an evaluation", pacs, len(files), killed=killed)


@pytest.mark.chaos
def test_the_private_database_is_killed_and_comes_back(
    tmp_path: Path, phantom_series: Path, shipped_models: Path
) -> None:
    """Receiving goes on without it; everything is entered and answered when it is back."""
    files = [path for path in dicom_files(phantom_series) if path.suffix == ".dcm"]
    with SmallPacs(tmp_path / "pacs") as pacs, running(pacs, study=LONGER) as node:
        postmaster = node.settings.data_dir / "postgres" / "postmaster.pid"
        half = len(files) // 2
        assert send_files(node, files[:half]) == half
        os.kill(int(postmaster.read_text().split()[0]), signal.SIGKILL)
        assert send_files(node, files[half:]) == len(files) - half
        wait_until(lambda: _finished_or_away(node), 240, f"the answer: {node.tail()}")
        assert kinds(pacs) == EVALUATED
        with ledger_of(node.settings) as database, database.transaction() as connection:
            assert overview.counts(connection)["instances"] == len(files)
        count("private database killed while images arrive", pacs, len(files), kills=1)


@pytest.mark.chaos
def test_killed_while_delivering_sends_the_same_bytes(
    tmp_path: Path, phantom_series: Path, shipped_models: Path
) -> None:
    """The deliverer dies after the PACS has stored an object and before the ledger knows."""
    files = [path for path in dicom_files(phantom_series) if path.suffix == ".dcm"]
    with SmallPacs(tmp_path / "pacs") as pacs, running(pacs) as node:
        killed: list[str] = []

        def kill_after(item: Any) -> int:
            if len(killed) < 3 and item.sop_instance_uid not in killed:
                killed.append(item.sop_instance_uid)
                os.kill(node.pids["deliver"], signal.SIGKILL)
            return 0

        pacs.answer = kill_after
        send_files(node, files)
        wait_until(lambda: finished(node, 1), 240, f"the answer: {node.tail()}")
        assert len(killed) == 3
        assert kinds(pacs) == EVALUATED
        assert all(len(found) == 1 for found in digests(pacs).values())
        repeats = len(pacs.received) - len(digests(pacs))
        assert 1 <= repeats <= len(killed)
        count("sender killed with an answer on its way", pacs, len(files), kills=len(killed))


def test_a_second_node_on_the_same_data_is_refused(tmp_path: Path, shipped_models: Path) -> None:
    with SmallPacs(tmp_path / "pacs") as pacs, running(pacs) as node:
        second = RunningNode(tmp_path, data_dir=str(node.settings.data_dir))
        with pytest.raises(StageError, match="another node works on"):
            second.start()


def test_a_changed_model_stops_the_start(tmp_path: Path, shipped_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for path in shipped_models.iterdir():
        if path.suffix in (".onnx", ".json"):
            (folder / path.name).write_bytes(path.read_bytes() + (b"x" if path.suffix == ".onnx" else b""))
    monkeypatch.delenv("SPINE_NODE_MODELS__FOLDER", raising=False)
    node = RunningNode(tmp_path, data_dir=str(tmp_path / "d"), models={"folder": str(folder)})
    with pytest.raises(StageError, match=r"localizer|keypoints"):
        node.start()


def _wait_for_step(node: RunningNode, step: str, offset: int) -> None:
    """Return as soon as the log says, after ``offset`` bytes, that the evaluator enters a step."""
    marker = f'"step": "{step}"'.encode()
    wait_until(lambda: marker in node.log.read_bytes()[offset:], 120, f"step {step}: {node.tail()}")


def _finished_or_away(node: RunningNode) -> bool:
    """As ``finished``; the ledger may be away for a while."""
    try:
        return finished(node, 1)
    except (psycopg.Error, PoolTimeout):
        return False


def _listens(node: RunningNode) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", node.port)) == 0
