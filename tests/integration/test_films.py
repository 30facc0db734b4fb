"""Radiographs through the node's own steps, with a toy in the place of the networks: nothing lost, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import BasicTextSRStorage

from inference.findings import Numbering
from inference.geometry import Radiograph
from inference.runtime import CPU, Models
from node import gate
from node.analyze import analyze
from node.answering import FilmPipeline
from node.gate import GatePolicy, InstanceHeader, LoadedFilm, Unevaluable, load_film
from node.ledger import Database, intake, overview
from node.receive.registrar import Registrar
from node.receive.spool import ReceivedObject, Spool
from node.results import FilmAnswer
from node.results.document import SCHEMA_FILE
from node.results.drawing import ANCHOR_COLOUR
from node.settings import Settings, load_settings
from node.workflow import Workflow
from tests.conftest import wait_until
from tests.dicom import ct_slice
from tests.films import DX_FOR_PROCESSING, Film, shades
from tests.toy_film_pipeline import bodies_of, toy_film_pipeline
from tests.unit.test_spool import ARRIVED

NO_CT = Models({}, (), CPU)
STUDY = Film().study_uid
LATERAL = Film(sop_uid="1.2.1")
OTHER_LATERAL = Film(sop_uid="1.2.2", description="BWS seitl.")
FRONTAL = Film(sop_uid="1.2.3", description="LWS ap")


class House:
    """Spool, ledger and workflow of a node whose networks are a toy; destinations take everything."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = folder, database
        destination = {"name": "pacs", "host": "127.0.0.1", "port": 1, "ae_title": "X"}
        self.settings = load_settings(
            data_dir=folder / "node", study={"quiet_s": 0}, site="test", destinations=[destination]
        )
        self.settings.data_dir.mkdir()
        self.spool = Spool(self.settings.spool_dir)
        self.stored = 0
        self.films = toy_film_pipeline()

    def receive(self, *datasets: FileDataset) -> None:
        """Store, register, evaluate."""
        for dataset in datasets:
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            raw = buffer.getvalue()
            self.spool.store(
                ReceivedObject(
                    data_set=raw[144 + int.from_bytes(raw[140:144], "little") :],
                    sop_class_uid=dataset.SOPClassUID,
                    sop_instance_uid=dataset.SOPInstanceUID,
                    transfer_syntax=dataset.file_meta.TransferSyntaxUID,
                    calling_ae="ROOM1",
                    called_ae="SPINENODE",
                    received_at=ARRIVED,
                )
            )
        self.stored += len(datasets)
        registrar = Registrar(self.spool, self.database, lambda _connection, _study: None)
        registrar.start()
        wait_until(lambda: self.instances() == self.stored, what="every instance in the ledger")
        registrar.stop()
        self.evaluate()

    def evaluate(self) -> None:
        Workflow(self.settings, self.database, NO_CT, self.films).evaluate_study(STUDY)

    def instances(self) -> int:
        with self.database.transaction() as connection:
            row = connection.execute("SELECT count(*) AS n FROM instance").fetchone()
        assert row is not None
        return int(row["n"])

    def study(self) -> dict[str, Any]:
        with self.database.transaction() as connection:
            found = overview.study(connection, STUDY)
        assert found is not None
        return found

    def answers(self) -> list[tuple[str, str, int, str, bool]]:
        """(pipeline, SOP instance UID, revision, status, sent) of each answer."""
        keys = ("pipeline", "sop_instance_uid", "revision", "status", "sent")
        return [tuple(row[key] for key in keys) for row in self.study()["answers"]]  # type: ignore[misc]

    def sent(self) -> list[tuple[str, str]]:
        """(kind, SOP instance UID) of everything planned to be delivered, in order."""
        return [(row["kind"], row["sop_instance_uid"]) for row in self.study()["deliveries"]]

    def outbox(self) -> list[FileDataset]:
        return [dcmread(path) for path in sorted(self.settings.outbox_dir.rglob("*.dcm"))]


@pytest.fixture
def house(tmp_path: Path, database: Database) -> House:
    return House(tmp_path, database)


def outcomes(house: House) -> dict[str, tuple[str, str | None]]:
    return {row["sop_instance_uid"]: (row["outcome"], row["reason_code"]) for row in house.study()["series"]}


