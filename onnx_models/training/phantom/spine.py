"""The column of vertebral bodies: levels, curve, deformities by level, and how the bodies stack.

Angles are in degrees: a positive sagittal tilt leans backward. Positions count T1 as 0, T12 as 11, L1 to L5 as 12 to 16
and S1 as 17, whatever the number of vertebrae.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator

from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.bodies import (
    ANCHORS,
    VertebraTruth,
    choose_deformities,
    deform,
    healthy_row,
    plate_gap,
    truth_of,
)
from onnx_models.training.phantom.ranges import Ranges

F64 = NDArray[np.float64]

_DISC = np.array([0.32, 0.33, 0.0, 0.0, 0.0, 0.0, 0.25, 0.29, 0.33, 0.36, 0.37, 0.25, 0.2])  # 0: from Ranges


@dataclass
class Column:
    """Bodies from top to bottom: their table for the kernels, names and position on the scale T1 = 0, S1 = 17."""

    levels: list[str]
    position: F64
    table: F64
    truth: list[VertebraTruth]
    discs_mm: F64
    """Thickness of the disc below each body."""
    scale: float
    cobb_deg: float
    sacralised: bool = False
    """Whether the last lumbar vertebra has grown together with the sacrum."""
    curve_z: F64 = field(default_factory=lambda: np.zeros(0))
    curve_xy: F64 = field(default_factory=lambda: np.zeros((0, 2)))

    def frame(self, i: int) -> F64:
        """Rows left, back, up of body i."""
        return np.asarray(self.table[i, ker.B_R : ker.B_R + 9]).reshape(3, 3)

    def at(self, i: int, x: float, y: float, z: float) -> F64:
        """Point (x, y, z) of the frame of body i, in LPS mm."""
        return np.asarray(self.table[i, :3] + np.array([x, y, z]) @ self.frame(i))


@dataclass(frozen=True)
class Plan:
    """What a caller prescribes instead of drawing it; ``None`` leaves it to chance.

    ``deformities``: level -> (kind, loss of the part that loses most).
    """

    deformities: dict[str, tuple[str, float]] | None = None
    cobb_deg: float | None = None
    tilt_t1_deg: float | None = None
    tilt_l1_deg: float | None = None
    gibbus_deg: float | None = None
    gibbus_level: str = "T12"
    standard_levels: bool = False
    scale: float | None = None


def choose_levels(rng: np.random.Generator, ranges: Ranges, standard: bool) -> tuple[list[str], F64]:
    """Names from C3 to S2 and their positions; S2 is bone behind S1, not a graded vertebra."""
    n_t, n_l = 12, 5
    if not standard:
        draw = rng.random(2)
        if draw[0] < ranges.thoracic_variant:
            n_t = 11 if draw[0] < ranges.thoracic_variant / 2 else 13
        if draw[1] < ranges.lumbar_variant:
            n_l = 4 if draw[1] < ranges.lumbar_variant / 2 else 6
    names = [f"C{i}" for i in range(3, 8)] + [f"T{i}" for i in range(1, n_t + 1)]
    names += [f"L{i}" for i in range(1, n_l + 1)] + ["S1", "S2"]
    position = np.concatenate(
        [np.arange(-5, 0), np.arange(n_t) * 11.0 / (n_t - 1), 12 + np.arange(n_l) * 4.0 / (n_l - 1), [17.0, 18.0]]
    )
    return names, position


def _tilts(rng: np.random.Generator, ranges: Ranges, position: F64, plan: Plan) -> F64:
    """Sagittal tilt of each body in degrees: negative leans forward (T1), positive backward (L1)."""
    k = rng.uniform(*ranges.kyphosis_spread)
    t1 = -23.0 * k + rng.normal(0, 3)
    l1 = 11.0 * k + rng.normal(0, 3)
    if plan.tilt_t1_deg is not None:
        t1 = plan.tilt_t1_deg
    if plan.tilt_l1_deg is not None:
        l1 = plan.tilt_l1_deg
    s1 = -rng.uniform(*ranges.sacral_slope_deg)
    l3 = 0.55 * l1 - 0.12 * (s1 + 38) + rng.normal(-3, 3)
    l5 = 0.62 * s1 + rng.normal(2, 3)
    mid = 0.5 * (t1 + l1) + rng.normal(0, 3)
    c3 = rng.normal(2, 9)
    smooth = PchipInterpolator([-5, 0, 6, 12, 14, 16, 17, 18], [c3, t1, mid, l1, l3, min(l5, l3 - 4), s1, s1 - 16])
    noise = rng.normal(0, ranges.tilt_noise_deg, len(position)) * (position < 16.5)
    return np.asarray(smooth(position) + noise, np.float64)


def _coronal(rng: np.random.Generator, ranges: Ranges, position: F64, plan: Plan) -> tuple[F64, F64, float]:
    """Coronal tilt and axial rotation of each body in degrees, and the Cobb angle of the main curve."""
    cobb = rng.uniform(*ranges.cobb_deg) if rng.random() < ranges.scoliosis else abs(rng.normal(0, 4))
    if plan.cobb_deg is not None:
        cobb = plan.cobb_deg
    apex = rng.uniform(5, 14)
    half = rng.uniform(3.0, 5.0)
    sign = rng.choice([-1.0, 1.0])
    u = (position - apex) / half
    # tilt of the main curve: +cobb/2 below, -cobb/2 above its apex; it decays into compensating curves
    tilt = sign * 0.5 * cobb * np.sin(np.clip(u, -2, 2) * np.pi / 2) * np.where(np.abs(u) < 1, 1.0, 1.0)
    tilt *= np.clip((17.5 - position) / 3.0, 0, 1)
    rotation = sign * 0.35 * cobb * np.exp(-0.5 * u**2) * rng.uniform(0.2, 1.0)
    rotation = rotation + rng.normal(0, 1.2, len(position))
    return tilt, rotation, float(cobb)


def _frame(tilt: float, lateral: float, rotation: float) -> F64:
    """Rows left, back, up (right-handed, LPS) from tilt, coronal tilt and axial rotation in degrees."""
    t, c, r = np.radians([tilt, lateral, rotation])
    up = np.array([np.sin(c), np.cos(c) * np.sin(t), np.cos(c) * np.cos(t)])
    left = np.array([1.0, 0.0, 0.0]) - up[0] * up
    left /= np.linalg.norm(left)
    back = np.cross(up, left)
    return np.stack([np.cos(r) * left + np.sin(r) * back, np.cos(r) * back - np.sin(r) * left, up])


def build_column(rng: np.random.Generator, ranges: Ranges, plan: Plan) -> Column:
    """Draw and place every body; S1's centre is at the origin."""
    levels, position = choose_levels(rng, ranges, plan.standard_levels)
    scale = plan.scale if plan.scale is not None else rng.uniform(*ranges.size)
    n = len(levels)
    healthy = [healthy_row(rng, ranges, float(p), scale) for p in position]
    drawn = choose_deformities(rng, ranges, levels, position)
    deformities = drawn if plan.deformities is None else plan.deformities
    rows = [h.copy() for h in healthy]
    tilt = _tilts(rng, ranges, position, plan)
    lateral, rotation, cobb = _coronal(rng, ranges, position, plan)
    for i, name in enumerate(levels):
        one = np.random.default_rng(rng.integers(2**63))  # each vertebra its own stream: twins stay twins
        if name in deformities:
            kind, loss = deformities[name]
            deform(one, ranges, rows[i], kind, loss)
        if name in deformities or 0 <= position[i] <= 16:
            p = ranges.endplate_step * (1.0 if name in deformities else 0.0)
            if one.random() < p:
                rows[i][ker.B_STEP] = one.uniform(0.03, 0.12) * plate_gap(healthy[i], -1.0)
                rows[i][ker.B_STEP_U] = one.uniform(-0.7, 0.3)
        # scoliosis wedges bodies sideways as well
        rows[i][ker.B_LAT] = 0.0
        if 0 < i < n - 1:
            bend = np.radians(lateral[i - 1] - lateral[i + 1]) / 2
            rows[i][ker.B_LAT] = -0.25 * 0.25 * bend * rows[i][ker.B_W]
    settle = _settle(rng, rows, healthy)
    tilt = tilt + (settle if plan.gibbus_deg is None else 0.0)
    tilt = tilt + _balance(tilt, position, healthy, rng.normal(-32, 25) * scale, keep=plan.tilt_t1_deg is not None)
    if plan.gibbus_deg is not None:
        g = levels.index(plan.gibbus_level)
        tilt[: g + 1] -= np.array([plan.gibbus_deg if j < g else plan.gibbus_deg / 2 for j in range(g + 1)])
    ratio = np.exp(rng.normal(0, 1, n) * np.log(ranges.disc_ratio[1] / ranges.disc_ratio[0]) / (2 * 1.645))
    patient_ratio = np.sqrt(ranges.disc_ratio[0] * ranges.disc_ratio[1])
    discs = np.zeros(n)
    for i in range(n - 1):
        share = patient_ratio if -0.5 < position[i] < 11.5 else float(np.interp(position[i], ANCHORS, _DISC))
        discs[i] = max(1.5, share * ratio[i] ** (1.0 if -0.5 < position[i] < 11.5 else 0.8) * plate_gap(healthy[i], 1))
    discs[levels.index("S1")] = 1.5
    own = rng.spawn(1)[0]  # a stream of its own: everything else of a patient stays as it is without
    sacralised = bool(own.random() < ranges.sacralised)
    if sacralised:
        discs[levels.index("S1") - 1] = own.uniform(1.5, 4.0)
    table = _place(rows, tilt, lateral, rotation, discs)
    truth = [truth_of(levels[i], table[i], healthy[i], deformities.get(levels[i], ("none", 0.0))[0]) for i in range(n)]
    column = Column(levels, position, table, truth, discs, float(scale), cobb, sacralised)
    _curve(column)
    return column


