"""Every vertebra cut out of the volume: third module of Bukas et al. 2021, one patch per centroid.

Patch by patch the network says which voxels are body and which posterior elements of the vertebra at the centroid. The
probabilities are interpolated on to the grid of the volume; where two vertebrae claim a voxel, the surer one has it.
Only the two maps of the result are as large as the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.geometry import Volume
from inference.masks_patch import STEP_MM, affine_of, heat_map, normalised, seen_by
from inference.runtime import Models
from inference.sampling import inside

Floats = NDArray[np.float64]
F32 = NDArray[np.float32]
Box = tuple[slice, slice, slice]
BODY, POSTERIOR = 1, 2
"""Values of ``parts``: vertebral body, posterior elements."""
LEAST_KEPT = 0.4
"""A vertebra keeps at least this part of what its patch found, else it is its neighbour found twice."""
MOST = 255
"""Labels are bytes."""


@dataclass(frozen=True)
class MaskSettings:
    """Which network, and how its probabilities become masks.

    Attributes
    ----------
    threshold
        Of the probability of the vertebra (body and posterior elements together); fixed on held-out phantoms and
        shapes.
    smallest_ml
        A smaller piece is no vertebra.
    smallest_piece
        Pieces of posterior elements that are cut off from the largest are kept down to this part of it: thin laminae
        may be lost between two halves of an arch.
    mirrored
        The network is asked a second time with left and right exchanged, and the mean of both answers is taken.
    """

    network: str = "segmenter"
    threshold: float = 0.5
    smallest_ml: float = 1.0
    smallest_piece: float = 0.2
    mirrored: bool = False


@dataclass(frozen=True)
class VertebraMasks:
    """Masks of n vertebrae on the grid of their volume.

    Attributes
    ----------
    labels
        Shape of ``Volume.hu`` (slice, row, column), uint8: 0, or 1 + the index of the centroid.
    parts
        The same shape, uint8: 0 none, 1 body, 2 posterior elements.
    volumes_ml
        (n, 2): vertebra and body in ml, counted in ``labels`` and ``parts`` as they are here, so after neighbours took
        their voxels: whoever counts the mask again finds the same. ``nan`` where nothing was found.
    partial
        (n,): the mask touches the edge of the field of view (or of its padding), or the centroid lies outside.
    confidence
        (n,): mean probability over the mask; 0 where there is none.
    """

    labels: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    volumes_ml: Floats
    partial: NDArray[np.bool_]
    confidence: Floats

    def only(self, kept: Sequence[int]) -> VertebraMasks:
        """The masks of these vertebrae (indices, ascending), numbered anew."""
        if len(kept) == len(self.partial):
            return self
        table = np.zeros(MOST + 1, np.uint8)
        for number, n in enumerate(kept, start=1):
            table[n + 1] = number
        labels = table[self.labels]
        parts = np.where(labels > 0, self.parts, 0).astype(np.uint8)
        index = list(kept)
        return VertebraMasks(labels, parts, self.volumes_ml[index], self.partial[index], self.confidence[index])


@dataclass(frozen=True)
class _Piece:
    """What one patch says after cleaning: probabilities (2, k, j, i) of body and posterior elements."""

    affine: Floats
    probability: F32

    @property
    def whole(self) -> F32:
        return np.asarray(self.probability.sum(axis=0), np.float32)


def segment(
    volume: Volume, centroids_lps_mm: NDArray[np.floating[Any]], models: Models, settings: MaskSettings | None = None
) -> VertebraMasks:
    """Masks of the vertebrae at ``centroids_lps_mm`` (n, 3), centres of vertebral bodies in LPS mm.

    Raises
    ------
    ValueError
        More centroids than a byte counts, or not finite ones.
    ModelRunError
        The network failed on a patch.
    """
    settings = settings or MaskSettings()
    centroids = np.asarray(centroids_lps_mm, np.float64).reshape(-1, 3)
    if len(centroids) > MOST or not np.isfinite(centroids).all():
        raise ValueError(f"{len(centroids)} centroids: at most {MOST}, all finite, can be segmented")
    labels, parts = np.zeros(volume.hu.shape, np.uint8), np.zeros(volume.hu.shape, np.uint8)
    pieces = [_piece(volume, c, models, settings) for c in centroids]
    for n, piece in enumerate(pieces):
        if piece is not None:
            _paint(volume, n, pieces, labels, parts, settings.threshold)
    volumes = np.full((len(pieces), 2), np.nan)
    confidence = np.zeros(len(pieces))
    partial = ~inside(volume, centroids) if len(centroids) else np.zeros(0, bool)
    for n, piece in enumerate(pieces):
        if piece is None:
            continue
        whole = piece.whole
        partial[n] |= _touches_edge(volume, labels, piece, n + 1)
        if _mostly_lost(volume, labels, parts, piece, n + 1, settings.threshold):
            continue
        volumes[n] = _painted_ml(volume, labels, parts, piece, n + 1)
        confidence[n] = float(whole[whole >= settings.threshold].mean())
    return VertebraMasks(labels, parts, volumes, partial, confidence)


def _piece(volume: Volume, centroid: Floats, models: Models, settings: MaskSettings) -> _Piece | None:
    """The network's answer for one centroid, cleaned; ``None`` where there is no vertebra."""
    affine = affine_of(centroid)
    image, seen = seen_by(volume, affine)
    if not seen.any():
        return None
    patch = np.stack([normalised(image), heat_map()])[None]
    said = models.run(settings.network, {"patch": patch})["probability"][0]
    if settings.mirrored:
        other = models.run(settings.network, {"patch": np.ascontiguousarray(patch[..., ::-1])})["probability"][0]
        said = (said + other[..., ::-1]) / 2
    probability = cleaned(np.where(seen, said[1:], np.float32(0)), settings)
    if probability[:, probability.sum(axis=0) >= settings.threshold].sum() * STEP_MM**3 / 1000 < settings.smallest_ml:
        return None
    return _Piece(affine, probability)


