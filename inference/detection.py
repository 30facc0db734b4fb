"""Where the spine is: a coarse heat map of its centre line, and the box around it (Bukas et al. 2021, section 2.1).

The volume is resampled to 6 mm on the canonical grid (slices towards the feet, rows towards the back, columns towards
the left), whichever way its own grid lies. A small 3-D U-Net regresses one Gaussian ridge along the centres of the
vertebral bodies; the longest run of slices whose maxima are high and follow each other is the spine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from inference.canonical import canonical, network_input
from inference.geometry import Volume
from inference.refusal import Refusal, RefusalCode
from inference.runtime import Models
from inference.sampling import extent
from inference.surface import CentreLine

GRID_MM = 6.0
MULTIPLE = 4

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SpineBox:
    """The spine in the patient.

    Attributes
    ----------
    lower_lps_mm, upper_lps_mm
        (3,) corners of the box that the labeller looks at; within the images along z.
    line_lps_mm
        (n, 3) centre line through the vertebral bodies, head to feet (z decreases), 6 mm apart along z.
    confidence
        0 to 1: mean height of the ridge along the line.
    """

    lower_lps_mm: Floats
    upper_lps_mm: Floats
    line_lps_mm: Floats
    confidence: float


@dataclass(frozen=True)
class DetectionSettings:
    """Which slices are believed, and how far the box reaches beyond the line.

    Attributes
    ----------
    peak, weak_peak
        Height of the ridge at which a run may begin, and at which it goes on.
    jump_mm
        Largest step of the line from one 6 mm slice to the next.
    bridge_slices
        So many doubtful slices within a run are passed over.
    little_mm
        A shorter run is no spine.
    above_mm, below_mm, across_mm, front_mm, back_mm
        Reach of the box beyond the line.
    """

    peak: float = 0.45
    weak_peak: float = 0.25
    jump_mm: float = 10.0
    bridge_slices: int = 3
    little_mm: float = 30.0
    above_mm: float = 30.0
    below_mm: float = 45.0
    across_mm: float = 60.0
    front_mm: float = 72.0
    back_mm: float = 48.0


def detect(volume: Volume, models: Models, settings: DetectionSettings | None = None) -> SpineBox | Refusal:
    """The spine's box and line, or why there is none.

    Raises
    ------
    ModelRunError
        When the network fails.
    """
    chosen = settings or DetectionSettings()
    lower, upper = extent(volume)
    try:
        hu, origin = canonical(volume, GRID_MM)
    except ValueError as error:
        return Refusal(RefusalCode.NO_SPINE_FOUND, f"({error}.)")
    ridge = models.run("detector", {"volume": network_input(hu, MULTIPLE)})["ridge"][0, 0]
    ridge = ridge[: hu.shape[0], : hu.shape[1], : hu.shape[2]]
    return box_of(ridge, origin, (float(lower[2]), float(upper[2])), chosen)


def box_of(
    ridge: NDArray[np.floating], origin_lps_mm: Floats, ends_mm: tuple[float, float], settings: DetectionSettings
) -> SpineBox | Refusal:
    """The box from the ridge (slices, rows, columns) on the canonical grid; ``ends_mm``: z of the images' ends."""
    peaks, points = maxima(ridge, origin_lps_mm)
    run = _longest_run(peaks, points, settings)
    if len(run) < 2 or points[run[0], 2] - points[run[-1], 2] + GRID_MM < settings.little_mm:
        return Refusal(RefusalCode.NO_SPINE_FOUND)
    return _around(points[run], peaks[run], ends_mm, settings)


def box_along(line: CentreLine, volume: Volume, settings: DetectionSettings | None = None) -> SpineBox:
    """The box about a centre line that is known already: screening's, which is found at 3 mm.

    The line may have gaps along z; beyond its ends the box reaches as far as one from the ridge.
    """
    lower, upper = extent(volume)
    ends = (float(lower[2]), float(upper[2]))
    return _around(line.points_lps_mm, line.confidence, ends, settings or DetectionSettings())


def _around(points: Floats, weights: Floats, ends_mm: tuple[float, float], settings: DetectionSettings) -> SpineBox:
    """The box about points (n, 3), head to feet, and the line through them every 6 mm."""
    z = np.arange(points[0, 2], points[-1, 2] - 0.01, -GRID_MM)
    upward = points[::-1]
    x, y = (gaussian_filter1d(np.interp(z, upward[:, 2], upward[:, a]), 1.0, mode="nearest") for a in (0, 1))
    line = np.column_stack([x, y, z])
    reach_low = np.array([settings.across_mm, settings.front_mm, settings.below_mm])
    reach_high = np.array([settings.across_mm, settings.back_mm, settings.above_mm])
    lower, upper = line.min(axis=0) - reach_low, line.max(axis=0) + reach_high
    lower[2], upper[2] = max(lower[2], ends_mm[0]), min(upper[2], ends_mm[1])
    return SpineBox(lower, upper, line, float(np.clip(weights.mean(), 0.0, 1.0)))


def maxima(ridge: NDArray[np.floating], origin_lps_mm: Floats) -> tuple[Floats, Floats]:
    """Of each slice the highest value (n,) and the centre of mass (n, 3) in LPS mm of the ridge within 15 mm of it."""
    depth, height, width = ridge.shape
    peaks, points = np.zeros(depth), np.zeros((depth, 3))
    for k in range(depth):
        j, i = np.unravel_index(int(ridge[k].argmax()), (height, width))
        peaks[k] = ridge[k, j, i]
        rows, columns = slice(max(j - 2, 0), j + 3), slice(max(i - 2, 0), i + 3)
        mass = np.clip(ridge[k, rows, columns], 1e-6, None).astype(np.float64) ** 2
        row = (mass.sum(axis=1) * np.arange(height)[rows]).sum() / mass.sum()
        column = (mass.sum(axis=0) * np.arange(width)[columns]).sum() / mass.sum()
        points[k] = origin_lps_mm + GRID_MM * np.array([column, row, -k])
    return peaks, points


def _longest_run(peaks: Floats, points: Floats, settings: DetectionSettings) -> list[int]:
    """Indices of the longest run of slices whose maxima are high enough and follow each other."""
    runs: list[list[int]] = []
    for k in np.flatnonzero(peaks >= settings.weak_peak):
        fitting = [
            run
            for run in runs
            if k - run[-1] <= settings.bridge_slices + 1
            and np.linalg.norm(points[k, :2] - points[run[-1], :2]) <= settings.jump_mm * (k - run[-1])
        ]
        if fitting:
            max(fitting, key=len).append(int(k))
        else:
            runs.append([int(k)])
    believed = [run for run in runs if np.mean(peaks[run] >= settings.peak) >= 0.5]
    return max(believed, key=len, default=[])
