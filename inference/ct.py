"""The CT pipeline: every vertebra found, named, segmented, measured and scored.

    localize -> straighten -> six points -> heights          (`screening`, Pisov et al. 2020)
             -> box along the line -> candidates -> names     (`labelling`, `numbering`, Bukas et al. 2021)
             -> one object per vertebra -> masks              (`joining`, `masks`)
             -> grade -> score -> density -> pictures         (`grading`, `abnormality`, `densitometry`, `overlay`)

What cannot be said is refused or flagged, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from inference import abnormality, densitometry, detection, gaps, grading, labelling, numbering, screening
from inference.abnormality import AbnormalitySettings, Body, score_bodies
from inference.findings import KEYPOINTS, Acquisition, Findings, Grade, Level, Numbering, PatientFinding, Quality
from inference.findings import VertebraFinding as Vertebra
from inference.geometry import Volume
from inference.joining import Joined, Placed, confirmed, join
from inference.labelling import LabellingSettings
from inference.localization import localize
from inference.masks import BODY, MaskSettings, VertebraMasks, segment
from inference.masks_heights import body_surface_heights
from inference.numbering import NamedSequence, NumberingSettings
from inference.overlay import bodies_on, expected_in, expected_on
from inference.patients import several_people
from inference.reformat import CoronalPicture, CurvedReformat, coronal, reformat
from inference.refusal import Refusal, RefusalCode
from inference.runtime import ModelRunError, Models
from inference.sampling import spacing_along_z_mm
from inference.screening import ScreeningSettings
from inference.steps import Steps
from inference.straightening import Straightening, straighten
from inference.surface import CentreLine

PIPELINE, PIPELINE_VERSION = "ct", "2.1.2"
ADULT_YEARS = 18.0


@dataclass(frozen=True)
class CtSettings:
    """Every threshold of the pipeline; a stage that is ``None`` is left out, and what it gives is not said.

    Attributes
    ----------
    screening
        Centre line, six points, heights and their grades.
    labelling, numbering
        Candidates and their names.
    masks
        Segmentation. Without it there is neither score nor density.
    abnormality
        The score.
    thickest_mm
        Beyond this spacing along the spine nothing is evaluated. Heights end earlier (`GradingRule`).
    mask_agreement
        Heights from mask and points that differ by more than so many times their stated error: ``MASK_DISAGREES``.
    """

    screening: ScreeningSettings = field(default_factory=ScreeningSettings)
    labelling: LabellingSettings | None = field(default_factory=LabellingSettings)
    numbering: NumberingSettings = field(default_factory=NumberingSettings)
    masks: MaskSettings | None = field(default_factory=MaskSettings)
    abnormality: AbnormalitySettings | None = field(default_factory=AbnormalitySettings)
    thickest_mm: float = 5.0
    mask_agreement: float = 3.0

    @property
    def networks(self) -> tuple[str, ...]:
        """Names in the manifest of the networks that these stages run."""
        names = ["localizer", "keypoints"]
        if self.labelling is not None:
            names.append("labeller")
        if self.masks is not None:
            names.append(self.masks.network)
            if self.abnormality is not None:
                names.append(abnormality.NETWORK)
        return tuple(names)


@dataclass(frozen=True)
class CtAnswer:
    """Findings, masks and the pictures that carry them.

    Attributes
    ----------
    findings
        Always there; ``findings.refusal`` says why where nothing could be evaluated.
    reformat
        The reader's picture; ``None`` when no spine was found.
    coronal
        The small picture for the numbering; there exactly when ``reformat`` is.
    labels
        uint8, shape of ``volume.hu``: 0, or the ordinal of the vertebra; ``None`` when nothing was segmented.
    parts
        uint8, the same shape: 1 vertebral body, 2 posterior elements.
    expected_labels
        uint8, the same shape: 0, or the ordinal of the vertebra whose expected body lies there; only where asked for.
    masks_on_reformat
        uint8 of the shape of ``reformat.hu``: ordinal of the vertebral body that a pixel shows.
    expected_on_reformat
        uint8, the same shape: ordinal of the vertebra whose expected body (of the abnormality score) a pixel shows.
    """

    findings: Findings
    reformat: CurvedReformat | None = None
    coronal: CoronalPicture | None = None
    labels: NDArray[np.uint8] | None = None
    parts: NDArray[np.uint8] | None = None
    expected_labels: NDArray[np.uint8] | None = None
    masks_on_reformat: NDArray[np.uint8] | None = None
    expected_on_reformat: NDArray[np.uint8] | None = None


def evaluate(
    volume: Volume,
    models: Models,
    settings: CtSettings | None = None,
    age_years: float | None = None,
    acquisition: Acquisition | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    with_expected: bool = False,
) -> CtAnswer:
    """Evaluate one CT volume.

    Parameters
    ----------
    volume
        HU on any grid.
    models
        Holds ``settings.networks``.
    age_years
        ``None`` where unknown.
    acquisition
        What the headers say of tube voltage, contrast agent and kernel.
    progress
        Called with a few words before each step.
    with_expected
        Also give the expected bodies on the grid of the volume.

    Returns
    -------
    The answer, also where nothing could be evaluated: the content of an image raises nothing.
    """
    run = _Run(
        models, settings or CtSettings(), spacing_along_z_mm(volume), acquisition or Acquisition(), Steps(progress)
    )
    try:
        return run.evaluate(volume, age_years, with_expected)
    except _RefusedError as reason:
        return run.refused(reason.refusal)
    except ModelRunError as error:
        return run.refused(Refusal(RefusalCode.MODEL_FAILED, f"({error})"))


class _RefusedError(Exception):
    """Nothing can be said of this volume."""

    def __init__(self, code: RefusalCode, detail: str = "") -> None:
        super().__init__(code)
        self.refusal = Refusal(code, detail)


@dataclass
class _Run:
    """One evaluation under way: what every answer carries, and the clock."""

    models: Models
    settings: CtSettings
    spacing_mm: float
    acquisition: Acquisition
    step: Steps
    quality: tuple[Quality, ...] = ()
    spine_found: bool = False
    numbering: Numbering | None = None
    picture: CurvedReformat | None = None
    coronal: CoronalPicture | None = None

    def evaluate(self, volume: Volume, age_years: float | None, with_expected: bool) -> CtAnswer:
        screened = self.settings.screening
        self._look_at_headers(age_years)
        volume = screening.measured_only(volume)

        with self.step("localize"):
            found = localize(volume, self.models, screened.localization)
        if isinstance(found, Refusal):
            self.spine_found = found.code is RefusalCode.TOO_LITTLE_SPINE
            raise _RefusedError(found.code, found.detail)
        self.spine_found = float(found.confidence.mean()) >= screened.sure_spine
        if several_people(volume, found):
            raise _RefusedError(RefusalCode.SEVERAL_PEOPLE)

        with self.step("straighten"):
            line, straight = straighten(found)

        with self.step("reformat"):
            self.picture, self.coronal = reformat(volume, line, straight.surface), coronal(volume, line)

        with self.step("keypoints"):
            measured = self._measured(volume, line, straight)

        with self.step("names"):
            joined = self._named(volume, found, straight, measured)
        self.numbering = joined.numbering

        self._need_enough(measured, joined)
        self.spine_found = True

        with self.step("masks"):
            vertebrae, places, masks = self._segmented(volume, joined)
        if len(vertebrae) < screened.least_vertebrae:
            raise _RefusedError(RefusalCode.TOO_LITTLE_SPINE if vertebrae else RefusalCode.NO_VERTEBRA_FOUND)

        missing = self._missing(vertebrae)
        vertebrae = gaps.with_gaps(vertebrae, missing)
        with self.step("grade"):
            graded = screening.safely_graded(grading.grade(vertebrae, self.spacing_mm, screened.rule, places))
        if masks is None:
            return self._answer(graded)

        with self.step("score"):
            bodies = _bodies(graded, masks, missing)
            graded, expected = self._scored(volume, graded, masks, bodies)

        with self.step("density"):
            graded = self._with_density(volume, graded, masks, bodies)

        with self.step("pictures"):
            shown = bodies_on(self.picture, volume, masks.labels, masks.parts)
            predicted = expected_on(self.picture, expected)
        return replace(
            self._answer(graded),
            labels=masks.labels,
            parts=masks.parts,
            expected_labels=expected_in(volume, expected) if with_expected else None,
            masks_on_reformat=shown,
            expected_on_reformat=predicted,
        )

    def refused(self, refusal: Refusal) -> CtAnswer:
        """The answer "not evaluable"."""
        findings = self._findings(grading.patient_finding((), self.settings.screening.rule), ())
        return CtAnswer(replace(findings, refusal=refusal), self.picture, self.coronal)

    def _look_at_headers(self, age_years: float | None) -> None:
        """What age and spacing allow to be said."""
        rule = self.settings.screening.rule
        if age_years is None:
            self.quality += (Quality.AGE_UNKNOWN,)
        elif age_years < ADULT_YEARS:
            raise _RefusedError(RefusalCode.AGE_BELOW_18)
        elif age_years < self.settings.screening.screening_age_years:
            self.quality += (Quality.OUTSIDE_SCREENING_AGE,)
        thickest = self.settings.thickest_mm if self.settings.labelling is not None else rule.coarse_spacing_mm
        if self.spacing_mm > thickest + 1e-6:
            raise _RefusedError(RefusalCode.SLICES_TOO_THICK, f"({self.spacing_mm:.1f} mm.)")
        if not rule.heights_are_told(self.spacing_mm):
            self.quality += (Quality.HEIGHTS_NOT_TOLD,)
        elif not rule.mild_is_told(self.spacing_mm):
            self.quality += (Quality.COARSE_SPACING,)

    def _measured(self, volume: Volume, line: CentreLine, straight: Straightening) -> list[Placed]:
        """Vertebrae with their six points, head to feet; none where slices are too thick to tell heights."""
        settings = self.settings.screening
        if not settings.rule.heights_are_told(self.spacing_mm):
            return []
        found = screening.detected(straight.picture(volume), self.models, settings)
        return [
            Placed(screening.measured(volume, line, straight, d, self.spacing_mm, settings), float(d.centre[0]))
            for d in found
        ]

    def _named(self, volume: Volume, line: CentreLine, straight: Straightening, measured: list[Placed]) -> Joined:
        """The measured vertebrae with their names, and those that were seen without their end plates."""
        if self.settings.labelling is None:
            return join(measured, (), (), NamedSequence((), (), (), None, ()))
        box = detection.box_along(line, volume)
        seen = labelling.candidates(volume, box, self.models, self.settings.labelling)
        candidates = confirmed(seen, measured)
        sequence = numbering.number(candidates, self.settings.numbering)
        places = [float(straight.to_grid(c.centroid_lps_mm)[0]) for c in candidates]
        return join(measured, candidates, places, sequence)

    def _need_enough(self, measured: list[Placed], joined: Joined) -> None:
        """A single vertebra may be a ventricle of the heart: it is told by its neighbours."""
        told = self.settings.screening.rule.heights_are_told(self.spacing_mm)
        count = len(measured) if told else len(joined.vertebrae)
        if count < self.settings.screening.least_vertebrae:
            code = RefusalCode.TOO_LITTLE_SPINE if count else RefusalCode.NO_VERTEBRA_FOUND
            raise _RefusedError(code, "(A vertebra is told from other bright bodies by its neighbours.)")
        if told and not any(p.vertebra.heights_mm for p in measured):
            raise _RefusedError(RefusalCode.NO_VERTEBRA_FOUND)

    def _segmented(
        self, volume: Volume, joined: Joined
    ) -> tuple[tuple[Vertebra, ...], list[float], VertebraMasks | None]:
        """Vertebrae with volumes and mask heights; whatever has neither end plates nor a mask is dropped."""
        if self.settings.masks is None:
            return joined.vertebrae, list(joined.places_mm), None
        centroids = np.array([v.centroid_lps_mm for v in joined.vertebrae])
        masks = segment(volume, centroids, self.models, self.settings.masks)
        kept = [
            n
            for n, v in enumerate(joined.vertebrae)
            if v.keypoints_lps_mm is not None or np.isfinite(masks.volumes_ml[n, 0])
        ]
        masks = masks.only(kept)
        boxes = find_objects(masks.labels, max_label=len(kept)) if kept else []
        vertebrae = tuple(
            self._with_mask(volume, replace(joined.vertebrae[k], ordinal=n + 1), masks, n, boxes[n])
            for n, k in enumerate(kept)
        )
        return vertebrae, [joined.places_mm[k] for k in kept], masks

    def _with_mask(
        self, volume: Volume, vertebra: Vertebra, masks: VertebraMasks, n: int, box: tuple[slice, ...] | None
    ) -> Vertebra:
        """Vertebra ``n`` with what its mask, which lies in ``box``, gives and contradicts."""
        if box is None or not np.isfinite(masks.volumes_ml[n, 0]):
            return replace(vertebra, quality=(*vertebra.quality, Quality.NO_MASK, *_foreign_material(volume, vertebra)))
        body_mask = (masks.labels[box] == n + 1) & (masks.parts[box] == BODY)
        if densitometry.holds_foreign_material(volume, body_mask, box):
            vertebra = replace(vertebra, quality=(*vertebra.quality, Quality.FOREIGN_MATERIAL))
        if masks.partial[n]:
            return replace(vertebra, quality=(*vertebra.quality, Quality.MASK_CUT))
        whole, body = (float(v) for v in masks.volumes_ml[n])
        vertebra = replace(vertebra, vertebra_volume_ml=whole, body_volume_ml=body if body > 0 else None)
        if vertebra.keypoints_lps_mm is None or vertebra.heights_mm is None:
            return vertebra
        points = np.array([getattr(vertebra.keypoints_lps_mm, name) for name in KEYPOINTS])
        heights = body_surface_heights(volume, masks, n + 1, points.mean(axis=0), frame_of(points))
        if heights is None:
            return vertebra
        differences = np.abs(np.subtract(heights.as_tuple(), vertebra.heights_mm.as_tuple()))
        allowed = self.settings.mask_agreement * (vertebra.height_uncertainty_mm or 0.0)
        quality = (Quality.MASK_DISAGREES,) if differences.max() > allowed else ()
        return replace(vertebra, mask_heights_mm=heights, quality=(*vertebra.quality, *quality))

    def _missing(self, vertebrae: tuple[Vertebra, ...]) -> list[int]:
        """How many vertebrae were not seen between each and the next one."""
        apart = gaps.by_distance(np.array([v.centroid_lps_mm for v in vertebrae]))
        absent = self.numbering.absent if self.numbering is not None else ()
        return gaps.missing_between([v.level for v in vertebrae], apart, absent)

    def _scored(
        self, volume: Volume, vertebrae: tuple[Vertebra, ...], masks: VertebraMasks, bodies: list[Body]
    ) -> tuple[tuple[Vertebra, ...], dict[int, abnormality.Expected]]:
        """Vertebrae with their scores, and the expected bodies by ordinal.

        Beside cement and metal no mask is trusted: no score of its own, and no sound context for others.
        """
        settings = self.settings.abnormality
        if settings is None or not self.settings.screening.rule.heights_are_told(self.spacing_mm):
            return vertebrae, {}
        metal = {v.ordinal for v in vertebrae if not grading.UNGRADED.isdisjoint(v.quality)}
        chosen = [n for n, body in enumerate(bodies) if body.number not in metal]
        bodies = [replace(body, fractured=True) if body.number in metal else body for body in bodies]
        said = score_bodies(masks.labels, masks.parts, volume.affine, bodies, self.models, settings, chosen)
        of = {body.number: one for body, one in zip(bodies, said, strict=True) if one.score is not None}
        scored = tuple(replace(v, abnormality_score=of[v.ordinal].score) if v.ordinal in of else v for v in vertebrae)
        return scored, {number: one.expected for number, one in of.items() if one.expected is not None}

    def _with_density(
        self, volume: Volume, vertebrae: tuple[Vertebra, ...], masks: VertebraMasks, bodies: list[Body]
    ) -> tuple[Vertebra, ...]:
        """Vertebrae with their attenuation; none beside metal, whose streaks reach into the body.

        That of a body which was not measured is flagged: a deformed one has none, and nobody knows whether it is one.
        """
        if not self.settings.screening.rule.heights_are_told(self.spacing_mm):
            return vertebrae
        metal = {v.ordinal for v in vertebrae if Quality.METAL in v.quality}
        bodies = [replace(body, fractured=True) if body.number in metal else body for body in bodies]
        said = densitometry.trabecular_hu(volume, masks.labels, masks.parts, bodies)
        of = {body.number: one for body, one in zip(bodies, said, strict=True)}
        if any(one.mean_hu is not None for one in said):
            self.quality += densitometry.acquisition_quality(self.acquisition)
        return tuple(
            replace(
                v,
                trabecular_mean_hu=of[v.ordinal].mean_hu,
                quality=tuple(dict.fromkeys((*v.quality, *of[v.ordinal].quality, *_unknown(v, of[v.ordinal].mean_hu)))),
            )
            for v in vertebrae
        )

    def _answer(self, vertebrae: tuple[Vertebra, ...]) -> CtAnswer:
        patient = grading.patient_finding(vertebrae, self.settings.screening.rule)
        return CtAnswer(self._findings(patient, vertebrae), self.picture, self.coronal)

    def _findings(self, patient: PatientFinding, vertebrae: tuple[Vertebra, ...]) -> Findings:
        known = self.numbering is not None and self.numbering.known
        return Findings(
            pipeline=PIPELINE,
            pipeline_version=PIPELINE_VERSION,
            provider=self.models.provider,
            models=self.models.identities,
            patient=patient,
            vertebrae=vertebrae,
            spine_found=self.spine_found,
            numbering=self.numbering,
            acquisition=self.acquisition,
            quality=self.quality if known else (Quality.LEVELS_UNKNOWN, *self.quality),
            spacing_along_spine_mm=self.spacing_mm,
            timings_s=dict(self.step.timings_s),
        )


def _foreign_material(volume: Volume, vertebra: Vertebra) -> tuple[Quality, ...]:
    """Cement told by the six points, where there is no mask to tell it."""
    if vertebra.keypoints_lps_mm is None:
        return ()
    points = np.array([getattr(vertebra.keypoints_lps_mm, name) for name in KEYPOINTS])
    dense = densitometry.foreign_material_between(volume, points, frame_of(points)[0])
    return (Quality.FOREIGN_MATERIAL,) if dense else ()


def frame_of(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3), rows left, back and up of a vertebra in LPS, from its six points (6, 3) in the order of `KEYPOINTS`."""
    up = (points[0::2] - points[1::2]).mean(axis=0)
    up = up / np.linalg.norm(up)
    back = points[4:6].mean(axis=0) - points[0:2].mean(axis=0)
    back = back - (back @ up) * up
    back = back / np.linalg.norm(back)
    return np.stack([np.cross(back, up), back, up])


