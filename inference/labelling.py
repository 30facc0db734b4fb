"""Which vertebra is where: candidates with the evidence for their names (Bukas et al. 2021, section 2.2).

The corridor about the centre line, 120 mm wide and deep and straightened along z, is reduced to two views: sagittal
and coronal, each as a maximum and as a mean (Sekuboyina et al. 2018: ribs and pelvis beyond the box no longer occlude).
One network reads both and says for every 2 mm whether a vertebra's centre lies there, which name it would bear, and
what is *seen* there: a rib, the sacrum, the axis (C2). A name by its looks is weak evidence; `inference.numbering`
makes one sequence of all of it, or says that the numbering is not known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.canonical import cropped, reduced
from inference.detection import SpineBox
from inference.findings import Level
from inference.geometry import Volume
from inference.runtime import Models
from inference.sampling import extent, sample

STEP_MM = 2.0
ACROSS_MM = np.arange(-60.0, 60.0, STEP_MM) + STEP_MM / 2
"""Of the box, towards the patient's left, from the centre line."""
DEPTH_MM = np.arange(-72.0, 48.0, STEP_MM) + STEP_MM / 2
"""Of the box, towards the back, from the centre line."""
LEVELS: tuple[Level, ...] = tuple(Level)
"""Order of the network's names: C1 to C7, T1 to T13, L1 to L6, S1."""
EVIDENCE = ("rib", "sacrum", "axis")
"""Order of what the network sees at a row."""
FEWEST_ROWS = 16

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A place where a vertebra may be.

    Attributes
    ----------
    centroid_lps_mm
        (3,) of the body.
    probability
        (27,) of each of `LEVELS` by the looks of the vertebra and its surroundings; sums to one.
    confidence
        0 to 1, that a vertebra is there at all.
    rib, sacrum, axis
        0 to 1, what is seen at this very place: it bears a rib, it is S1, it is C2.
    edge_mm
        Distance along z of the centre from the nearer end of the images: below some 15 mm the vertebra is cut.
    """

    centroid_lps_mm: Floats
    probability: Floats
    confidence: float
    rib: float = 0.5
    sacrum: float = 0.0
    axis: float = 0.0
    edge_mm: float = 100.0


@dataclass(frozen=True)
class LabellingSettings:
    """Which rows are candidates.

    Attributes
    ----------
    least_confidence
        A peak of the centre's probability below it is none.
    nearest_mm
        Of two peaks nearer to each other the higher one stays.
    largest_offset_mm
        The centre is believed to lie at most so far from the line. A line that stops above the sacrum goes straight
        down past S1, some 25 mm in front of it.
    """

    least_confidence: float = 0.2
    nearest_mm: float = 9.0
    largest_offset_mm: float = 40.0


@dataclass(frozen=True)
class Corridor:
    """The straightened box: ``hu`` (rows, 60, 60) along z towards the feet, back, left; the line (rows, 3) in LPS."""

    hu: NDArray[np.float32]
    line_lps_mm: Floats


def corridor(volume: Volume, box: SpineBox) -> Corridor:
    """Sample the box along its line, 2 mm; means of whole voxels where the source is finer. Any source orientation."""
    z = np.arange(box.upper_lps_mm[2] - STEP_MM / 2, box.lower_lps_mm[2], -STEP_MM)
    order = box.line_lps_mm[::-1]  # np.interp wants z to grow; beyond its ends the line stands still
    x, y = (np.interp(z, order[:, 2], order[:, a]) for a in (0, 1))
    line = np.column_stack([x, y, z])
    points = np.empty((len(z), len(DEPTH_MM), len(ACROSS_MM), 3))
    points[..., 0] = x[:, None, None] + ACROSS_MM
    points[..., 1] = y[:, None, None] + DEPTH_MM[:, None]
    points[..., 2] = z[:, None, None]
    part = cropped(volume, points.reshape(-1, 3).min(axis=0) - 4.0, points.reshape(-1, 3).max(axis=0) + 4.0)
    if part is None:
        return Corridor(np.full(points.shape[:3], -1024.0, np.float32), line)
    return Corridor(sample(reduced(part, STEP_MM), points), line)


def views_of(hu: NDArray[np.floating]) -> NDArray[np.float32]:
    """(4, rows, 60) from (rows, 60, 60): sagittal maximum of 48 mm and mean of 20 mm across the midline, coronal
    maximum of everything and mean of 32 mm about the line; 200 HU is 0, 500 HU is 1."""
    v = (np.clip(hu, -300.0, 1300.0).astype(np.float32) - np.float32(200.0)) / np.float32(300.0)
    wide, narrow = np.abs(ACROSS_MM) < 24.0, np.abs(ACROSS_MM) < 10.0
    body = np.abs(DEPTH_MM) < 16.0
    return np.stack([v[:, :, wide].max(axis=2), v[:, :, narrow].mean(axis=2), v.max(axis=1), v[:, body].mean(axis=1)])


def candidates(
    volume: Volume, box: SpineBox, models: Models, settings: LabellingSettings | None = None
) -> tuple[Candidate, ...]:
    """Every place of the box where a vertebra may be, head to feet.

    Raises
    ------
    ModelRunError
        When the network fails.
    """
    part = corridor(volume, box)
    rows = len(part.hu)
    if rows < FEWEST_ROWS:
        return ()
    answer = models.run("labeller", {"views": views_of(part.hu)[None]})
    lower, upper = extent(volume)
    return decoded(
        part.line_lps_mm,
        {name: value[0].astype(np.float64) for name, value in answer.items()},
        (float(lower[2]), float(upper[2])),
        settings or LabellingSettings(),
    )


def decoded(
    line_lps_mm: Floats, answer: dict[str, Floats], ends_mm: tuple[float, float], settings: LabellingSettings
) -> tuple[Candidate, ...]:
    """Candidates from the network's answer.

    ``line_lps_mm`` (rows, 3); ``answer``: ``centre`` (rows,), ``level`` (27, rows), ``evidence`` (3, rows),
    ``offset_mm`` (2, rows); ``ends_mm``: z of the lower and upper end of the images.
    """
    centre = answer["centre"]
    found = []
    for k, at in _peaks(centre, settings):
        near = slice(max(k - 1, 0), k + 2)
        weight = centre[near] / centre[near].sum()
        offset = np.clip(answer["offset_mm"][:, near] @ weight, -settings.largest_offset_mm, settings.largest_offset_mm)
        x, y, z = (np.interp(at, np.arange(len(centre)), line_lps_mm[:, a]) for a in range(3))
        level = answer["level"][:, near] @ weight
        rib, sacrum, axis = (float(v) for v in answer["evidence"][:, near] @ weight)
        edge = float(min(z - ends_mm[0], ends_mm[1] - z))
        point = np.array([x + offset[0], y + offset[1], z])
        found.append(Candidate(point, level / level.sum(), float(centre[k]), rib, sacrum, axis, edge))
    return tuple(found)


def _peaks(centre: Floats, settings: LabellingSettings) -> list[tuple[int, float]]:
    """(row, row to a fraction) of the peaks, head to feet: the highest first, none near a higher one."""
    apart = settings.nearest_mm / STEP_MM
    chosen: list[int] = []
    padded = np.pad(centre, 1, constant_values=-1.0)
    is_peak = (centre >= padded[:-2]) & (centre >= padded[2:]) & (centre >= settings.least_confidence)
    peaks: list[int] = np.flatnonzero(is_peak).tolist()
    for k in sorted(peaks, key=lambda row: -float(centre[row])):
        if all(abs(k - other) >= apart for other in chosen):
            chosen.append(k)
    out = []
    for k in sorted(chosen):
        near = np.arange(max(k - 2, 0), min(k + 3, len(centre)))
        out.append((k, float((near * centre[near]).sum() / centre[near].sum())))
    return out
