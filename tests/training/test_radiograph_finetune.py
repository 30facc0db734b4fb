"""A site's own films: read with their annotations, varied, and the network trained on with them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels.utils import pack_bits
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy.ndimage import gaussian_filter

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from safetensors.torch import load_file  # noqa: E402

from inference.film_grid import whole_film  # noqa: E402
from inference.film_points import PointSettings  # noqa: E402
from inference.film_preparation import prepare  # noqa: E402
from inference.findings import KEYPOINTS  # noqa: E402
from inference.geometry import Radiograph  # noqa: E402
from inference.radiograph import BODY_MM, RadiographSettings  # noqa: E402
from inference.runtime import Models, load_models, read_manifest  # noqa: E402
from node.gate import GatePolicy, LoadedFilm, load_film, read_headers  # noqa: E402
from onnx_models import MODELS  # noqa: E402
from onnx_models.training import film_site  # noqa: E402
from onnx_models.training.film_annotations import (  # noqa: E402
    SEGMENTATION,
    AnnotatedFilm,
    AnnotationError,
    folder_digest,
    outline_of,
    read_folder,
    read_image,
)
from onnx_models.training.film_data import VIEWS, FormedFilm, Placement, StoredFilm, formed  # noqa: E402
from onnx_models.training.film_dicom import write_film  # noqa: E402
from onnx_models.training.film_geometry import cone_beam  # noqa: E402
from onnx_models.training.film_look import Look  # noqa: E402
from onnx_models.training.film_rendering import LineIntegrals  # noqa: E402
from onnx_models.training.film_site import site_film, write_site  # noqa: E402
from onnx_models.training.film_truth import coverage, film_truth, union  # noqa: E402
from onnx_models.training.film_views import FILM  # noqa: E402
from onnx_models.training.metrics import dice_of  # noqa: E402
from onnx_models.training.phantom import sample_patient  # noqa: E402
from onnx_models.training.radiograph_data import target_maps  # noqa: E402
from onnx_models.training.radiograph_evaluation import OUTLINE, POINTS  # noqa: E402
from onnx_models.training.radiograph_finetune import SHIPPED, TUNED, card, fine_tuned, split, varied  # noqa: E402
from onnx_models.training.radiograph_records import FilmRunner, Record  # noqa: E402
from onnx_models.training.train import Schedule  # noqa: E402

pytestmark = pytest.mark.training
OTHER_MAKER = Look(counts=3e4, curve="root", sharpen=4.0, sharpen_width=3.0, gamma=2.2, high=6.0)
"""Processing beyond what the training draws."""


EXACT = RadiographSettings(points=None, foreign=None, sure_body=0.85, mirrored_too=False)


@dataclass(frozen=True)
class Exact(Models):
    """Gives the maps that it was told."""

    maps: NDArray[np.float32] | None = None

    def run(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        assert self.maps is not None
        view = np.eye(1, len(VIEWS), dtype=np.float32)
        names = ("body", "centre", "sacrum", "front", "head")
        return {n: m[None, None] for n, m in zip(names, self.maps, strict=True)} | {"view": view}


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


@pytest.mark.parametrize(
    "header",
    [
        {"PresentationLUTShape": "IDENTITY", "PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "", "PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": "1500", "WindowWidth": "900", "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": "-9000", "WindowWidth": "10"},  # shows nothing: the values' own range is taken
        {"PixelPaddingValue": 4095},
    ],
    ids=["inverted once", "inverted by its photometric interpretation", "window", "useless window", "padding"],
)
def test_a_film_is_learnt_from_as_the_node_will_see_it(
    film: FormedFilm, tmp_path: Path, header: dict[str, object]
) -> None:
    path = write_film(film, tmp_path / "film.dcm")
    image = pydicom.dcmread(path)
    stored = image.pixel_array.copy()
    stored[:, :12] = 4095
    image.PixelData = stored.tobytes()
    for keyword, value in header.items():
        setattr(image, keyword, value)
        if image[keyword].VR == "US or SS":
            image[keyword].VR = "US"
    image.save_as(path)
    six_point_file(film, tmp_path / "points.json", str(image.SOPInstanceUID))
    (read,) = read_folder(tmp_path)
    seen = load_film(read_headers([path]).headers, GatePolicy())
    assert isinstance(seen, LoadedFilm)
    np.testing.assert_array_equal(read.film.image, seen.film.pixels)


def test_films_head_down_are_read_by_their_points_and_refused_with_masks(film: FormedFilm, tmp_path: Path) -> None:
    rows, columns = film.image.shape
    truth = film.truth.moved(np.array([[-1.0, 0, rows - 1], [0, -1.0, columns - 1]]))
    down = replace(film, image=np.ascontiguousarray(film.image[::-1, ::-1]), truth=truth)
    (tmp_path / "a").mkdir()
    image = pydicom.dcmread(write_film(down, tmp_path / "a" / "film.dcm"))
    assert image.PatientOrientation[1] == "H"
    six_point_file(down, tmp_path / "a" / "points.json", str(image.SOPInstanceUID))
    (read,) = read_folder(tmp_path / "a")
    assert read.film.truth.levels == film.truth.levels, "from head to feet"
    assert (read.film.head_rows < -0.5).all()
    write_film(down, tmp_path / "b" / "film.dcm")
    write_seg(down, image, tmp_path / "b" / "seg.dcm")
    with pytest.raises(AnnotationError, match="head is not above"):
        read_folder(tmp_path / "b")


def test_a_film_of_several_frames_or_colours_is_no_film(film: FormedFilm, tmp_path: Path) -> None:
    path = write_film(film, tmp_path / "film.dcm")
    image = pydicom.dcmread(path)
    six_point_file(film, tmp_path / "points.json", str(image.SOPInstanceUID))
    for header in ({"NumberOfFrames": 2}, {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}):
        for keyword, value in header.items():
            setattr(image, keyword, value)
        image.save_as(path)
        with pytest.raises(AnnotationError, match="not one grey image"):
            read_folder(tmp_path)
        image = pydicom.dcmread(write_film(film, path))
    image.PixelData = image.PixelData[:-100]
    image.save_as(path)
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_folder(tmp_path)


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


def test_millimetres_are_told_of_films_that_the_gate_calls_calibrated(film: FormedFilm, tmp_path: Path) -> None:
    path = write_film(film, tmp_path / "film.dcm")
    image = pydicom.dcmread(path)
    six_point_file(film, tmp_path / "points.json", str(image.SOPInstanceUID))

    def read(**header: object) -> AnnotatedFilm:
        shown = pydicom.dcmread(path)
        for keyword, value in header.items():
            setattr(shown, keyword, value)
        shown.save_as(tmp_path / "film.dcm")
        (found,) = read_folder(tmp_path)
        return found

    posterior = float(np.median(np.linalg.norm(film.truth.points[:, 4] - film.truth.points[:, 5], axis=1)))
    detector = film.pitch_mm
    unknown: list[dict[str, object]] = [
        {},
        {"PixelSpacing": [0.3, 0.3]},  # neither calibrated nor smaller than the detector's by a magnification
        {"EstimatedRadiographicMagnificationFactor": "1.0"},
    ]
    for header in unknown:
        told = read(**header)
        assert not told.calibrated
        assert told.film.pitch_mm == pytest.approx(BODY_MM / posterior)
        image.save_as(path)
    told = read(PixelSpacing=[0.3, 0.3], PixelSpacingCalibrationType="FIDUCIAL")
    assert (told.calibrated, told.film.pitch_mm) == (True, 0.3)
    image.save_as(path)
    told = read(EstimatedRadiographicMagnificationFactor="1.25")
    assert told.calibrated
    assert told.film.pitch_mm == pytest.approx(detector / 1.25)


def coarser(film: FormedFilm, axis: int) -> FormedFilm:
    """The film with pixels twice as high (axis 0) or wide (axis 1), and its truth on them."""
    halves = np.moveaxis(film.image, axis, 0)
    image = np.moveaxis((halves[0::2] + halves[1::2]) / 2, 0, axis)
    scale = np.diag([0.5 if axis == 0 else 1.0, 0.5 if axis == 1 else 1.0])
    matrix = np.column_stack([scale, (np.diag(scale) - 1) / 2])
    return replace(film, image=np.ascontiguousarray(image), truth=film.truth.moved(matrix))


def read_coarser(film: FormedFilm, folder: Path, axis: int, masks: bool, **header: object) -> AnnotatedFilm:
    """It written with that header and its six points or masks, and read again."""
    coarse = coarser(film, axis)
    path = write_film(coarse, folder / "film.dcm")
    image = pydicom.dcmread(path)
    del image.ImagerPixelSpacing
    for keyword, value in header.items():
        setattr(image, keyword, value)
    image.save_as(path)
    if masks:
        write_seg(coarse, image, folder / "seg.dcm")
    else:
        six_point_file(coarse, folder / "points.json", str(image.SOPInstanceUID))
    (found,) = read_folder(folder)
    return found


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("told", ["PixelAspectRatio", "ImagerPixelSpacing", "PixelSpacing"])
def test_a_film_whose_pixels_are_not_square_is_brought_to_square_ones_with_its_points(
    film: FormedFilm, tmp_path: Path, told: str, axis: int
) -> None:
    height, width = (2, 1) if axis == 0 else (1, 2)
    header: dict[str, object] = {told: [height, width] if told == "PixelAspectRatio" else [0.3 * height, 0.3 * width]}
    if told == "PixelSpacing":
        header["PixelSpacingCalibrationType"] = "FIDUCIAL"
    read = read_coarser(film, tmp_path, axis, False, **header)
    assert read.film.image.shape == film.image.shape
    assert np.abs(gaussian_filter(read.film.image - film.image, 2)).mean() < 0.005, "but for its noise"
    np.testing.assert_allclose(read.film.truth.points, film.truth.points, atol=1e-6)
    assert read.film.truth.levels == film.truth.levels
    assert read.calibrated is (told == "PixelSpacing")
    if read.calibrated:
        assert read.film.pitch_mm == pytest.approx(0.3)
        p = film.truth.points
        np.testing.assert_allclose(
            read.film.truth.heights_mm, 0.3 * np.linalg.norm(p[:, 0::2] - p[:, 1::2], axis=2), rtol=1e-6
        )
    else:
        posterior = float(np.median(np.linalg.norm(film.truth.points[:, 4] - film.truth.points[:, 5], axis=1)))
        assert read.film.pitch_mm == pytest.approx(BODY_MM / posterior)


@pytest.mark.parametrize("axis", [0, 1])
def test_masks_on_pixels_that_are_not_square_are_brought_to_square_ones(
    film: FormedFilm, tmp_path: Path, axis: int
) -> None:
    ratio = [2, 1] if axis == 0 else [1, 2]
    read = read_coarser(film, tmp_path, axis, True, PixelAspectRatio=ratio)
    shape = (film.image.shape[0], film.image.shape[1])
    assert read.film.image.shape == shape
    assert dice_of(union(read.film.truth.outlines, shape) > 0.5, union(film.truth.outlines, shape) > 0.5) > 0.92
    whole = [n for n, seen in enumerate(film.seen) if seen > 0.99]
    near = read.film.truth.centres
    assert np.median(np.linalg.norm(film.truth.centres[whole][:, None] - near[None], axis=2).min(axis=1)) < 2
    sides = np.linalg.norm(np.diff(read.film.truth.outlines, axis=1), axis=2)
    assert (sides.max(axis=1) < 2 * np.median(sides, axis=1)).all(), "points of an outline are equally far apart"


def test_the_node_sees_a_film_of_oblong_pixels_as_the_training_does(film: FormedFilm, tmp_path: Path) -> None:
    read = read_coarser(film, tmp_path, 1, False, PixelAspectRatio=[1, 2])
    seen = load_film(read_headers([tmp_path / "film.dcm"]).headers, GatePolicy())
    assert isinstance(seen, LoadedFilm)
    shown, taught = (
        prepare(f).on(whole_film(f.pixels.shape, f.pixel_mm, 256)) for f in (seen.film, Radiograph(read.film.image))
    )
    inside = (shown > 0) & (taught > 0)
    assert inside.sum() > 0.97 * (shown > 0).sum()
    assert np.abs(shown - taught)[inside].mean() < 0.03


def test_pixels_that_are_square_but_for_rounding_are_not_resampled(film: FormedFilm, tmp_path: Path) -> None:
    path = write_film(film, tmp_path / "film.dcm")
    image = pydicom.dcmread(path)
    image.PixelSpacing, image.PixelSpacingCalibrationType = [0.3, 0.301], "FIDUCIAL"
    image.save_as(path)
    six_point_file(film, tmp_path / "points.json", str(image.SOPInstanceUID))
    (read,) = read_folder(tmp_path)
    assert (read.calibrated, read.film.pitch_mm) == (True, 0.3)
    np.testing.assert_array_equal(read.film.image, read_image(path))


def test_pixels_too_oblong_to_be_measured_are_no_film_to_learn_from(film: FormedFilm, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"2\.5 times as high as wide"):
        read_coarser(film, tmp_path, 0, False, PixelAspectRatio=[5, 2])


def test_a_site_s_folder_has_one_digest(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_text("1")
    first = folder_digest(tmp_path)
    assert folder_digest(tmp_path) == first
    (tmp_path / "a" / "one").write_text("2")
    assert folder_digest(tmp_path) != first


def test_films_of_a_made_up_site_are_annotated_as_a_site_would(tmp_path: Path) -> None:
    assert film_site.main(["--count", "2", "--maker", "B", "--folder", str(tmp_path), "--long-side", "320"]) == 0
    made = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    films = read_folder(tmp_path)
    assert len({f.patient for f in films}) == 2
    assert {f.maker for f in films} == {"Phantom maker B"}
    assert all(f.calibrated and f.front_known for f in films)
    (tmp_path / "0001.json").unlink()
    write_site(tmp_path, 2, "B", 320)  # what is there stays, what is missing comes back as it was
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == made
    for number, path in enumerate(sorted(tmp_path.glob("*.dcm"))):
        truth, read = site_film(number, "B", 320), read_folder_of(films, path)
        np.testing.assert_allclose(read.film.truth.points, truth.truth.points, atol=1e-6)
        np.testing.assert_allclose(read.film.truth.heights_mm, truth.truth.heights_mm, rtol=0.15)
    assert not np.array_equal(site_film(0, "A", 320).image, site_film(0, "B", 320).image)


def read_folder_of(films: list[AnnotatedFilm], path: Path) -> AnnotatedFilm:
    """The one of these that was read from this file."""
    patient = str(pydicom.dcmread(path, stop_before_pixels=True).PatientID)
    return next(f for f in films if f.patient == patient)


@dataclass(frozen=True)
class Tuned:
    """A fine-tuning of the shipped networks on films of three patients, one of whom is held out."""

    site: Path
    rendered: Path
    out: Path
    told: Record


@pytest.fixture(scope="module")
def tuned(stored: StoredFilm, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    folder = tmp_path_factory.mktemp("tuned")
    for name in ("train", "held_out"):
        stored.save(folder / "rendered" / name / "00000000.npz")
    for n, patient in enumerate(("A", "B", "B")):
        shown = formed(stored, np.random.default_rng(n), OTHER_MAKER, Placement())
        image = pydicom.dcmread(write_film(shown, folder / "site" / f"{n}.dcm", patient_id=patient, seed=n))
        six_point_file(shown, folder / "site" / f"{n}.json", str(image.SOPInstanceUID))
    told = fine_tuned(folder / "site", folder / "out", Schedule(steps=2), MODELS, folder / "rendered")
    return Tuned(folder / "site", folder / "rendered", folder / "out", told)


def test_a_site_of_another_maker_goes_on_from_the_shipped_weights(tuned: Tuned) -> None:
    with pytest.raises(AnnotationError, match="one patient"):
        split([f for f in read_folder(tuned.site) if f.patient == "B"])
    learn, held_out = split(read_folder(tuned.site))
    assert {f.patient for f in learn}.isdisjoint(f.patient for f in held_out)
    shipped, entry = read_manifest(MODELS)["film"], read_manifest(tuned.out)["film"]
    weights = (MODELS / str(shipped["weights"])).read_bytes()
    assert tuned.told["steps"] == 2
    assert tuned.told["begun_from"] == hashlib.sha256(weights).hexdigest()
    assert entry["sha256"] != shipped["sha256"]
    assert entry["version"] == f"{shipped['version']}+site"
    assert load_models(tuned.out, "cpu", names=["film"]).identities[0].name == "film"
    begun, gone_on = load_file(MODELS / str(shipped["weights"])), load_file(tuned.out / str(entry["weights"]))
    apart = [
        float((begun[k] - gone_on[k]).abs().max()) for k in begun if begun[k].is_floating_point() and "num" not in k
    ]
    assert 0 < float(np.median(apart)) < 0.02  # not random ones


def test_what_was_tuned_on_a_site_says_so(tuned: Tuned) -> None:
    shipped = read_manifest(MODELS)["film"]
    said = read_manifest(tuned.out)["film"]["provenance"]
    assert said["trained_on"].startswith(f"as the shipped weights ({shipped['provenance']['trained_on']}); then ")
    assert "of one site" in said["trained_on"]
    assert said["shipped"] == {"version": shipped["version"], "sha256": shipped["sha256"], **shipped["provenance"]}
    assert said["source"].endswith("radiograph_finetune.py")
    digest = folder_digest(tuned.site)
    learn, held_out = split(read_folder(tuned.site))
    assert said["site"]["folder_sha256"] == digest
    assert (said["site"]["films"], said["site"]["held_out_films"]) == (len(learn), len(held_out))
    text = (tuned.out / "film.md").read_text()
    assert digest[:12] in text
    assert f"on {len(learn)} films of" in text
    assert shipped["provenance"]["trained_on"] in text


def test_a_tuned_network_is_judged_as_the_node_runs_it_beside_outlines(tuned: Tuned) -> None:
    records = tuned.told["records"]
    assert list(records) == [POINTS, OUTLINE]
    _, held_out = split(read_folder(tuned.site))
    assert all(len(records[way][name]) == len(held_out) for way in records for name in (SHIPPED, TUNED))
    text = (tuned.out / "film.md").read_text()
    ways = (POINTS, OUTLINE)
    columns = " | ".join(f"{name}, {way}" for way in ways for name in (SHIPPED, TUNED))
    assert f"| held-out films of the site | counted | {columns} |" in text
    assert "six-point network beside it is the shipped one, unchanged; so is that for cement and metal" in text
    assert f"({PointSettings().sure})" in text
    assert "| Dice, section | all films, 0 where refused |" in text


def test_a_site_s_card_says_nothing_of_grades_and_of_mm_that_are_not_known(tuned: Tuned) -> None:
    text = (tuned.out / "film.md").read_text()
    assert "(0 with pixels of a known size" in text
    assert "specificity" not in text
    assert "sensitivity" not in text
    assert "AUC" not in text
    assert ", mm |" not in text
    assert "silhouette" not in text


def test_a_site_s_card_has_mm_where_they_are_known_and_no_grades(film: FormedFilm) -> None:
    record = FilmRunner(Exact({}, (), "none", maps=target_maps(film)[0]), EXACT, "source").judged(film, 0)
    site = {"films": 3, "patients": 2, "held_out_films": 1, "held_out_patients": 1, "folder_sha256": "d" * 64}
    told = {
        "date": "2026-11-22",
        "begun_from": "b" * 64,
        "shipped": {"version": "1.1.0", "trained_on": "rendered films"},
        "steps": 2,
        "site": site,
        "makers": ["one"],
        "records": {OUTLINE: {SHIPPED: [record], TUNED: [record]}},
        "rendered": ({"dice": 0.8}, {"dice": 0.7}),
    }
    text = card(told)
    assert "(1 with pixels of a known size" in text
    assert "| heights, mm | the same, of calibrated films |" in text
    assert "| heights, % | of the posterior height; whole bodies measured |" in text
    assert "specificity" not in text
    assert "six-point network beside it" not in text
    assert "| dice | 0.800 | 0.700 |" in text


def test_a_training_does_not_go_on_with_other_films(tuned: Tuned, tmp_path: Path) -> None:
    site, out = tmp_path / "site", tmp_path / "out"
    shutil.copytree(tuned.site, site)
    shutil.copytree(tuned.out, out)
    (site / "2.json").unlink()
    (site / "2.dcm").unlink()
    with pytest.raises(AnnotationError, match="begun with other films"):
        fine_tuned(site, out, Schedule(steps=3), MODELS, tuned.rendered)
