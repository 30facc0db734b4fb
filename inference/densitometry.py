"""Mean attenuation of the trabecular core of T11 to L5: opportunistic, no T-score, no diagnosis.

The core is an ellipsoid in the frame of the vertebra, in the front and middle of the body (the basivertebral vein
enters behind), away from cortex and end plates. Attenuation depends on tube voltage, contrast agent and kernel: what
speaks against comparing it with another scan's is said once of the whole scan (`acquisition_quality`), what speaks
against one vertebra's is said of that vertebra.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects

from inference.abnormality import Body, frames
from inference.findings import Acquisition, Level, Quality
from inference.geometry import Volume
from inference.masks import BODY, POSTERIOR
from inference.sampling import sample

LEVELS = (Level.T11, Level.T12, Level.T13, Level.L1, Level.L2, Level.L3, Level.L4, Level.L5, Level.L6)
"""T11 to L5, and the levels between them that some people have."""
HALF_AXES = (0.30, 0.26, 0.26)
"""Half axes of the ellipsoid along (left, back, up), as parts of width, depth and height of the body."""
FORWARD = 0.08
"""How far in front of the body's middle the ellipsoid lies, as a part of the depth."""
OFF_SURFACE_MM = 3.0
"""Nearer to the surface of the mask lie cortex and end plates."""
FEWEST_VOXELS = 30
FOREIGN_HU = 1000.0
"""Above it is cement or metal: no trabecular bone."""
FOREIGN_PART = 0.005
"""Part of the body that may lie above `FOREIGN_HU` (dense cortex reaches it in single voxels)."""
BETWEEN = np.linspace(0.2, 0.8, 20)
"""Where between end plates, and between front and back, cement is looked for without a mask: off the cortex."""
ASIDE_MM = 8.0
"""And so far to each side of the midline."""
USUAL_KVP = 120.0
KVP_TOLERANCE = 5.0
COARSE_MM = 3.0
"""Above it end plates reach into the core."""
UNEVEN_HU = 15.0
"""Mean and median of a sound core differ by less."""


@dataclass(frozen=True)
class TrabecularHu:
    """Density of one vertebra.

    Attributes
    ----------
    mean_hu
        Mean of the core; ``None`` where it was not measured.
    deviation_hu
        Standard deviation within the core (noise and texture).
    voxels
        How many voxels were averaged.
    quality
        What this vertebra itself gives reason for: `CORE_UNEVEN` of a number, `FOREIGN_MATERIAL` or `CORE_TOO_SMALL`
        where there is none. A deformed, cut or missing body has no number and no reason of its own: the finding
        already says so.
    """

    mean_hu: float | None
    deviation_hu: float | None = None
    voxels: int = 0
    quality: tuple[Quality, ...] = ()


def trabecular_hu(
    volume: Volume, labels: NDArray[np.uint8], parts: NDArray[np.uint8], bodies: Sequence[Body]
) -> list[TrabecularHu]:
    """Density of every body, in the order given; nothing is measured outside T11 to L5.

    Parameters
    ----------
    volume
        HU on the source grid.
    labels, parts
        (slices, rows, columns) as for `inference.abnormality.score_bodies`, on the same grid.

    Raises
    ------
    ValueError
        When the masks lie on another grid than the image.
    """
    if labels.shape != volume.hu.shape or parts.shape != volume.hu.shape:
        raise ValueError(f"masks {labels.shape} and {parts.shape} are not on the grid of the image {volume.hu.shape}")
    boxes = find_objects(labels, max_label=max((b.number for b in bodies), default=0))
    turned = _frames(volume, labels, parts, bodies, boxes)
    return [_one(volume, labels, parts, b, boxes[b.number - 1], f) for b, f in zip(bodies, turned, strict=True)]


def holds_foreign_material(volume: Volume, body: NDArray[np.bool_], box: tuple[slice, ...]) -> bool:
    """Whether cement or metal lies within a body, off its cortex, at any level and whatever its shape.

    Parameters
    ----------
    volume
        HU on the source grid.
    body
        The body's mask within ``box`` of that grid.
    """
    dense = (volume.hu[box] > FOREIGN_HU) & body
    if float(dense.sum()) <= FOREIGN_PART * float(body.sum()):
        return False
    depth_mm = distance_transform_edt(np.pad(body, 1), volume.spacing_mm)[1:-1, 1:-1, 1:-1]
    return bool((dense & (depth_mm >= OFF_SURFACE_MM)).sum() > FOREIGN_PART * body.sum())