def _balance(tilt: F64, position: F64, healthy: list[F64], offset: float, keep: bool) -> F64:
    """Degrees to add so that T1 lies ``offset`` mm behind S1 (negative: in front): people do not fall over.

    The lumbar spine gives some of it, a turn of everything above the sacrum the rest; ``keep`` spares T1 to L1.
    """
    step = np.array([1.3 * plate_gap(h, 1.0) for h in healthy])
    thoracolumbar = (position >= -0.5) & (position < 16.5)
    lumbar = np.clip(1 - np.abs(position - 14) / 3.0, 0, 1)
    out = np.zeros(len(tilt))
    for _ in range(3):
        now = float((step * np.sin(np.radians(tilt + out)))[thoracolumbar].sum())
        miss = offset - now
        bend = np.degrees(miss / max(float((step * lumbar).sum()), 1.0))
        bend = float(np.clip(0.4 * bend, -12, 12))
        miss -= float(np.radians(bend) * (step * lumbar).sum())
        turn = 0.0 if keep else float(np.clip(np.degrees(miss / step[thoracolumbar].sum()), -9, 9))
        out += bend * lumbar + turn * np.where(position < 16.5, np.clip((17 - position) / 2, 0, 1), 0.0)
        out = np.clip(out, -16, 16)
    return out


