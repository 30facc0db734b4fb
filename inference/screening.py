"""Six points per vertebra and the heights between them, after Pisov et al., MICCAI 2020 (figure 1).

A stage of the CT pipeline: find vertebrae and their key points on the straightened picture, map them back to the
patient, measure heights. What makes a number unsafe is flagged here; grading is `inference.grading`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.findings import Heights, Keypoints, Quality, VertebraFinding
from inference.geometry import Volume
from inference.grading import GradingRule, height_uncertainty_mm
from inference.keypoints import Detection, chained, decode, normalised, refined
from inference.localization import LocalizationSettings
from inference.runtime import Models
from inference.sampling import OUTSIDE_HU, inside, sample
from inference.straightening import Straightening
from inference.surface import CentreLine


@dataclass(frozen=True)
class ScreeningSettings:
    """Every threshold of the pipeline; the defaults are what the rules of the house allow to be said.

    Attributes
    ----------
    rule
        Cut-offs of losses, of G and of spacing.
    localization
        Which slices of the localizer are believed.
    screening_age_years
        Younger patients are answered and flagged ``OUTSIDE_SCREENING_AGE``.
    candidate_objectness
        An anchor takes part in a vertebra's vote from this objectness on.
    detection_confidence
        A vertebra is reported from this confidence on (602 of 602 on held-out phantoms have more than .99).
    sure_confidence
        Below it a reported vertebra is flagged ``LOW_CONFIDENCE``.
    sure_spread_mm, sure_agreement_mm
        Above this spread of the votes for a key point, or this difference between a height told from the middle of
        the body and told at the end plates, likewise.
    sure_centre_line
        Below this mean confidence of the centre line at a vertebra: ``OFF_CENTRE_LINE``.
    sure_spine
        A centre line of this mean confidence is a spine even if no vertebra is found on it.
    least_vertebrae
        Fewer than these on a centre line are not evaluated: a single one may be a ventricle of the heart.
    metal_hu, metal_voxels
        So many samples (2 mm apart) above this attenuation in or beside the body: ``METAL``.
    partial_mm
        A vertebra with a key point nearer than this to the edge of the field of view is cut: not measured.
    """

    rule: GradingRule = field(default_factory=GradingRule)
    localization: LocalizationSettings = field(default_factory=LocalizationSettings)
    screening_age_years: float = 50.0
    candidate_objectness: float = 0.3
    detection_confidence: float = 0.85
    sure_confidence: float = 0.95
    sure_spread_mm: float = 2.5
    sure_agreement_mm: float = 2.0
    sure_centre_line: float = 0.3
    sure_spine: float = 0.6
    least_vertebrae: int = 2
    metal_hu: float = 1800.0
    metal_voxels: int = 3
    partial_mm: float = 1.5


def detected(image: NDArray[np.float32], models: Models, settings: ScreeningSettings) -> list[Detection]:
    """Vertebrae with their six points on the straightened picture ``image`` (planes, rows, columns), head to feet.

    Raises
    ------
    ModelRunError
        When the network fails.
    """
    maps = models.run("keypoints", {"image": normalised(image)[None]})
    found = decode(maps["objectness"][0], maps["keypoints"][0], threshold=settings.candidate_objectness)
    sure = [d for d in found if d.confidence >= settings.detection_confidence]
    return [refined(d, maps["nearby"][0]) for d in chained(sure)]


def measured(
    volume: Volume,
    line: CentreLine,
    straight: Straightening,
    detection: Detection,
    spacing_mm: float,
    settings: ScreeningSettings,
) -> VertebraFinding:
    """One vertebra in the patient with its heights, not graded yet; its ordinal is 0 until all are known.

    Parameters
    ----------
    line
        The smoothed centre line that ``straight`` was made along.
    spacing_mm
        Spacing of the source along the spine.
    """
    points = straight.to_lps(detection.points)
    finding = VertebraFinding(0, as_point(points.mean(axis=0)), confidence=detection.confidence)
    if not inside(volume, points, settings.partial_mm).all():
        return replace(finding, quality=(Quality.PARTIAL,))
    quality = []
    unsure = detection.confidence < settings.sure_confidence or detection.spread_mm > settings.sure_spread_mm
    if unsure or detection.disagreement_mm > settings.sure_agreement_mm:
        quality.append(Quality.LOW_CONFIDENCE)
    if not inside(volume, points, settings.partial_mm + spacing_mm).all():
        quality.append(Quality.NEAR_EDGE)
    low, high = points[:, 2].min(), points[:, 2].max()
    if float(line.at(np.linspace(low, high, 9))[2].mean()) < settings.sure_centre_line:
        quality.append(Quality.OFF_CENTRE_LINE)
    if has_metal(volume, straight, detection, settings):
        quality.append(Quality.METAL)
    if not settings.rule.mild_is_told(spacing_mm):
        quality.append(Quality.COARSE_SPACING)
    heights = np.linalg.norm(points[0::2] - points[1::2], axis=1)
    return replace(
        finding,
        keypoints_lps_mm=Keypoints(*(as_point(p) for p in points)),
        heights_mm=Heights(*(float(h) for h in heights)),
        height_uncertainty_mm=height_uncertainty_mm(spacing_mm),
        quality=tuple(quality),
    )


def safely_graded(
    vertebrae: tuple[VertebraFinding, ...],
    doubtful: frozenset[Quality] = frozenset({Quality.G_ONLY, Quality.LOW_CONFIDENCE}),
) -> tuple[VertebraFinding, ...]:
    """No grade where it would rest on nothing but heights that the network itself is unsure of.

    That is a vertebra with all flags of ``doubtful``: by default both ``G_ONLY`` (no neighbours to compare with) and
    ``LOW_CONFIDENCE``. Its heights stay.
    """
    return tuple(replace(v, grade=None, rule=None) if doubtful <= set(v.quality) else v for v in vertebrae)


def measured_only(volume: Volume) -> Volume:
    """The volume with -1024 HU where a voxel carries no measurement (padding, not a number)."""
    nothing = volume.padding
    if np.issubdtype(volume.hu.dtype, np.floating):
        unnumbered = ~np.isfinite(volume.hu)
        nothing = unnumbered if nothing is None else nothing | unnumbered
    if nothing is None or not nothing.any():
        return volume
    return replace(volume, hu=np.where(nothing, volume.hu.dtype.type(OUTSIDE_HU), volume.hu))


def has_metal(volume: Volume, straight: Straightening, detection: Detection, settings: ScreeningSettings) -> bool:
    """Whether metal or cement lies in or beside a body: samples 2 mm apart, 24 mm to each side of the midline."""
    top, front, bottom, back = detection.box
    axes: list[NDArray[np.floating[Any]]] = [
        np.arange(top + 2, bottom - 1, 2.0),
        np.arange(front + 2, back + 4, 2.0),
        np.arange(-24.0, 25.0, 2.0),
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return int((sample(volume, straight.to_lps(grid)) > settings.metal_hu).sum()) >= settings.metal_voxels


def as_point(p: NDArray[np.float64]) -> tuple[float, float, float]:
    """An array of three as it stands in a finding."""
    return (float(p[0]), float(p[1]), float(p[2]))