def test_every_lateral_film_of_a_series_is_answered_once(house: House) -> None:
    house.receive(*(film.dataset() for film in (LATERAL, OTHER_LATERAL, FRONTAL)))
    assert outcomes(house) == {
        "1.2.1": ("answered", None),
        "1.2.2": ("answered", None),
        "1.2.3": ("not_eligible", "NOT_A_LATERAL_SPINE"),
    }
    assert house.answers() == [
        ("radiograph", "1.2.1", 1, "evaluated", True),
        ("radiograph", "1.2.2", 1, "evaluated", True),
    ]
    assert [kind for kind, _ in house.sent()] == ["capture", "report", "details"] * 2
    assert len({uid for _, uid in house.sent()}) == 6
    reports = [d for d in house.outbox() if d.Modality == "SR" and "report" in d.SeriesDescription]
    references = {
        d.CurrentRequestedProcedureEvidenceSequence[0]
        .ReferencedSeriesSequence[0]
        .ReferencedSOPSequence[0]
        .ReferencedSOPInstanceUID
        for d in reports
    }
    assert references == {"1.2.1", "1.2.2"}


def test_a_repeat_and_a_second_evaluation_make_nothing(house: House) -> None:
    house.receive(LATERAL.dataset())
    before = house.sent()
    house.receive(LATERAL.dataset())
    house.evaluate()
    assert house.sent() == before
    assert len(house.answers()) == 1


def test_a_late_film_has_its_own_answer_and_no_revision_of_the_first(house: House) -> None:
    house.receive(LATERAL.dataset())
    before = house.sent()
    house.receive(OTHER_LATERAL.dataset())
    assert [(uid, revision) for _, uid, revision, *_ in house.answers()] == [("1.2.1", 1), ("1.2.2", 1)]
    assert house.sent()[:3] == before


def test_a_corrected_patient_makes_a_revision_that_names_its_predecessor(house: House) -> None:
    house.receive(LATERAL.dataset(), OTHER_LATERAL.dataset())
    first = [d for d in house.outbox() if d.Modality == "SR"]

    def corrected(ds: FileDataset) -> None:
        ds.PatientName = "Doe^Janet"

    house.receive(replace(LATERAL, edit=corrected).dataset())
    assert house.answers()[-1] == ("radiograph", "1.2.1", 2, "evaluated", True)
    revised = [d for d in house.outbox() if d.Modality == "SR" and "r2" in d.SeriesDescription]
    superseded = {
        d.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for d in revised
    }
    assert len(superseded) == 2
    assert superseded <= {d.SOPInstanceUID for d in first}


def corrected(ds: FileDataset) -> None:
    ds.PixelSpacing, ds.PixelSpacingCalibrationType = [0.5, 0.5], "FIDUCIAL"


def test_a_corrected_header_makes_a_revision_and_the_ledger_says_so(house: House) -> None:
    house.receive(LATERAL.dataset())
    house.receive(replace(LATERAL, edit=corrected).dataset())
    assert house.answers() == [
        ("radiograph", "1.2.1", 1, "evaluated", True),
        ("radiograph", "1.2.1", 2, "evaluated", True),
    ]
    with house.database.transaction() as connection:
        said = [e for e in intake.events(connection, 50) if e["kind"] == "image_corrected"]
    assert [(e["subject"], e["detail"]["earlier_receptions"]) for e in said] == [(STUDY, 1)]


# errors of one film


def fails_on(rows: int, how: Callable[[], FilmAnswer]) -> FilmPipeline:
    """A pipeline that does something else than analysing with films of that many rows."""

    def evaluate(film: Radiograph, age: float | None, progress: Callable[[str], None] | None) -> FilmAnswer:
        return how() if film.pixels.shape[0] == rows else bodies_of(film, age, progress)

    return toy_film_pipeline(evaluate)


def broken() -> FilmAnswer:
    raise ValueError("Doe^Jane")


def out_of_the_picture() -> FilmAnswer:
    """Findings that no result can be made of: a point far outside the image."""
    film = Radiograph(shades(104, 64).astype(np.float32) / 4095)
    said = bodies_of(film, 70.0, None)
    first, *others = said.findings.vertebrae
    points = {**(first.keypoints_px or {}), "anterior_superior": (-5.0, 9.0)}
    vertebrae = (replace(first, keypoints_px=points), *others)
    return replace(said, findings=replace(said.findings, vertebrae=vertebrae))


