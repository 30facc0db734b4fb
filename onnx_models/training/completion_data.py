"""Healthy vertebrae in the context of their neighbours, as the shape-completion network sees them.

Each sample is one unfractured body of a phantom column and the signed distances of two neighbours above and below on
the common grid of `inference.abnormality`. What a fracture does to the place of its neighbours is imitated around the
healthy body: they sink towards it and lean over it. Otherwise the gap between the neighbours would tell the height of
the missing body, and a crushed one would be expected to be low.

``python -m onnx_models.training.completion_data --samples 1500`` writes them to ``build/training/completion/data``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom
from scipy.spatial.transform import Rotation

from inference.abnormality import BODY_SHAPE, CONTEXT_SHAPE, GRID_MM, NEIGHBOURS, frames, grid_affine
from onnx_models.training.phantom import TRAINING, Plan, Ranges
from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.scene import F32, noise_field
from onnx_models.training.phantom.spine import Column, build_column

FOLDER = Path("build/training/completion/data")
HELD_OUT = FOLDER.parent / "held_out"
UNIT_MM = 0.06
"""Distances are kept as int8 in this unit, cut at 7.6 mm."""
FRACTURE_LOSS = 0.2
"""A neighbour that has lost so much is told as fractured; a body that is taught has lost less than `HEALTHY_LOSS`."""
HEALTHY_LOSS = 0.05
SEVERAL_FRACTURED = 0.2
"""How often two of the neighbours are left out or told as fractured."""
ABSENT, SOUND, FRACTURED, SACRUM = range(4)
"""What is known of each of the four neighbours."""

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """Samples on disk.

    Attributes
    ----------
    context
        (n, 4, 64, 40, 32) int8: signed distance to each neighbour in `UNIT_MM`.
    body
        (n, 24, 24, 28) int8: the same of the healthy body.
    state
        (n, 4) int8: `ABSENT`, `SOUND`, `FRACTURED` or `SACRUM`.
    """

    context: NDArray[np.int8]
    body: NDArray[np.int8]
    state: NDArray[np.int8]

    @classmethod
    def load(cls, folder: Path) -> Samples:
        """Memory-mapped. Raises FileNotFoundError where none were prepared."""
        return cls(
            np.load(folder / "context.npy", mmap_mode="r"),
            np.load(folder / "body.npy", mmap_mode="r"),
            np.load(folder / "state.npy"),
        )


def distances(row: F64, field: F32, affine: F64, shape: tuple[int, int, int]) -> F32:
    """Signed distance in mm to one body (a row of the column's table) on a grid; 99 where far."""
    out = np.full(shape, 99.0, np.float32)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    centre = np.linalg.solve(affine[:3, :3], row[:3] - affine[:3, 3])
    reach = (0.5 * np.linalg.norm([row[ker.B_D], row[ker.B_W]]) + 9.0) / spacing
    low = np.clip(np.floor(centre - reach), 0, shape).astype(int)
    high = np.clip(np.ceil(centre + reach) + 1, 0, shape).astype(int)
    if np.any(high <= low):
        return out
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grid = np.meshgrid(*(np.arange(a, b, dtype=np.float32) for a, b in zip(low, high, strict=True)), indexing="ij")
    points = np.stack([g.ravel() for g in grid], axis=1) @ affine[:3, :3].T + affine[:3, 3]
    near = np.empty(len(points), np.float32)
    points = np.ascontiguousarray(points, np.float32)
    ker.label_points(points, np.ascontiguousarray(row[None], np.float32), _FIRST, field, near)
    out[box] = near.reshape(grid[0].shape)
    return out


_FIRST = np.ones(1, np.uint8)


def mask_centroid(row: F64, field: F32) -> F64:
    """Centroid in LPS mm of the body's mask."""
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = row[:3] - 3.0 * np.array([15, 15, 15])
    inside = np.argwhere(distances(row, field, affine, (31, 31, 31)) <= 0)
    return np.asarray(inside.mean(axis=0) @ affine[:3, :3].T + affine[:3, 3])


def _moved(row: F64, turn: F64, pivot: F64, shift: F64) -> F64:
    """The body turned about a point and shifted."""
    out = row.copy()
    out[:3] = pivot + turn @ (row[:3] - pivot) + shift
    out[ker.B_R : ker.B_R + 9] = (row[ker.B_R : ker.B_R + 9].reshape(3, 3) @ turn.T).ravel()
    return out


def sunk(rng: np.random.Generator, column: Column, i: int) -> F64:
    """Table in which the bodies above and below body ``i`` have sunk towards it and lean forward over it."""
    table = column.table.copy()
    left, back, up = column.frame(i)
    height = float(table[i, ker.B_S0] - table[i, ker.B_I0])
    total = height * rng.uniform(0.0, 0.5)
    above = rng.uniform(0.2, 0.8)
    lean = np.radians(rng.uniform(0.0, 22.0) if rng.random() < 0.6 else 0.0)
    hinge = table[i, :3] + back * 0.5 * table[i, ker.B_D]
    for j in range(len(table)):
        part = above if j < i else 1 - above
        sign = 1.0 if j < i else -1.0
        if j != i:
            turn = Rotation.from_rotvec(sign * part * lean * left).as_matrix()
            table[j] = _moved(table[j], turn, hinge, -sign * part * total * up)
    return table


def sample(rng: np.random.Generator, column: Column, field: F32, i: int) -> tuple[F32, F32, NDArray[np.int8]]:
    """Distances (mm) of the neighbours (4, 64, 40, 32) and of the healthy body (24, 24, 28), and their states."""
    table = sunk(rng, column, i) if rng.random() < 0.5 else column.table
    last = len(column.levels) - 1  # S2 is no neighbour of anything
    low, high = max(i - 1, 0), min(i + 1, last - 1)
    centroids = np.array([mask_centroid(table[j], field) for j in range(low, high + 1)])
    backs = np.array([table[j, ker.B_R + 3 : ker.B_R + 6] for j in range(low, high + 1)])
    frame = frames(centroids, backs)[i - low]
    jitter = Rotation.from_rotvec(np.radians(rng.normal(0, [3.0, 3.0, 4.0]))).as_matrix()
    frame = jitter @ frame
    centre = centroids[i - low] + rng.normal(0, [1.0, 1.2, 1.8]) @ frame
    body = distances(table[i], field, grid_affine(centre, frame, BODY_SHAPE), BODY_SHAPE)
    around = grid_affine(centre, frame, CONTEXT_SHAPE)
    context = np.full((len(NEIGHBOURS), *CONTEXT_SHAPE), 99.0, np.float32)
    state = np.full(len(NEIGHBOURS), ABSENT, np.int8)
    for channel, step in enumerate(NEIGHBOURS):
        j = i + step
        if not 0 <= j < last:
            continue
        context[channel] = distances(table[j], field, around, CONTEXT_SHAPE)
        truth = column.truth[j]
        state[channel] = FRACTURED if truth.loss.max() >= FRACTURE_LOSS else SOUND
        if truth.level == "S1":
            state[channel] = SACRUM
    return context, body, state


def prepare(folder: Path, samples: int, seed: int, ranges: Ranges = TRAINING, per_patient: int = 6) -> None:
    """Write ``samples`` samples; the same seed gives the same."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("context", "body", "state")
    shapes = ((len(NEIGHBOURS), *CONTEXT_SHAPE), BODY_SHAPE, (len(NEIGHBOURS),))
    files = [
        np.lib.format.open_memmap(folder / f"{name}.partial", "w+", np.int8, (samples, *shape))
        for name, shape in zip(names, shapes, strict=True)
    ]
    made = patient = 0
    while made < samples:
        rng = np.random.default_rng([seed, patient])
        patient += 1
        column = build_column(rng, ranges, Plan())
        field = noise_field(rng)
        healthy = [
            i for i, truth in enumerate(column.truth) if truth.level[0] in "TL" and truth.loss.max() < HEALTHY_LOSS
        ]
        weight = np.array([2.0 if column.position[i] > 8 else 1.0 for i in healthy])
        chosen = rng.choice(healthy, min(per_patient, len(healthy)), replace=False, p=weight / weight.sum())
        for i in chosen[: samples - made]:
            context, body, state = sample(rng, column, field, int(i))
            for file, values in zip(files, (_stored(context), _stored(body), state), strict=True):
                file[made] = values
            made += 1
    for file, name in zip(files, names, strict=True):
        file.flush()
        (folder / f"{name}.partial").replace(folder / f"{name}.npy")


def _stored(distance: F32) -> NDArray[np.int8]:
    return np.clip(np.round(distance / UNIT_MM), -127, 127).astype(np.int8)


@dataclass(frozen=True)
class Batch:
    """``context`` (batch, 4, 64, 40, 32) and ``body`` (batch, 24, 24, 28): float32 occupancy, as in use."""

    context: F32
    body: F32


def batch(samples: Samples, rng: np.random.Generator, size: int, told: bool = True) -> Batch:
    """Random samples as a segmenter would draw them: mirrored, thicker or thinner, rough, with missing neighbours.

    Where ``told`` is not set, a fractured neighbour is always left out instead of told.

    What is thicker or thinner for all bodies is so for the taught one as well: the network learns to expect the mask
    that this segmenter would have drawn, and the score does not depend on it.
    """
    chosen = np.sort(rng.choice(len(samples.body), size, replace=False))
    context = np.empty((size, len(NEIGHBOURS), *CONTEXT_SHAPE), np.float32)
    body = np.empty((size, *BODY_SHAPE), np.float32)
    for n, at in enumerate(chosen):
        c = samples.context[at].astype(np.float32) * UNIT_MM
        b = samples.body[at].astype(np.float32) * UNIT_MM
        if rng.random() < 0.5:
            c, b = c[..., ::-1], b[..., ::-1]
        bias = rng.normal(0.0, 0.5)
        rough = rng.random() < 0.5
        sign = presence(rng, samples.state[at])
        if not told:
            sign = np.maximum(sign, 0.0)
        for channel in np.flatnonzero(sign):
            d = c[channel] + bias + rng.normal(0.0, 0.2)
            if rough:
                d = d + rng.uniform(0.2, 0.9) * smooth_noise(rng, CONTEXT_SHAPE)
            context[n, channel] = sign[channel] * np.clip(0.5 - d / GRID_MM, 0.0, 1.0)
        context[n, sign == 0] = 0.0
        body[n] = np.clip(0.5 - (b + bias) / GRID_MM, 0.0, 1.0)
    return Batch(context, body)


def presence(rng: np.random.Generator, state: NDArray[np.int8]) -> F32:
    """(4,) factor on each neighbour: 1 seen, 0 missing, -1 told as fractured.

    Fractured ones are left out, told, or (seldom) taken for sound as a grading that misses them does; the spine ends
    in view on one side or the other; the sacrum is seen half of the time. Now and then two neighbours are treated as
    fractured whatever they are: several fractures in a row are too seldom among the phantoms to be learned from.
    """
    sign = np.zeros(len(state), np.float32)
    for channel, what in enumerate(state):
        if what == SOUND:
            sign[channel] = 1.0 if rng.random() > 0.05 else float(rng.choice([0.0, -1.0]))
        elif what == FRACTURED:
            sign[channel] = float(rng.choice([0.0, -1.0, 1.0], p=[0.42, 0.42, 0.16]))
        elif what == SACRUM:
            sign[channel] = float(rng.random() < 0.5)
    if rng.random() < SEVERAL_FRACTURED:
        sign[rng.permutation(len(sign))[:2]] *= rng.choice([0.0, -1.0])
    if rng.random() < 0.25:
        end = int(rng.integers(4))  # which of the four sides of the view's end
        sign[[[0], [0, 1], [3], [2, 3]][end]] = 0.0
    if not sign.any():
        near = [k for k in (1, 2, 0, 3) if state[k] in (SOUND, SACRUM)] or [k for k in range(4) if state[k] != ABSENT]
        sign[near[0]] = 1.0
    return sign


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], cell: int = 4) -> F32:
    """A field of about unit variance that changes over ``cell`` voxels."""
    small = rng.standard_normal([-(-n // cell) + 1 for n in shape]).astype(np.float32)
    return np.asarray(1.5 * zoom(small, cell, order=1)[tuple(slice(n) for n in shape)], np.float32)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.completion_data", description=__doc__)
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--held-out", type=int, default=120)
    parser.add_argument("--seed", type=int, default=41)
    options = parser.parse_args(arguments)
    prepare(HELD_OUT, options.held_out, options.seed + 1)
    prepare(FOLDER, options.samples, options.seed)
    print(f"{options.samples} samples in {FOLDER}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
