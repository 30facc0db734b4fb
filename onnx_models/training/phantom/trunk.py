"""The trunk around the spine: skin, fat, muscle, cavity and lungs as a table per z; the couch behind it.

The trunk follows the spine (a fixed cylinder would let a kyphotic spine leave the skin).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.ranges import Ranges
from onnx_models.training.phantom.scene import F32, Scene
from onnx_models.training.phantom.spine import Column, curve_of, places

F64 = NDArray[np.float64]

# distance along the trunk as a part of S1 to T1 (0 at S1, 1 at T1), and there: half width, half depth of the skeleton's
# envelope (mm, average adult), distance of the spine's centre from the back of that envelope
_AT = np.array([-0.75, -0.35, -0.12, 0.05, 0.2, 0.38, 0.6, 0.8, 0.93, 1.0, 1.06, 1.15, 1.5])
_WIDE = np.array([172, 172, 165, 148, 134, 138, 146, 142, 138, 128, 100, 62, 58.0])
_DEEP = np.array([92, 100, 104, 100, 95, 101, 110, 103, 91, 81, 71, 61, 57.0])
_BACK = np.array([66, 72, 72, 66, 62, 62, 64, 70, 72, 71, 66, 58, 54.0])
_HANN = np.hanning(61) / np.hanning(61).sum()


def sample_trunk(rng: np.random.Generator, ranges: Ranges, column: Column) -> tuple[F32, float, F32, dict[str, F64]]:
    """(table per mm of z, z of its first row, globals, inner chest wall) of ``kernels`` for this column."""
    s = column.scale
    at = {name: float(place[2]) for name, place in places(column).items()}
    low = at["S1"] - 300 * s
    z = np.arange(low, at["T1"] + 330 * s, 1.0) + 0.5
    part = (z - at["S1"]) / (at["T1"] - at["S1"])
    sx, sy = _spine_path(column, z)
    girth = rng.uniform(0.92, 1.12)
    wide = np.interp(part, _AT, _WIDE) * s * girth * rng.normal(1, 0.04)
    deep = np.interp(part, _AT, _DEEP) * s * girth * rng.normal(1, 0.05)
    deep = deep + 0.5 * rng.uniform(0, 45) * np.exp(-0.5 * ((part - 0.22) / 0.2) ** 2)  # the belly
    smooth_x, smooth_y = (np.convolve(np.pad(v, 30, mode="edge"), _HANN, "valid") for v in (sx, sy))
    cx = 0.6 * smooth_x
    cy = smooth_y + np.interp(part, _AT, _BACK) * s - deep
    fat = float(np.exp(rng.uniform(np.log(5), np.log(38)))) * np.interp(
        part, [-0.3, 0.1, 0.4, 0.9, 1.1], [1.3, 1, 0.8, 0.6, 0.4]
    )
    wall = rng.uniform(9, 20) * np.interp(part, [-0.2, 0.0, 0.35, 0.5, 1.0, 1.1], [3.0, 1.6, 1.0, 1.1, 1.3, 3.0])
    table = np.zeros((len(z), ker.T_COLUMNS), np.float32)
    table[:, ker.T_CX], table[:, ker.T_CY] = cx, cy
    table[:, ker.T_A], table[:, ker.T_B] = wide + fat, deep + fat
    table[:, ker.T_FAT], table[:, ker.T_MUSCLE] = fat, wall
    table[:, ker.T_SX], table[:, ker.T_SY] = sx, sy
    table[:, ker.T_DEPTH] = np.interp(z, column.table[::-1, 2], column.table[::-1, ker.B_D]) * 0.5 + 7.0
    table[:, ker.T_PARASPINAL] = 12.0 * s
    table[:, ker.T_SLOPE] = np.interp(part, [0.0, 0.3, 0.5, 1.0], [0.25, 0.45, 1.3, 1.5])
    table[:, ker.T_BACKFAT] = rng.uniform(0.3, 1.0) * np.interp(part, [-0.15, 0.0, 0.35, 0.45], [0.9, 1.0, 1.0, 0.0])
    inner = {"z": z, "cx": cx, "cy": cy, "rib_a": wide - 0.45 * wall, "rib_b": deep - 0.45 * wall, "sy": smooth_y,
             "sx": sx, "a": wide, "b": deep, "rear": cy + deep + fat}  # fmt: skip
    return table, low, _globals(rng, ranges, at, s), inner


def _spine_path(column: Column, z: F64) -> tuple[F64, F64]:
    """(x, y) of the spine at z; below S1 it goes on backward with the sacrum."""
    low, high = column.curve_z[0], column.curve_z[-1]
    p = curve_of(column)(np.clip(z, low, high))
    y = p[:, 1] + 0.25 * np.clip(low - z, 0, 60)
    return p[:, 0].copy(), y


def _globals(rng: np.random.Generator, ranges: Ranges, at: dict[str, float], s: float) -> F32:
    g = np.zeros(ker.G_COLUMNS, np.float32)
    g[ker.G_SHIFT] = rng.uniform(*ranges.soft_hu_shift)
    g[ker.G_FAT] = rng.uniform(-115, -85)
    g[ker.G_MUSCLE] = rng.uniform(40, 70)
    g[ker.G_VISCERAL] = rng.uniform(-110, -40)
    g[ker.G_LUNG] = rng.uniform(-920, -700)
    g[ker.G_APEX] = at["T1"] + rng.uniform(-5, 15)
    dome = at["T10"] + rng.uniform(-15, 40)
    g[ker.G_DOME_R], g[ker.G_DOME_L] = dome + 6, dome - 6
    g[ker.G_DOME_DROP] = rng.uniform(60, 110) * s
    g[ker.G_MED_X] = 4.0
    g[ker.G_MED_FRONT] = rng.uniform(30, 50) * s
    g[ker.G_MED_BACK] = rng.uniform(14, 22) * s
    g[ker.G_FRONT_FAT] = rng.uniform(-0.4, 0.6)
    g[ker.G_INFILTRATION] = rng.uniform(0, 0.9)
    g[ker.G_HAS_TRUNK] = 1.0
    g[ker.G_HEART_Z] = at["T8"] + 8
    g[ker.G_SKIN] = rng.uniform(-20, 60)
    return g


def table_and_covers(rng: np.random.Generator, scene: Scene, trunk: dict[str, F64]) -> None:
    """Mattress, table top and a blanket or cushion behind the patient."""
    z0, z1 = float(trunk["z"][0]), float(trunk["z"][-1])
    rear = float(trunk["rear"].max())
    pad = scene.group(rng.uniform(-960, -880))
    scene.box(pad, [0, rear + 12, 0.5 * (z0 + z1)], [200, 12, 0.5 * (z1 - z0)])
    top = scene.group(rng.uniform(-920, -750), rng.uniform(-300, 250), rng.uniform(1, 3))
    scene.box(top, [0, rear + 42, 0.5 * (z0 + z1)], [215, 18, 0.5 * (z1 - z0)])
    if rng.random() < 0.4:
        rail = scene.group(rng.uniform(100, 900))
        for x in (-190.0, 190.0):
            scene.capsule(rail, [x, rear + 40, z0], [x, rear + 40, z1], rng.uniform(1.5, 5))