def cleaned(probability: F32, settings: MaskSettings) -> F32:
    """Probabilities (2, k, j, i) of body and posterior elements without what belongs to another bone.

    Kept are the largest component of the body, the large ones of the posterior elements, and one voxel around them.
    """
    whole = probability.sum(axis=0) >= settings.threshold
    body = _large(whole & (probability[0] >= probability[1]), 1.0)
    posterior = _large(whole & (probability[0] < probability[1]), settings.smallest_piece)
    near = ndimage.binary_dilation(body | posterior)
    return np.asarray(np.where(near, probability, np.float32(0)), np.float32)


def _large(mask: NDArray[np.bool_], least: float) -> NDArray[np.bool_]:
    """Components of at least ``least`` times the size of the largest."""
    found, count = ndimage.label(mask)
    if count == 0:
        return mask
    size = np.bincount(found.ravel())
    size[0] = 0
    keep = size >= least * size.max()
    keep[0] = False
    return np.asarray(keep[found], np.bool_)


def _paint(
    volume: Volume,
    n: int,
    pieces: Sequence[_Piece | None],
    labels: NDArray[np.uint8],
    parts: NDArray[np.uint8],
    threshold: float,
) -> None:
    """Write vertebra ``n`` into the maps (in place); it takes a voxel from another only where it is surer."""
    piece = pieces[n]
    assert piece is not None
    box = _box_of(volume, piece)
    if box is None:
        return
    body, posterior = (on_grid(p, piece.affine, volume, box) for p in piece.probability)
    whole = body + posterior
    mask = whole >= threshold
    here = labels[box]
    for other in np.unique(here[mask & (here > 0)]):
        rival = pieces[int(other) - 1]
        assert rival is not None
        index = np.argwhere(mask & (here == other))
        points = volume.to_lps(index + [s.start for s in box])
        said = ndimage.map_coordinates(rival.whole, _index_in(rival.affine, points).T, order=1, output=np.float32)
        lost = index[said >= whole[tuple(index.T)]]
        mask[tuple(lost.T)] = False
    here[mask] = n + 1
    parts[box][mask] = np.where(body >= posterior, BODY, POSTERIOR)[mask]


def _index_in(affine: Floats, points_lps_mm: Floats) -> Floats:
    inverse = np.linalg.inv(affine)
    return np.asarray(points_lps_mm @ inverse[:3, :3].T + inverse[:3, 3], np.float64)


