"""A compressed image that kills the process which decodes it: the study's fault, told and parked, and never a loop."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydicom.uid import RLELossless

from node.gate import decoding
from node.ledger import Database
from tests.chaos.counts import record
from tests.chaos.test_models import CtHouse, ct_series

pytestmark = [pytest.mark.chaos]


def test_a_study_that_kills_what_decodes_it_is_tried_again_then_parked(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"
    program = f"import os, sys; sys.stdin.readline(); open({str(killed)!r}, 'a').write('x'); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(decoding, "START_S", 0.0)
    monkeypatch.setattr(decoding, "COMMAND", (sys.executable, "-S", "-c", program))
    monkeypatch.setattr(decoding.os, "sched_getaffinity", lambda _: {0, 1})
    house = CtHouse(tmp_path, database)
    datasets = ct_series()
    for dataset in datasets:
        dataset.compress(RLELossless, generate_instance_uid=False)
    house.receive(*datasets)
    most = house.settings.work.max_attempts
    for _ in range(2 * most):
        house.evaluate()
    failed = house.events("evaluation_failed")
    assert [(detail["attempt"], detail["error"]) for detail in failed] == [
        (attempt, "DecoderDiedError") for attempt in range(1, most + 1)
    ]
    assert "DecoderDiedError" in house.study()["parked"]
    assert house.answers() == []
    kills = len(killed.read_text())
    assert most <= kills <= 2 * most, "a process or two in each attempt"
    record("decoders that are killed", sent=len(datasets), kills=kills, parked=1, **{"in the ledger": len(datasets)})
