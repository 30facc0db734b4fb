"""One vertebral body: its undeformed shape, its deformities, and what is exactly known of it.

A body in its own frame (left, back, up; origin in the middle of the undeformed body): the anterior wall is at
y = -D/2, the posterior one at +D/2, the end plates are the surfaces of ``kernels.plate_heights``. Sizes and ratios
follow the public statistics of 100 chest CTs (thoracic) and of published lumbar surfaces; see ``Ranges``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.ranges import Ranges

F64 = NDArray[np.float64]

# Sizes of an average adult at anchor levels: T1 is 0, T12 is 11, L1 to L5 are 12 to 16, S1 is 17, C3 is -5.
ANCHORS = np.array([-5, -1, 0, 3, 7, 11, 12, 13, 14, 15, 16, 17, 18], float)
_HEIGHT = np.array([13.6, 14.6, 15.9, 17.7, 20.5, 23.7, 24.8, 25.6, 25.9, 25.2, 23.0, 26.0, 22.0])  # posterior
_DEPTH = np.array([15.5, 16.5, 17.0, 20.5, 26.0, 29.5, 30.5, 31.8, 33.0, 33.6, 33.8, 30.0, 21.0])
_WIDTH = np.array([17.5, 26.0, 28.5, 25.5, 29.0, 38.5, 41.0, 43.0, 45.5, 48.5, 51.5, 50.0, 38.0])


@dataclass
class VertebraTruth:
    """What is exactly known of one vertebral body, in patient coordinates (LPS mm).

    Attributes
    ----------
    level
        "C3" to "S1"; T13 and L6 where the patient has them.
    centroid_lps_mm
        (3,), mean of the mid-height points (the middle one counts twice).
    keypoints_lps_mm
        (6, 3) in the order of ``inference.findings.KEYPOINTS``, all in the mid-sagittal plane of the vertebra: the
        middle points on the concave end plates, the posterior ones where the (concave) posterior wall meets them.
    heights_mm, healthy_heights_mm
        (3,): anterior, middle, posterior; of this body and of its undeformed twin.
    loss
        (3,): 1 - height / height of the undeformed twin.
    deformity
        "none", "wedge", "biconcave" or "crush".
    frame
        (3, 3): rows are the vertebra's left, back and up in LPS.
    depth_mm, width_mm
        Between the anterior and posterior wall, and between the lateral walls.
    """

    level: str
    centroid_lps_mm: F64
    keypoints_lps_mm: F64
    heights_mm: F64
    healthy_heights_mm: F64
    loss: F64
    deformity: str
    frame: F64
    depth_mm: float
    width_mm: float
    cement: bool = False
    metal: bool = False

    @property
    def G(self) -> float:  # noqa: N802 - the field's own symbol
        """min / max of the three heights (Pisov et al. 2020, eq. 1)."""
        return float(self.heights_mm.min() / self.heights_mm.max())


def healthy_row(rng: np.random.Generator, ranges: Ranges, position: float, scale: float) -> F64:
    """Shape of one undeformed body (no place yet)."""
    row = np.zeros(ker.B_COLUMNS)
    hp = float(np.interp(position, ANCHORS, _HEIGHT)) * scale * rng.normal(1, 0.02)
    depth = float(np.interp(position, ANCHORS, _DEPTH)) * scale * rng.normal(1, 0.03)
    width = float(np.interp(position, ANCHORS, _WIDTH)) * scale * rng.normal(1, 0.03)
    thoracic = -0.5 < position < 11.5
    if thoracic:
        z = rng.standard_normal(2)
        ap = ranges.ratio_anterior_posterior[0] + ranges.ratio_anterior_posterior[1] * z[0]
        mp = ranges.ratio_middle_posterior[0] + ranges.ratio_middle_posterior[1] * (0.5 * z[0] + 0.866 * z[1])
    else:
        lumbar = [11.5, 12, 13, 14, 15, 16, 17, 18] if position > 0 else [-5, -0.5]
        ratio = [0.93, 0.935, 0.975, 1.015, 1.07, 1.19, 1.17, 1.0] if position > 0 else [1.0, 0.97]
        ap = float(np.interp(position, lumbar, ratio)) + rng.normal(0, 0.055)
        share = 0.83 if position > 0 else 0.88
        mp = rng.normal(share, 0.038) * max(1.0, ap)
    ap = float(np.clip(ap, 0.74, 1.35))
    mp = float(np.clip(mp, 0.70, 0.97 * 0.5 * (1 + ap) + 0.0))
    ha, hm = ap * hp, mp * hp
    rim = 0.5 * (ha + hp)
    sag = rim - hm  # what both concavities take from the middle height
    part = rng.uniform(0.35, 0.6)
    lean = rng.uniform(0.35, 0.65)
    row[ker.B_D], row[ker.B_W] = depth, width
    row[ker.B_NORM] = rng.uniform(0.2, 0.6)
    row[ker.B_EXTRA] = depth * rng.uniform(0.06, 0.18)
    row[ker.B_KPOST] = rng.uniform(0.002, 0.010)
    row[ker.B_WAIST_A] = rng.uniform(0.04, 0.10) * depth
    row[ker.B_WAIST_P] = rng.uniform(0.02, 0.07) * depth
    row[ker.B_WAIST_L] = rng.uniform(0.04, 0.09) * width
    row[ker.B_S0], row[ker.B_I0] = 0.5 * rim, -0.5 * rim
    row[ker.B_S1], row[ker.B_I1] = lean * (hp - ha) / 2, -(1 - lean) * (hp - ha) / 2
    shift_s, shift_i = rng.uniform(-0.05, 0.25), rng.uniform(0.0, 0.3)
    row[ker.B_SHIFT_S], row[ker.B_SHIFT_I] = shift_s, shift_i
    row[ker.B_SC] = sag * part / (1 - shift_s**2)
    row[ker.B_IC] = sag * (1 - part) / (1 - shift_i**2)
    row[ker.B_PA] = 1.0
    row[ker.B_NOISE] = rng.uniform(0.0, 0.09)
    return row


def deform(rng: np.random.Generator, ranges: Ranges, row: F64, kind: str, loss: float) -> None:
    """Take ``loss`` of the height away, by kind, from a healthy row (in place)."""
    u = np.array([-1.0, 0.0, 1.0])
    ha, hm, hp = (plate_gap(row, x) for x in u)
    upper = rng.uniform(0.6, 1.0) if rng.random() < 0.75 else rng.uniform(0.0, 0.4)
    if kind == "wedge":
        row[ker.B_PA] = rng.uniform(0.8, 1.8)
        row[ker.B_FA_S], row[ker.B_FA_I] = loss * ha * upper, loss * ha * (1 - upper)
    elif kind == "biconcave":
        upper = rng.uniform(0.3, 0.9)
        row[ker.B_FM_S], row[ker.B_FM_I] = loss * hm * upper, loss * hm * (1 - upper)
        extra = loss * rng.uniform(0.0, 0.3) * ha
        row[ker.B_FA_S] += extra * upper
        row[ker.B_FA_I] += extra * (1 - upper)
    elif kind == "crush":
        # the whole body sinks; the front or the middle somewhat more
        part = hm * loss * rng.uniform(0.85, 1.0)
        row[ker.B_FC_S], row[ker.B_FC_I] = part * upper, part * (1 - upper)
        more = rng.uniform(0.0, 1.0) * max(0.0, loss * ha - part)
        row[ker.B_FA_S], row[ker.B_FA_I] = more * upper, more * (1 - upper)
        row[ker.B_WAIST_P] -= rng.uniform(0.0, 0.06) * row[ker.B_D]
    else:
        raise ValueError(f"deformities are wedge, biconcave and crush, not {kind!r}")
    if loss > 0.2:
        row[ker.B_WAIST_A] -= rng.uniform(0.03, 0.14) * row[ker.B_D]
        row[ker.B_WAIST_L] -= rng.uniform(0.0, 0.06) * row[ker.B_W]
    # no part may vanish: a body keeps at least a sixth of its height
    low = min(plate_gap(row, x) for x in np.linspace(-1, 1, 21))
    if low < hp / 6:
        excess = hp / 6 - low
        for a, b in ((ker.B_FA_S, ker.B_FA_I), (ker.B_FM_S, ker.B_FM_I), (ker.B_FC_S, ker.B_FC_I)):
            total = (
                row[ker.B_FA_S]
                + row[ker.B_FM_S]
                + row[ker.B_FC_S]
                + row[ker.B_FA_I]
                + row[ker.B_FM_I]
                + row[ker.B_FC_I]
            )
            shrink = max(0.0, 1 - excess / max(total, 1e-6))
            row[a] *= shrink
            row[b] *= shrink


def plate_gap(row: F64, u: float) -> float:
    """Height of the body of this row at u (-1 anterior, 0 middle, 1 posterior), in the mid-sagittal plane."""
    zs, zi = ker.plate_heights(np.float32(u), np.float32(0), row.astype(np.float32))
    return float(zs - zi)


def choose_deformities(
    rng: np.random.Generator, ranges: Ranges, levels: list[str], position: F64
) -> dict[str, tuple[str, float]]:
    """Level -> (kind, loss). T11 to L2 are hit most often, as in the public fracture grades."""
    if rng.random() >= ranges.deformed_patient:
        return {}
    low, high = ranges.deformed_count
    count = int(np.clip(low + rng.geometric(0.45) - 1, low, high))
    weight = np.where((position >= 1) & (position <= 16), 1.0, 0.0)
    weight += 2.5 * np.exp(-0.5 * ((position - 11.7) / 1.3) ** 2) + 0.8 * np.exp(-0.5 * ((position - 6.5) / 1.5) ** 2)
    weight *= (position >= 0) & (position <= 16)
    chosen = rng.choice(len(levels), size=min(count, int((weight > 0).sum())), replace=False, p=weight / weight.sum())
    out = {}
    for i in sorted(chosen):
        kind = str(rng.choice(["wedge", "biconcave", "crush"], p=[0.45, 0.33, 0.22]))
        loss = ranges.loss[0] + (ranges.loss[1] - ranges.loss[0]) * float(rng.beta(1.3, 1.8))
        out[levels[int(i)]] = (kind, loss)
    return out


def keypoints_of(row: F64) -> F64:
    """Key points (6, 3) in LPS mm of a placed row, in the order of ``inference.findings.KEYPOINTS``."""
    r = row[ker.B_R : ker.B_R + 9].reshape(3, 3)
    out = []
    for u in (-1.0, 0.0, 1.0):
        zs, zi = ker.plate_heights(np.float32(u), np.float32(0), row.astype(np.float32))
        for z in (zs, zi):
            out.append(row[:3] + np.array([0.0, u * row[ker.B_D] / 2, float(z)]) @ r)
    return np.array(out)


def truth_of(level: str, row: F64, healthy: F64, deformity: str) -> VertebraTruth:
    points = keypoints_of(row)
    heights = np.linalg.norm(points[0::2] - points[1::2], axis=1)
    twin = np.array([plate_gap(healthy, u) for u in (-1.0, 0.0, 1.0)])
    frame = row[ker.B_R : ker.B_R + 9].reshape(3, 3).copy()
    middle = 0.25 * (points[:2].mean(0) + 2 * points[2:4].mean(0) + points[4:].mean(0))
    return VertebraTruth(
        level, middle, points, heights, twin, 1 - heights / twin, deformity, frame,
        float(row[ker.B_D]), float(row[ker.B_W]),
    )  # fmt: skip
