"""The whole node and strangers: what its logs and files give away, and access reloaded while it runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from node.demo.pacs import AE_TITLE, SmallPacs
from node.demo.stage import RunningNode, stage
from node.ledger import intake
from node.process import read_state
from node.service import ledger_of
from tests import peer
from tests.conftest import wait_until
from tests.dicom import ct_slice
from tests.end_to_end.test_node import send_files, studies
from tests.peer import Peer

pytestmark = pytest.mark.xdist_group("node")

SECRETS = ("Geheim", "Heimlich", "XQ-4711-7", "19631117", "Hinterwald")
"""Parts of names, of an identifier, of a date of birth, of a place: none may be seen outside spool and ledger."""


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallPacs]:
    with SmallPacs(tmp_path_factory.mktemp("pacs")) as opened:
        yield opened


@pytest.fixture(scope="module")
def node(pacs: SmallPacs, shipped_models: Path) -> Iterator[RunningNode]:
    destination = {"name": "pacs", "host": "127.0.0.1", "port": pacs.port, "ae_title": AE_TITLE}
    with stage(
        site="test",
        study={"quiet_s": 0.5, "spine_expected_patterns": ["Hinterwald"]},
        receive={"port": 0, "listeners": [{"port": 0, "ae_title": "SECOND", "calling_ae_titles": ["CT9"]}]},
        destinations=[destination],
        work={"drain_s": 5},
    ) as started:
        yield started


def hostile_series(folder: Path) -> list[Path]:
    """Slices whose patient's data stand in every place where a library might quote them."""
    folder.mkdir()
    study, series = "1.2.826.0.1.3680043.8.498.77", "1.2.826.0.1.3680043.8.498.77.1"
    paths = []
    for number in range(8):
        data_set = ct_slice(number, study, series)
        data_set.PatientName = "Geheim^Heimlich"
        data_set.PatientID = "XQ-4711-7"
        data_set.PatientBirthDate = "19631117"
        data_set.SeriesDescription = "Hinterwald, Geheim"
        data_set.InstitutionName = "Hinterwald"
        raw = folder / f"{number}.dcm"
        data_set.save_as(raw, enforce_file_format=True)
        content = raw.read_bytes()
        if number == 3:  # numbers and dates that are none: libraries quote them when they fail
            content = content.replace(b"DS\x02\x00-1", b"DS\x02\x00Ge").replace(b"20260102", b"Geheim  ")
        if number == 4:  # longer than allowed
            content = content.replace(b"PN\x10\x00Geheim^Heimlich ", b"PN\x50\x00Geheim^Heimlich" + b"x" * 65)
        if number == 5:  # cut off in the pixels
            content = content[:-100]
        if number == 6:
            content = content.replace(b"1.000000", b"Heimlich").replace(b"\\6.0", b"\\Gehe")
        raw.write_bytes(content)
        paths.append(raw)
    return paths


def test_no_patient_is_named_in_logs_or_file_names(node: RunningNode, tmp_path: Path) -> None:
    paths = hostile_series(tmp_path / "in")
    assert send_files(node, paths) == len(paths)
    with Peer(node.port) as stranger:  # and in the identifiers of the network, too
        stranger.associate(calling="Geheim^Heimlich")
        stranger.ask(peer.store(b"\x10\x00\x10\x00PN\x06\x00Geheim", b"Geheim.XQ-4711-7"))
        stranger.send(peer.pdu(4, b"Geheim", length=999_999))
    with Peer(node.port) as stranger:
        stranger.ask(peer.request(called="Heimlich", calling="Geheim"))
    wait_until(lambda: any(s["state"] == "evaluated" for s in studies(node)), 120, "the study is evaluated")
    wait_until(
        lambda: not any(s["deliveries"].get("pending") for s in studies(node)), 120, "everything is delivered or parked"
    )
    log = node.log.read_text(encoding="utf-8", errors="replace")
    assert len(log.splitlines()) > 5
    assert [line for line in log.splitlines() if any(secret in line for secret in SECRETS)] == []
    assert "Traceback" not in log
    names = [str(path.relative_to(node.settings.data_dir)) for path in node.settings.data_dir.rglob("*")]
    assert [name for name in names if any(secret in name for secret in SECRETS)] == []
    assert any(name.startswith("spool/") for name in names)


