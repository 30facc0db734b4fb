"""A site's own lateral films with what its readers drew on them, as films that networks can be taught and judged on.

A folder holds, in any order and depth, DICOM images FOR PRESENTATION and for each of them one annotation:

- a binary DICOM segmentation that refers to the image, a segment for each vertebral body, whose label begins with the
  level ("L1 body", as the node's own ones; "S1" is told apart, other words mean a vertebra of unknown level); or
- a JSON file with ``{"input": {"sop_instance_uid": "1.2..."}, "vertebrae": [{"level": "L1", "keypoints_px":
  {"anterior_superior": [column, row], ...}}]}``, points counted as SCOORD does: the node's ``findings.json``,
  corrected, is one. ``level`` may be null, vertebrae without points are left out.

On images with segmentations the head is above: a mask does not say which of its plates is the upper one. Every vertebra
that can be seen must be drawn: what is not drawn is taught as "no vertebra". What an image shows, how large a pixel is
in the plane of the spine and how high for its width, is told by the gate (`node.gate.presentation`,
`node.gate.projection`), as for a film that is sent to the node. Of a film whose pixels are not square, image and
annotations are brought to square ones of the finer side.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from scipy import ndimage
from skimage.measure import find_contours

from inference.film_contour import six_points
from inference.film_orientation import header_turn
from inference.findings import KEYPOINTS
from inference.geometry import Radiograph
from inference.radiograph import BODY_MM
from node.gate.eligibility import is_grey
from node.gate.headers import Unreadable, read_header
from node.gate.pixels import PixelError, stored_values
from node.gate.presentation import as_read
from node.gate.projection import ASPECT, SAME_BOTH_WAYS, aspect, orientation, pixel_size
from node.gate.values import integer
from onnx_models.training.film_data import LATERAL_VIEWS, FormedFilm, seen_part
from onnx_models.training.film_truth import PER_SIDE, SECTIONS, FilmTruth, coverage

F64 = NDArray[np.float64]
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
IMAGES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
        "1.2.840.10008.5.1.4.1.1.12.2",  # X-Ray Radiofluoroscopic
    }
)
LEVEL = re.compile(r"^\s*(?:[CTL]\d{1,2}|S1)\b")
UNNAMED = "?"


class AnnotationError(ValueError):
    """A folder of annotated films cannot be used: the message says which file, why, and what a person can do."""


@dataclass(frozen=True)
class AnnotatedFilm:
    """One film.

    Attributes
    ----------
    film
        As the rendered ones: bone bright, square pixels, truth in (row, column) index. Losses are not known and are 0.
    patient, maker
        PatientID and Manufacturer of its header.
    front_known
        Whether its points or its header tell to which side the front lies.
    calibrated
        Whether mm of ``film`` are mm in the plane of the spine. Else they are a guess from the size of the bodies, good
        for looking at end plates alone, and nothing may be told in mm.
    """

    film: FormedFilm
    patient: str
    maker: str
    front_known: bool = True
    calibrated: bool = False


@dataclass
class _Found:
    images: dict[str, tuple[Path, Dataset]] = field(default_factory=dict)
    outlines: dict[str, list[tuple[str, F64]]] = field(default_factory=lambda: defaultdict(list))
    points: dict[str, list[tuple[str, F64]]] = field(default_factory=lambda: defaultdict(list))


def read_folder(folder: Path) -> list[AnnotatedFilm]:
    """All annotated films below ``folder``, by SOP instance UID.

    Raises
    ------
    AnnotationError
        A file is unreadable, an image is FOR PROCESSING, an annotation has no image, or there is no annotated film.
    """
    found = _Found()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        _take_in(path, found)
    annotated = {**found.outlines, **found.points}
    lost = sorted(set(annotated) - set(found.images))
    if lost:
        raise AnnotationError(f"{folder}: an annotation refers to image {lost[0]}, which is not there; add it")
    if not annotated:
        raise AnnotationError(f"{folder}: no film with a segmentation or six-point annotation; see film_annotations")
    return [_annotated(*found.images[uid], found.outlines[uid], found.points[uid]) for uid in sorted(annotated)]


def folder_digest(folder: Path) -> str:
    """SHA-256 over places and content of all files below ``folder``: which films and annotations these were."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        for part in (str(path.relative_to(folder)).encode(), path.read_bytes()):
            digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _take_in(path: Path, found: _Found) -> None:
    if path.suffix.lower() == ".json":
        uid, vertebrae = _read_json(path)
        found.points[uid] = vertebrae
        return
    try:
        dataset = pydicom.dcmread(path)
    except (InvalidDicomError, OSError):
        return  # something else lies there
    sop_class = str(dataset.get("SOPClassUID", ""))
    if sop_class == SEGMENTATION:
        for uid, level, mask in _segments(path, dataset):
            outline = max(find_contours(np.pad(mask.astype(np.float32), 1), 0.5), key=len) - 1
            found.outlines[uid].append((level, outline))
    elif sop_class in IMAGES:
        if str(dataset.get("PresentationIntentType", "")) == "FOR PROCESSING":
            raise AnnotationError(f"{path}: this image is FOR PROCESSING; give the one FOR PRESENTATION")
        found.images[str(dataset.SOPInstanceUID)] = (path, dataset)


