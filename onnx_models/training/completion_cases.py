"""Label maps of bodies with known loss of height, on which the abnormality score is calibrated and judged.

Bodies come from phantom columns (ranges and seeds of the caller) or from real shapes; they are drawn on a grid as a
perfect segmenter would, or as a real one does: too large or too small, rough, each body a little differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference.abnormality import Body
from inference.findings import Level
from inference.masks import BODY, POSTERIOR
from onnx_models.training.completion_data import smooth_noise
from onnx_models.training.phantom import EVALUATION, Plan, Ranges
from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.scene import noise_field
from onnx_models.training.phantom.spine import build_column

F64 = NDArray[np.float64]
MILD, MODERATE, SEVERE = 0.20, 0.25, 0.40
"""Losses of height from which a vertebra is so deformed."""


@dataclass(frozen=True)
class Shape:
    """One body: ``distance`` answers points (n, 3) in LPS mm with signed distances (n,) in mm.

    ``frame`` has the rows left, back, up; ``reach_mm`` is a radius about ``centre`` that holds the body.
    """

    level: Level
    loss: float
    centre: F64
    frame: F64
    depth_mm: float
    reach_mm: float
    distance: Callable[[F64], NDArray[np.float32]]


@dataclass(frozen=True)
class Case:
    """A spine on a grid, as `inference.abnormality.score_bodies` takes it; ``loss`` (n,) is the truth."""

    labels: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    affine: F64
    bodies: tuple[Body, ...]
    loss: F64


def phantom_shapes(rng: np.random.Generator, ranges: Ranges, plan: Plan) -> list[Shape]:
    """The bodies C7 to S1 of a random column."""
    column = build_column(rng, ranges, plan)
    field = noise_field(rng)
    out = []
    for i, truth in enumerate(column.truth):
        if truth.level == "S2" or (truth.level[0] == "C" and truth.level != "C7"):
            continue
        row = np.ascontiguousarray(column.table[i][None], np.float32)

        def distance(points: F64, row: NDArray[np.float32] = row) -> NDArray[np.float32]:
            out = np.empty(len(points), np.float32)
            places = np.ascontiguousarray(points, np.float32)
            ker.label_points(places, row, np.ones(1, np.uint8), field, out)
            return out

        reach = 0.5 * float(np.hypot(truth.depth_mm, truth.width_mm)) + 8.0
        centre = column.table[i, :3].copy()
        loss = float(truth.loss.max())
        out.append(Shape(Level(truth.level), loss, centre, column.frame(i), truth.depth_mm, reach, distance))
    return out


def phantom_plan(rng: np.random.Generator, deformed: bool) -> Plan:
    """No deformity, or one to three neighbouring vertebrae deformed: the middle of three has two such neighbours."""
    if not deformed:
        return Plan(deformities={})
    names = [f"T{n}" for n in range(4, 13)] + [f"L{n}" for n in range(1, 6)]
    count = int(rng.integers(1, 4))
    first = int(rng.integers(len(names) - count + 1))
    kinds = ("wedge", "biconcave", "crush")
    return Plan(
        deformities={n: (str(rng.choice(kinds)), float(rng.uniform(0.15, 0.65))) for n in names[first : first + count]}
    )


def phantom_case(seed: int, index: int, ranges: Ranges = EVALUATION, degraded: bool = False) -> Case:
    """Case of that index; odd ones are deformed. The same seed gives the same spine, degraded or not."""
    rng = np.random.default_rng([seed, index])
    shapes = phantom_shapes(rng, ranges, phantom_plan(rng, index % 2 == 1))
    pixel = float(rng.uniform(0.7, 1.2))
    return drawn(shapes, rng, (float(rng.uniform(0.8, 3.0)), pixel, pixel), degraded)


def crushed(shape: Shape, loss: float, wedge: bool) -> Shape:
    """The body pressed towards its lower end plate, all of it or its front."""
    up, back = shape.frame[2], shape.frame[1]
    axis = np.linspace(-shape.reach_mm, shape.reach_mm, 200)
    inside = axis[shape.distance(shape.centre + axis[:, None] * up) < 0]
    low = float(inside.min())

    def distance(points: F64) -> NDArray[np.float32]:
        local = points - shape.centre
        height = local @ up - low
        part = np.clip(0.5 - (local @ back) / shape.depth_mm, 0.0, 1.0) if wedge else np.ones(len(points))
        stretched = height / (1 - loss * part)
        return shape.distance(points + (stretched - height)[:, None] * up)

    return replace(shape, loss=loss, distance=distance)


def drawn(
    shapes: list[Shape], rng: np.random.Generator, spacing_mm: tuple[float, float, float], degraded: bool = False
) -> Case:
    """Label map on an axis-parallel grid with slices towards the head; S1 only where it is whole, C7 as context."""
    low = np.min([s.centre - s.reach_mm for s in shapes], axis=0)
    high = np.max([s.centre + s.reach_mm + [0, 12, 0] for s in shapes], axis=0)
    step = np.array(spacing_mm)[::-1]  # x, y, z
    size = np.ceil((high - low) / step).astype(int) + 1
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, step[0]], [0, step[1], 0], [step[2], 0, 0]])
    affine[:3, 3] = low
    labels = np.zeros(size[::-1], np.uint8)
    parts = np.zeros(size[::-1], np.uint8)
    bias = float(rng.normal(0.0, 0.6)) if degraded else 0.0
    for number, shape in enumerate(shapes, 1):
        first = np.maximum(np.floor((shape.centre - shape.reach_mm - low) / step), 0).astype(int)
        last = np.minimum(np.ceil((shape.centre + shape.reach_mm - low) / step) + 1, size).astype(int)
        box = tuple(slice(a, b) for a, b in zip(first[::-1], last[::-1], strict=True))
        axes = [low[a] + step[a] * np.arange(first[a], last[a]) for a in (2, 1, 0)]
        z, y, x = np.meshgrid(*axes, indexing="ij")
        d = shape.distance(np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)).reshape(z.shape)
        if degraded:
            cell = max(2, round(8.0 / float(np.mean(step))))
            d = d + bias + rng.normal(0.0, 0.25) + rng.uniform(0.3, 0.8) * smooth_noise(rng, d.shape, cell)
        inside = (d <= 0) & (labels[box] == 0)
        labels[box][inside] = number
        parts[box][inside] = BODY
        # a few voxels of arch: they tell where the back is
        at = shape.centre + (0.5 * shape.depth_mm + 8.0) * shape.frame[1] + rng.normal(0, 1.0, 3)
        k, j, i = np.round(((at - low) / step)[::-1]).astype(int)
        arch = (slice(max(k - 1, 0), k + 2), slice(max(j - 1, 0), j + 2), slice(max(i - 2, 0), i + 3))
        free = labels[arch] == 0
        labels[arch][free], parts[arch][free] = number, POSTERIOR
    bodies = tuple(Body(n, s.level, s.loss >= MILD) for n, s in enumerate(shapes, 1))
    return Case(labels, parts, affine, bodies, np.array([s.loss for s in shapes]))
