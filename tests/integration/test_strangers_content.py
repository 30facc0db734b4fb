"""Hostile content that goes the whole way: by C-STORE into spool and ledger, through the gate, into results."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from node.ledger import Database, overview
from node.receive.registrar import Registrar
from node.settings import load_settings
from node.workflow import Workflow
from tests.integration.test_films import LATERAL, NO_CT, House
from tests.integration.test_strangers_weaknesses import _encode_j2k, compressed_series
from tests.listening import Ear, listening, resident_mb

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
"""Of values that break the rules: in the node's own processes nobody hears them, here they would be errors."""

HTML = "<script>alert(1)</script>"
ANSI = "\x1b[2J\x1b[31mred"
HOSTILE = f"{HTML} {ANSI} \x07 '; DROP TABLE study; --"
LONG = HOSTILE + "A" * 65536


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    with listening(tmp_path / "node", network_timeout_s=10.0) as opened:
        yield opened


def jpeg_2000_bomb() -> bytes:
    """A codestream that claims 60,000 by 60,000 pixels."""
    frame = bytearray(_encode_j2k(np.zeros((64, 64), np.uint16)))
    start = frame.index(b"\xff\x4f\xff\x51")
    frame[start + 8 : start + 16] = frame[start + 24 : start + 32] = struct.pack(">II", 60_000, 60_000)
    return bytes(frame)


def rle_bomb() -> bytes:
    """Runs that expand to 64 times the megabyte that is sent."""
    segments = b"\x81\x00" * 500_000
    return struct.pack("<16I", 2, 64, 64 + len(segments), *[0] * 13) + segments + segments


@pytest.mark.parametrize(
    ("syntax", "frame"), [(JPEG2000Lossless, jpeg_2000_bomb), (RLELossless, rle_bomb)], ids=["JPEG 2000", "RLE"]
)
def test_a_bomb_that_is_sent_is_acknowledged_and_answered_without_being_decoded(
    ear: Ear, database: Database, tmp_path: Path, syntax: str, frame: Any
) -> None:
    paths = compressed_series(tmp_path / "in", syntax, frame())
    memory = resident_mb()
    assert {reply.status_code for reply in ear.send(paths)} == {0}
    woken: list[str] = []
    Registrar(ear.spool, database, lambda _connection, study: woken.append(study)).enter_spool()
    (study_uid,) = set(woken)
    settings = load_settings(data_dir=tmp_path / "node", study={"quiet_s": 0}, site="test")
    Workflow(settings, database, NO_CT, None).evaluate_study(study_uid)
    with database.transaction() as connection:
        found = overview.study(connection, study_uid)
    assert found is not None and found["parked"] is None
    assert [(row["status"], row["reason_code"]) for row in found["answers"]] == [("not_evaluable", "PIXELS_UNREADABLE")]
    assert resident_mb() - memory < 150


def hostile(data_set: FileDataset) -> None:
    """Names that no viewer, terminal or table should take for anything but text, some of 64 kB."""
    data_set.PatientName = f"{HOSTILE}^{HOSTILE}"
    data_set.ReferringPhysicianName = LONG
    data_set.SeriesDescription = LONG
    data_set.InstitutionName = LONG
    data_set.StationName = HOSTILE


@pytest.mark.filterwarnings("ignore:The value length")
@pytest.mark.filterwarnings("ignore:The value for the data element")
def test_hostile_names_are_text_in_results_and_nothing_in_logs(
    tmp_path: Path, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    house = House(tmp_path, database)
    house.receive(replace(LATERAL, edit=hostile).dataset())
    logged = capfd.readouterr()
    assert [(status, sent) for *_, status, sent in house.answers()] == [("evaluated", True)]
    told = [line for line in (logged.err + logged.out).splitlines() if "DROP TABLE" in line or "script" in line]
    assert told == []
    for result in house.outbox():
        ours = [e for e in result.iterall() if e.VR in ("UT", "LO", "SH", "ST", "LT") and e.keyword not in COPIED]
        texts = [text for e in ours for text in ([e.value] if isinstance(e.value, str) else e.value or [])]
        assert not [text for text in texts if any(ord(c) < 32 and c not in "\r\n\t" for c in text)], "no escapes"
        assert max(map(len, texts), default=0) < 2000, "a description is cut"
        assert not [path for path in house.settings.outbox_dir.rglob("*") if "script" in path.name]
    assert house.instances() == 1, "the ledger is as it was"


COPIED = ("PatientID", "AccessionNumber", "StudyDescription", "InstitutionName")
"""Of the source, as they are: they are the archive's to show."""
