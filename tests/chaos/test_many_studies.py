"""Very many tiny instances over many studies and series: received, registered, decided; no step costs more for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from node import workflow
from node.ledger import Database, answers, deliveries, figures, intake, overview
from node.receive.backlog import CLOCK_TICK_S
from node.receive.spool import Spool
from tests.chaos.counts import record
from tests.chaos.test_instances import FEW, MANY, Reads, _encoded, listening
from tests.chaos.test_models import CtHouse
from tests.conftest import wait_until
from tests.dicom import ct_slice
from tests.integration.test_ledger import instance
from tests.listening import resident_mb
from tests.pdus import RawSender, store

pytestmark = [pytest.mark.chaos]

SERIES_OF_A_STUDY, INSTANCES_OF_A_SERIES = 2, 50
SENDERS = 4
STUDY, SERIES, INSTANCE = ("1.2.826.0.1.3680043.8.498." + digit * 8 for digit in "789")
MOST_GROWN_MB = 150
"""Of listener and registrar in the test's own process, its prepared requests included."""


@pytest.fixture
def house(tmp_path: Path, database: Database) -> CtHouse:
    return CtHouse(tmp_path, database)


def numbered(placeholder: str, number: int) -> str:
    return placeholder[:-8] + f"1{number:07d}"


def send(port: int, template: bytes, studies: range, failed: list[int]) -> None:
    """All instances of some studies over one association."""
    with RawSender(port, timeout_s=120) as sender:
        sender.associate()
        for study in studies:
            requests = []
            for number in range(SERIES_OF_A_STUDY * INSTANCES_OF_A_SERIES):
                series = study * SERIES_OF_A_STUDY + number // INSTANCES_OF_A_SERIES
                uid = numbered(INSTANCE, study * SERIES_OF_A_STUDY * INSTANCES_OF_A_SERIES + number)
                content = template.replace(STUDY.encode(), numbered(STUDY, study).encode())
                content = content.replace(SERIES.encode(), numbered(SERIES, series).encode())
                requests.append(store(uid, content.replace(INSTANCE.encode(), uid.encode())))
            failed += [status for status in sender.store_all(requests) if status != 0]


def questions(connection: Any, study_uid: str) -> dict[str, Callable[[], object]]:
    """What the node asks its ledger again and again."""
    return {
        "is it quiet": lambda: answers.seconds_until_quiet(connection, study_uid, 60.0),
        "images of a study": lambda: intake.instances_of(connection, study_uid),
        "its fragments": lambda: intake.fragments(connection, study_uid),
        "what is outstanding": lambda: answers.outstanding_studies(connection),
        "what is to be sent": lambda: deliveries.outstanding(connection),
        "what is past its retention": lambda: intake.expired(connection, 72.0, 24.0, 500),
        "jobs": lambda: figures.jobs(connection),
        "the list of studies": lambda: overview.studies(connection),
        "one more instance": lambda: intake.register(connection, [instance("1.2.3", "1.2.3", "x")]),
        "a claim": lambda: answers.begin_evaluation(connection, study_uid),
    }


def test_very_many_instances_over_many_studies_are_received_registered_and_decided(
    tmp_path: Path, database: Database, house: CtHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_study = SERIES_OF_A_STUDY * INSTANCES_OF_A_SERIES
    studies, many = MANY // per_study, MANY // per_study * per_study
    template = ct_slice(0, STUDY, SERIES, size=8)
    template.SOPInstanceUID = INSTANCE
    encoded = _encoded(template, tmp_path)
    before_mb, begun = resident_mb(), time.monotonic()
    with listening(house.settings.data_dir, database) as ear:
        failed: list[int] = []
        senders = [
            threading.Thread(target=send, args=(ear.listener.port, encoded, range(n, studies, SENDERS), failed))
            for n in range(SENDERS)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        received_s = time.monotonic() - begun
        wait_until(lambda: ear.count("instances") == many, 120 + many / 100, "every instance in the ledger")
        registered_s = time.monotonic() - begun
        grown_mb = resident_mb() - before_mb
    assert failed == []
    assert grown_mb < MOST_GROWN_MB
    time.sleep(CLOCK_TICK_S + workflow.UNREGISTERED_RECHECK_S)  # until the spool's directory is seen to be settled

    listed: list[str] = []
    hours = Spool.hours

    def counted(spool: Spool, among: Iterable[str] | None = None) -> dict[str, int]:
        listed.extend(among or ())
        return hours(spool, among)

    monkeypatch.setattr(Spool, "hours", counted)
    flow = workflow.Workflow(house.settings, database, house.models)
    begun = time.monotonic()
    for study in range(studies):
        flow.evaluate_study(numbered(STUDY, study))
    decided_s = time.monotonic() - begun
    assert len(listed) <= 4, "the spool's directories are not listed again for every study"
    with database.transaction() as connection:
        outcomes = connection.execute(
            "SELECT outcome, reason_code, count(*) AS series, sum(instances) AS instances FROM series GROUP BY 1, 2"
        ).fetchall()
        undecided = answers.outstanding_studies(connection)
    assert [(row["outcome"], row["series"], row["instances"]) for row in outcomes] == [
        ("not_eligible", SERIES_OF_A_STUDY * studies, many)
    ]
    assert undecided == []

    reads, milliseconds = {}, {}
    with database.transaction() as connection:
        connection.execute("ANALYZE")
        for name, ask in questions(connection, numbered(STUDY, studies // 2)).items():
            looked, begun = Reads(connection), time.monotonic()
            ask()
            milliseconds[name] = round(1000 * (time.monotonic() - begun), 1)
            reads[name] = looked.so_far()
    assert max(reads.values()) <= 2 * per_study + FEW, reads
    record(
        "tiny instances of many studies",
        sent=many,
        acknowledged=many,
        studies=studies,
        received_per_s=round(many / received_s),
        registered_per_s=round(many / registered_s),
        decided_per_s=round(many / decided_s),
        grown_mb=round(grown_mb),
        rows_read=reads,
        milliseconds=milliseconds,
        **{"in the ledger": many},
    )


def test_looking_for_what_is_not_registered_takes_no_more_than_a_share_of_the_time(
    house: CtHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, looks, names = [100.0], [0], [list[str]()]

    class SlowBacklog:
        def names(self, *_: object) -> list[str]:
            looks[0] += 1
            clock[0] += 0.2
            return names[0]

    flow = workflow.Workflow(house.settings, house.database, house.models)
    monkeypatch.setattr(flow, "_backlog", SlowBacklog())
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with house.database.transaction() as connection:
        for wait_s in (0.0, 1.9, 0.2):
            clock[0] += wait_s
            assert not flow._unregistered_files(connection)
        assert looks == [2]
        clock[0] += 2.1
        names[0] = ["2026010203/acknowledged.dcm"]
        monkeypatch.setattr(flow._spool, "is_being_written", lambda _name: False)
        assert flow._unregistered_files(connection)
        assert flow._unregistered_files(connection), "what was found is looked for again until it is registered"
        assert looks == [4]