def _box_of(volume: Volume, piece: _Piece) -> Box | None:
    """Voxels of the volume around what the patch found; ``None`` where there are none."""
    found = np.argwhere(piece.whole > 0)
    low, high = found.min(axis=0) - 1.0, found.max(axis=0) + 1.0
    corners = np.array([[(high if (n >> a) & 1 else low)[a] for a in range(3)] for n in range(8)])
    index = volume.to_index(corners @ piece.affine[:3, :3].T + piece.affine[:3, 3])
    first = np.maximum(np.floor(index.min(axis=0)), 0).astype(int)
    last = np.minimum(np.ceil(index.max(axis=0)) + 1, volume.hu.shape).astype(int)
    if (last <= first).any():
        return None
    return (slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2]))


def on_grid(values: F32, affine: Floats, volume: Volume, box: Box) -> F32:
    """``values`` (k, j, i) of a patch, trilinear at the voxels of ``box`` of the volume; 0 outside the patch.

    Where the axes of both grids are parallel the three directions are interpolated one after the other, which is many
    times faster.
    """
    to_patch = np.linalg.inv(affine) @ volume.affine
    axes = [np.arange(s.start, s.stop, dtype=np.float64) for s in box]
    linear = to_patch[:3, :3]
    order = np.abs(linear).argmax(axis=0)
    parallel = len(set(order.tolist())) == 3 and np.abs(linear).sum() - np.abs(linear).max(axis=0).sum() < 1e-6
    if not parallel:
        index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) @ linear.T + to_patch[:3, 3]
        flat = ndimage.map_coordinates(values, index.reshape(-1, 3).T, order=1, output=np.float32)
        return np.asarray(flat.reshape(index.shape[:-1]), np.float32)
    out = values.transpose(*order)
    for axis, patch_axis in enumerate(order):
        place = linear[patch_axis, axis] * axes[axis] + to_patch[patch_axis, 3]
        nodes = np.arange(values.shape[patch_axis])
        weight = np.clip(1 - np.abs(place[:, None] - nodes), 0, 1).astype(np.float32)
        out = np.moveaxis(np.tensordot(weight, out, axes=(1, axis)), 0, axis)
    return np.asarray(out, np.float32)


def _mostly_lost(
    volume: Volume,
    labels: NDArray[np.uint8],
    parts: NDArray[np.uint8],
    piece: _Piece,
    label: int,
    threshold: float,
) -> bool:
    """Whether another vertebra has most of what this patch found: then both are one, and this mask is taken back."""
    box = _box_of(volume, piece)
    if box is None:
        return True
    mine = labels[box] == label
    found_ml = float((piece.whole >= threshold).sum()) * STEP_MM**3 / 1000
    if float(mine.sum()) * _voxel_ml(volume) >= LEAST_KEPT * found_ml:
        return False
    labels[box][mine] = parts[box][mine] = 0
    return True


def _painted_ml(
    volume: Volume, labels: NDArray[np.uint8], parts: NDArray[np.uint8], piece: _Piece, label: int
) -> tuple[float, float]:
    """Volume in ml of a vertebra and of its body as they were painted at last."""
    box = _box_of(volume, piece)
    assert box is not None
    mine = labels[box] == label
    return float(mine.sum()) * _voxel_ml(volume), float((mine & (parts[box] == BODY)).sum()) * _voxel_ml(volume)


def _voxel_ml(volume: Volume) -> float:
    """Volume of one voxel, on a grid of any angles."""
    return abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000


def _touches_edge(volume: Volume, labels: NDArray[np.uint8], piece: _Piece, label: int) -> bool:
    """Whether the mask reaches the outermost voxels of the volume, or lies beside padding."""
    box = _box_of(volume, piece)
    if box is None:
        return True
    mask = labels[box] == label
    for axis, (cut, size) in enumerate(zip(box, volume.hu.shape, strict=True)):
        if cut.start == 0 and mask.take(0, axis=axis).any():
            return True
        if cut.stop == size and mask.take(-1, axis=axis).any():
            return True
    if volume.padding is None:
        return False
    return bool((ndimage.binary_dilation(volume.padding[box]) & mask).any())
