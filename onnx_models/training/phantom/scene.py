"""A list of primitives in paint order, and its packing into the arrays that ``kernels`` reads."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.cells import fill_cells

F32 = NDArray[np.float32]
CELL_MM = 14.0
MARGIN_MM = 3.0
"""Half of the largest footprint that is rendered exactly is below this."""


@dataclass
class Scene:
    """Primitives being collected. Later groups paint over earlier ones; a group is the union of its primitives."""

    kinds: list[int] = field(default_factory=list)
    rows: list[NDArray[np.float64]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    boxes: list[NDArray[np.float64]] = field(default_factory=list)
    props: list[tuple[float, ...]] = field(default_factory=list)

    def group(
        self,
        inner: float,
        shell: float | None = None,
        thick: float = 0.0,
        texture: float = 0.0,
        scale: float = 4.0,
        clip: int = 0,
        wall: float = 1.0,
        plate: float = 0.0,
    ) -> int:
        """A new tissue: HU inside, HU and thickness (mm) of its shell, amplitude (HU) and size (mm) of its texture.

        ``clip`` 1 keeps it inside the cavity of the trunk, 2 also out of the lungs. Of a vertebra, ``wall`` scales the
        shell of the walls against that of the end plates, and ``plate`` is the HU added below the plates.
        """
        self.props.append((inner, inner if shell is None else shell, thick, texture, scale, float(clip), wall, plate))
        return len(self.props) - 1

    def _add(self, kind: int, group: int, values: ArrayLike, low: ArrayLike, high: ArrayLike) -> None:
        row = np.zeros(16)
        v = np.asarray(values, np.float64)
        row[: v.size] = v
        self.kinds.append(kind)
        self.rows.append(row)
        self.groups.append(group)
        self.boxes.append(np.concatenate([np.asarray(low) - MARGIN_MM, np.asarray(high) + MARGIN_MM]))

    def capsule(
        self,
        group: int,
        p0: ArrayLike,
        p1: ArrayLike,
        r0: float,
        r1: float | None = None,
        normal: ArrayLike | None = None,
        squeeze: float = 1.0,
    ) -> None:
        """A rounded cone from p0 to p1. Extent along ``normal`` is divided by ``squeeze`` (below 1: a tall plate)."""
        a, b = np.asarray(p0, np.float64), np.asarray(p1, np.float64)
        n = np.array([0.0, 0.0, 1.0]) if normal is None else np.asarray(normal, np.float64)
        n = n / np.linalg.norm(n)
        r1 = r0 if r1 is None else r1
        d = b - a
        d = d - (1.0 - squeeze) * (d @ n) * n
        inv = 1.0 / max(float(d @ d), 1e-6)
        reach = max(r0, r1) * (1.0 + (max(1.0, 1.0 / squeeze) - 1.0) * np.abs(n))
        values = [*a, *d, inv, r0, r1 - r0, *n, squeeze]
        self._add(ker.CAPSULE, group, values, np.minimum(a, b) - reach, np.maximum(a, b) + reach)

    def chain(self, group: int, points: ArrayLike, radius: ArrayLike, **kw: object) -> None:
        """Capsules along a polyline (N, 3) with one radius, or one per point."""
        p = np.asarray(points, np.float64)
        r = np.broadcast_to(np.asarray(radius, np.float64), (len(p),))
        for i in range(len(p) - 1):
            self.capsule(group, p[i], p[i + 1], float(r[i]), float(r[i + 1]), **kw)  # type: ignore[arg-type]

    def ellipsoid(self, group: int, centre: ArrayLike, half_axes: ArrayLike, rows: ArrayLike | None = None) -> None:
        """An ellipsoid; ``rows`` are its unit axes (3, 3), the patient's by default."""
        r = np.eye(3) if rows is None else np.asarray(rows, np.float64)
        h = np.asarray(half_axes, np.float64)
        c = np.asarray(centre, np.float64)
        reach = np.sqrt(((r * h[:, None]) ** 2).sum(0))
        self._add(ker.ELLIPSOID, group, [*c, *(r / h[:, None]).ravel()], c - reach, c + reach)

    def box(self, group: int, centre: ArrayLike, half: ArrayLike, rows: ArrayLike | None = None) -> None:
        """A box with half edges along ``rows``."""
        self._plate(ker.BOX, group, centre, half, rows)

    def disc(self, group: int, centre: ArrayLike, half: ArrayLike, rows: ArrayLike | None = None) -> None:
        """An elliptical plate: half axes (left, back) and half thickness along ``rows``."""
        self._plate(ker.DISC, group, centre, half, rows)

    def _plate(self, kind: int, group: int, centre: ArrayLike, half: ArrayLike, rows: ArrayLike | None) -> None:
        r = np.eye(3) if rows is None else np.asarray(rows, np.float64)
        h = np.asarray(half, np.float64)
        c = np.asarray(centre, np.float64)
        reach = (np.abs(r) * h[:, None]).sum(0)
        self._add(kind, group, [*c, *r.ravel(), *h], c - reach, c + reach)

    def body(self, group: int, index: int, row: NDArray[np.float64]) -> None:
        """Vertebral body number ``index`` (row of the body table)."""
        c = row[:3]
        reach = 0.5 * np.linalg.norm([row[ker.B_D], row[ker.B_W], 1.6 * (row[ker.B_S0] - row[ker.B_I0])]) + 3.0
        self._add(ker.BODY, group, [float(index)], c - reach, c + reach)

    def pack(self, bodies: NDArray[np.float64], field_: F32, table: F32, z0: float, trunk: F32) -> Packed:
        """Arrays for the kernels."""
        boxes = np.array(self.boxes) if self.boxes else np.zeros((0, 6))
        low = boxes[:, :3].min(0) if len(boxes) else np.zeros(3)
        high = boxes[:, 3:].max(0) if len(boxes) else np.ones(3)
        dims = np.maximum(1, np.ceil((high - low) / CELL_MM)).astype(np.int64)
        start, items = fill_cells(boxes, low, CELL_MM, dims)
        return (
            table,
            np.float32(z0),
            trunk,
            np.array(self.kinds, np.int8),
            np.array(self.rows, np.float32).reshape(-1, 16),
            np.array(self.groups, np.int32),
            np.array(self.props, np.float32).reshape(-1, ker.P_COLUMNS),
            low.astype(np.float32),
            np.float32(CELL_MM),
            dims,
            start,
            items,
            np.ascontiguousarray(bodies, np.float32).reshape(-1, ker.B_COLUMNS),
            field_,
        )


Packed = tuple[
    F32, np.float32, F32, NDArray[np.int8], F32, NDArray[np.int32], F32, F32, np.float32, NDArray[np.int64],
    NDArray[np.int32], NDArray[np.int32], F32, F32,
]  # fmt: skip


def noise_field(rng: np.random.Generator) -> F32:
    """A periodic 32^3 field of unit variance, for texture."""
    f = rng.standard_normal((32, 32, 32), dtype=np.float32)
    return np.asarray(f / f.std(), np.float32)
