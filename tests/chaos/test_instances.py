"""Instances in trouble: late, missing, twice, altered, from two senders, of two patients, with odd UIDs, very many."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID

from node import workflow
from node.deliver.status import Reply
from node.ledger import Database, answers, deliveries, intake, overview
from node.workflow import MOST_IMAGES
from tests.benchmarks.raw_sender import requests
from tests.chaos.counts import record
from tests.chaos.test_models import CtHouse, ct_series
from tests.conftest import wait_until
from tests.dicom import SERIES, STUDY, ct_slice, write_series
from tests.films import Film
from tests.integration.test_films import LATERAL
from tests.integration.test_ledger import instance
from tests.integration.test_receiving import Ear
from tests.listening import resident_mb
from tests.pdus import RawSender, store

pytestmark = [pytest.mark.chaos]

FULL = "SPINE_NODE_CHAOS_KILLS" in os.environ
"""Whether this is ``make chaos``."""
MANY = int(os.environ.get("SPINE_NODE_CHAOS_INSTANCES", "100000" if FULL else "2000"))
FEW = 50
"""Rows, whatever the number of images."""
PATIENT_ID = str(Film().dataset().PatientID)
HOLES = (4, 9)


@pytest.fixture
def house(tmp_path: Path, database: Database) -> CtHouse:
    return CtHouse(tmp_path, database)


def reasons(house: CtHouse) -> list[str | None]:
    return [row["reason_code"] for row in house.study()["answers"]]


def test_missing_late_and_repeated_slices_make_one_answer_for_each_state_of_the_series(house: CtHouse) -> None:
    house.receive(*ct_series(HOLES))
    assert (house.answers(), reasons(house)) == ([("ct", "", 1, "not_evaluable", True)], ["GAP_IN_SERIES"])
    first = house.sent()
    house.receive(*ct_series(HOLES))
    assert house.sent() == first, "the same again is no news"
    late = [dataset for dataset in ct_series() if dataset.InstanceNumber == HOLES[0] + 1]
    house.receive(*late)
    assert [(revision, status) for _, _, revision, status, _ in house.answers()] == [
        (1, "not_evaluable"),
        (2, "not_evaluable"),
    ]
    assert len({uid for _, uid in house.sent()}) == len(house.sent()) == 2 * len(first)
    house.receive(*late, *ct_series(HOLES))
    assert len(house.answers()) == 2
    with house.database.transaction() as connection:
        row = connection.execute("SELECT count(*) AS n FROM instance WHERE duplicate_of IS NOT NULL").fetchone()
    assert row == {"n": 2 * 12 + 1}
    record(
        "missing, late, repeated slices",
        sent=38,
        expected=2 * len(first),
        received=len(house.sent()),
        answers=2,
        repeated_images=25,
        **{"in the ledger": 38},
    )


def test_other_bytes_under_a_uid_that_was_there_are_not_analysed_and_the_answer_says_so(house: CtHouse) -> None:
    house.receive(*ct_series(HOLES))
    other = ct_series(HOLES)[3]
    other.PixelData = bytes(len(other.PixelData))
    whole = [dataset for dataset in ct_series() if dataset.InstanceNumber - 1 in HOLES]
    house.receive(*whole, other)
    assert reasons(house) == ["GAP_IN_SERIES", "DUPLICATE_POSITIONS"]
    assert [revision for _, _, revision, *_ in house.answers()] == [1, 2]
    words = next(row["reason"] for row in house.study()["series"])
    assert words is None, "what only the pixels tell stands in the answer"


def test_two_patients_under_one_series_uid_are_answered_to_nobody(house: CtHouse) -> None:
    strangers = ct_series()[:3]
    for number, dataset in enumerate(strangers):
        dataset.PatientID = "SOMEBODY ELSE"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{number}")
    house.receive(*ct_series(HOLES), *strangers)
    assert house.answers() == []
    assert [(row["outcome"], row["reason_code"]) for row in house.study()["series"]] == [
        ("not_eligible", "PATIENT_MISMATCH")
    ]
    assert house.sent() == []
    kept = ct_series(HOLES)
    for dataset in strangers:
        dataset.PatientID = PATIENT_ID
    house.receive(*strangers, *kept)
    assert reasons(house), "once the archive has corrected the patient, the series is answered"


def test_an_answered_series_that_a_second_patient_joins_keeps_its_answer_and_gets_no_other(house: CtHouse) -> None:
    house.receive(*ct_series(HOLES))
    before = house.sent()
    late = next(dataset for dataset in ct_series() if dataset.InstanceNumber - 1 == HOLES[0])
    late.PatientID = "SOMEBODY ELSE"
    house.receive(late)
    assert house.sent() == before
    with house.database.transaction() as connection:
        rows = connection.execute("SELECT state, reason FROM delivery").fetchall()
    assert {row["state"] for row in rows} == {"parked"}, "nothing more is sent before somebody has looked"
    assert all("another patient" in row["reason"] for row in rows)
    assert [row["reason_code"] for row in house.study()["series"]] == ["PATIENT_MISMATCH"]


@contextmanager
def listening(folder: Path, database: Database) -> Iterator[Ear]:
    ear = Ear(folder, database)
    ear.registrar.start()
    ear.listener.start()
    try:
        yield ear
    finally:
        ear.listener.stop()
        ear.registrar.stop()


def rows(database: Database, columns: str) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        found = connection.execute(f"SELECT {columns} FROM instance ORDER BY id".encode()).fetchall()
    return [tuple(row.values()) for row in found]


def test_one_series_from_two_senders_at_once_is_one_series(tmp_path: Path, database: Database) -> None:
    files = write_series(tmp_path / "series", 40)
    replies: dict[str, list[Reply]] = {}
    with listening(tmp_path, database) as ear:
        senders = [
            threading.Thread(target=lambda name=name: replies.update({name: ear.send(files, calling=name)}))
            for name in ("CT1", "ROUTER")
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(60)
        wait_until(lambda: ear.count("instances") == 80, what="every reception in the ledger")
    assert [reply.status_code for said in replies.values() for reply in said] == [0] * 80
    found = rows(database, "calling_ae, sop_instance_uid, duplicate_of IS NULL AS first")
    assert sorted({ae for ae, *_ in found}) == ["CT1", "ROUTER"]
    assert sum(first for *_, first in found) == len({uid for _, uid, _ in found}) == 40, "one of each is no duplicate"
    with database.transaction() as connection:
        assert [study["instances"] for study in overview.studies(connection)] == [40]
        jobs = connection.execute("SELECT lock FROM procrastinate_jobs").fetchall()
    assert [row["lock"] for row in jobs] == [f"study:{STUDY}"]
    record(
        "one series from two senders", sent=80, acknowledged=80, repeated_images=40, studies=1, **{"in the ledger": 80}
    )


def _encoded(dataset: Dataset, folder: Path) -> bytes:
    path = folder / "encoded.dcm"
    dataset.save_as(path, enforce_file_format=True)
    raw = path.read_bytes()
    return raw[144 + int.from_bytes(raw[140:144], "little") :]


@pytest.mark.filterwarnings("ignore:.*VR UI")  # pydicom's, which the node does not print either
def test_uids_that_differ_in_padding_are_one_and_in_length_are_two(tmp_path: Path, database: Database) -> None:
    """64 characters are a UID, 65 are none; the ledger takes neither for the other, nor a space for a difference."""
    longest = "1.2." + "3" * 60
    assert len(longest) == 64
    studies = {"exact": longest, "padded": longest + " ", "longer": longest + "3", "longer still": longest + "4"}
    with listening(tmp_path, database) as ear:
        for number, study_uid in enumerate(studies.values()):
            dataset = ct_slice(number, SERIES)
            content = _encoded(dataset, tmp_path)
            padded = study_uid.encode().ljust((len(study_uid) + 1) // 2 * 2, b" " if " " in study_uid else b"\0")
            old = dataset.StudyInstanceUID.encode().ljust((len(SERIES) + 1) // 2 * 2, b"\0")
            head, tail = content.split(b"\x20\x00\x0d\x00UI" + len(old).to_bytes(2, "little") + old)
            content = head + b"\x20\x00\x0d\x00UI" + len(padded).to_bytes(2, "little") + padded + tail
            with RawSender(ear.listener.port) as sender:
                sender.associate()
                assert sender.store_all([store(str(dataset.SOPInstanceUID), content)]) == [0x0000]
        wait_until(lambda: ear.count("instances") == len(studies), what="every instance in the ledger")
    exact, padded_, longer, still = (uid for (uid,) in rows(database, "study_uid"))
    assert exact == padded_ == longest
    assert len({longest, longer, still}) == 3
    assert {len(longer), len(still)} == {64}
    assert "#" in longer, "no UID has that"


def test_uids_of_instances_that_differ_in_length_make_no_duplicates(database: Database) -> None:
    with database.transaction() as connection:
        uid = "1." + "2" * 62
        found = [
            intake.register(connection, [instance(name, uid, digest)]) for name, digest in (("a", "x"), ("b", "x"))
        ]
    assert found == [{STUDY}, set()]


LEVELS = ("1.2.826.0.1.3680043.8.498.70000", "1.2.826.0.1.3680043.8.498.80000", "1.2.826.0.1.3680043.8.498.90000")
"""Study, series and instance; letters take the place of their last digit."""


def in_case(changed: int, letter: str) -> tuple[str, ...]:
    """UIDs of the levels, of which one ends with a letter of the test's choice."""
    return tuple(uid[:-1] + (letter if level == changed else str(changed)) for level, uid in enumerate(LEVELS))