def foreign_material_between(volume: Volume, points: NDArray[np.float64], left: NDArray[np.float64]) -> bool:
    """Whether cement or metal lies between six points: for a body without a mask.

    Parameters
    ----------
    volume
        HU on the source grid.
    points
        (6, 3) LPS mm in the order of `inference.findings.KEYPOINTS`.
    left
        (3,) unit vector towards the patient's left.
    """
    upper_front, lower_front, upper_back, lower_back = points[[0, 1, 4, 5], None, None, None]
    down, back, side = np.meshgrid(BETWEEN, BETWEEN, np.arange(-ASIDE_MM, ASIDE_MM + 1.0), indexing="ij")
    down, back, side = down[..., None], back[..., None], side[..., None]
    front, rear = upper_front + down * (lower_front - upper_front), upper_back + down * (lower_back - upper_back)
    hu = sample(volume, front + back * (rear - front) + side * left)
    return bool((hu > FOREIGN_HU).mean() > FOREIGN_PART)


def acquisition_quality(acquisition: Acquisition | None, spacing_mm: float | None = None) -> tuple[Quality, ...]:
    """What makes attenuation unsafe in the whole scan.

    Parameters
    ----------
    acquisition
        What the headers say; ``None`` is taken for headers that say nothing.
    spacing_mm
        The largest distance of neighbouring voxels; nothing is said of it where ``None``.
    """
    said = acquisition or Acquisition()
    out = []
    if said.contrast is None or said.contrast:
        out.append(Quality.CONTRAST_UNKNOWN if said.contrast is None else Quality.CONTRAST_AGENT)
    if said.kvp is None:
        out.append(Quality.KVP_UNKNOWN)
    elif abs(said.kvp - USUAL_KVP) > KVP_TOLERANCE:
        out.append(Quality.KVP_NOT_120)
    if said.sharp_kernel is None or said.sharp_kernel:
        out.append(Quality.KERNEL_UNKNOWN if said.sharp_kernel is None else Quality.SHARP_KERNEL)
    if spacing_mm is not None and spacing_mm > COARSE_MM:
        out.append(Quality.COARSE_SPACING)
    return tuple(out)


def _frames(
    volume: Volume, labels: NDArray[np.uint8], parts: NDArray[np.uint8], bodies: Sequence[Body], boxes: Sequence[Any]
) -> list[NDArray[np.float64]]:
    """The given frame of each body, or one from the masks; the identity where there is no mask."""
    centroids, backs, seen = [], [], []
    for n, body in enumerate(bodies):
        box = boxes[body.number - 1]
        if box is None:
            continue
        first = [s.start for s in box]
        mine = labels[box] == body.number
        inside, behind = (np.argwhere(mine & (parts[box] == part)) for part in (BODY, POSTERIOR))
        if not len(inside):
            continue
        centroid = volume.to_lps(inside.mean(axis=0) + first)
        centroids.append(centroid)
        backs.append(volume.to_lps(behind.mean(axis=0) + first) - centroid if len(behind) else np.full(3, np.nan))
        seen.append(n)
    out = [np.eye(3) if b.frame is None else b.frame for b in bodies]
    if seen:
        for n, frame in zip(seen, frames(np.array(centroids), np.array(backs)), strict=True):
            given = bodies[n].frame
            out[n] = frame if given is None else given
    return out


def _one(
    volume: Volume,
    labels: NDArray[np.uint8],
    parts: NDArray[np.uint8],
    body: Body,
    box: Any,
    frame: NDArray[np.float64],
) -> TrabecularHu:
    if body.level not in LEVELS or body.fractured or body.partial or box is None:
        return TrabecularHu(None)
    mask = np.pad((labels[box] == body.number) & (parts[box] == BODY), 1)
    if not mask.any():
        return TrabecularHu(None, quality=(Quality.CORE_TOO_SMALL,))
    hu = volume.hu[box].astype(np.float32)
    inside = mask[1:-1, 1:-1, 1:-1]
    if holds_foreign_material(volume, inside, box):
        return TrabecularHu(None, quality=(Quality.FOREIGN_MATERIAL,))
    depth_mm = distance_transform_edt(mask, volume.spacing_mm)[1:-1, 1:-1, 1:-1]
    index = np.argwhere(inside)
    local = volume.to_lps(index + [s.start for s in box]) @ frame.T
    low, high = np.percentile(local, [1, 99], axis=0)
    size, middle = high - low, 0.5 * (low + high)
    if not (size > 0).all():  # one voxel wide along an axis of its frame: nothing lies off its surface
        return TrabecularHu(None, quality=(Quality.CORE_TOO_SMALL,))
    middle[1] -= FORWARD * size[1]
    within = (((local - middle) / (np.array(HALF_AXES) * size)) ** 2).sum(axis=1) <= 1.0
    core = within & (depth_mm[inside] >= OFF_SURFACE_MM)
    count = int(core.sum())
    if count < FEWEST_VOXELS:
        return TrabecularHu(None, voxels=count, quality=(Quality.CORE_TOO_SMALL,))
    values = hu[inside][core]
    mean = float(values.mean())
    uneven = (Quality.CORE_UNEVEN,) if abs(mean - float(np.median(values))) > UNEVEN_HU else ()
    return TrabecularHu(mean, float(values.std()), count, uneven)
