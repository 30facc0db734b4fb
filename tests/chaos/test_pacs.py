"""Every PACS of a town in another mood for an hour: what is tried again, what is parked, and nobody waits for another.

The clock is moved. Each archive logs every C-STORE-RQ as it arrives.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from node.deliver import commitment, courier
from node.ledger import Database, overview
from tests.chaos.counts import record
from tests.chaos.town import AE_TITLE, BACKOFF_S, PATIENCE_S, Gate, MoodyPacs, Town
from tests.conftest import wait_until
from tests.desk import Desk
from tests.dicom import STUDY

pytestmark = [pytest.mark.chaos]

RESULTS = 3
"""One answer of three results for each destination."""
TRIES_IN_AN_HOUR = 1 + len(BACKOFF_S)
"""At once, and after each pause."""
HAPPY = {"fine": 0x0000, "coerces": 0xB000, "has_it": 0x0111}
PASSING = {"full": 0xA700}
UNCLEAR = {"vague": 0xC000, "fails": 0x0110, "odd": 0x4321}
PERMANENT = {"mismatch": 0xA900, "no_class": 0x0122, "no_right": 0x0124}
PARKED = {**UNCLEAR, **PERMANENT}
SAYS = {
    "coerces": "coerced data elements (0xB000)",
    "has_it": "has an object of this UID already (0x0111)",
    "full": "out of resources (0xA700)",
    "vague": "see its log (0xC000)",
    "fails": "processing failure at the destination (0x0110)",
    "odd": "unknown status (0x4321)",
    "mismatch": "does not match its SOP class (0xA900)",
    "no_class": "does not support this SOP class (0x0122)",
    "no_right": "does not authorise this node (0x0124)",
    "down": "nothing listens there",
    "rejects": "Calling AE title not recognised",
    "aborts": "the association in the middle",
    "mute": "did not answer within 2 s",
    "late": "did not answer within 2 s",
}
WAITING = ("full", "down", "rejects", "aborts", "mute", "late")


ROUNDS_TO_RECOVER = 10
"""At most. Two seconds are short for an answer where all archives of the town and their sender share a core."""


def answers(status: int) -> Callable[[], int]:
    return lambda: status


def answers_late() -> int:
    """After the sender's time-out: the archive has the object, and the sender cannot know."""
    time.sleep(3)
    return 0x0000


def test_an_hour_with_every_pacs_in_another_mood(tmp_path: Path, database: Database) -> None:
    mute, hangs = Gate(), Gate()
    statuses = HAPPY | PASSING | UNCLEAR | PERMANENT
    moods = {
        "hangs": hangs,
        "mute": mute,
        "late": answers_late,
        **{name: answers(code) for name, code in statuses.items()},
    }
    moods |= {name: answers(0x0000) for name in ("down", "rejects", "aborts")}
    short: dict[str, Any] = {name: {"timeout_s": 2} for name in ("mute", "late")}
    town = Town(tmp_path, database)
    with town.open(moods, answers_each=1, hangs={"timeout_s": 600}, **short), town.delivering():
        town.pacs["rejects"].reject(True)
        town.pacs["aborts"].aborts = 1000
        town.pacs["down"].__exit__()
        for pause_s in (0.0, *BACKOFF_S):
            town.later(pause_s + 1)
            town.settle(but=("hangs",))

        _check_the_hour(town)
        town.keeper.round()  # what is outstanding has its job already: the keeper adds none
        assert len(_jobs(database)) == len([*WAITING, "hangs"])

        # the hour is over: everybody is well again
        requests_of_the_hour = {name: len(pacs.requests) for name, pacs in town.pacs.items()}
        for pacs in town.pacs.values():
            pacs.mood = answers(0x0000)
            pacs.aborts = 0
        mute.open()
        hangs.open()
        town.pacs["rejects"].reject(False)
        with MoodyPacs(tmp_path / "down again", port=town.pacs["down"].port) as again:
            for _ in range(ROUNDS_TO_RECOVER):
                if not any("pending" in found for found in town.states().values()):
                    break
                town.later(BACKOFF_S[-1] + 1)
                town.settle()
            with database.transaction() as connection:
                assert overview.retry(connection, STUDY, list(PARKED)) == RESULTS * len(PARKED)
            town.keeper.round()
            town.settle()
            assert town.states() == {name: {"stored": RESULTS} for name in town.pacs}
            town.pacs["down"].requests += again.requests

    _check_the_requests(town, requests_of_the_hour)