@pytest.mark.filterwarnings("ignore:.*VR UI")  # pydicom's, which the node does not print either
def test_uids_that_differ_in_case_alone_are_two_at_every_level(tmp_path: Path, database: Database) -> None:
    """No UID has letters, but some senders write them: one is never taken for the other."""
    dataset = ct_slice(0, *LEVELS[:2])
    dataset.SOPInstanceUID, dataset.FrameOfReferenceUID = LEVELS[2], "1.2.3"
    content = _encoded(dataset, tmp_path)
    sent = [in_case(changed, letter) for changed in range(len(LEVELS)) for letter in "Aa"]
    with listening(tmp_path, database) as ear:
        for uids in sent:
            altered = content
            for before, uid in zip(LEVELS, uids, strict=True):
                altered = altered.replace(before.encode(), uid.encode())
            with RawSender(ear.listener.port) as sender:
                sender.associate()
                assert sender.store_all([store(uids[2], altered)]) == [0x0000]
        wait_until(lambda: ear.count("instances") == len(sent), what="every instance in the ledger")
    found = rows(database, "study_uid, series_uid, sop_instance_uid, duplicate_of")
    assert [(*uids,) for *uids, _ in found] == sent
    assert [twin for *_, twin in found] == [None] * len(sent), "none is a duplicate"
    with database.transaction() as connection:
        studies = {row["study_uid"] for row in overview.studies(connection)}
        jobs = connection.execute("SELECT lock FROM procrastinate_jobs").fetchall()
    assert studies == {study for study, *_ in sent}
    assert {row["lock"] for row in jobs} == {f"study:{study}" for study in studies}