def test_what_is_off_is_said_at_start(node: RunningNode) -> None:
    lines = [json.loads(line) for line in node.log.read_text().splitlines() if line.startswith("{")]
    (said,) = [line["what"] for line in lines if line["event"] == "off in the configuration"][:1]
    assert said == [
        "127.0.0.1:0: every calling AE title may send (calling_ae_titles is empty)",
        "127.0.0.1:0: plain, without TLS",
        "127.0.0.1:0: plain, without TLS",
    ]


def test_what_the_node_writes_is_its_users_alone(node: RunningNode) -> None:
    """Below the data directory nothing can be read, written or entered by others; of the directory itself only names
    that are known can be passed through, where the database runs as a user of its own."""
    top = node.settings.data_dir
    assert stat.S_IMODE(top.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
    seen = set()
    for path in top.rglob("*"):
        relative = path.relative_to(top)
        if relative.parts[0] == "postgres" and len(relative.parts) > 1:
            continue  # behind a directory that is checked itself
        seen.add(relative.parts[0])
        if not stat.S_ISSOCK(path.lstat().st_mode):
            assert path.stat().st_mode & 0o077 == 0, f"{relative}: {oct(path.stat().st_mode)}"
    assert {"spool", "postgres", "state.json"} <= seen


def test_access_and_destinations_are_reloaded_and_nothing_is_interrupted(
    node: RunningNode, tmp_path: Path, pacs: SmallPacs
) -> None:
    _, second = read_state(node.settings)["ports"]
    deliver = node.pids["deliver"]
    configuration = yaml.safe_load(node.configuration.read_text())
    with Peer(node.port) as guest:
        guest.associate()
        with Peer(second) as early:
            assert early.ask(peer.request(called="SECOND", calling="CT10")).rejection == (1, 1, 3)
        configuration["receive"]["listeners"][0]["calling_ae_titles"] = ["CT10"]
        more = {"name": "second", "host": "127.0.0.1", "port": pacs.port, "ae_title": AE_TITLE}
        configuration["destinations"].append(more)
        configuration["retention"] = {"answered_hours": 1}
        node.configuration.write_text(yaml.safe_dump(configuration))
        node.process.send_signal(signal.SIGHUP)

        def let_in() -> bool:
            with Peer(second) as late:
                return late.ask(peer.request(called="SECOND", calling="CT10")).kind == peer.ACCEPTED

        wait_until(let_in, 60, "the new list holds")
        assert guest.ask(peer.ECHO).status == 0, "an open association goes on"
    wait_until(lambda: node.pids["deliver"] != deliver, 60, "the courier has begun again with both destinations")
    log = node.log.read_text()
    assert '"retention"' in log
    assert "only a restart takes it up" in log
    with ledger_of(node.settings) as database, database.transaction() as connection:
        assert "access_reloaded" in [event["kind"] for event in intake.events(connection, 50)]


def test_a_configuration_that_cannot_be_used_changes_nothing(node: RunningNode) -> None:
    good = node.configuration.read_text()
    tls = {"certificate": "/nonexistent.pem", "key": "/nonexistent.key", "client_authorities": "/nonexistent.pem"}
    for wrong in (
        "receive: {prot: 1}",
        "receive: [",
        yaml.safe_dump({**yaml.safe_load(good), "receive": {"tls": tls}}),
    ):
        before = node.log.read_text().count("the former one stays")
        node.configuration.write_text(wrong)
        node.process.send_signal(signal.SIGHUP)
        wait_until(lambda seen=before: node.log.read_text().count("the former one stays") > seen, 60, "it is said")  # type: ignore[misc]
    node.configuration.write_text(good)
    with Peer(node.port) as guest:
        guest.associate()
    assert node.process.poll() is None


def test_the_demo_and_the_default_listen_on_loopback_only(node: RunningNode) -> None:
    outside = next((a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)), "127.0.0.2")
    host = outside if not outside.startswith("127.") else "127.0.0.2"
    with pytest.raises(OSError, match=r"."):
        socket.create_connection((host, node.port), timeout=5)
