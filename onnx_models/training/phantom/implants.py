"""Metal and cement: screws with rods, filled bodies, hip prostheses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.bones import SIDES
from onnx_models.training.phantom.ranges import Ranges
from onnx_models.training.phantom.scene import Scene
from onnx_models.training.phantom.spine import Column

F64 = NDArray[np.float64]


def implants(rng: np.random.Generator, scene: Scene, column: Column, ranges: Ranges, hips: dict[str, F64]) -> None:
    """Draw what has been implanted; marks the truth of the vertebrae concerned."""
    usable = [i for i, p in enumerate(column.position) if 0 <= p < 16.5]
    if rng.random() < ranges.metal:
        first = int(rng.choice(usable[4:-1]))
        _screws(rng, scene, column, [i for i in range(first, first + int(rng.integers(2, 6))) if i <= usable[-1]])
    for i in usable:
        if rng.random() < ranges.cement * (3.0 if column.truth[i].loss.max() > 0.15 else 0.12):
            _cement(rng, scene, column, i)
    if rng.random() < ranges.metal * 0.5:
        side = str(rng.choice(["left", "right"]))
        _prosthesis(rng, scene, column.scale, hips[side], 1.0 if side == "left" else -1.0)


def _screws(rng: np.random.Generator, scene: Scene, column: Column, levels: list[int]) -> None:
    g = scene.group(rng.uniform(2500, 8000))
    for side in SIDES:
        rod = []
        for i in levels:
            row = column.table[i]
            w, half = row[ker.B_W] / 2, row[ker.B_D] / 2
            head = column.at(i, side * w * 0.75, half + 26 * column.scale, 2)
            tip = column.at(i, side * w * 0.35, -half * rng.uniform(0.0, 0.6), rng.normal(0, 1))
            scene.capsule(g, head, tip, rng.uniform(2.0, 3.4))
            scene.ellipsoid(g, head, [6, 6, 6])
            rod.append(head + column.frame(i)[1] * 3)
            column.truth[i].metal = True
        if len(rod) > 1:
            scene.chain(g, np.array(rod), 2.8)


def _cement(rng: np.random.Generator, scene: Scene, column: Column, i: int) -> None:
    g = scene.group(rng.uniform(1300, 3000), texture=150.0)
    row, truth = column.table[i], column.truth[i]
    h = float(truth.heights_mm.min())
    for _ in range(int(rng.integers(1, 4))):
        x, y, z = rng.normal([0, -0.08, 0], [0.15, 0.1, 0.04]) * [row[ker.B_W], row[ker.B_D], h]
        scene.ellipsoid(g, column.at(i, x, y, z), rng.uniform(0.16, 0.42, 3) * h + 1.0)
    truth.cement = True


def _prosthesis(rng: np.random.Generator, scene: Scene, s: float, hip: F64, sign: float) -> None:
    g = scene.group(rng.uniform(3000, 8000))
    scene.ellipsoid(g, hip, np.array([25, 25, 25]) * s)
    path = hip + np.array([[0, 0, 0], [sign * 58, 12, -30], [sign * 48, 12, -150]]) * s
    scene.chain(g, path, [8, 9, 6])