@pytest.mark.filterwarnings("ignore:.*VR UI")  # pydicom's, which the node does not print either
def test_what_has_letters_in_a_uid_is_kept_apart_and_refused_with_a_reason(house: CtHouse) -> None:
    """No result could name it; what stands beside it in the study is answered."""
    films = [replace(LATERAL, sop_uid=f"1.2.{letter}", series_uid=f"1.3.{letter}") for letter in "Aa"]
    house.receive(*(film.dataset() for film in [*films, LATERAL, *films]))
    found = {row["series_uid"]: (row["outcome"], row["reason_code"]) for row in house.study()["series"]}
    assert found == {
        "1.3.A": ("not_eligible", "MISSING_IDENTIFIERS"),
        "1.3.a": ("not_eligible", "MISSING_IDENTIFIERS"),
        LATERAL.series_uid: ("answered", None),
    }
    assert house.answers() == [("radiograph", LATERAL.sop_uid, 1, "evaluated", True)]
    receptions = [(uid, twin is not None) for uid, twin in rows(house.database, "sop_instance_uid, duplicate_of")]
    once = [("1.2.A", False), ("1.2.a", False), (LATERAL.sop_uid, False)]
    assert sorted(receptions) == sorted([*once, ("1.2.A", True), ("1.2.a", True)])
    record(
        "UIDs that differ in case", sent=5, expected=3, received=len(house.sent()), **{"in the ledger": len(receptions)}
    )