def _check_the_hour(town: Town) -> None:
    states = town.states()
    assert states["hangs"] == {"pending": RESULTS}, "its first request still waits for an answer, and all others"
    assert town.tries("hangs") == [0], "went through their hour beside it"
    assert {name: states[name] for name in HAPPY} == {name: {"stored": RESULTS} for name in HAPPY}
    assert {name: states[name] for name in WAITING} == {name: {"pending": RESULTS} for name in WAITING}
    assert {name: states[name] for name in PARKED} == {name: {"parked": RESULTS} for name in PARKED}
    assert {name: town.tries(name) for name in UNCLEAR} == {name: [3] for name in UNCLEAR}
    assert {name: town.tries(name) for name in PERMANENT} == {name: [1] for name in PERMANENT}
    assert {name: town.tries(name) for name in WAITING} == {name: [TRIES_IN_AN_HOUR] for name in WAITING}
    assert [name for name, words in SAYS.items() if words not in _all_reasons(town, name)] == []
    told = {event["subject"] for event in town.events("delivery_parked")}
    assert {row["sop_instance_uid"] for name in PARKED for row in town.rows(name)} <= told


def _check_the_requests(town: Town, requests_of_the_hour: dict[str, int]) -> None:
    figures: dict[str, dict[str, int]] = {}
    for name, pacs in town.pacs.items():
        digests: dict[str, set[str]] = {}
        for request in pacs.requests:
            digests.setdefault(request.sop_instance_uid, set()).add(request.sha256)
        assert set(digests) == {row["sop_instance_uid"] for row in town.rows(name)}, "no second UID for a result"
        assert {len(found) for found in digests.values()} == {1}, "no second digest under a UID"
        figures[name] = {"requests": len(pacs.requests), "in the hour": requests_of_the_hour[name]}
        figures[name] |= {"results": RESULTS, "repeats": len(pacs.requests) - len(digests)}
    assert [name for name in (*HAPPY, "hangs") if figures[name]["repeats"]] == [], "nothing lost, nothing repeated"
    assert [name for name in ("down", "rejects", "aborts") if figures[name]["repeats"]] == [], "they never had it whole"
    tries_of = {"full": TRIES_IN_AN_HOUR} | dict.fromkeys(UNCLEAR, 3) | dict.fromkeys(PERMANENT, 1)
    for name, tries in tries_of.items():
        # of each answer the picture and the image of the report's lines; the report is held back until that is there
        assert figures[name]["in the hour"] == 2 * tries
    total = Counter[str]()
    for row in figures.values():
        total.update(row)
    assert figures["late"]["repeats"], "what the archive had, it was sent again, since nobody had heard so"
    record(
        "an hour of moods",
        expected=total["results"],
        received=total["requests"] - total["repeats"],
        duplicates=total["repeats"],
        destinations=len(figures),
        requests_in_the_hour=total["in the hour"],
        repeats={name: row["repeats"] for name, row in figures.items() if row["repeats"]},
        **{"digests per UID": {1: total["results"]}},
    )


def _all_reasons(town: Town, name: str) -> str:
    return " | ".join(str(row["reason"]) for row in town.rows(name))


def _jobs(database: Database) -> list[dict[str, Any]]:
    with database.transaction() as connection:
        return connection.execute("SELECT lock FROM procrastinate_jobs WHERE status IN ('todo', 'doing')").fetchall()


def test_an_archive_that_kills_its_sender_is_parked_and_its_neighbours_arrive(
    tmp_path: Path, database: Database
) -> None:
    slow = Gate()
    killed: list[int] = []

    def kill() -> int:
        wait_until(lambda: bool(town.pacs["slow"].requests), PATIENCE_S, "its neighbour to be under way")
        killed.append(_sender(process, town.pacs["deadly"].port))
        os.kill(killed[-1], signal.SIGKILL)
        return 0xA700

    def becomes(states: dict[str, int]) -> Callable[[], bool]:
        def moved() -> bool:
            town.later(BACKOFF_S[0] + 1)
            return town.states()["deadly"] == states

        return moved

    town = Town(tmp_path, database)
    with town.open({"slow": slow, "deadly": kill, "fine": answers(0x0000)}, answers_each=1):
        most = town.settings.work.max_attempts
        with town.delivering() as process:
            assert process.wait(PATIENCE_S) == -signal.SIGKILL
        wait_until(lambda: _taken_over(town), PATIENCE_S, "the dead sender's jobs to be taken over")
        with town.delivering() as process:
            wait_until(becomes({"parked": 3}), PATIENCE_S, "the deadly answer to be parked")
            assert f"died {most} times at this delivery" in town.says("deadly")
            assert [pid == process.pid for pid in killed[1:]] == [False] * (most - 1), "each of its own"
            wait_until(lambda: town.states()["fine"] == {"stored": 3}, PATIENCE_S, "the neighbour that is well")
            assert town.states()["slow"] == {"pending": 3}, "under way all the time, and nobody waited for it"

            town.answer("deadly")
            wait_until(
                lambda: len(killed) == most + 1,
                PATIENCE_S,
                "the next answer to that archive, tried apart from the first",
            )
            town.pacs["deadly"].mood = answers(0x0000)
            slow.open()
            wait_until(lambda: town.states()["slow"] == {"stored": 3}, PATIENCE_S, "the neighbour that is slow")
            wait_until(becomes({"parked": 3, "stored": 3}), PATIENCE_S, "the second to arrive")
            with database.transaction() as connection:
                assert overview.retry(connection, STUDY, ["deadly"]) == 3
            town.keeper.round()
            wait_until(lambda: town.states()["deadly"] == {"stored": 6}, PATIENCE_S, "what was tried again by hand")
            wait_until(lambda: _deaths(database) == [], PATIENCE_S, "the deaths to be forgotten")
            assert process.poll() is None, "the sending process died once"
        requests = [request for pacs in town.pacs.values() for request in pacs.requests]
        assert len({(request.sop_instance_uid, request.sha256) for request in requests}) == 12
        assert [row["attempts"] for row in town.rows("slow")] == [1] * 3
        record(
            "sender killed at each try",
            expected=12,
            received=len({request.sop_instance_uid for request in requests}),
            duplicates=len(requests) - 12,
            kills=len(killed),
            parked=3,
            neighbours_parked=0,
            **{"digests per UID": {1: 12}},
        )