@pytest.mark.parametrize(
    ("how", "told"), [(broken, "inference: ValueError"), (out_of_the_picture, "results: ResultError")]
)
def test_an_unexpected_error_of_one_film_is_its_answer_and_the_others_go_on(
    house: House, how: Callable[[], FilmAnswer], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    house.films = fails_on(104, how)
    house.receive(replace(LATERAL, stored=shades(104, 64)).dataset(), OTHER_LATERAL.dataset())
    assert house.answers() == [
        ("radiograph", "1.2.1", 1, "not_evaluable", True),
        ("radiograph", "1.2.2", 1, "evaluated", True),
    ]
    assert [kind for kind, _ in house.sent()] == ["capture", "report", "capture", "report", "details"]
    report = next(d for d in house.outbox() if d.SOPClassUID == BasicTextSRStorage)
    words = report.to_json().replace("\\r\\n", " ")
    assert told in words and "MODEL_FAILED" in words
    assert "Doe^Jane" not in "".join(capsys.readouterr())
    assert house.study()["parked"] is None


def test_an_unexpected_error_of_the_gate_is_the_answer_to_its_film(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(headers: list[InstanceHeader], policy: GatePolicy) -> LoadedFilm | Unevaluable:
        if headers[0].sop_instance_uid == "1.2.1":
            raise ZeroDivisionError
        return load_film(headers, policy)

    monkeypatch.setattr(gate, "load_film", load)
    house.receive(LATERAL.dataset(), OTHER_LATERAL.dataset())
    assert [(uid, status) for _, uid, _, status, _ in house.answers()] == [
        ("1.2.1", "not_evaluable"),
        ("1.2.2", "evaluated"),
    ]


def test_an_error_of_the_disk_is_no_answer(house: House) -> None:
    def gone() -> FilmAnswer:
        raise OSError(5, "input/output error")

    house.films = fails_on(96, gone)
    house.receive(LATERAL.dataset())
    assert house.sent() == []
    house.films = toy_film_pipeline()
    house.evaluate()
    assert house.answers() == [("radiograph", "1.2.1", 1, "evaluated", True)]


# images for processing


def raw_film() -> FileDataset:
    def raw(ds: FileDataset) -> None:
        ds.PresentationIntentType, ds.IrradiationEventUID = "FOR PROCESSING", "1.2.9"

    return Film(sop_class=DX_FOR_PROCESSING, sop_uid="1.2.7", series_uid="1.2.77", edit=raw).dataset()


def read_film() -> FileDataset:
    def exposed(ds: FileDataset) -> None:
        ds.PresentationIntentType, ds.IrradiationEventUID = "FOR PRESENTATION", "1.2.9"

    return replace(LATERAL, edit=exposed).dataset()


def test_a_detector_image_waits_for_the_one_that_is_read(house: House) -> None:
    house.receive(raw_film())
    assert outcomes(house) == {"1.2.7": ("not_eligible", "FOR_PROCESSING_ONLY")}
    house.receive(read_film())
    assert outcomes(house)["1.2.7"] == ("not_eligible", "FOR_PROCESSING_TWIN")
    assert house.answers() == [("radiograph", "1.2.1", 1, "evaluated", True)]


@pytest.mark.parametrize("raw_first", [True, False])
def test_where_detector_images_are_answered_one_exposure_has_one_answer(house: House, raw_first: bool) -> None:
    study = {"quiet_s": 0, "for_processing": True}
    house.settings = house.settings.model_copy(update={"study": house.settings.study.model_copy(update=study)})
    for dataset in (raw_film(), read_film()) if raw_first else (read_film(), raw_film()):
        house.receive(dataset)
    if not raw_first:
        assert house.answers() == [("radiograph", "1.2.1", 1, "evaluated", True)]
        return
    assert house.answers() == [
        ("radiograph", "1.2.7", 1, "evaluated", True),
        ("radiograph", "1.2.1", 2, "evaluated", True),
    ]
    reports = [d for d in house.outbox() if d.Modality == "SR" and "report" in d.SeriesDescription]
    (before,) = reports[1].PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert before.ReferencedSOPInstanceUID == reports[0].SOPInstanceUID


def test_a_film_whose_analysis_was_interrupted_has_the_same_uids_afterwards(house: House, tmp_path: Path) -> None:
    class KilledError(BaseException):
        pass

    def killed(film: Radiograph, age: float | None, progress: Callable[[str], None] | None) -> FilmAnswer:
        raise KilledError

    house.films = toy_film_pipeline(killed)
    with pytest.raises(KilledError):
        house.receive(LATERAL.dataset())
    with house.database.transaction() as connection:
        claimed = connection.execute("SELECT revision, started_at, state FROM answer").fetchone()
    house.films = toy_film_pipeline(bodies_of)
    house.evaluate()
    with house.database.transaction() as connection:
        rows = connection.execute("SELECT revision, started_at, attempt, state FROM answer").fetchall()
    assert claimed is not None
    assert claimed["state"] == "working"
    assert [(r["revision"], r["started_at"], r["attempt"], r["state"]) for r in rows] == [
        (1, claimed["started_at"], 2, "done")
    ]
    assert len(house.sent()) == 3


def test_pixels_that_show_something_else_stay_in_the_ledger_unless_the_header_claimed_a_lateral_spine(
    house: House,
) -> None:
    small = shades(80, 64)
    silent = Film(sop_uid="1.2.4", stored=small, description="", body_part="LSPINE")
    claiming = Film(sop_uid="1.2.5", stored=small)
    house.receive(silent.dataset(), claiming.dataset())
    assert house.answers() == [
        ("radiograph", "1.2.4", 1, "not_evaluable", False),
        ("radiograph", "1.2.5", 1, "not_evaluable", True),
    ]
    assert [kind for kind, _ in house.sent()] == ["capture", "report"]


def test_a_child_is_answered_as_not_evaluable(house: House) -> None:
    def child(ds: FileDataset) -> None:
        ds.PatientAge = "012Y"

    house.receive(replace(LATERAL, edit=child).dataset())
    assert house.answers() == [("radiograph", "1.2.1", 1, "not_evaluable", True)]
    assert [kind for kind, _ in house.sent()] == ["capture", "report"]


def test_a_ct_and_films_of_one_study_are_both_answered(house: House) -> None:
    slices = []
    for n in range(12):  # too thick to be evaluated, so that no network is asked
        one = ct_slice(n, STUDY, "1.9")
        one.PatientID, one.PatientName, one.ImagePositionPatient = "P1", "Doe^Jane", [-8.0, -8.0, 8.0 * n]
        one.BodyPartExamined = "SPINE"
        slices.append(one)
    house.receive(*slices, LATERAL.dataset())
    assert house.answers() == [
        ("ct", "", 1, "not_evaluable", True),
        ("radiograph", "1.2.1", 1, "evaluated", True),
    ]
    assert len({uid for _, uid in house.sent()}) == 5


def test_without_a_pipeline_films_are_not_eligible_and_nothing_breaks(house: House) -> None:
    house.films = None  # type: ignore[assignment]
    house.receive(LATERAL.dataset(), FRONTAL.dataset())
    assert outcomes(house) == {
        "1.2.1": ("not_eligible", "NOT_INSTALLED"),
        "1.2.3": ("not_eligible", "NOT_A_LATERAL_SPINE"),
    }
    assert house.answers() == []


# analyze


def analyzed(tmp_path: Path, settings: Settings, films: Any, *given: Film) -> tuple[Path, dict[str, Any]]:
    for n, film in enumerate(given):
        film.write(tmp_path / "in" / f"{n}.dcm")
    out = tmp_path / "out"
    analyze(tmp_path / "in", out, NO_CT, settings, films=films)
    return out, json.loads((out / "series.json").read_text())


@pytest.fixture
def plain() -> Settings:
    return load_settings(site="test")


def test_analyze_writes_a_folder_for_each_film(tmp_path: Path, plain: Settings) -> None:
    def sized(ds: FileDataset) -> None:
        ds.PixelSpacing, ds.PixelSpacingCalibrationType = [0.5, 0.5], "FIDUCIAL"

    films = (LATERAL, replace(OTHER_LATERAL, edit=sized), FRONTAL)
    out, listing = analyzed(tmp_path, plain, toy_film_pipeline(), *films)
    assert [(s["sop_instance_uid"], s["outcome"]) for s in listing["series"]] == [
        ("1.2.1", "answered"),
        ("1.2.2", "answered"),
        ("1.2.3", "not_eligible"),
    ]
    folder = out / LATERAL.series_uid
    assert sorted(p.name for p in folder.iterdir()) == ["1.2.1", "1.2.2"]
    for uid in ("1.2.1", "1.2.2"):
        names = ["capture.dcm", "capture.png", "details.dcm", "findings.json", "report.dcm", "segmentation.dcm"]
        assert sorted(p.name for p in (folder / uid).iterdir()) == names
        made = json.loads((folder / uid / "findings.json").read_text())
        jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text())).validate(made)
        assert made["input"]["sop_instance_uid"] == uid
        assert made["pipeline"]["name"] == "radiograph"
        assert made["pipeline"]["models"] == [{"name": "film", "version": "1.0.0", "sha256": "f" * 64}]
    first, second = (json.loads((folder / uid / "findings.json").read_text()) for uid in ("1.2.1", "1.2.2"))
    assert first["quality"] == ["UNCALIBRATED", "LEVELS_UNKNOWN"]
    assert first["vertebrae"][0]["heights_mm"] is None
    assert second["vertebrae"][0]["heights_mm"]["anterior"] == pytest.approx(7.0)
    assert second["pixel_size"] == {"spacing_mm": [0.5, 0.5], "source": "Pixel Spacing, calibrated (fiducial)"}


