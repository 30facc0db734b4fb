"""A spine of bright blocks and two toy networks that find bright blocks: the whole pipeline without trained weights.

The toy networks keep the contract of the shipped ones (names, shapes, encoding), so that geometry, decoding, grading
and refusals can be checked against exact truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from scipy import ndimage

from inference import abnormality, masks_patch
from inference.ct import CtAnswer, CtSettings, evaluate
from inference.detection import box_along
from inference.findings import Level, ModelIdentity
from inference.geometry import Volume
from inference.grading import GradingRule
from inference.keypoints import ANCHORS, CENTRE_HU, SCALE_HU
from inference.labelling import LEVELS, STEP_MM
from inference.localization import GRID_MM, LocalizationSettings, canonical_grid, localize
from inference.runtime import Models
from inference.screening import ScreeningSettings

BONE, SOFT, AIR = 500, 40, -1000
CORNERS = np.array([[-1, 1], [-1, -1], [0, 1], [0, -1], [1, 1], [1, -1]], float) / 2
"""(back, up) of the six points in units of depth and height."""


@dataclass
class Block:
    """One vertebral body: centre (LPS mm), direction (left, back, up as rows), size (width, depth, height) in mm."""

    centre: np.ndarray
    frame: np.ndarray
    size: np.ndarray

    @property
    def keypoints(self) -> np.ndarray:
        """(6, 3) LPS mm."""
        back, up = self.frame[1], self.frame[2]
        return self.centre + CORNERS[:, :1] * self.size[1] * back + CORNERS[:, 1:] * self.size[2] * up


def blocks_along(
    x: Callable[[float], float],
    y: Callable[[float], float],
    heights: list[float],
    top: float = 150.0,
    disc: float = 6.0,
) -> list[Block]:
    """Blocks that follow the curve (x(z), y(z), z) downward, square to it."""
    made = []
    z = top
    for height in heights:
        step = 0.5
        tangent = np.array([x(z + step) - x(z - step), y(z + step) - y(z - step), 2 * step])
        up = tangent / np.linalg.norm(tangent)
        middle = z - height / 2 * up[2]
        tangent = np.array([x(middle + step) - x(middle - step), y(middle + step) - y(middle - step), 2 * step])
        up = tangent / np.linalg.norm(tangent)
        left = np.cross([0, 1, 0], up)
        left /= np.linalg.norm(left)
        frame = np.stack([left, np.cross(up, left), up])
        made.append(Block(np.array([x(middle), y(middle), middle]), frame, np.array([36.0, 30.0, height])))
        z -= (height + disc) * up[2]
    return made


def render(blocks: list[Block], affine: np.ndarray, shape: tuple[int, int, int]) -> Volume:
    """HU with partial volume (3 x 3 x 3 samples a voxel): blocks in soft tissue."""
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1)
    hu = np.full(shape, SOFT, np.float32)
    offsets = np.stack(np.meshgrid(*(np.array([-1, 0, 1]) / 3,) * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    empty = Volume(np.zeros(shape, np.int16), affine)
    points = empty.to_lps(index)
    reach = float(np.linalg.norm(empty.spacing_mm))
    for block in blocks:
        local = np.abs((points - block.centre) @ block.frame.T)
        near = np.all(local < block.size / 2 + reach, axis=-1)
        hu[near] = BONE
        near &= np.any(local > block.size / 2 - reach, axis=-1)
        hu[near] = SOFT
        share = np.zeros(int(near.sum()))
        for offset in offsets:
            local = (empty.to_lps(index[near] + offset) - block.centre) @ block.frame.T
            share += np.all(np.abs(local) <= block.size / 2, axis=-1)
        hu[near] += (BONE - SOFT) * share / len(offsets)
    return Volume(np.rint(hu).astype(np.int16), affine)


def axial_affine(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], centre=(0.0, 0.0, 0.0)
) -> np.ndarray:
    """Slices from head to feet, rows to the back, columns to the left, centred."""
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, spacing[2]], [0, spacing[1], 0], [-spacing[0], 0, 0]]
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


class ToySession:
    """The part of an onnxruntime session that is used."""

    def __init__(self, outputs: dict[str, Callable]) -> None:
        self._outputs = outputs

    def get_outputs(self):
        return [SimpleNamespace(name=name) for name in self._outputs]

    def run(self, names, inputs):
        values = self._outputs["all"](inputs) if "all" in self._outputs else {}
        return [values[name] if name in values else self._outputs[name](inputs) for name in names]


def localizer(volume: Volume, blocks: list[Block]) -> ToySession:
    """The curve through the middles of the end plates, on the canonical grid of ``volume``."""
    grid = canonical_grid(volume)
    x0, y0, z0 = grid.origin_lps_mm
    ends = np.concatenate([b.keypoints[2:4] for b in blocks])
    depth = -(-grid.hu.shape[0] // 8) * 8
    z = z0 - GRID_MM * np.arange(depth)
    x, y = (np.interp(-z, -ends[:, 2], ends[:, a]) for a in (0, 1))
    present = ((z < ends[0, 2] + 3) & (z > ends[-1, 2] - 3)).astype(np.float32)[None]
    centre = np.stack([(y - y0) / GRID_MM, (x - x0) / GRID_MM], axis=1)[None].astype(np.float32)
    values = {"centre": centre, "peak": present, "presence": present}
    return ToySession({name: (lambda inputs, v=value: v) for name, value in values.items()})


def sees_nothing() -> ToySession:
    """A localizer that is unsure of every slice."""

    def answer(inputs):
        depth = inputs["volume"].shape[2]
        return {"centre": np.zeros((1, depth, 2), np.float32), "peak": np.zeros((1, depth), np.float32)}

    return ToySession(
        {
            "centre": lambda inputs: answer(inputs)["centre"],
            "peak": lambda inputs: answer(inputs)["peak"],
            "presence": lambda inputs: answer(inputs)["peak"],
        }
    )


def sees_spine_everywhere(peak: float = 1.0) -> ToySession:
    """A localizer that is sure of the middle of every slice, or not so sure."""

    def answer(inputs):
        _, _, depth, height, width = inputs["volume"].shape
        return np.tile(np.array([height / 2, width / 2], np.float32), (1, depth, 1)), np.ones((1, depth), np.float32)

    return ToySession(
        {
            "centre": lambda inputs: answer(inputs)[0],
            "peak": lambda inputs: answer(inputs)[1] * np.float32(peak),
            "presence": lambda inputs: answer(inputs)[1],
        }
    )


def keypoints() -> ToySession:
    """The corners of each bright component of the middle plane, found at half height along its edges."""

    def answer(inputs):
        hu = inputs["image"][0, 2] * SCALE_HU + CENTRE_HU
        labels, count = ndimage.label(hu > (BONE + SOFT) / 2)
        found = []
        objectness = np.zeros((1, 16, *hu.shape), np.float32)
        encoded = np.zeros((1, 16, 12, *hu.shape), np.float32)
        for n in range(1, count + 1):
            row, column = np.nonzero(labels == n)
            if len(row) < 80:
                continue
            points = corners(hu, labels == n)
            found.append(points)
            width, height = np.ptp(points[:, 1]), np.ptp(points[:, 0])
            anchor = int(np.argmin(np.abs(np.log(ANCHORS / [width, height])).sum(axis=1)))
            r, c = int(row.mean()), int(column.mean())
            block = (slice(r - 3, r + 4), slice(c - 3, c + 4))
            objectness[0, anchor][block] = 0.99
            for k, (y, x) in enumerate(points):
                rr, cc = np.meshgrid(np.arange(r - 3, r + 4), np.arange(c - 3, c + 4), indexing="ij")
                encoded[0, anchor, 2 * k][block] = (x - cc) / ANCHORS[anchor, 0]
                encoded[0, anchor, 2 * k + 1][block] = (y - rr) / ANCHORS[anchor, 1]
        return {"objectness": objectness, "keypoints": encoded, "nearby": way_to(found, hu.shape)[None]}

    names = ("objectness", "keypoints", "nearby")
    return ToySession({name: (lambda inputs, n=name: answer(inputs)[n]) for name in names})


def way_to(vertebrae: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """(12, rows, columns): (x, y) from each pixel to the nearest point of each kind."""
    way = np.zeros((12, *shape), np.float32)
    row, column = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    for k in range(6):
        nearest = np.full(shape, np.inf)
        for points in vertebrae:
            y, x = points[k][0] - row, points[k][1] - column
            closer = np.hypot(x, y) < nearest
            way[2 * k][closer], way[2 * k + 1][closer] = x[closer], y[closer]
            nearest = np.minimum(nearest, np.hypot(x, y))
    return way


def corners(hu: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(6, 2) as (row, column): sub-pixel crossings of the upper and lower edge at the front, middle and back."""
    half = (BONE + SOFT) / 2
    columns = np.flatnonzero(mask.sum(axis=0) > 0.5 * mask.sum(axis=0).max())
    found = []
    for c in (columns[0] + 1, (columns[0] + columns[-1]) // 2, columns[-1] - 1):
        rows = np.flatnonzero(mask[:, c])
        for inner, outer in ((rows[0], rows[0] - 1), (rows[-1], rows[-1] + 1)):
            share = (hu[inner, c] - half) / max(hu[inner, c] - hu[outer, c], 1e-6)
            found.append((inner + (outer - inner) * share, float(c)))
    return np.array(found)


def models(volume: Volume | None = None, blocks: list[Block] | None = None, **changed: ToySession) -> Models:
    """Toy networks for one volume of blocks, or others in their place."""
    localize = localizer(volume, blocks) if volume is not None and blocks is not None else sees_nothing()
    sessions = {"localizer": localize, "keypoints": keypoints()} | changed
    return Models(sessions, (ModelIdentity("toy", "0", "0" * 64),), "CPUExecutionProvider")


def labeller(volume: Volume, blocks: list[Block], levels: list[Level], localizer: ToySession) -> ToySession:
    """Blocks (here with S1) and their names, sure of each; ribs, the sacrum and C2 are seen where they are."""

    def answer(inputs):
        line = localize(volume, Models({"localizer": localizer}, (), "CPU"), LocalizationSettings())
        box = box_along(line, volume)
        rows = inputs["views"].shape[2]
        z = box.upper_lps_mm[2] - STEP_MM / 2 - STEP_MM * np.arange(rows)
        order = box.line_lps_mm[::-1]
        middles = np.array([b.centre for b in blocks])
        near = np.abs(z[:, None] - middles[None, :, 2]).argmin(axis=1)
        names = [levels[k] for k in near]
        level = np.full((len(LEVELS), rows), 1e-4, np.float32)
        level[[LEVELS.index(name) for name in names], np.arange(rows)] = 1.0
        evidence = [[n.startswith("T") for n in names], [n == "S1" for n in names], [n == "C2" for n in names]]
        offset = [middles[near, a] - np.interp(z, order[:, 2], order[:, a]) for a in (0, 1)]
        return {
            "centre": np.exp(-0.5 * ((z - middles[near, 2]) / 4.0) ** 2)[None].astype(np.float32),
            "level": (level / level.sum(axis=0))[None],
            "evidence": np.clip(np.array(evidence, np.float32), 0.02, 0.98)[None],
            "offset_mm": np.array(offset, np.float32)[None],
        }

    return ToySession(
        {n: (lambda inputs, n=n: answer(inputs)[n]) for n in ("centre", "level", "evidence", "offset_mm")}
    )


def segmenter() -> ToySession:
    """The bright component at the centroid is all body; a plate behind it counts as posterior elements."""

    def answer(inputs):
        image, heat = inputs["patch"][0]
        bright = image * masks_patch.SCALE_HU + masks_patch.CENTRE_HU > (BONE + SOFT) / 2
        found, _ = ndimage.label(bright)
        body = found == found[np.unravel_index(heat.argmax(), heat.shape)]
        body &= bright
        behind = np.roll(body, 3, axis=1) & ~body & ~bright
        out = np.zeros((1, 3, *image.shape), np.float32)
        out[0, 1][body], out[0, 2][behind] = 0.95, 0.9
        out[0, 0] = 1 - out[0, 1:].sum(axis=0)
        return out

    return ToySession({"probability": answer})


def completion(height_mm: float = 24.0) -> ToySession:
    """Expects a block of 36 x 30 mm and that height, whatever the neighbours are."""
    half = np.array([height_mm, 30.0, 36.0]) / 2
    at = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in abnormality.BODY_SHAPE), indexing="ij"), axis=-1)
    body = np.clip((half - np.abs(at * abnormality.GRID_MM)) / abnormality.GRID_MM + 0.5, 0, 1).min(axis=-1)
    return ToySession({"expected": lambda inputs: body[None].astype(np.float32)})


FINE = ScreeningSettings(rule=GradingRule(fine_spacing_mm=2.0))
"""2 mm counts as fine: small volumes, every grade."""


def screen(volume: Volume, known: Models, settings: ScreeningSettings | None = None, **more) -> CtAnswer:
    """The pipeline with its first stage alone: six points and grades, neither names nor masks."""
    stages = CtSettings(screening=settings or ScreeningSettings(), labelling=None, masks=None, abnormality=None)
    return evaluate(volume, known, stages, **more)