def _settle(rng: np.random.Generator, rows: list[F64], healthy: list[F64]) -> F64:
    """Forward tilt in degrees that wedged bodies give to everything above them."""
    out = np.zeros(len(rows))
    for i, (row, twin) in enumerate(zip(rows, healthy, strict=True)):
        lost = (plate_gap(twin, -1) - plate_gap(row, -1)) - (plate_gap(twin, 1) - plate_gap(row, 1))
        angle = np.degrees(np.arctan2(lost, row[ker.B_D])) * rng.uniform(0.2, 0.8)
        if angle > 0.5:
            # most of it is straightened again within the next levels above
            above = np.arange(i, -1, -1)
            out[above] -= angle * (0.45 + 0.55 * np.exp(-np.arange(len(above)) / 3.0)) * np.where(above == i, 0.5, 1.0)
    return out


def _place(rows: list[F64], tilt: F64, lateral: F64, rotation: F64, discs: F64) -> F64:
    """Stack the bodies from the bottom (S1 at the origin): rims apart by the disc, and nowhere closer than 1 mm."""
    n = len(rows)
    table = np.array(rows)
    frames = [_frame(tilt[i], lateral[i], rotation[i]) for i in range(n)]
    for i in range(n):
        table[i, ker.B_R : ker.B_R + 9] = frames[i].ravel()
    probe = [(u, v) for u in (-1.0, -0.5, 0.0, 0.5, 1.0) for v in (-0.9, 0.0, 0.9) if u * u + v * v < 1.9]
    s1 = n - 2

    def rim(i: int, top: bool) -> F64:
        """Points of an end plate in the frame's axes, relative to the body's origin."""
        row = table[i].astype(np.float32)
        out = []
        for u, v in probe:
            z = ker.plate_heights(np.float32(u), np.float32(v), row)[0 if top else 1]
            local = np.array([v * row[ker.B_W] / 2 * np.sqrt(max(0.0, 1 - 0.5 * u * u)), u * row[ker.B_D] / 2, z])
            out.append(local @ frames[i])
        return np.array(out)

    def stack(lower: int, upper: int) -> None:
        up = frames[lower][2] + frames[upper][2]
        up /= np.linalg.norm(up)
        top, bottom = rim(lower, True), rim(upper, False)
        edge = [j for j, (u, v) in enumerate(probe) if abs(u) == 1.0 and v == 0.0]
        base = top[edge].mean(0) - bottom[edge].mean(0) + up * discs[upper]
        gap = (bottom + base - top) @ up
        short = max(0.0, 1.0 - float(gap.min()))
        table[upper, :3] = table[lower, :3] + base + up * short

    table[s1, :3] = 0.0
    for i in range(s1 - 1, -1, -1):
        stack(i + 1, i)
    # S2 hangs below S1
    up = frames[s1][2] + frames[s1 + 1][2]
    up /= np.linalg.norm(up)
    top, bottom = rim(s1 + 1, True), rim(s1, False)
    table[s1 + 1, :3] = table[s1, :3] + bottom.mean(0) - top.mean(0) - up * discs[s1]
    return table