def test_what_names_were_counted_from_comes_from_the_pipeline_to_the_capture(tmp_path: Path, plain: Settings) -> None:
    def with_sacrum(*given: Any) -> FilmAnswer:
        found = bodies_of(*given)
        below = np.array([[24.0, 88], [42, 88], [42, 95], [24, 95], [24, 88]])
        findings = replace(found.findings, numbering=Numbering("sacrum", 0.86))
        return replace(found, findings=findings, sacrum_px=below)

    out, _ = analyzed(tmp_path, plain, toy_film_pipeline(with_sacrum), LATERAL)
    capture = np.array(Image.open(out / LATERAL.series_uid / "1.2.1" / "capture.png")).astype(int)
    assert (np.abs(capture - ANCHOR_COLOUR).sum(axis=-1) < 90).sum() > 50


def test_analyze_without_a_pipeline_lists_films_with_the_reason(tmp_path: Path, plain: Settings) -> None:
    out, listing = analyzed(tmp_path, plain, None, LATERAL)
    (series,) = listing["series"]
    assert series["outcome"] == "not_eligible"
    assert series["reason"]["code"] == "NOT_INSTALLED"
    assert "not installed" in series["reason"]["sentence"]
    assert [p.name for p in out.iterdir()] == ["series.json"]


def test_what_cannot_be_decoded_is_not_evaluable(tmp_path: Path, plain: Settings) -> None:
    def cut(ds: FileDataset) -> None:
        ds.PixelData = ds.PixelData[:50]

    out, _ = analyzed(tmp_path, plain, toy_film_pipeline(), replace(LATERAL, edit=cut))
    folder = out / LATERAL.series_uid / "1.2.1"
    assert sorted(p.name for p in folder.iterdir()) == ["capture.dcm", "capture.png", "findings.json", "report.dcm"]
    made = json.loads((folder / "findings.json").read_text())
    assert (made["status"], made["refusal"]["code"]) == ("not_evaluable", "PIXELS_UNREADABLE")
    assert made["pipeline"]["name"] == "radiograph"
    assert made["input"]["sop_instance_uid"] == "1.2.1"


