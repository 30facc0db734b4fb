"""Films on disk: line integrals with their truth, and how they become training images.

Line integrals are stored as int16 in steps of 0.02 mm of water, soft tissue at half the resolution: as exact as any
detector, where float16 has steps of 0.3 mm behind 40 cm.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from onnx_models.training.film_formation import form
from onnx_models.training.film_look import Look, sample_look
from onnx_models.training.film_rendering import LineIntegrals
from onnx_models.training.film_truth import FilmTruth, coverage
from onnx_models.training.phantom.scene import F32

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
FOLDER = Path("build/training/radiograph")
STEP_CM = 0.002
VIEWS = ("lateral spine", "AP spine", "lateral chest", "chest", "other", "blank")
"""In the order of the view classifier's classes."""
LATERAL_VIEWS = ("lateral spine", "lateral chest")
SEEN = 0.6
"""A body of which less than this is exposed is no target."""
WHOLE = 0.995


@dataclass(frozen=True)
class StoredFilm:
    """Line integrals with what is known of them.

    ``pitch_mm`` is the pixel spacing in the plane of the detector; ``facts`` is anything else, as JSON.
    """

    integrals: LineIntegrals
    truth: FilmTruth
    view: str
    pitch_mm: float
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it compressed; a reader sees the whole file or none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        i = self.integrals
        arrays: dict[str, NDArray[Any]] = {"soft": _packed(_halved(i.soft)), "bone": _packed(i.bone)}
        if i.metal.any():
            arrays["metal"] = _packed(i.metal)
        for f in fields(FilmTruth):
            value = getattr(self.truth, f.name)
            arrays[f"truth_{f.name}"] = (
                np.asarray(value, np.float32) if np.asarray(value).dtype.kind == "f" else np.array(value)
            )
        arrays["said"] = np.array(json.dumps({"view": self.view, "pitch_mm": self.pitch_mm, "facts": self.facts}))
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as out:
            np.savez_compressed(out, **arrays)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> StoredFilm:
        """Read what ``save`` wrote."""
        with np.load(path) as z:
            return cls.from_arrays({name: z[name] for name in z.files})

    @classmethod
    def from_arrays(cls, z: dict[str, NDArray[Any]]) -> StoredFilm:
        """A film out of the arrays of its file, which take a quarter of its memory."""
        said = json.loads(str(z["said"]))
        bone = z["bone"].astype(np.float32) * STEP_CM
        metal = z["metal"].astype(np.float32) * STEP_CM if "metal" in z else np.zeros_like(bone)
        soft = _doubled(z["soft"].astype(np.float32) * STEP_CM, bone.shape)
        truth = {}
        for f in fields(FilmTruth):
            value = z[f"truth_{f.name}"]
            if f.type == "list[str]":
                truth[f.name] = [str(v) for v in value]
            else:
                truth[f.name] = value if value.dtype.kind == "b" else value.astype(np.float64)
        return cls(LineIntegrals(soft, bone, metal), FilmTruth(**truth), said["view"], said["pitch_mm"], said["facts"])


def _packed(cm: F32) -> NDArray[np.int16]:
    return np.clip(np.rint(cm / STEP_CM), -32768, 32767).astype(np.int16)


