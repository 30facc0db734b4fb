"""A site's own films: read with their annotations, varied, and the network trained on with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels.utils import pack_bits
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from inference.findings import KEYPOINTS  # noqa: E402
from inference.runtime import load_models, read_manifest  # noqa: E402
from onnx_models.training import export as exporting  # noqa: E402
from onnx_models.training.film_annotations import (  # noqa: E402
    SEGMENTATION,
    AnnotationError,
    outline_of,
    read_folder,
)
from onnx_models.training.film_data import VIEWS, FormedFilm, Placement, StoredFilm, formed  # noqa: E402
from onnx_models.training.film_dicom import write_film  # noqa: E402
from onnx_models.training.film_geometry import cone_beam  # noqa: E402
from onnx_models.training.film_look import Look  # noqa: E402
from onnx_models.training.film_rendering import LineIntegrals  # noqa: E402
from onnx_models.training.film_truth import coverage, film_truth, union  # noqa: E402
from onnx_models.training.film_views import FILM  # noqa: E402
from onnx_models.training.metrics import dice_of  # noqa: E402
from onnx_models.training.phantom import sample_patient  # noqa: E402
from onnx_models.training.radiograph_finetune import SHIPPED, TUNED, fine_tuned, split, varied  # noqa: E402
from onnx_models.training.radiograph_network import WholeFilmNetwork  # noqa: E402
from onnx_models.training.radiograph_task import export_network  # noqa: E402
from onnx_models.training.train import Schedule  # noqa: E402

pytestmark = pytest.mark.training
OTHER_MAKER = Look(counts=3e4, curve="root", sharpen=4.0, sharpen_width=3.0, gamma=2.2, high=6.0)
"""Processing beyond what the training draws."""


@pytest.fixture(scope="module")
def stored() -> StoredFilm:
    """A film of 320 x 160 pixels: its bodies are dense, the rest is made up."""
    patient = sample_patient(np.random.default_rng(8), replace(FILM, cement=0.0, metal=0.0))
    centre = next(v.centroid_lps_mm for v in patient.vertebrae if v.level == "L2")
    truth = film_truth(patient, cone_beam(centre, 320, 160, long_side=320))
    soft = np.random.default_rng(3).normal(15, 0.1, (320, 160)).astype(np.float32)
    bone = 3 * union(truth.outlines, (320, 160))
    return StoredFilm(LineIntegrals(soft, bone, np.zeros_like(soft)), truth, VIEWS[0], 1.2)


@pytest.fixture(scope="module")
def film(stored: StoredFilm) -> FormedFilm:
    return formed(stored, np.random.default_rng(1), OTHER_MAKER, Placement())


def six_point_file(film: FormedFilm, path: Path, uid: str) -> None:
    vertebrae = [
        {"level": level, "keypoints_px": {k: [p[1] + 0.5, p[0] + 0.5] for k, p in zip(KEYPOINTS, points, strict=True)}}
        for level, points in zip(film.truth.levels, film.truth.points.tolist(), strict=True)
    ]
    vertebrae.append({"level": None, "keypoints_px": None})
    path.write_text(json.dumps({"input": {"sop_instance_uid": uid}, "vertebrae": vertebrae}))


def write_seg(film: FormedFilm, image: Dataset, path: Path) -> None:
    """A binary segmentation with the least that says what it is about."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SEGMENTATION, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.SegmentationType = "BINARY"
    ds.Rows, ds.Columns = film.image.shape
    ds.BitsAllocated = ds.BitsStored = ds.SamplesPerPixel = 1
    ds.HighBit, ds.PixelRepresentation, ds.PhotometricInterpretation = 0, 0, "MONOCHROME2"
    ds.SegmentSequence, ds.PerFrameFunctionalGroupsSequence = [], []
    shared = Dataset()
    derivation, source = Dataset(), Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    derivation.SourceImageSequence = [source]
    shared.DerivationImageSequence = [derivation]
    ds.SharedFunctionalGroupsSequence = [shared]
    frames: list[NDArray[np.bool_]] = []
    for n, level in enumerate(film.truth.levels):
        segment, frame, number = Dataset(), Dataset(), Dataset()
        segment.SegmentNumber, segment.SegmentLabel = n + 1, f"{level} body" if n else "some body"
        number.ReferencedSegmentNumber = n + 1
        frame.SegmentIdentificationSequence = [number]
        ds.SegmentSequence.append(segment)
        ds.PerFrameFunctionalGroupsSequence.append(frame)
        frames.append(coverage(film.truth.outlines[n], (ds.Rows, ds.Columns)) > 0.5)
    ds.NumberOfFrames = len(frames)
    ds.PixelData = pack_bits(np.array(frames).astype(np.uint8))
    ds.save_as(path, enforce_file_format=True)