def _read_json(path: Path) -> tuple[str, list[tuple[str, F64]]]:
    """(SOP instance UID, [(level, six points as (row, column) index)])."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        uid = str(document["input"]["sop_instance_uid"])
        vertebrae = []
        for v in document["vertebrae"]:
            if v.get("keypoints_px"):
                at = np.array([v["keypoints_px"][name] for name in KEYPOINTS], np.float64)
                vertebrae.append((str(v.get("level") or UNNAMED), at[:, ::-1] - 0.5))
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError(
            f"{path}: no six-point annotation as film_annotations describes it ({error!r})"
        ) from error
    return uid, vertebrae


def _segments(path: Path, dataset: Dataset) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """(SOP instance UID, level, mask) of every frame that is not empty."""
    if str(dataset.get("SegmentationType", "")) != "BINARY":
        raise AnnotationError(f"{path}: only binary segmentations are read")
    labels = {int(s.SegmentNumber): str(s.get("SegmentLabel", "")) for s in dataset.SegmentSequence}
    frames = np.asarray(dataset.pixel_array).reshape(-1, int(dataset.Rows), int(dataset.Columns))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    out = []
    for mask, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        number = int(_group(path, group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        source = _group(path, group, shared, "DerivationImageSequence").SourceImageSequence[0]
        name = LEVEL.match(labels.get(number, ""))
        if mask.any():
            out.append((str(source.ReferencedSOPInstanceUID), name.group().strip() if name else UNNAMED, mask > 0))
    return out


def _group(path: Path, own: Dataset, shared: Dataset, keyword: str) -> Dataset:
    for group in (own, shared):
        if group.get(keyword):
            item: Dataset = group[keyword].value[0]
            return item
    raise AnnotationError(f"{path}: a frame has no {keyword}: it cannot be told which image and segment it is of")


def _annotated(
    path: Path, dataset: Dataset, outlines: Sequence[tuple[str, F64]], points: Sequence[tuple[str, F64]]
) -> AnnotatedFilm:
    finer = _finer(path, dataset)
    image = _squared(read_image(path), finer)
    points = [(level, _moved(at, finer)) for level, at in points]
    outlines = [(level, _resampled(_moved(outline, finer))) for level, outline in outlines]
    front = _front_columns(dataset)
    if points:  # they tell more than outlines
        levels = [level for level, _ in points]
        six = [at for _, at in points]
        lines = [outline_of(at) for at in six]
        front_known = True
    else:
        if header_turn(orientation(dataset)):
            raise AnnotationError(f"{path}: the header says that the head is not above; draw its six points instead")
        levels, six, lines = _measured(image.shape, outlines, front or -1)
        front_known = front is not None
    if not levels:
        raise AnnotationError(f"{path}: no vertebra is drawn on it; leave it out or draw all that can be seen")
    order = np.argsort([float(at.mean(axis=0) @ _to_feet(six)) for at in six])
    known = pixel_mm(dataset)
    scale = known or BODY_MM / max(float(np.median([np.linalg.norm(at[4] - at[5]) for at in six])), 1.0)
    truth = _truth([levels[n] for n in order], np.array(six)[order], np.array(lines)[order], scale)
    exposed = np.ones(image.shape, bool)
    seen = np.array([seen_part(o, exposed) for o in truth.outlines])
    film = FormedFilm(image, exposed, truth, seen, LATERAL_VIEWS[0], scale)
    patient, maker = (str(dataset.get(keyword, "")) for keyword in ("PatientID", "Manufacturer"))
    return AnnotatedFilm(film, patient, maker, front_known, known is not None)


def read_image(path: Path) -> NDArray[np.float32]:
    """The image as the node sees it, (rows, columns), 0 to 1, bone bright: by the gate's own steps.

    Raises
    ------
    AnnotationError
        Where it is no single grey image, or its pixels cannot be decoded.
    """
    header = read_header(path)
    if isinstance(header, Unreadable):
        raise AnnotationError(f"{path}: {header.reason}")
    dataset = header.dataset
    frames, samples = integer(dataset, "NumberOfFrames") or 1, integer(dataset, "SamplesPerPixel") or 1
    if frames != 1 or samples != 1 or not is_grey(dataset):
        raise AnnotationError(f"{path}: not one grey image ({frames} frames of {samples} values a pixel)")
    try:
        return as_read(next(stored_values(header, (None,))), dataset).pixels
    except (PixelError, ValueError, TypeError, ArithmeticError, IndexError) as error:
        raise AnnotationError(f"{path}: its pixels cannot be read ({error})") from error


def _finer(path: Path, dataset: Dataset) -> tuple[float, float]:
    """How many square pixels a pixel is high and wide, one of them 1; both are where it is square but for rounding."""
    height = aspect(dataset)
    if not ASPECT[0] <= height <= ASPECT[1]:
        raise AnnotationError(
            f"{path}: its pixels are {height:.3g} times as high as wide; such films are not measured: leave it out"
        )
    pixel = Radiograph(np.zeros((1, 1), np.float32), pixel_size(dataset).spacing_mm, height).pixel_mm
    side = min(pixel)
    if abs(pixel[0] - pixel[1]) <= SAME_BOTH_WAYS * side:
        return 1.0, 1.0
    return pixel[0] / side, pixel[1] / side


def _squared(image: NDArray[np.float32], finer: tuple[float, float]) -> NDArray[np.float32]:
    """The image on square pixels; its upper left corner stays where it is."""
    if finer == (1.0, 1.0):
        return image
    shape = tuple(round(n * f) for n, f in zip(image.shape, finer, strict=True))
    offset = [(1 / f - 1) / 2 for f in finer]
    seen = ndimage.affine_transform(image, [1 / f for f in finer], offset, shape, order=1, mode="nearest")
    return np.asarray(seen, np.float32)


def _moved(at: F64, finer: tuple[float, float]) -> F64:
    """Index (n, 2) on a film's own pixels to index on the square ones."""
    return np.asarray((at + 0.5) * finer - 0.5)