class Reads:
    """What statements of one transaction read of the table of instances."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._before = self._now()

    def _now(self) -> dict[str, int]:
        row = self._connection.execute(
            "SELECT seq_tup_read, coalesce(idx_tup_fetch, 0) AS idx_tup_fetch FROM pg_stat_xact_user_tables"
            " WHERE relname = 'instance'"
        ).fetchone()
        return {key: int(value) for key, value in row.items()}

    def so_far(self) -> int:
        """Rows read since this was made."""
        now = self._now()
        return sum(now[key] - self._before[key] for key in now)


def _rows_read(connection: Any, study_uid: str, new_uid: str) -> dict[str, int]:
    """Rows of instances that each of the node's questions reads."""
    reads = {}
    for name, ask in {
        "is it quiet": lambda: answers.seconds_until_quiet(connection, study_uid, 60.0),
        "what is outstanding": lambda: answers.outstanding_studies(connection),
        "what is to be sent": lambda: deliveries.outstanding(connection),
        "the list of studies": lambda: overview.studies(connection),
        "one more instance": lambda: intake.register(connection, [instance(new_uid, new_uid, "x")]),
        "the same once more": lambda: intake.register(connection, [instance(f"{new_uid} again", new_uid, "x")]),
        "a claim": lambda: answers.begin_evaluation(connection, study_uid),
    }.items():
        looked = Reads(connection)
        ask()
        reads[name] = looked.so_far()
    return reads


def test_very_many_tiny_instances_cost_no_more_each_and_bounded_memory(
    tmp_path: Path, database: Database, house: CtHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_mb = resident_mb()
    with listening(tmp_path, database) as ear:
        with RawSender(ear.listener.port, timeout_s=120) as sender:
            sender.associate()
            for start in range(0, MANY, 500):
                batch = [command + pixels for command, pixels in requests(min(500, MANY - start), 8)]
                assert set(sender.store_all(batch)) == {0x0000}
        wait_until(lambda: ear.count("instances") == MANY, 120 + MANY / 100, "every instance in the ledger")
        grown_mb = resident_mb() - before_mb
    (study_uid,) = {uid for (uid,) in rows(database, "study_uid")}
    with database.transaction() as connection:
        connection.execute(
            "UPDATE study SET last_instance_at = now() - interval '1 hour', evaluated_up_to = %s", (MANY,)
        )
        connection.execute("ALTER TABLE instance SET (autovacuum_enabled = false)")
        evaluated = _rows_read(connection, study_uid, "1.2.3")
        connection.execute("UPDATE study SET evaluated_up_to = NULL")
        waiting = _rows_read(connection, study_uid, "1.2.4")
        connection.execute("ANALYZE instance")
        with_statistics = _rows_read(connection, study_uid, "1.2.5")
        connection.execute("UPDATE study SET evaluated_up_to = %s", (MANY,))
        evaluated_with_statistics = _rows_read(connection, study_uid, "1.2.6")
    for reads in (evaluated, with_statistics, evaluated_with_statistics):
        assert max(reads.values()) <= FEW, reads
    assert max(waiting.values()) <= MANY + FEW, f"each image once, in the minute until there are statistics: {waiting}"
    assert grown_mb < 200

    with database.transaction() as connection:
        connection.execute("UPDATE study SET evaluated_up_to = NULL, attempts = 0 WHERE study_uid = %s", (study_uid,))
    monkeypatch.setattr(workflow, "MOST_IMAGES", min(MOST_IMAGES, MANY - 1))
    monkeypatch.setattr(workflow.Workflow, "_unregistered_files", lambda *_: False)  # the files are in another house
    workflow.Workflow(house.settings, database, house.models).evaluate_study(study_uid)
    with database.transaction() as connection:
        found = overview.study(connection, study_uid)
    assert found is not None
    assert [(row["outcome"], row["reason_code"], row["instances"]) for row in found["series"]] == [
        ("not_eligible", "TOO_MANY_IMAGES", MANY)
    ]
    assert (found["parked"], found["attempts"]) == (None, 0), (
        "its images go when their time has come, as all that was decided"
    )
    record(
        "tiny instances",
        sent=MANY,
        acknowledged=MANY,
        grown_mb=round(grown_mb),
        rows_read=with_statistics,
        **{"in the ledger": MANY},
    )
