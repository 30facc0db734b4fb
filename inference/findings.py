"""What a pipeline found, in the field's own terms. Frozen: a finding is a statement, not a workspace.

Lengths end in ``_mm``, volumes in ``_ml``, attenuation in ``_hu``, times in ``_s``. Points are patient coordinates
(LPS: +x to the patient's left, +y to the back, +z to the head), in mm; those of a radiograph are pixels of its image,
and end in ``_px``. What was not measured is ``None``, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from inference.refusal import Refusal

Point = tuple[float, float, float]
"""(x, y, z) in mm, LPS."""
FLAG_LOSS = 0.25
"""Loss of height from which a graded vertebra flags the patient, where a site does not choose another."""
PointPx = tuple[float, float]
"""(column, row) on a radiograph as it was sent; the first pixel's centre is (0.5, 0.5), as in SCOORD (PS3.3 C.18.6)."""


class Level(StrEnum):
    """Anatomical level. L6 and T13 are levels of their own and never renamed."""

    C1 = "C1"
    C2 = "C2"
    C3 = "C3"
    C4 = "C4"
    C5 = "C5"
    C6 = "C6"
    C7 = "C7"
    T1 = "T1"
    T2 = "T2"
    T3 = "T3"
    T4 = "T4"
    T5 = "T5"
    T6 = "T6"
    T7 = "T7"
    T8 = "T8"
    T9 = "T9"
    T10 = "T10"
    T11 = "T11"
    T12 = "T12"
    T13 = "T13"
    L1 = "L1"
    L2 = "L2"
    L3 = "L3"
    L4 = "L4"
    L5 = "L5"
    L6 = "L6"
    S1 = "S1"


class Grade(StrEnum):
    """Severity of vertebral height loss; ``None`` stands where nothing may be said."""

    NORMAL = "normal"
    MILD = "mild"
    MODERATE = "moderate"
    SEVERE = "severe"

    @property
    def rank(self) -> int:
        """0 for normal to 3 for severe."""
        return list(Grade).index(self)


class Quality(StrEnum):
    """Reasons to read a number with care. Those of the whole answer stand in ``Findings.quality``."""

    G_ONLY = "G_ONLY"
    """Graded from its own height ratio: no whole, undeformed reference above and below."""
    MILD_NOT_REPORTED = "MILD_NOT_REPORTED"
    """A loss of .20 to .25 at a spacing that cannot tell it from a normal vertebra."""
    LOW_CONFIDENCE = "LOW_CONFIDENCE"
    """The network was unsure of this vertebra or of one of its key points."""
    PARTIAL = "PARTIAL"
    """Cut by the edge of the field of view: not measured."""
    NEAR_EDGE = "NEAR_EDGE"
    """A key point lies within one slice of the edge of the field of view."""
    OFF_CENTRE_LINE = "OFF_CENTRE_LINE"
    """The centre line is unsure at this vertebra."""
    COARSE_SPACING = "COARSE_SPACING"
    """Spacing along the spine above 1.5 mm: the uncertainty of each height is larger."""
    HEIGHTS_NOT_TOLD = "HEIGHTS_NOT_TOLD"
    """Spacing along the spine above 3 mm: vertebrae are named and segmented, their heights not measured."""
    METAL = "METAL"
    """Metal or cement (above 1,800 HU) in or beside the body."""
    OUTSIDE_SCREENING_AGE = "OUTSIDE_SCREENING_AGE"
    AGE_UNKNOWN = "AGE_UNKNOWN"
    LOSSY_SOURCE = "LOSSY_SOURCE"
    TILT_CORRECTED = "TILT_CORRECTED"
    SPLIT_SERIES = "SPLIT_SERIES"
    """Only the largest consistent block of the series was analysed."""
    LEVELS_UNKNOWN = "LEVELS_UNKNOWN"
    """Vertebrae are counted from the top of the image; no anatomical level is claimed."""
    NOT_NAMED = "NOT_NAMED"
    """Found by its end plates, but not among the vertebrae that were named."""
    NO_END_PLATES = "NO_END_PLATES"
    """Seen and perhaps segmented, but its end plates were not found: no heights."""
    NO_MASK = "NO_MASK"
    """Found by its end plates, but not segmented."""
    MASK_CUT = "MASK_CUT"
    """A part of the vertebra lies outside the field of view: no volumes."""
    MASK_DISAGREES = "MASK_DISAGREES"
    """Heights from the mask and from the end plate points differ by more than their stated error allows."""
    CONTRAST_AGENT = "CONTRAST_AGENT"
    """Contrast agent was given: it raises the attenuation of bone."""
    CONTRAST_UNKNOWN = "CONTRAST_UNKNOWN"
    KVP_NOT_120 = "KVP_NOT_120"
    """Another tube voltage than 120 kV: attenuation is not comparable."""
    KVP_UNKNOWN = "KVP_UNKNOWN"
    SHARP_KERNEL = "SHARP_KERNEL"
    """An edge-enhancing kernel: noise and edges shift mean attenuation."""
    KERNEL_UNKNOWN = "KERNEL_UNKNOWN"
    CORE_TOO_SMALL = "CORE_TOO_SMALL"
    """Too little trabecular bone lies far enough from the surface: no attenuation."""
    CORE_UNEVEN = "CORE_UNEVEN"
    """Mean and median of the trabecular core differ: a bone island, sclerosis or a streak moves the mean."""
    FOREIGN_MATERIAL = "FOREIGN_MATERIAL"
    """Cement or metal in the body: neither grade nor attenuation."""
    UNCALIBRATED = "UNCALIBRATED"
    """The size of a radiograph's pixels at the spine is not known: ratios only, no millimetres."""
    FOR_PROCESSING = "FOR_PROCESSING"
    """A radiograph as the detector gave it, without the maker's processing for reading."""
    WINDOW_OVERRULED = "WINDOW_OVERRULED"
    """Window or VOI LUT of a radiograph's header show almost nothing: the range of its values was shown instead."""
    FRONT_UNSURE = "FRONT_UNSURE"
    """On which side of a radiograph the patient's front lies is not sure: nothing that needs to know it is told."""
    HEAD_UNSURE = "HEAD_UNSURE"
    """Which end of a radiograph is the head is not sure: vertebrae, and upper and lower points, may be exchanged."""
    HEADER_CONTRADICTED = "HEADER_CONTRADICTED"
    """A radiograph's header says otherwise of head or front than its pixels show; what they show was believed."""
    GAP_BELOW = "GAP_BELOW"
    """At least one vertebra that was not seen lies between this one and the next one below: by their names where both
    have one, else by the distance."""
    LIKELY_SACRUM = "LIKELY_SACRUM"
    """Has no name and looks like the first vertebra of the sacrum, or lies below it: no grade, and no reference."""
    SHAPE_UNKNOWN = "SHAPE_UNKNOWN"
    """Attenuation of a body whose heights were not measured: were it deformed, it would have none."""
    DOUBLE_CONTOUR = "DOUBLE_CONTOUR"
    """An end plate shows twice on a radiograph: it was met obliquely, and its height may be of either line."""