def test_a_delivery_that_was_under_way_whenever_a_sender_was_killed_is_not_parked_for_it(
    tmp_path: Path, database: Database
) -> None:
    slow = Gate()
    town = Town(tmp_path, database)
    with town.open({"slow": slow}, answers_each=1):
        for number in range(2):  # among others, and apart from them
            with town.delivering() as process:
                wait_until(lambda: len(town.pacs["slow"].requests) > number, PATIENCE_S, "it to be under way")  # noqa: B023
                sender = psutil.Process(_sender(process, town.pacs["slow"].port))
                process.kill()
                sender.wait(PATIENCE_S)  # a try in a process of its own does not outlive the process that asked for it
            wait_until(lambda: _taken_over(town), PATIENCE_S, "the dead sender's job to be taken over")
        assert [(row["among_others"], row["alone"]) for row in _deaths(database)] == [(2, 0)]
        slow.open()
        with town.delivering():
            wait_until(lambda: town.states()["slow"] == {"stored": 3}, PATIENCE_S, "it to arrive")
            wait_until(lambda: _deaths(database) == [], PATIENCE_S, "the deaths to be forgotten")
        record("sender killed beside a delivery", expected=3, received=3, kills=2, parked=0)


def _sender(process: subprocess.Popen[bytes], port: int) -> int:
    """Which process speaks to a port: the sending one, or one that it started."""
    started = psutil.Process(process.pid)
    family = [started, *started.children(recursive=True)]
    return next(p.pid for p in family for c in p.net_connections("tcp") if c.raddr and c.raddr.port == port)


def _deaths(database: Database) -> list[dict[str, Any]]:
    with database.transaction() as connection:
        return connection.execute("SELECT * FROM sender_death").fetchall()


def _taken_over(town: Town) -> bool:
    town.keeper.round()
    with town.database.transaction() as connection:
        doing = connection.execute("SELECT count(*) AS n FROM procrastinate_jobs WHERE status = 'doing'").fetchone()
    return doing is not None and doing["n"] == 0


def test_an_error_of_our_own_while_sending_is_tried_a_few_times_and_parked(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("Doe^Jane")

    monkeypatch.setattr(courier, "send", broken)
    desk = Desk(tmp_path, database, 1)
    tries = [desk.deliver(later_s=3600)[0][1:] for _ in range(4)]
    assert tries == [("pending", 1), ("pending", 2), ("parked", 3), ("parked", 3)]
    assert "failed in this node (KeyError)" in desk.rows()[0]["reason"]


def test_a_disk_that_hiccups_while_sending_is_waited_for(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OSError("Input/output error")

    with MoodyPacs(tmp_path / "pacs") as pacs:
        desk = Desk(tmp_path, database, pacs.port)
        with monkeypatch.context() as hiccup:
            hiccup.setattr(courier, "send", away)
            assert [desk.deliver()[0][1] for _ in range(5)] == ["pending"] * 5
        assert {state for _, state, _ in desk.deliver()} == {"stored"}


def test_an_error_of_our_own_while_asking_for_a_proof_is_asked_again_later_and_parked_after_a_week(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AttributeError("what a peer's bytes did to a library")

    monkeypatch.setattr(commitment, "request", broken)
    with MoodyPacs(tmp_path / "pacs") as pacs:
        desk = Desk(tmp_path, database, pacs.port, {"ae_title": AE_TITLE, "commitment": "storage_commitment"})
        assert {state for _, state, _ in desk.deliver()} == {"stored"}
        assert (desk.waiting_job() or 0) > 0, "asked again later, not at once"
        assert "asking failed in this node (AttributeError)" in desk.rows()[0]["reason"]
        assert {state for _, state, _ in desk.deliver(later_s=8 * 86400.0)} == {"parked"}
        assert len(pacs.requests) == 3