def test_the_switch_for_lateral_chests_is_the_sites(tmp_path: Path, plain: Settings) -> None:
    chest = Film(sop_uid="1.2.8", description="Thorax seitl.", body_part="CHEST")
    _, refused = analyzed(tmp_path / "a", plain, toy_film_pipeline(), chest)
    assert refused["series"][0]["reason"]["code"] == "CHEST_FILM"
    chosen = load_settings(site="test", study={"lateral_chest": True})
    _, answered = analyzed(tmp_path / "b", chosen, toy_film_pipeline(), chest)
    assert answered["series"][0]["outcome"] == "answered"


def test_a_film_segmentation_goes_only_where_it_is_asked_for(house: House, tmp_path: Path) -> None:
    destinations = [
        {"name": "pacs", "host": "127.0.0.1", "port": 1, "ae_title": "X"},
        {"name": "lab", "host": "127.0.0.1", "port": 1, "ae_title": "Y", "kinds": ["film_segmentation"]},
    ]
    house.settings = load_settings(
        data_dir=house.settings.data_dir, study={"quiet_s": 0}, site="test", destinations=destinations
    )
    house.receive(LATERAL.dataset())
    assert sorted((row["destination"], row["kind"]) for row in house.study()["deliveries"]) == [
        ("lab", "film_segmentation"),
        ("pacs", "capture"),
        ("pacs", "details"),
        ("pacs", "report"),
    ]
