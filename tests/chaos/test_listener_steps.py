"""SIGKILL of the listener at each step of an instance: what it acknowledged is there, what it did not comes again."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.ledger import Database, overview
from node.process import read_state, state_path
from node.settings import Settings, load_settings
from tests.chaos.counts import record
from tests.chaos.deadly_listener import ACKNOWLEDGED, FLUSHED, HALF_WRITTEN, WRITTEN
from tests.chaos.test_instances import _encoded, rows
from tests.chaos.town import PATIENCE_S, role_process
from tests.conftest import wait_until
from tests.dicom import STUDY, ct_slice
from tests.pdus import RELEASE_RP, RawSender, store

pytestmark = [pytest.mark.chaos]

IMAGES, DIES_AT = 6, 4


@dataclass(frozen=True)
class Outcome:
    """What a kill leaves behind: images acknowledged before, receptions of one image in the ledger, torn files."""

    acknowledged: int
    twice: int
    torn: int


STEPS = {
    HALF_WRITTEN: Outcome(DIES_AT - 1, 0, 1),
    WRITTEN: Outcome(DIES_AT - 1, 1, 0),
    FLUSHED: Outcome(DIES_AT - 1, 1, 0),
    ACKNOWLEDGED: Outcome(IMAGES, 0, 0),
}
"""What a process wrote outlives its SIGKILL, flushed or not; what a power cut takes is another test's matter."""


@pytest.mark.parametrize("step", STEPS)
def test_a_listener_that_is_killed_at_a_step_loses_nothing(tmp_path: Path, database: Database, step: str) -> None:
    settings = load_settings(data_dir=tmp_path / "node", receive={"port": 0, "free_space_reserve_mb": 0})
    settings.data_dir.mkdir()
    requests = {}
    for number in range(IMAGES):
        dataset = ct_slice(number)
        requests[str(dataset.SOPInstanceUID)] = store(str(dataset.SOPInstanceUID), _encoded(dataset, tmp_path))

    with role_process(settings, database.dsn, "tests.chaos.deadly_listener", step, str(DIES_AT)) as process:
        acknowledged = _send(settings, requests)
        if step == ACKNOWLEDGED:
            process.kill()
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert len(acknowledged) == STEPS[step].acknowledged
    assert rows(database, "id") == [] or step != ACKNOWLEDGED, "nothing was registered"

    state_path(settings).unlink()
    left = {uid: request for uid, request in requests.items() if uid not in acknowledged}
    with role_process(settings, database.dsn, "node.role", "receive"):
        wait_until(lambda: len(rows(database, "id")) >= len(acknowledged), PATIENCE_S, "what was acknowledged")
        again = _send(settings, left)
        receptions = IMAGES + STEPS[step].twice
        wait_until(lambda: len(rows(database, "id")) == receptions, PATIENCE_S, "every reception in the ledger")

    found = rows(database, "sop_instance_uid, duplicate_of")
    twice = sum(original is not None for _, original in found)
    torn = len(list((settings.spool_dir / "quarantine").glob("*")))
    record(
        f"listener killed when {step}",
        kills=1,
        sent=len(requests) + len(left),
        acknowledged=len(acknowledged | again),
        repeated_images=twice,
        **{"in the ledger": len({uid for uid, _ in found}), "torn files set aside": torn},
    )
    assert acknowledged | again == {uid for uid, _ in found} == set(requests)
    assert (twice, torn) == (STEPS[step].twice, STEPS[step].torn)
    with database.transaction() as connection:
        assert [(study["study_uid"], study["instances"]) for study in overview.studies(connection)] == [(STUDY, IMAGES)]
        told = connection.execute("SELECT kind FROM event").fetchall()
    assert [row["kind"] for row in told] == ["quarantined"] * torn, "and the ledger says so"


def _send(settings: Settings, requests: dict[str, bytes]) -> set[str]:
    """Send one image after the other until the listener is gone; UIDs of those that were acknowledged."""
    wait_until(lambda: "port" in read_state(settings), PATIENCE_S, "the listener")
    acknowledged = set()
    with RawSender(int(read_state(settings)["port"]), timeout_s=PATIENCE_S) as sender:
        sender.associate()
        for uid, request in requests.items():
            sender.send(request)
            kind, body = sender.read()
            if not kind:
                break
            assert b"\0\0\0\x09\2\0\0\0\0\0" in body, "success (PS3.7 9.3.1.2)"
            acknowledged.add(uid)
        else:
            assert sender.release() == RELEASE_RP
    return acknowledged