def _halved(image: F32) -> F32:
    rows, columns = (-(-n // 2) for n in image.shape)
    padded = np.pad(image, ((0, 2 * rows - image.shape[0]), (0, 2 * columns - image.shape[1])), "edge")
    return np.asarray(padded.reshape(rows, 2, columns, 2).mean((1, 3)))


def _doubled(half: F32, shape: tuple[int, ...]) -> F32:
    wide = ndimage.zoom(half, 2, order=1, grid_mode=True, mode="nearest")
    return np.asarray(wide[: shape[0], : shape[1]], np.float32)


@dataclass(frozen=True)
class FormedFilm:
    """One image and what is true of it.

    Attributes
    ----------
    image
        (rows, columns) float32, 0 to 1.
    exposed
        (rows, columns): within the collimator.
    truth
        Bodies in index of this image.
    seen
        (V,): part of each outline that is exposed and on the film.
    """

    image: F32
    exposed: Bools
    truth: FilmTruth
    seen: F64
    view: str
    pitch_mm: float

    @property
    def partial(self) -> Bools:
        """(V,): the body is cut."""
        return np.asarray(self.seen < WHOLE)

    @property
    def head_rows(self) -> F64:
        """(V,): by how much the head lies towards row 0, -1 to 1 (0: to the left or right)."""
        p = self.truth.points
        up = p[:, 0::2].mean(1) - p[:, 1::2].mean(1)
        return np.asarray(-up[:, 0] / np.maximum(np.linalg.norm(up, axis=1), 1e-9))

    @property
    def front_columns(self) -> F64:
        """(V,): by how much the front lies towards column 0, -1 to 1 (0: upwards or downwards)."""
        p = self.truth.points
        ahead = p[:, :2].mean(1) - p[:, 4:].mean(1)
        return np.asarray(-ahead[:, 1] / np.maximum(np.linalg.norm(ahead, axis=1), 1e-9))


@dataclass(frozen=True)
class Placement:
    """How a film is cut and turned: the part of its size that stays, where, a rotation, and whether it is mirrored, all
    before the exposure; then quarter turns of the finished image, with what is written on it."""

    part: tuple[float, float] = (1.0, 1.0)
    at: tuple[float, float] = (0.5, 0.5)
    rotation_deg: float = 0.0
    mirrored: bool = False
    quarter_turns: int = 0


def sample_placement(rng: np.random.Generator, view: str = VIEWS[0]) -> Placement:
    """Draw a placement; films of the chest are hardly cut, because a cut one is a film of the spine."""
    least = 0.94 if "chest" in view else 0.72
    part = rng.uniform(least, 1.0, 2) if rng.random() < 0.7 else np.ones(2)
    turn = rng.random()
    quarter = 0 if turn < 0.88 else 2 if turn < 0.94 else int(rng.choice([1, 3]))
    return Placement(
        (float(part[0]), float(part[1])),
        (float(rng.random()), float(rng.random())),
        float(rng.normal(0, 4)) if rng.random() < 0.5 else 0.0,
        bool(rng.random() < 0.5),
        quarter,
    )


def formed(
    film: StoredFilm, rng: np.random.Generator, look: Look | None = None, place: Placement | None = None
) -> FormedFilm:
    """A new image of a stored film; look and placement are drawn where they are not given."""
    place = sample_placement(rng, film.view) if place is None else place
    look = sample_look(rng, 0.06 if "chest" in film.view else 0.2) if look is None else look
    integrals, matrix = _cut(film.integrals, place)
    if place.mirrored:
        integrals = integrals.mirrored()
        matrix = np.array([[1, 0, 0], [0, -1, integrals.soft.shape[1] - 1.0]]) @ np.vstack([matrix, [0, 0, 1]])
    image, exposed = form(integrals, look, rng)
    for _ in range(place.quarter_turns % 4):
        image, exposed = np.rot90(image), np.rot90(exposed)  # (r, c) goes to (columns - 1 - c, r)
        matrix = np.array([[0, -1, image.shape[0] - 1.0], [1, 0, 0]]) @ np.vstack([matrix, [0, 0, 1]])
    truth = film.truth.moved(matrix)
    image = np.ascontiguousarray(image)
    exposed = np.ascontiguousarray(exposed)
    seen = np.array([seen_part(o, exposed) for o in truth.outlines])
    there = seen > 0.02 if len(seen) else np.zeros(0, bool)
    return FormedFilm(image, exposed, truth.chosen(there), seen[there], film.view, film.pitch_mm)


def _cut(integrals: LineIntegrals, place: Placement) -> tuple[LineIntegrals, F64]:
    """The part of a film, turned about its middle, and the matrix (2, 3) from old to new index."""
    shape = np.array(integrals.soft.shape)
    size = np.maximum(8, np.rint(shape * place.part)).astype(int)
    low = np.rint((shape - size) * place.at)
    if place.rotation_deg == 0:
        a, b = low.astype(int)
        window = (slice(a, a + size[0]), slice(b, b + size[1]))
        cut = LineIntegrals(integrals.soft[window], integrals.bone[window], integrals.metal[window])
        return cut, np.array([[1, 0, -a], [0, 1, -b]], float)
    t = np.radians(place.rotation_deg)
    turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    middle = low + (size - 1) / 2
    offset = middle - turn @ ((size - 1) / 2)  # old = turn @ new + offset

    def moved(image: F32) -> F32:
        if not image.any():
            return np.zeros(size, np.float32)
        return ndimage.affine_transform(image, turn, offset, tuple(size), order=1, mode="nearest")

    cut = LineIntegrals(moved(integrals.soft), moved(integrals.bone), moved(integrals.metal))
    return cut, np.hstack([turn.T, -(turn.T @ offset)[:, None]])


def seen_part(outline: F64, exposed: Bools) -> float:
    """Part of a polygon that lies on the image and is exposed."""
    y, x = outline.T
    area = 0.5 * abs(float((y * np.roll(x, -1) - x * np.roll(y, -1)).sum()))
    low = np.maximum(np.floor(outline.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(outline.max(0)).astype(int) + 1, exposed.shape)
    if (high <= low).any() or area < 1e-6:
        return 0.0
    covered = coverage(outline - low, (int(high[0] - low[0]), int(high[1] - low[1])))
    return float((covered * exposed[low[0] : high[0], low[1] : high[1]]).sum() / area)


def end_plate_visibility(film: FormedFilm) -> F64:
    """(V, 2): how clearly the upper and the lower end plate stand out.

    Along 24 lines across a plate, the mean of 2 mm of the body less the mean of 2 mm of the disc (from .5 mm off the
    plate); the mean of these differences over their standard deviation, 0 where the disc is the brighter one.
    """
    out = np.zeros((len(film.truth.levels), 2))
    for n, points in enumerate(film.truth.points):
        mm = film.truth.magnification[n] / film.pitch_mm  # pixels a mm
        up = (points[0::2] - points[1::2]).mean(0)
        up /= max(float(np.linalg.norm(up)), 1e-9)
        for k, (first, sign) in enumerate(((0, 1.0), (32, -1.0))):
            plate = film.truth.outlines[n][first : first + 16]
            t = np.linspace(1.5, 13.5, 24)
            base = np.stack([np.interp(t, np.arange(16), plate[:, axis]) for axis in (0, 1)], axis=1)
            steps = np.linspace(0.5, 2.5, 6) * mm
            at = [base[:, None] + side * sign * up * steps[:, None] for side in (-1.0, 1.0)]
            body, disc = (ndimage.map_coordinates(film.image, a.reshape(-1, 2).T, order=1, mode="nearest") for a in at)
            gap = body.reshape(24, 6).mean(1) - disc.reshape(24, 6).mean(1)
            out[n, k] = max(0.0, float(gap.mean() / max(gap.std(), 1e-4)))
    return out
