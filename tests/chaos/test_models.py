"""Networks and analyses in trouble: a reason in the ledger, never a loop, and the node goes on with the next study."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from pydicom.dataset import Dataset

from inference.runtime import CPU, Models, load_models
from node import workflow
from node.erasing import erase_patient
from node.keeper import Keeper
from node.ledger import Database, answers, intake, overview
from node.metrics.tally import EVALUATIONS, TALLY
from node.service import Child
from node.settings import Settings, load_settings
from node.workflow import FEWEST_DEATHS, QUIETER_S, Workflow
from tests.chaos.counts import record
from tests.chaos.deadly_worker import DEADLY_ROWS
from tests.conftest import wait_until
from tests.dicom import ct_slice
from tests.films import shades
from tests.inference.test_runtime_trouble import NO_ROOM
from tests.integration.test_films import LATERAL, NO_CT, STUDY, House
from tests.toy_film_pipeline import toy_film_pipeline

pytestmark = [pytest.mark.chaos]

SLICES = 14


class CtHouse(House):
    """A node with networks of the test's choice for CT series, too."""

    def __init__(self, folder: Path, database: Database) -> None:
        super().__init__(folder, database)
        self.models = NO_CT
        self.ended = 0

    def evaluate(self) -> None:
        def ended() -> None:
            self.ended += 1

        Workflow(self.settings, self.database, self.models, self.films, ended).evaluate_study(STUDY)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Details of the events of a kind about the study."""
        with self.database.transaction() as connection:
            rows = connection.execute("SELECT detail FROM event WHERE kind = %s AND subject = %s", (kind, STUDY))
            return [row["detail"] for row in rows]

    def wait_s(self) -> float | None:
        """Seconds until the study is looked at again."""
        with self.database.transaction() as connection:
            row = connection.execute(
                "SELECT extract(epoch FROM scheduled_at - now())::float AS s FROM procrastinate_jobs"
                " WHERE status = 'todo'"
            ).fetchone()
        return None if row is None else float(row["s"])


@pytest.fixture
def house(tmp_path: Path, database: Database) -> CtHouse:
    return CtHouse(tmp_path, database)


def ct_series(holes: tuple[int, ...] = (), series: str = f"{STUDY}.7") -> list[Dataset]:
    """A tiny CT series of the same patient and study as the films; with holes it needs no network."""
    patient_id = LATERAL.dataset().PatientID
    datasets = []
    for number in set(range(SLICES)) - set(holes):
        dataset = ct_slice(number, STUDY, series)
        dataset.PatientID = patient_id
        dataset.ImagePositionPatient = [-8.0, -8.0, 5.0 * number]
        dataset.SliceThickness = 5.0
        datasets.append(dataset)
    return datasets


class NoRoom:
    """A session for which the memory does not suffice while ``full``."""

    def __init__(self) -> None:
        self.runs = 0

    def get_outputs(self) -> list[Any]:
        return []

    def run(self, _names: list[str], _inputs: dict[str, Any]) -> list[Any]:
        self.runs += 1
        raise NO_ROOM


def without_memory(*_: object) -> Any:
    raise MemoryError


def test_a_network_that_returns_no_numbers_is_answered_so_and_the_rest_of_the_study_goes_on(
    tmp_path: Path, house: CtHouse, shipped_models: Path
) -> None:
    house.models = load_models(_poisoned(shipped_models, tmp_path), "cpu", threads=1, names=("localizer",))
    house.receive(*ct_series(), LATERAL.dataset())
    assert house.answers() == [
        ("ct", "", 1, "not_evaluable", True),
        ("radiograph", LATERAL.sop_uid, 1, "evaluated", True),
    ]
    study = house.study()
    assert [row["reason_code"] for row in study["answers"]] == ["MODEL_FAILED", None]
    assert (study["parked"], study["attempts"]) == (None, 0)
    house.evaluate()
    assert len(house.answers()) == 2, "what was answered is not computed again"
    record("network of NaN", studies=1, answered=2, model_failed=1, received=len(house.sent()))


def _poisoned(shipped: Path, folder: Path) -> Path:
    """The shipped localizer with one weight that is no number, and a manifest that is right about it."""
    manifest = json.loads((shipped / "manifest.json").read_text())
    entry = next(model for model in manifest["models"] if model["name"] == "localizer")
    network = onnx.load(shipped / entry["file"])
    weights = next(t for t in network.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1)
    values = numpy_helper.to_array(weights).copy()
    values.flat[0] = np.nan
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    content = network.SerializeToString()
    folder = folder / "poisoned"
    folder.mkdir()
    (folder / entry["file"]).write_bytes(content)
    entry["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "models": [entry]}))
    return folder


@pytest.mark.parametrize("what", ["ct", "film"])
def test_too_little_memory_is_tried_again_on_a_quieter_machine_and_then_answered(
    house: CtHouse, shipped_models: Path, what: str
) -> None:
    house.models = Models({"localizer": NoRoom()}, (), CPU)
    house.films = toy_film_pipeline(without_memory)
    house.receive(*(ct_series() if what == "ct" else [LATERAL.dataset()]))
    assert [(e["attempt"], e["error"]) for e in house.events("evaluation_failed")] == [(1, "MemoryError")]
    assert house.ended == 1, "the process that took the memory ends, and another one begins"
    assert QUIETER_S - 10 < (house.wait_s() or 0.0) <= QUIETER_S
    assert house.study()["parked"] is None
    assert house.sent() == [], "and nothing was answered: an answer is final"
    house.models = load_models(shipped_models, "cpu", threads=1, names=("localizer",))
    house.films = toy_film_pipeline()
    house.evaluate()
    ((pipeline, _, revision, status, _),) = house.answers()
    assert (pipeline, revision) == ("ct" if what == "ct" else "radiograph", 1)
    reasons = [row["reason_code"] for row in house.study()["answers"]]
    assert (status, reasons) == (("not_evaluable", ["NO_SPINE_FOUND"]) if what == "ct" else ("evaluated", [None]))
    assert house.study()["attempts"] == 0


def test_a_study_that_waited_in_a_process_without_memory_is_not_begun_there(house: CtHouse) -> None:
    house.evaluate = lambda: None  # type: ignore[method-assign]
    other = f"{STUDY}.2"
    house.receive(LATERAL.dataset(), replace(LATERAL, study_uid=other, series_uid="1.9", sop_uid="1.2.9").dataset())
    before = TALLY.read().get((EVALUATIONS.name, ("failed",)), 0)
    dying = Workflow(house.settings, house.database, NO_CT, toy_film_pipeline(without_memory))
    dying.evaluate_study(STUDY)
    dying.evaluate_study(other)
    assert _attempts(house.database) == {STUDY: 1, other: 0}
    assert TALLY.read()[EVALUATIONS.name, ("failed",)] == before + 1


@pytest.mark.parametrize("meanwhile", ["cancelled", "erased"])
def test_a_study_that_is_taken_away_before_it_is_begun_is_not_said_to_have_killed_its_worker(
    house: CtHouse, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    def taken_away(*_: object) -> bool:
        if meanwhile == "erased":
            assert erase_patient(house.settings, house.database, str(LATERAL.dataset().PatientID)).studies == 1
            return False
        with house.database.transaction() as connection:
            assert overview.cancel(connection, STUDY) == 1
        return False

    monkeypatch.setattr(Workflow, "_unregistered_files", taken_away)
    before = TALLY.read().get((EVALUATIONS.name, ("parked",)), 0)
    house.receive(LATERAL.dataset())
    assert TALLY.read().get((EVALUATIONS.name, ("parked",)), 0) == before
    assert _events(house.database) == []


def test_a_study_whose_worker_died_in_each_attempt_is_parked_and_an_event_says_so(house: CtHouse) -> None:
    begun = house.evaluate
    house.evaluate = lambda: None  # type: ignore[method-assign]
    house.receive(LATERAL.dataset())
    with house.database.transaction() as connection:
        for _ in range(house.settings.work.max_attempts):
            assert answers.begin_evaluation(connection, STUDY) is not None
    begun()
    assert house.study()["parked"].startswith("stopped after 3 attempts: its worker was killed or ended in each")
    assert _events(house.database) == [{"reason": "its worker died in each attempt"}]
    begun()
    assert len(_events(house.database)) == 1


def _events(database: Database) -> list[dict[str, Any]]:
    """Details of the events of parked studies, of erased ones, too."""
    with database.transaction() as connection:
        return [row["detail"] for row in intake.events(connection, 100) if row["kind"] == "study_parked"]


def test_a_study_that_never_finds_enough_memory_is_parked_and_analysed_when_asked_for(house: CtHouse) -> None:
    house.films = toy_film_pipeline(without_memory)
    house.receive(LATERAL.dataset())
    for _ in range(5):
        house.evaluate()
    most = house.settings.work.max_attempts
    assert house.study()["parked"].startswith(f"stopped after {most} attempts: the machine has too little memory")
    assert [e["attempt"] for e in house.events("evaluation_failed")] == list(range(1, most + 1))
    assert len(house.events("study_parked")) == 1
    Keeper(house.settings, house.database).round()
    house.films = toy_film_pipeline()
    house.evaluate()
    assert house.sent() == [], "parked is parked"
    with house.database.transaction() as connection:
        assert overview.retry(connection, STUDY, ["pacs"]) == 1
    house.evaluate()
    assert [(status, revision) for _, _, revision, status, _ in house.answers()] == [("evaluated", 1)]
    record("memory never suffices", attempts=most, parked=1, then_answered=1, received=len(house.sent()))


def test_too_little_memory_while_reading_pixels_is_no_fault_of_the_pixels(
    house: CtHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr("node.gate.pixels._at_end", without_memory)
        house.receive(LATERAL.dataset(), *ct_series())
    assert [e["error"] for e in house.events("evaluation_failed")] == ["MemoryError"]
    assert house.answers() in ([], [("radiograph", LATERAL.sop_uid, 1, None, None)])


def test_an_error_of_our_own_parks_the_study_with_its_kind_and_without_its_words(
    house: CtHouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("Doe^Jane")

    monkeypatch.setattr(workflow, "answer", broken)
    house.receive(*ct_series(holes=(4, 9)))
    for _ in range(5):
        house.evaluate()
    study = house.study()
    assert study["parked"].startswith("stopped after 3 attempts: the analysis failed (ValueError); the log has")
    assert [e["error"] for e in house.events("evaluation_failed")] == ["ValueError"] * 3
    assert house.events("evaluation_failed")[0]["where"][-1].startswith("test_models.py:")
    assert "Doe^Jane" not in "".join(capsys.readouterr()) + json.dumps(house.events("evaluation_failed"))
    assert house.ended == 0


def _settings_beside_a_deadly_study(house: CtHouse, **work: Any) -> Settings:
    """Of a house that has received a study that kills its worker, and another one."""
    deadly = replace(LATERAL, stored=shades(DEADLY_ROWS, 64))
    house.evaluate = lambda: None  # type: ignore[method-assign]  # the worker does that
    house.receive(
        deadly.dataset(), replace(LATERAL, study_uid=f"{STUDY}.2", series_uid="1.9", sop_uid="1.2.9").dataset()
    )
    return load_settings(
        data_dir=house.settings.data_dir, study={"quiet_s": 0}, site="test", work={"stalled_after_s": 2, **work}
    )


def test_a_study_that_was_in_work_beside_one_that_kills_its_worker_is_not_parked_for_it(house: CtHouse) -> None:
    # the fewest deaths that there are: the neighbour's attempt beside the deadly study would be one too many
    settings = _settings_beside_a_deadly_study(house, studies_at_once=2, max_attempts=1)
    keeper = Keeper(settings, house.database)
    keeper.round()
    attempts = []
    for _ in range(FEWEST_DEATHS):
        with _working(settings, house.database.dsn) as process:
            assert process.wait(60) == -signal.SIGKILL
        attempts.append(_attempts(house.database))
        wait_until(lambda: _woken(keeper, house.database), 30, "the dead worker's study to be taken over")
    with _working(settings, house.database.dsn) as process:
        wait_until(lambda: house.study()["parked"] is not None, 60, "the deadly study to be parked")
        wait_until(lambda: _answered(house.database, f"{STUDY}.2"), 60, "its neighbour to be answered")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert attempts[0] == {STUDY: 1, f"{STUDY}.2": 1}, "both were in work when the worker died first"
    assert attempts[1][f"{STUDY}.2"] <= 1, "and never beside each other after that"
    record("worker killed by a study beside another", kills=FEWEST_DEATHS, parked=1, neighbours_parked=0)


def _attempts(database: Database) -> dict[str, int]:
    with database.transaction() as connection:
        return {
            row["study_uid"]: row["attempts"] for row in connection.execute("SELECT study_uid, attempts FROM study")
        }


def test_a_study_that_kills_its_worker_each_time_is_parked_and_the_next_one_is_answered(house: CtHouse) -> None:
    settings = _settings_beside_a_deadly_study(house, studies_at_once=1)
    keeper = Keeper(settings, house.database)
    most = settings.work.max_attempts
    keeper.round()
    codes = []
    while len(codes) < most:
        with _working(settings, house.database.dsn) as process:
            codes.append(process.wait(60))
        wait_until(lambda: _woken(keeper, house.database), 30, "the dead worker's study to be taken over")
    with _working(settings, house.database.dsn) as process:
        wait_until(lambda: house.study()["parked"] is not None, 60, "the study to be parked")
        wait_until(lambda: _answered(house.database, f"{STUDY}.2"), 60, "the next study to be answered")
        process.send_signal(signal.SIGTERM)
        codes.append(process.wait(60))
    assert codes == [-signal.SIGKILL] * most + [0]
    assert f"stopped after {most} attempts: its worker was killed" in house.study()["parked"]
    with house.database.transaction() as connection:
        died = connection.execute("SELECT subject FROM event WHERE kind = 'worker_died'").fetchall()
    assert {row["subject"] for row in died} == {STUDY}
    keeper.round()
    assert _jobs(house.database) == 0, "nothing looks at it any more"
    record("worker killed by a study each time", kills=most, parked=1, studies=2, answered=1)


@contextmanager
def _working(settings: Settings, dsn: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "tests.chaos.deadly_worker"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps({"settings": settings.model_dump(mode="json"), "dsn": dsn}).encode() + b"\n")
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.communicate()  # waits, and closes the pipe


def _woken(keeper: Keeper, database: Database) -> bool:
    keeper.round()
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT count(*) AS n FROM procrastinate_jobs WHERE status = 'todo' AND lock = %s", (f"study:{STUDY}",)
        ).fetchone()
    return bool(row and row["n"])


def _jobs(database: Database) -> int:
    with database.transaction() as connection:
        row = connection.execute("SELECT count(*) AS n FROM procrastinate_jobs WHERE status <> 'failed'").fetchone()
    return 0 if row is None else int(row["n"])


def _answered(database: Database, study_uid: str) -> bool:
    with database.transaction() as connection:
        found = overview.study(connection, study_uid)
    return found is not None and [row["status"] for row in found["answers"]] == ["evaluated"]


def test_networks_that_cannot_be_loaded_any_more_are_said_so_and_tried_again_ever_slower(
    tmp_path: Path, dsn: str, shipped_models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for file in shipped_models.glob("*.onnx"):
        (folder / file.name).symlink_to(file)
    manifest = (shipped_models / "manifest.json").read_text()
    damaged = json.loads(manifest)
    for model in damaged["models"]:
        model["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(damaged))
    settings = load_settings(data_dir=tmp_path / "d", models={"folder": folder, "provider": "cpu", "threads": 1})
    child = Child("evaluate", settings, dsn)
    try:
        pauses = [child._pause_s]
        assert child.process.wait(60) == 1
        wait_until(child.restart_if_ended, 60, "the process to be started again")
        pauses.append(child._pause_s)
        (folder / "manifest.json").write_text(manifest)  # mended while the node runs
        wait_until(lambda: _restarted(child, dsn), 60, "a worker with networks")
        assert pauses == [1.0, 2.0]
    finally:
        child.process.terminate()
        child.stop(0.0)
    said = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "cannot be loaded" in line]
    assert said
    assert all("changed or is damaged; install it again" in line["reason"] for line in said)


def _restarted(child: Child, dsn: str) -> bool:
    child.restart_if_ended()
    with Database(dsn, connections=1) as database, database.transaction() as connection:
        row = connection.execute("SELECT count(*) AS n FROM procrastinate_workers").fetchone()
    return bool(row and row["n"])
