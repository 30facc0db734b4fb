"""Where the spine runs: one point per axial slice, and which of them to believe (Pisov et al. 2020, section 3.1).

The volume is resampled to the network's canonical grid (3 mm; slices towards the feet, rows towards the back, columns
towards the left), whichever way its own grid lies. The network answers for every slice, spine or not; what is kept is
the longest run of slices that it is sure of and whose points follow each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.canonical import canonical, network_input
from inference.geometry import Volume
from inference.refusal import Refusal, RefusalCode
from inference.runtime import Models
from inference.sampling import inside
from inference.surface import CentreLine

GRID_MM = 3.0
MULTIPLE = 8

DRIFT_MM = 2.0
"""How much farther a point may lie for each doubtful slice that is passed over."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LocalizationSettings:
    """Which slices are believed.

    Attributes
    ----------
    presence, weak_presence
        A run begins with slices of at least ``presence``; it goes on at its ends through slices of at least
        ``weak_presence``, because the network is less sure in the neck and the pelvis.
    peak
        Least probability mass around the strongest voxel of a slice's map.
    jump_mm
        Largest step of the point from one 3 mm slice to the next.
    bridge_slices
        So many doubtful slices within a run are passed over.
    edge_mm
        Nearer to the edge of the field of view the body is cut, and its slice is not believed.
    none_mm, little_mm
        A longest run below these lengths is no spine, or too little of it.
    """

    presence: float = 0.5
    weak_presence: float = 0.2
    peak: float = 0.10
    jump_mm: float = 5.0
    bridge_slices: int = 4
    edge_mm: float = 8.0
    none_mm: float = 20.0
    little_mm: float = 60.0


@dataclass(frozen=True)
class CanonicalGrid:
    """The network's view of a volume.

    Attributes
    ----------
    hu
        (slices, rows, columns) float32; -1024 where nothing was measured.
    origin_lps_mm
        (3,) of voxel (0, 0, 0): z falls with the slice, y grows with the row, x with the column.
    """

    hu: NDArray[np.float32]
    origin_lps_mm: Floats

    def to_lps(self, slices: Floats, rows: Floats, columns: Floats) -> Floats:
        """Fractional indices (n,) to points (n, 3)."""
        x0, y0, z0 = self.origin_lps_mm
        return np.column_stack([x0 + columns * GRID_MM, y0 + rows * GRID_MM, z0 - slices * GRID_MM])

    def network_input(self) -> NDArray[np.float32]:
        """(1, 1, D, H, W) as `inference.canonical.network_input`."""
        return network_input(self.hu, MULTIPLE)


def canonical_grid(volume: Volume) -> CanonicalGrid:
    """Resample to 3 mm (`inference.canonical.canonical`).

    Raises
    ------
    ValueError
        Where the volume is larger than any patient.
    """
    return CanonicalGrid(*canonical(volume, GRID_MM))


def localize(volume: Volume, models: Models, settings: LocalizationSettings) -> CentreLine | Refusal:
    """The centre line of the vertebral bodies, one point per 3 mm, or why there is none.

    Raises
    ------
    ModelRunError
        When the network fails.
    """
    try:
        grid = canonical_grid(volume)
    except ValueError as error:
        return Refusal(RefusalCode.NO_SPINE_FOUND, f"({error}.)")
    depth = grid.hu.shape[0]
    answer = models.run("localizer", {"volume": grid.network_input()})
    centre = answer["centre"][0, :depth].astype(np.float64)
    points = grid.to_lps(np.arange(depth, dtype=float), centre[:, 0], centre[:, 1])
    peak, presence = (answer[k][0, :depth].astype(np.float64) for k in ("peak", "presence"))
    whole = inside(volume, points, settings.edge_mm * np.array([1.0, 1.0, 0.0]) @ _in_plane(volume))
    return longest_run(points, peak, presence, whole, settings)


def _in_plane(volume: Volume) -> NDArray[np.float64]:
    """(3, 3) that turns a margin along (x, y, z) into one along the axes of the grid nearest to them."""
    direction = np.abs(volume.affine[:3, :3]) / np.asarray(volume.spacing_mm)
    nearest = np.zeros((3, 3))
    nearest[np.arange(3), np.argmax(direction, axis=1)] = 1.0
    return nearest


def longest_run(
    points: Floats, peak: Floats, presence: Floats, whole: NDArray[np.bool_], settings: LocalizationSettings
) -> CentreLine | Refusal:
    """The longest run of believable slices from points (n, 3), head to feet, 3 mm apart.

    Parameters
    ----------
    peak, presence
        (n,) of the network, 0 to 1.
    whole
        (n,) whether the body lies far enough inside the field of view.
    """
    possible = (peak >= settings.peak) & (presence >= settings.weak_presence) & whole
    sure = possible & (presence >= settings.presence)
    best: list[int] = []
    for run in _runs(points, possible, settings):
        core = [i for i in run if sure[i]]
        if core and len(run) > len(best) and len(core) >= 0.5 * len(run):
            best = run
    length = (best[-1] - best[0] + 1) * GRID_MM if best else 0.0
    if length < settings.none_mm:
        return Refusal(RefusalCode.NO_SPINE_FOUND)
    if length < settings.little_mm:
        return Refusal(
            RefusalCode.TOO_LITTLE_SPINE,
            f"({length:.0f} mm of spine are in view, {settings.little_mm:.0f} are needed.)",
        )
    return CentreLine(points[best], np.clip(presence[best] * np.minimum(1.0, peak[best] / 0.4), 0.0, 1.0))


def _runs(points: Floats, possible: NDArray[np.bool_], settings: LocalizationSettings) -> list[list[int]]:
    """Runs of slices whose points follow each other, doubtful slices within them left out."""
    runs: list[list[int]] = []
    for i in np.flatnonzero(possible):
        near = [
            run
            for run in runs
            if i - run[-1] <= settings.bridge_slices + 1
            and np.linalg.norm(points[i, :2] - points[run[-1], :2]) < settings.jump_mm + DRIFT_MM * (i - run[-1] - 1)
        ]
        if near:
            max(near, key=len).append(int(i))
        else:
            runs.append([int(i)])
    return runs