NO_PLACE = 255
"""Label that no vertebra bears: it keeps the place of one that was not seen."""
LOW_RATIO = 0.6
"""An ungraded vertebra of this ratio G or less counts as deformed."""


def _bodies(vertebrae: tuple[Vertebra, ...], masks: VertebraMasks, missing: list[int]) -> list[Body]:
    """Bodies head to feet, with empty places where vertebrae are missing between two that are no neighbours.

    A body that was not measured is no context for others: nobody knows whether it is sound. Nor is what is likely the
    sacrum, which has no score either.
    """
    out = []
    for n, vertebra in enumerate(vertebrae):
        likely_sacrum = Quality.LIKELY_SACRUM in vertebra.quality
        out.append(
            Body(
                vertebra.ordinal,
                Level.S1 if likely_sacrum else vertebra.level,
                fractured=_is_deformed(vertebra),
                partial=bool(masks.partial[n]),
                context=_is_measured(vertebra) and not likely_sacrum,
            )
        )
        out += [Body(NO_PLACE, partial=True)] * (missing[n] if n < len(missing) else 0)
    return out


def _is_measured(vertebra: Vertebra) -> bool:
    """Whether it is known to be deformed or not."""
    return vertebra.height_ratio is not None


def _unknown(vertebra: Vertebra, mean_hu: float | None) -> tuple[Quality, ...]:
    return (Quality.SHAPE_UNKNOWN,) if mean_hu is not None and not _is_measured(vertebra) else ()


def _is_deformed(vertebra: Vertebra) -> bool:
    """Whether it is known to have lost height, also where no grade is told: no sound context for others, no density of
    its own. Of one that was not measured nothing is known (`_is_measured`)."""
    graded = vertebra.grade is not None and vertebra.grade is not Grade.NORMAL
    lost = vertebra.height_loss is not None and max(vertebra.height_loss.as_tuple()) >= grading.DEFORMED_LOSS
    low = vertebra.grade is None and vertebra.height_loss is None and (vertebra.height_ratio or 1.0) <= LOW_RATIO
    return graded or lost or low