def test_six_points_and_segmentations_give_the_same_film(film: FormedFilm, tmp_path: Path) -> None:
    image = pydicom.dcmread(write_film(film, tmp_path / "a" / "film.dcm", patient_id="A", inverse=True))
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("something else")
    six_point_file(film, tmp_path / "a" / "points.json", str(image.SOPInstanceUID))
    write_film(film, tmp_path / "b" / "film.dcm", patient_id="A", inverse=True)
    write_seg(film, image, tmp_path / "b" / "seg.dcm")
    by_points, by_masks = (read_folder(tmp_path / name) for name in "ab")
    for (read,) in (by_points, by_masks):
        assert read.patient == "A"
        assert read.maker == "Procedural phantom"
        assert read.front_known
        np.testing.assert_allclose(read.film.image, film.image, atol=0.01)
        shape = (film.image.shape[0], film.image.shape[1])
        assert dice_of(union(read.film.truth.outlines, shape) > 0.5, union(film.truth.outlines, shape) > 0.5) > 0.93
        assert len(read.film.truth.levels) >= len(film.truth.levels) - 1
        rows = read.film.truth.centres[:, 0]
        assert (np.diff(rows) > 0).all()
        assert (read.film.front_columns > 0.5).all()
    assert by_points[0].film.truth.levels == film.truth.levels
    np.testing.assert_allclose(by_points[0].film.truth.points, film.truth.points, atol=1e-6)
    assert by_masks[0].film.truth.levels[0] == "?"
    assert "S1" in by_masks[0].film.truth.levels
    whole = [n for n, seen in enumerate(film.seen) if seen > 0.99]
    near = by_masks[0].film.truth.centres
    apart = np.linalg.norm(film.truth.centres[whole][:, None] - near[None], axis=2).min(axis=1)
    assert np.median(apart) < 2


def test_an_outline_passes_through_its_six_points() -> None:
    six = np.array([[0, 0], [10, 1], [1.5, 8], [8.5, 7], [0, 15], [10, 16]], float)
    outline = outline_of(six)
    for point in six:
        assert np.linalg.norm(outline - point, axis=1).min() < 0.6
    assert outline.shape == (64, 2)


def test_what_cannot_be_used_is_said(film: FormedFilm, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="no film with"):
        read_folder(tmp_path)
    image = pydicom.dcmread(write_film(film, tmp_path / "film.dcm"))
    with pytest.raises(AnnotationError, match="no film with"):
        read_folder(tmp_path)
    six_point_file(film, tmp_path / "points.json", "1.2.3")
    with pytest.raises(AnnotationError, match=r"refers to image 1\.2\.3"):
        read_folder(tmp_path)
    (tmp_path / "points.json").write_text("{}")
    with pytest.raises(AnnotationError, match=r"points\.json"):
        read_folder(tmp_path)
    (tmp_path / "points.json").unlink()
    image.PresentationIntentType = "FOR PROCESSING"
    image.save_as(tmp_path / "film.dcm")
    with pytest.raises(AnnotationError, match="FOR PRESENTATION"):
        read_folder(tmp_path)


def test_truth_goes_with_a_film_that_is_varied(film: FormedFilm) -> None:
    for seed in range(6):
        other = varied(film, np.random.default_rng(seed))
        rows, columns = other.image.shape
        inside = union(other.truth.outlines, (rows, columns)) > 0.9
        around = union(other.truth.outlines, (rows, columns)) == 0
        assert other.image[inside].mean() > other.image[around].mean() + 0.15
        assert len(other.seen) == len(other.truth.levels) > 2


def test_a_site_of_another_maker_goes_on_from_the_shipped_weights(
    stored: StoredFilm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PARITY", 1e-3)  # random weights leave the batch normalisation ill-conditioned
    torch.manual_seed(1)
    shipped, out = tmp_path / "shipped", tmp_path / "out"
    export_network(WholeFilmNetwork().eval(), {"steps": 0, "seed": 1, "begun_from": None}, shipped)
    for name in ("train", "held_out"):
        stored.save(tmp_path / "rendered" / name / "00000000.npz")
    for n, patient in enumerate(("A", "B", "B")):
        shown = formed(stored, np.random.default_rng(n), OTHER_MAKER, Placement())
        image = pydicom.dcmread(write_film(shown, tmp_path / "site" / f"{n}.dcm", patient_id=patient, seed=n))
        six_point_file(shown, tmp_path / "site" / f"{n}.json", str(image.SOPInstanceUID))
    with pytest.raises(AnnotationError, match="one patient"):
        split([f for f in read_folder(tmp_path / "site") if f.patient == "B"])
    learn, held_out = split(read_folder(tmp_path / "site"))
    assert {f.patient for f in learn}.isdisjoint(f.patient for f in held_out)
    told = fine_tuned(tmp_path / "site", out, Schedule(steps=2), shipped, tmp_path / "rendered")
    assert told["steps"] == 2
    assert len(told["records"][SHIPPED]) == len(told["records"][TUNED]) == len(held_out)
    entries = read_manifest(out)
    assert entries["film"]["sha256"] != read_manifest(shipped)["film"]["sha256"]
    assert entries["film"]["version"].endswith("+site")
    assert entries["film"]["provenance"]["begun_from"] == told["begun_from"]
    assert load_models(out, "cpu", names=["film"]).identities[0].name == "film"
    text = (out / "film.md").read_text()
    assert "| held-out films of the site | shipped | fine-tuned |" in text
    assert "| Dice" in text or "| found" in text