def outline_of(points: F64) -> F64:
    """(64, 2): the outline that six points (6, 2) span: parabolas through the plates' three, straight walls."""
    t = np.linspace(0, 1, PER_SIDE)[:, None]

    def plate(front: F64, middle: F64, back: F64) -> F64:
        depth = back - front
        at = float(np.clip((middle - front) @ depth / (depth @ depth), 0.2, 0.8))
        return front * (t - at) * (t - 1) / at + middle * t * (t - 1) / (at * (at - 1)) + back * t * (t - at) / (1 - at)

    upper, lower = plate(*points[0::2]), plate(*points[1::2])
    wall = points[4] + t * (points[5] - points[4])
    front = points[1] + t * (points[0] - points[1])
    return np.concatenate([upper, wall, lower[::-1], front])


def _resampled(line: F64) -> F64:
    """(64, 2) at equal distances along a closed line."""
    closed = np.concatenate([line, line[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    at = np.linspace(0, along[-1], 4 * PER_SIDE, endpoint=False)
    return np.stack([np.interp(at, along, closed[:, axis]) for axis in (0, 1)], axis=1)


def _measured(
    shape: tuple[int, ...], outlines: Sequence[tuple[str, F64]], front: int
) -> tuple[list[str], list[F64], list[F64]]:
    """Levels, six points and outlines of the bodies."""
    rows, columns = int(shape[0]), int(shape[1])
    down = _down([outline for _, outline in outlines])
    levels, six, lines = [], [], []
    for level, outline in outlines:
        found = six_points(coverage(outline, (rows, columns)), -down, front)
        levels.append(level)
        six.append(found.points if found is not None else _boxed(outline, down, front))
        lines.append(outline)
    return levels, six, lines


def _boxed(outline: F64, down: F64, front: int) -> F64:
    """Six points at the ends of an outline whose plates cannot be followed (S1's, or of a body that is cut)."""
    back = front * np.array([down[1], -down[0]])
    along, across = outline @ down, outline @ back
    return np.array([y * down + x * back for x in _thirds(across) for y in (along.min(), along.max())])


def _thirds(values: F64) -> list[float]:
    """First, middle and last."""
    return [float(values.min()), float((values.min() + values.max()) / 2), float(values.max())]


def _down(shapes: Sequence[F64]) -> F64:
    """Direction from head to feet as (row, column): along the chain of bodies, rows increasing."""
    centres = np.array([s.mean(axis=0) for s in shapes])
    if len(centres) < 2:
        return np.array([1.0, 0.0])
    _, _, axes = np.linalg.svd(centres - centres.mean(axis=0))
    return np.asarray(axes[0] * (1.0 if axes[0, 0] >= 0 else -1.0))


def _to_feet(six: Sequence[F64]) -> F64:
    """Direction from head to feet as (row, column): along the chain of bodies, by which plates are the upper ones."""
    down = _down(six)
    inferior = np.mean([at[1::2].mean(axis=0) - at[0::2].mean(axis=0) for at in six], axis=0)
    return down if inferior @ down >= 0 else -down


def _front_columns(dataset: Dataset) -> int | None:
    """-1 where the header says that the front lies towards column 0, 1: towards the last one."""
    letters = [str(v)[:1] for v in dataset.get("PatientOrientation", None) or []]
    return {"P": -1, "A": 1}.get(letters[0]) if letters else None


def pixel_mm(dataset: Dataset) -> float | None:
    """Size of a square pixel of the film in mm in the plane of the spine: the finer side of its own.

    ``None`` where the gate would not call the film calibrated.
    """
    spacing = pixel_size(dataset).spacing_mm
    return min(spacing) if spacing is not None else None


def _truth(levels: list[str], six: F64, outlines: F64, pixel_mm: float) -> FilmTruth:
    count = len(levels)
    heights = pixel_mm * np.linalg.norm(six[:, 0::2] - six[:, 1::2], axis=2)
    shadows = np.repeat(outlines[:, None], len(SECTIONS), axis=1).astype(np.float32)
    none = np.zeros(count, bool)
    return FilmTruth(
        levels, ["unknown"] * count, six, outlines, shadows, heights, heights.copy(), np.ones(count), none, none.copy()
    )
