"""What is exactly known of a rendered film: outlines and six points of every body, projected.

The outline of a body is that of its mid-sagittal section: its heights are those of the body in space. The silhouette,
which is what the edges in the film follow where a body is seen obliquely, is larger, above all in the middle; it is
kept as a second truth, as the outlines of parallel sections whose union it is.

Everything is in (row, column) index of the film, pixel centres at whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnx_models.training.film_geometry import ConeBeam
from onnx_models.training.phantom import Patient
from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.scene import F32

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
PER_SIDE = 16
"""Points along each end plate and wall of an outline."""
SECTIONS = np.linspace(-0.96, 0.96, 13)
"""Where a body is cut for its silhouette, in half widths from the middle."""
SUB_ROWS = 8


@dataclass(frozen=True)
class FilmTruth:
    """The bodies whose middle lies on a film, from the top.

    Attributes
    ----------
    levels
        Names, "C3" to "S1"; S1 is a class of its own for the networks.
    points
        (V, 6, 2): the six points in the order of ``inference.findings.KEYPOINTS``.
    outlines
        (V, 64, 2): outline of the mid-sagittal section, from the anterior superior corner over the upper end plate.
    silhouettes
        (V, 13, 64, 2): outlines whose union is the silhouette.
    heights_mm, healthy_heights_mm
        (V, 3): anterior, middle, posterior, in space; of the body and of its undeformed twin.
    magnification
        (V,): of the middle of each body.
    cement, metal
        (V,).
    """

    levels: list[str]
    deformity: list[str]
    points: F64
    outlines: F64
    silhouettes: F32
    heights_mm: F64
    healthy_heights_mm: F64
    magnification: F64
    cement: Bools
    metal: Bools

    @property
    def loss(self) -> F64:
        """(V, 3): 1 - height / height of the undeformed twin."""
        return np.asarray(1 - self.heights_mm / self.healthy_heights_mm)

    @property
    def centres(self) -> F64:
        """(V, 2): mean of the mid-height points, the middle one counted twice."""
        mids = 0.5 * (self.points[:, 0::2] + self.points[:, 1::2])
        return np.asarray(0.25 * (mids[:, 0] + 2 * mids[:, 1] + mids[:, 2]))

    @property
    def sacral(self) -> Bools:
        """(V,): which one is S1."""
        return np.array([name == "S1" for name in self.levels], bool)

    def moved(self, matrix: ArrayLike) -> FilmTruth:
        """The same on a film whose index is ``matrix`` (2, 3) times (row, column, 1) of this one's."""
        m = np.asarray(matrix, np.float64)

        def turn(points: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(points @ m[:, :2].T + m[:, 2], points.dtype)

        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("points", "outlines", "silhouettes"):
            values[name] = turn(values[name])
        return FilmTruth(**values)

    def chosen(self, which: NDArray[Any]) -> FilmTruth:
        """Only the bodies of a mask (V,)."""
        values = {}
        for f in fields(self):
            whole = getattr(self, f.name)
            values[f.name] = (
                [v for v, w in zip(whole, which, strict=True) if w] if f.type == "list[str]" else whole[which]
            )
        return FilmTruth(**values)


def no_truth() -> FilmTruth:
    """Of a film without any vertebra."""
    flags, three = np.zeros(0, bool), np.zeros((0, 3))
    points, outlines = np.zeros((0, 6, 2)), np.zeros((0, 4 * PER_SIDE, 2))
    silhouettes = np.zeros((0, len(SECTIONS), 4 * PER_SIDE, 2), np.float32)
    return FilmTruth([], [], points, outlines, silhouettes, three, three, np.zeros(0), flags, flags)


def film_truth(patient: Patient, beam: ConeBeam) -> FilmTruth:
    """Truth of a phantom's film; empty where the patient has no spine, or none of it is on the film."""
    column = patient.column
    bodies = patient.vertebrae
    rows = [] if column is None else [column.table[column.levels.index(v.level)] for v in bodies]
    outlines = np.array([beam.project(section(row)) for row in rows]).reshape(-1, 4 * PER_SIDE, 2)
    silhouettes = np.array([[beam.project(section(row, at)) for at in SECTIONS] for row in rows], np.float32)
    centroids = np.array([v.centroid_lps_mm for v in bodies]).reshape(-1, 3)
    truth = FilmTruth(
        [v.level for v in bodies],
        [v.deformity for v in bodies],
        beam.project(np.array([v.keypoints_lps_mm for v in bodies]).reshape(-1, 6, 3)),
        outlines,
        silhouettes.reshape(-1, len(SECTIONS), 4 * PER_SIDE, 2),
        np.array([v.heights_mm for v in bodies]).reshape(-1, 3),
        np.array([v.healthy_heights_mm for v in bodies]).reshape(-1, 3),
        beam.magnification(centroids),
        np.array([v.cement for v in bodies], bool),
        np.array([v.metal for v in bodies], bool),
    )
    at = truth.centres
    inside = ((at > -0.5) & (at < np.array(beam.shape) - 0.5)).all(1)
    return truth.chosen(inside)


def section(row: F64, aside: float = 0.0) -> F64:
    """Outline (64, 3) in LPS mm of a body's sagittal section, ``aside`` half widths to the left of its middle.

    ``row`` is one of ``Column.table``. The surface is that of ``phantom.kernels.body_distance`` without its roughness.
    """
    row32 = row.astype(np.float32)
    half_d, half_w = row[ker.B_D] / 2, row[ker.B_W] / 2
    x = aside * half_w

    def walls(t: F64) -> tuple[F64, F64]:
        """(front, back) y of the walls at t, -1 at the lower end plate and 1 at the upper one."""
        waist = 1 - t * t
        front = half_d - row[ker.B_WAIST_A] * waist
        middle, half = 0.5 * (half_d + row[ker.B_EXTRA] - front), 0.5 * (front + half_d + row[ker.B_EXTRA])
        reach = half * _outline(x / (half_w - row[ker.B_WAIST_L] * waist), row[ker.B_NORM])
        wall = half_d - row[ker.B_WAIST_P] * waist + row[ker.B_KPOST] * x * x
        return middle - reach, np.minimum(wall, middle + reach)

    t = np.linspace(1, -1, PER_SIDE)
    first, last = (float(w[0]) for w in walls(np.ones(1)))
    across = np.linspace(first, last, PER_SIDE)
    front, back = walls(t)
    y = np.concatenate([across, back, across[::-1], front[::-1]])
    side = np.concatenate([np.ones(PER_SIDE), t, -np.ones(PER_SIDE), t[::-1]])
    top, bottom = _plates(np.clip(y / half_d, -1, 1).astype(np.float32), np.float32(aside), row32)
    z = 0.5 * (top + bottom + side * np.maximum(1.0, top - bottom))
    local = np.stack([np.full(len(y), x), y, z], axis=1)
    return np.asarray(row[:3] + local @ row[ker.B_R : ker.B_R + 9].reshape(3, 3))


def _outline(x: F64, share: float) -> F64:
    """y >= 0 at which the unit outline (a mixture of 2- and 4-norm) is met at x; 0 where it is not."""
    x2 = np.minimum(x * x, 1.0)
    low, high = np.zeros_like(x2), np.ones_like(x2)
    for _ in range(30):
        y2 = (0.5 * (low + high)) ** 2
        inside = (1 - share) * np.sqrt(x2 + y2) + share * np.sqrt(np.sqrt(x2 * x2 + y2 * y2)) < 1
        low, high = np.where(inside, 0.5 * (low + high), low), np.where(inside, high, 0.5 * (low + high))
    return np.asarray(low)


@nb.njit(cache=True)
def _plates(u: F32, v: np.float32, row: F32) -> Any:
    top, bottom = np.empty(u.shape[0]), np.empty(u.shape[0])
    for n in range(u.shape[0]):
        top[n], bottom[n] = ker.plate_heights(u[n], v, row)
    return top, bottom


def coverage(polygon: ArrayLike, shape: tuple[int, int]) -> F32:
    """(rows, columns) float32: the part of each pixel that a polygon (N, 2) of (row, column) index covers."""
    out = np.zeros(shape, np.float32)
    _fill(np.asarray(polygon, np.float64), out)
    return out


def union(polygons: ArrayLike, shape: tuple[int, int]) -> F32:
    """The part of each pixel that any of the polygons (M, N, 2) covers (their overlap counted once, to a pixel)."""
    out = np.zeros(shape, np.float32)
    for polygon in np.asarray(polygons, np.float64):
        np.maximum(out, coverage(polygon, shape), out=out)
    return out


@nb.njit(cache=True)
def _fill(polygon: F64, out: F32) -> None:
    """Even-odd filling on `SUB_ROWS` lines a row; along a line the covered length is exact."""
    count = polygon.shape[0]
    low = max(0, int(np.floor(polygon[:, 0].min())))
    high = min(out.shape[0] - 1, int(np.ceil(polygon[:, 0].max())))
    crossings = np.empty(count)
    for r in range(low, high + 1):
        for s in range(SUB_ROWS):
            y = r - 0.5 + (s + 0.5) / SUB_ROWS
            found = 0
            for n in range(count):
                m = n + 1 if n + 1 < count else 0
                y0, y1 = polygon[n, 0], polygon[m, 0]
                if (y0 <= y) != (y1 <= y):
                    crossings[found] = polygon[n, 1] + (y - y0) / (y1 - y0) * (polygon[m, 1] - polygon[n, 1])
                    found += 1
            ends = np.sort(crossings[:found])
            for n in range(0, found - 1, 2):
                a, b = max(ends[n] + 0.5, 0.0), min(ends[n + 1] + 0.5, float(out.shape[1]))
                if b <= a:
                    continue
                first, last = int(a), min(int(b), out.shape[1] - 1)
                for c in range(first, last + 1):
                    out[r, c] += max(0.0, min(b, c + 1.0) - max(a, float(c))) / SUB_ROWS