KEYPOINTS = (
    "anterior_superior",
    "anterior_inferior",
    "middle_superior",
    "middle_inferior",
    "posterior_superior",
    "posterior_inferior",
)
"""Order of the six key points wherever they are rows of an array."""


@dataclass(frozen=True)
class Keypoints:
    """The six end plate points of one vertebral body, each (x, y, z) in mm, LPS."""

    anterior_superior: Point
    anterior_inferior: Point
    middle_superior: Point
    middle_inferior: Point
    posterior_superior: Point
    posterior_inferior: Point


@dataclass(frozen=True)
class Heights:
    """One value per part of the vertebral body; mm, or a fraction where it is a loss."""

    anterior: float
    middle: float
    posterior: float

    def as_tuple(self) -> tuple[float, float, float]:
        """(anterior, middle, posterior)."""
        return (self.anterior, self.middle, self.posterior)


@dataclass(frozen=True)
class WithoutSide:
    """What can be told of a vertebra on a radiograph whose front may be on either side (``FRONT_UNSURE``).

    Attributes
    ----------
    middle_mm
        Middle height; ``None`` where the radiograph is not calibrated.
    middle_loss, wall_loss
        1 - measured / expected from the neighbours, of the middle height and of that wall which lost more; ``None``
        without references.
    """

    middle_mm: float | None
    middle_loss: float | None
    wall_loss: float | None


@dataclass(frozen=True)
class Acquisition:
    """What the headers say of how attenuation came about; ``None`` where they say nothing.

    Attributes
    ----------
    kvp
        Tube voltage in kV.
    contrast
        Whether contrast agent was given.
    kernel
        The manufacturer's name of the reconstruction kernel.
    sharp_kernel
        Whether it enhances edges.
    """

    kvp: float | None = None
    contrast: bool | None = None
    kernel: str | None = None
    sharp_kernel: bool | None = None