def _curve(column: Column) -> None:
    """The curve through the mid-height points, from above C3 (C2, C1) to the bottom of S1."""
    mids = np.array([0.5 * (t.keypoints_lps_mm[2] + t.keypoints_lps_mm[3]) for t in column.truth])
    up = column.frame(0)[2]
    head = np.array([mids[0] + up * 36.0 + [0, 0, 2.0], mids[0] + up * 18.0])
    p = np.concatenate([head, mids])
    column.curve_z = p[:, 2][::-1].copy()
    column.curve_xy = p[::-1, :2].copy()


def curve_of(column: Column) -> CubicSpline:
    """(x, y) in mm as a function of z, LPS."""
    z, first = np.unique(column.curve_z, return_index=True)
    return CubicSpline(z, column.curve_xy[first], bc_type="natural")


def places(column: Column) -> dict[str, F64]:
    """Centre (3,) of the body nearest to each standard level's position: variants have their organs as well."""
    names = [f"C{i}" for i in range(3, 8)] + [f"T{i}" for i in range(1, 13)] + [f"L{i}" for i in range(1, 6)]
    at = {name: float(k - 5) for k, name in enumerate([*names, "S1", "S2"])}
    return {name: column.table[int(np.argmin(np.abs(column.position - p))), :3] for name, p in at.items()}
