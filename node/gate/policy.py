"""Every threshold and word list of the gate, in one place (those of radiographs: :mod:`node.gate.film_words`).

A site changes them in its configuration; nothing else in this package holds a number that a site might want to change.
"""
# ruff: noqa: SIM905 - word lists read better as words than as quoted literals

from __future__ import annotations

from dataclasses import dataclass

from node.gate import film_words
from node.gate.kernels import KERNEL_RULES, KernelRule

SPINE_BODY_PARTS = frozenset(
    """SPINE CSPINE TSPINE LSPINE SSPINE CTSPINE TLSPINE LSSPINE CERVICALSPINE THORACICSPINE LUMBARSPINE WHOLESPINE
    CHEST THORAX ABDOMEN PELVIS ABDOMENPELVIS CHESTABDOMEN CHESTABDPELVIS CHESTABDOMENPELVIS THORAXABDOMEN ABDPELV
    ABDPEL CAP TAP TRUNK WHOLEBODY BODY HEART LUNG LIVER KIDNEY PANCREAS COLON SACRUM LUMBOSACRALSPINE""".split()
)
"""Values of Body Part Examined (letters only, upper case) with which a spine is in view (PS3.16 annex L)."""

OTHER_BODY_PARTS = frozenset(
    """HEAD BRAIN SKULL HEADNECK NECK FACE ORBIT ORBITS SINUS JAW MAXILLA MANDIBLE EAR IAC TMJ EXTREMITY ARM LEG HAND
    WRIST ELBOW SHOULDER KNEE ANKLE FOOT HIP FEMUR FINGER TOE THUMB HEEL FOREARM HUMERUS CLAVICLE BREAST""".split()
)
"""Values that speak against a spine worth measuring; the description of the series itself may still overrule them."""

SPINE_WORDS = (
    r"\bspin(e|al)|vertebra|lumb|lomb|thora|torax|\bdorsal|sacr",
    r"wirbel|\b[bhl]ws\b|rachis|colonn|columna|rygg",
    r"\bchest|\blung|\bpulm|\babd|\bpelv|\bpel\b|bauch|becken|\bcap\b|\btap\b|\btrunk|whole.?body|ganzk|\bpe\b",
)
"""Searched, whatever the case, in descriptions and protocol names; any hit means that a spine is expected."""

PROJECTION_WORDS = (r"(?<![a-z])(mip|minip)(?![a-z])",)
"""Series descriptions of projections whose ImageType does not say so."""


@dataclass(frozen=True)
class GatePolicy:
    """What the gate accepts and prefers.

    Attributes
    ----------
    all_series
        Answer every eligible series instead of one per study.
    thin_spacing_mm, max_spacing_mm
        Spacing along the normal up to which a series counts as thin, and above which nothing is evaluated
        (heights end at 3 mm already: the quantised edges of thicker slices make a normal vertebra look deformed).
    vertebra_mm
        Series whose coverage is less than this below the largest one lack no vertebra of it, and the finest of them is
        preferred.
    spacing_slack_mm
        Rounding of headers that the two limits forgive.
    min_images, min_coverage_mm
        Fewer distinct positions, or a shorter stack, cannot hold one whole vertebra: not eligible.
    min_block_mm
        A series that falls into blocks is answered from its longest one if that is at least so long (four lumbar or
        five thoracic vertebrae, so that a vertebra has references above and below); else not evaluable.
    position_tolerance_mm, position_tolerance_fraction
        How far a slice may lie from the regular grid: the larger of the two (fraction of the spacing).
    duplicate_tolerance_mm
        Closer slices lie at the same position.
    orientation_tolerance
        Largest difference of a direction cosine between images of one block.
    orthonormal_tolerance
        Largest error of the length of, and of the angle's cosine between, the two direction vectors.
    tilt_threshold_deg, max_tilt_deg
        Angle between the slices' normal and the way they are stacked from which a series counts as tilted, and above
        which it is refused.
    max_axial_angle_deg
        Largest angle between the slices' normal and the patient's long axis.
    max_matrix, max_voxels, max_film_pixels
        Larger images, volumes or radiographs are refused before anything is allocated.
    decoding_processes
        How many decode compressed images where that pays; 0: one for each core.
    films
        Whether radiographs can be analysed here; else they are not eligible.
    lateral_chest
        Whether lateral chest radiographs are looked at, too.
    for_processing
        Whether a detector's own image is answered, with a flag, where the one that is read did not come.
    min_age_years
        Younger patients are not evaluated.
    own_manufacturers, own_creator_uids, own_description
        How our own results are known again (the last a regular expression of the series description), also after an
        archive changed their UIDs.
    spine_body_parts, other_body_parts, spine_words, site_spine_words, projection_words, kernel_rules
        Word lists, see above; those that begin with ``film`` are of radiographs. ``site_spine_words`` are a site's own
        regular expressions, searched in descriptions, protocol names and body part; a hit always means that a spine is
        expected.
    """

    all_series: bool = False
    thin_spacing_mm: float = 1.5
    max_spacing_mm: float = 5.0
    vertebra_mm: float = 20.0
    spacing_slack_mm: float = 0.01
    min_images: int = 8
    min_coverage_mm: float = 30.0
    min_block_mm: float = 120.0
    position_tolerance_mm: float = 0.051
    position_tolerance_fraction: float = 0.01
    duplicate_tolerance_mm: float = 0.01
    orientation_tolerance: float = 1e-3
    orthonormal_tolerance: float = 1e-3
    tilt_threshold_deg: float = 0.5
    max_tilt_deg: float = 45.0
    max_axial_angle_deg: float = 45.0
    max_matrix: int = 4096
    max_voxels: int = 2_000_000_000
    max_film_pixels: int = 40_000_000
    decoding_processes: int = 0
    films: bool = True
    lateral_chest: bool = False
    for_processing: bool = False
    min_age_years: float = 18.0
    own_manufacturers: tuple[str, ...] = ("spine-node",)
    own_creator_uids: tuple[str, ...] = ()
    own_description: str = r"^AI (spine:|VIRTUALLY HEALED)"
    spine_body_parts: frozenset[str] = SPINE_BODY_PARTS
    other_body_parts: frozenset[str] = OTHER_BODY_PARTS
    spine_words: tuple[str, ...] = SPINE_WORDS
    site_spine_words: tuple[str, ...] = ()
    projection_words: tuple[str, ...] = PROJECTION_WORDS
    film_spine_parts: frozenset[str] = film_words.SPINE_PARTS
    film_chest_parts: frozenset[str] = film_words.CHEST_PARTS
    film_other_parts: frozenset[str] = OTHER_BODY_PARTS | film_words.OTHER_PARTS
    film_level_words: str = film_words.LEVEL_WORDS
    film_spine_words: str = film_words.SPINE_WORDS
    film_spurious_spines: str = film_words.SPURIOUS_SPINES
    film_neck_words: str = film_words.NECK_WORDS
    film_chest_words: str = film_words.CHEST_WORDS
    film_other_words: str = film_words.OTHER_WORDS
    kernel_rules: tuple[KernelRule, ...] = KERNEL_RULES