@dataclass(frozen=True)
class VertebraFinding:
    """One vertebra, counted from the top of the image.

    Attributes
    ----------
    ordinal
        1 for the uppermost vertebra found.
    level, level_confidence
        Anatomical level and its probability; ``None`` when not known.
    centroid_lps_mm, centroid_px
        Centre of the vertebral body; of a volume the former, of a radiograph the latter: exactly one of them.
    keypoints_lps_mm, keypoints_px
        The six end plate points, of a radiograph by their names (`KEYPOINTS`, the middle two alone with
        ``FRONT_UNSURE``); ``None`` when the vertebra was seen but not measured.
    heights_mm
        Distances between the superior and inferior point of each pair.
    height_ratio
        G = min / max of the three heights (Pisov et al. 2020, eq. 1).
    relative_heights
        Heights of a radiograph over the own posterior height (which is 1): what can be said without millimetres.
    height_loss
        1 - measured / expected from the neighbours, per part (rule ``height-loss/1`` of `inference.grading`).
    height_uncertainty_mm
        Stated error (one standard deviation) of each height: by the spacing and, of a radiograph, by what the network
        expects.
    grade, rule
        The grade and the rule that gave it; grade ``None`` where nothing may be said.
    compression_ratio_percent, compared_with
        Of a radiograph: 1 - anterior height / mean anterior height of both neighbours, in per cent; negative where the
        vertebra is the taller one, ``None`` without two neighbours. And the ordinals of the two: where a neighbour is
        deformed itself the next healthy vertebra takes its place, and the mean is weighted by distance.
    without_side
        Of a radiograph with ``FRONT_UNSURE``: it takes the place of heights, losses and the outer four points, since
        nobody knows which of them are anterior. ``height_ratio`` and ``grade`` need no side and are told.
    mask_heights_mm, mask_relative_heights
        Heights of the body's mask: a second opinion beside the six points, never graded. Of a radiograph over the
        mask's own posterior height as well, since most have no millimetres.
    abnormality_score
        0 (the shape that the neighbours predict) to 100 (Botros et al. 2022); ``None`` where it may not be said.
    vertebra_volume_ml, body_volume_ml
        Of the mask as it is sent: its voxels, counted.
    trabecular_mean_hu
        Mean attenuation of the trabecular core, T11 to L5.
    confidence
        0 to 1, of the detection.
    """

    ordinal: int
    centroid_lps_mm: Point | None = None
    keypoints_lps_mm: Keypoints | None = None
    heights_mm: Heights | None = None
    height_ratio: float | None = None
    height_loss: Heights | None = None
    height_uncertainty_mm: float | None = None
    grade: Grade | None = None
    rule: str | None = None
    level: Level | None = None
    level_confidence: float | None = None
    centroid_px: PointPx | None = None
    keypoints_px: dict[str, PointPx] | None = None
    relative_heights: Heights | None = None
    compression_ratio_percent: float | None = None
    compared_with: tuple[int, int] | None = None
    without_side: WithoutSide | None = None
    mask_heights_mm: Heights | None = None
    mask_relative_heights: Heights | None = None
    abnormality_score: float | None = None
    vertebra_volume_ml: float | None = None
    body_volume_ml: float | None = None
    trabecular_mean_hu: float | None = None
    confidence: float = 0.0
    quality: tuple[Quality, ...] = ()

    def __post_init__(self) -> None:
        if (self.centroid_lps_mm is None) == (self.centroid_px is None):
            raise ValueError(f"vertebra {self.ordinal} has one centre: in the patient, or on a radiograph")

    @property
    def name(self) -> str:
        """The level where it is known, else V and the ordinal: "L1", "V3"."""
        return str(self.level) if self.level is not None else f"V{self.ordinal}"


@dataclass(frozen=True)
class PatientFinding:
    """The verdict on the patient.

    Attributes
    ----------
    worst_grade
        Of the graded vertebrae.
    flag
        ``None`` when not evaluable.
    rule
        What the grades mean.
    flag_loss
        The site's cut-off of the flag: it moves the flag, never a grade.
    """

    worst_grade: Grade | None
    flag: bool | None
    rule: str
    flag_loss: float = FLAG_LOSS


@dataclass(frozen=True)
class Numbering:
    """How levels were counted.

    Attributes
    ----------
    anchor
        What they were counted from, in words: "sacrum", "last rib and sacrum", "C2". Empty where no anchor was seen:
        then the numbering is not known, no vertebra has a level, and only alternatives are given.
    confidence
        Probability of the whole numbering; 0 where it is not known.
    alternatives
        Other numberings in words, each with its probability: "T13 to L5, T13 (0.06)".
    absent
        T12 or L5 where the spine in view lacks it by this numbering: nobody will see it, which is not "not seen".
    """

    anchor: str
    confidence: float
    alternatives: tuple[str, ...] = ()
    absent: tuple[Level, ...] = ()

    @property
    def known(self) -> bool:
        """Whether levels are claimed."""
        return bool(self.anchor) and self.confidence > 0


@dataclass(frozen=True)
class PixelSize:
    """How large a radiograph's pixels are in the plane of the spine.

    Attributes
    ----------
    spacing_mm
        (row, column); ``None`` where it is not known.
    source
        Where it comes from, or why it is not known, in words.
    """

    spacing_mm: tuple[float, float] | None
    source: str


@dataclass(frozen=True)
class ModelIdentity:
    """A model as an auditor needs it."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Findings:
    """The answer of one pipeline to one series, or to one radiograph.

    ``refusal`` is set exactly when the answer is "not evaluable"; then ``vertebrae`` is empty and the flag ``None``.
    """

    pipeline: str
    pipeline_version: str
    provider: str | None
    models: tuple[ModelIdentity, ...]
    patient: PatientFinding
    vertebrae: tuple[VertebraFinding, ...] = ()
    refusal: Refusal | None = None
    spine_found: bool = False
    numbering: Numbering | None = None
    acquisition: Acquisition | None = None
    quality: tuple[Quality, ...] = ()
    spacing_along_spine_mm: float | None = None
    pixel_size: PixelSize | None = None
    timings_s: dict[str, float] = field(default_factory=dict)

    @property
    def evaluable(self) -> bool:
        """Whether anything was measured."""
        return self.refusal is None
