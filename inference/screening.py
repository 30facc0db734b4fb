"""Opportunistic vertebral fracture screening on CT, after Pisov et al., MICCAI 2020. Reads like the paper's figure 1.

localize the spine -> straighten it -> find vertebrae and their six key points -> map them back to the patient ->
measure heights -> grade by ``height-loss/1``. What cannot be said is refused or flagged, never guessed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.findings import KEYPOINTS, Findings, Heights, Keypoints, PatientFinding, Quality, VertebraFinding
from inference.geometry import Volume
from inference.grading import RULE, GradingRule, grade, height_uncertainty_mm, patient_finding
from inference.keypoints import Detection, chained, decode, normalised, refined
from inference.localization import LocalizationSettings, localize
from inference.outline import outlines
from inference.reformat import CurvedReformat, reformat
from inference.refusal import Refusal, RefusalCode
from inference.runtime import ModelRunError, Models
from inference.sampling import OUTSIDE_HU, inside, sample, spacing_along_z_mm
from inference.straightening import Straightening, straighten
from inference.surface import CentreLine

PIPELINE, PIPELINE_VERSION = "ct", "1.0.0"
ADULT_YEARS = 18.0


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


@dataclass(frozen=True)
class Screening:
    """Findings and the pictures that carry them.

    Attributes
    ----------
    findings
        Always there; ``findings.refusal`` says why where nothing could be evaluated.
    reformat
        The reader's picture; ``None`` when no spine was found.
    outlines
        uint8 label map of the shape of ``volume.hu``: ordinal of the vertebra; ``None`` when nothing was measured.
    """

    findings: Findings
    reformat: CurvedReformat | None = None
    outlines: NDArray[np.uint8] | None = None


def screen(
    volume: Volume,
    models: Models,
    settings: ScreeningSettings | None = None,
    age_years: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> Screening:
    """Screen one CT volume.

    Parameters
    ----------
    volume
        HU on any grid.
    models
        Holds "localizer" and "keypoints".
    age_years
        ``None`` where unknown.
    progress
        Called with a few words before each step.

    Returns
    -------
    Findings, also where nothing could be evaluated: the content of an image raises nothing.
    """
    run = _Run(models, settings or ScreeningSettings(), spacing_along_z_mm(volume), progress or (lambda _: None))
    try:
        return run.screen(volume, age_years)
    except ModelRunError as error:
        return run.refused(Refusal(RefusalCode.MODEL_FAILED, f"({error})"))


@dataclass
class _Run:
    """One screening under way: what every answer carries, and the clock."""

    models: Models
    settings: ScreeningSettings
    spacing_mm: float
    progress: Callable[[str], None]
    quality: tuple[Quality, ...] = (Quality.LEVELS_UNKNOWN,)
    spine_found: bool = False
    picture: CurvedReformat | None = None
    timings_s: dict[str, float] = field(default_factory=dict)

    def screen(self, volume: Volume, age_years: float | None) -> Screening:
        if (refusal := self._refusal_before_looking(age_years)) is not None:
            return self.refused(refusal)
        volume = measured_only(volume)

        with self._step("localize"):
            found = localize(volume, self.models, self.settings.localization)
        if isinstance(found, Refusal):
            self.spine_found = found.code is RefusalCode.TOO_LITTLE_SPINE
            return self.refused(found)
        self.spine_found = float(found.confidence.mean()) >= self.settings.sure_spine

        with self._step("straighten"):
            line, straight = straighten(found)
            image = normalised(straight.picture(volume))[None]

        with self._step("reformat"):
            self.picture = reformat(volume, line, straight.surface)

        with self._step("keypoints"):
            maps = self.models.run("keypoints", {"image": image})
            found_on_it = decode(
                maps["objectness"][0], maps["keypoints"][0], threshold=self.settings.candidate_objectness
            )
            sure = [d for d in found_on_it if d.confidence >= self.settings.detection_confidence]
            detections = [refined(d, maps["nearby"][0]) for d in chained(sure)]

        if len(detections) < self.settings.least_vertebrae:
            code = RefusalCode.TOO_LITTLE_SPINE if detections else RefusalCode.NO_VERTEBRA_FOUND
            return self.refused(Refusal(code, "(A vertebra is told from other bright bodies by its neighbours.)"))
        self.spine_found = True

        with self._step("grade"):
            vertebrae, places = self._measured(volume, line, straight, detections)
            graded = safely_graded(grade(vertebrae, self.spacing_mm, self.settings.rule, places))
        if not any(v.heights_mm for v in graded):
            return self.refused(Refusal(RefusalCode.NO_VERTEBRA_FOUND))

        with self._step("outlines"):
            points = [
                np.array([getattr(v.keypoints_lps_mm, k) for k in KEYPOINTS]) if v.keypoints_lps_mm else None
                for v in graded
            ]
            labels = outlines(volume, straight.surface, points)
        return Screening(self._findings(patient_finding(graded), graded), self.picture, labels)

    def refused(self, refusal: Refusal) -> Screening:
        """The answer "not evaluable"."""
        findings = self._findings(PatientFinding(None, None, RULE), ())
        return Screening(replace(findings, refusal=refusal), self.picture)

    def _refusal_before_looking(self, age_years: float | None) -> Refusal | None:
        if age_years is None:
            self.quality += (Quality.AGE_UNKNOWN,)
        elif age_years < ADULT_YEARS:
            return Refusal(RefusalCode.AGE_BELOW_18)
        elif age_years < self.settings.screening_age_years:
            self.quality += (Quality.OUTSIDE_SCREENING_AGE,)
        if not self.settings.rule.heights_are_told(self.spacing_mm):
            return Refusal(RefusalCode.SLICES_TOO_THICK, f"({self.spacing_mm:.1f} mm.)")
        if not self.settings.rule.mild_is_told(self.spacing_mm):
            self.quality += (Quality.COARSE_SPACING,)
        return None

    def _measured(
        self, volume: Volume, line: CentreLine, straight: Straightening, detections: list[Detection]
    ) -> tuple[list[VertebraFinding], list[float]]:
        """Vertebrae from the top with their heights, and their places along the spine."""
        made = [
            self._vertebra(volume, line, straight, detection, ordinal)
            for ordinal, detection in enumerate(detections, start=1)
        ]
        return made, [float(d.centre[0]) for d in detections]

    def _vertebra(
        self, volume: Volume, line: CentreLine, straight: Straightening, detection: Detection, ordinal: int
    ) -> VertebraFinding:
        settings = self.settings
        points = straight.to_lps(detection.points)
        finding = VertebraFinding(ordinal, _point(points.mean(axis=0)), confidence=detection.confidence)
        if not inside(volume, points, settings.partial_mm).all():
            return replace(finding, quality=(Quality.PARTIAL,))
        quality = []
        unsure = detection.confidence < settings.sure_confidence or detection.spread_mm > settings.sure_spread_mm
        if unsure or detection.disagreement_mm > settings.sure_agreement_mm:
            quality.append(Quality.LOW_CONFIDENCE)
        if not inside(volume, points, settings.partial_mm + self.spacing_mm).all():
            quality.append(Quality.NEAR_EDGE)
        low, high = points[:, 2].min(), points[:, 2].max()
        if float(line.at(np.linspace(low, high, 9))[2].mean()) < settings.sure_centre_line:
            quality.append(Quality.OFF_CENTRE_LINE)
        if has_metal(volume, straight, detection, settings):
            quality.append(Quality.METAL)
        if Quality.COARSE_SPACING in self.quality:
            quality.append(Quality.COARSE_SPACING)
        heights = np.linalg.norm(points[0::2] - points[1::2], axis=1)
        return replace(
            finding,
            keypoints_lps_mm=Keypoints(*(_point(p) for p in points)),
            heights_mm=Heights(*(float(h) for h in heights)),
            height_uncertainty_mm=height_uncertainty_mm(self.spacing_mm),
            quality=tuple(quality),
        )

    def _findings(self, patient: PatientFinding, vertebrae: tuple[VertebraFinding, ...]) -> Findings:
        return Findings(
            pipeline=PIPELINE,
            pipeline_version=PIPELINE_VERSION,
            provider=self.models.provider,
            models=self.models.identities,
            patient=patient,
            vertebrae=vertebrae,
            spine_found=self.spine_found,
            quality=self.quality,
            spacing_along_spine_mm=self.spacing_mm,
            timings_s=dict(self.timings_s),
        )

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.progress(name)
        began = time.perf_counter()
        yield
        self.timings_s[name] = time.perf_counter() - began


def safely_graded(vertebrae: tuple[VertebraFinding, ...]) -> tuple[VertebraFinding, ...]:
    """No grade where it would rest on nothing but heights that the network itself is unsure of.

    That is a vertebra with both ``G_ONLY`` (no neighbours to compare with) and ``LOW_CONFIDENCE``; its heights stay.
    """
    doubtful = {Quality.G_ONLY, Quality.LOW_CONFIDENCE}
    return tuple(replace(v, grade=None, rule=None) if doubtful <= set(v.quality) else v for v in vertebrae)


def measured_only(volume: Volume) -> Volume:
    """The volume with -1024 HU where a voxel carries no measurement (padding, not a number)."""
    nothing = np.zeros(volume.hu.shape, bool) if volume.padding is None else volume.padding
    if np.issubdtype(volume.hu.dtype, np.floating):
        nothing = nothing | ~np.isfinite(volume.hu)
    if not nothing.any():
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


def _point(p: NDArray[np.float64]) -> tuple[float, float, float]:
    return (float(p[0]), float(p[1]), float(p[2]))
