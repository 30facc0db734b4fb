"""What is drawn at random, and how widely. A plain frozen dataclass: an evaluation set keeps its own copy as JSON.

A pair is ``(low, high)`` of a uniform draw unless the comment says otherwise; a single number is a probability, or a
factor. Lengths in mm, angles in degrees, attenuation in HU.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

Pair = tuple[float, float]


@dataclass(frozen=True)
class Ranges:
    """Every parameter of anatomy and acquisition that ``sample_patient`` and ``acquire`` draw."""

    # levels
    thoracic_variant: float = 0.06
    """Probability of 11 or 13 thoracic vertebrae instead of 12 (each half of it)."""
    lumbar_variant: float = 0.10
    """Probability of 4 or 6 lumbar vertebrae instead of 5 (each half of it)."""
    sacralised: float = 0.0
    """Probability that the last lumbar vertebra has grown together with the sacrum: broad transverse processes that
    reach the alae, and a remnant of a disc."""
    size: Pair = (0.86, 1.14)
    """Overall scale of the skeleton."""

    # curvature
    kyphosis_spread: Pair = (0.5, 1.5)
    """Factor on the mean tilts (T1 -23, L1 +11)."""
    tilt_noise_deg: float = 2.0
    """Standard deviation of the tilt of each vertebra about the smooth curve."""
    scoliosis: float = 0.35
    """Probability of a Cobb angle within ``cobb_deg``; else below 8."""
    cobb_deg: Pair = (8.0, 45.0)
    sacral_slope_deg: Pair = (22.0, 52.0)

    # shape and deformity
    ratio_middle_posterior: Pair = (0.851, 0.042)
    """Thoracic h_m/h_p of undeformed vertebrae: mean and standard deviation."""
    ratio_anterior_posterior: Pair = (0.922, 0.058)
    """Thoracic h_a/h_p of undeformed vertebrae: mean and standard deviation."""
    deformed_patient: float = 0.6
    """Probability that a patient has any deformed vertebra."""
    deformed_count: Pair = (1, 6)
    """Number of deformed vertebrae in such a patient (skewed to few)."""
    loss: Pair = (0.10, 0.70)
    """Loss of the part that loses most."""
    endplate_step: float = 0.15
    """Probability of a step in the end plate of a deformed vertebra; a tenth of it in others."""
    disc_ratio: Pair = (0.09, 0.28)
    """Thoracic disc to body height: 5 and 95 % (log-normal)."""
    osteophytes: float = 0.35

    # attenuation
    trabecular_hu: Pair = (20.0, 300.0)
    cortical_hu: Pair = (250.0, 1000.0)
    shell_mm: Pair = (0.4, 1.6)
    contrast: float = 0.6
    """Probability of contrast medium in vessels, heart and kidneys."""
    contrast_hu: Pair = (120.0, 540.0)
    soft_hu_shift: Pair = (-25.0, 25.0)
    clutter: Pair = (0, 8)
    """Number of random ellipsoids of ``contrast_hu`` in the trunk."""
    metal: float = 0.12
    cement: float = 0.06
    arms_down: float = 0.35

    # acquisition
    noise_hu: Pair = (3.0, 70.0)
    """Standard deviation, drawn log-uniformly."""
    blur_mm: Pair = (0.2, 1.4)
    """Standard deviation of the in-plane point spread."""
    slice_blur_mm: Pair = (0.2, 1.4)
    """Standard deviation of the slice sensitivity profile."""
    sharp_kernel: float = 0.3
    """Probability of an edge-enhancing kernel."""
    hu_offset: Pair = (-20.0, 20.0)
    bias: float = 0.2
    """Probability of a slow HU drift over the volume (up to 25 HU)."""
    round_fov: float = 0.3
    """Probability that what lies outside the reconstruction circle is padded."""

    # field of view (``sample_grid``)
    narrow_fov: float = 0.3
    narrow_fov_mm: Pair = (144.0, 190.0)
    posterior_margin: Pair = (0.06, 0.20)
    """Distance of the spine from the posterior edge, as a part of the field of view, where it is cropped there."""
    truncated_fov: float = 0.06
    """Probability that the spine leaves the field of view at the side or behind, in a part of the slices."""
    oblique_deg: Pair = (0.0, 0.0)
    """Rotation of the grid about a random axis (0 gives the canonical, axis-aligned grid)."""

    def to_json(self) -> str:
        """The ranges as JSON with sorted keys: equal ranges give equal text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Ranges:
        """Inverse of ``to_json``. An unknown name raises ``TypeError``: nothing is silently dropped."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise TypeError(f"ranges do not know {', '.join(sorted(unknown))}")
        return cls(**values)


TRAINING = Ranges(sacralised=0.06)

EVALUATION = Ranges(
    size=(0.82, 1.18),
    kyphosis_spread=(0.4, 1.8),
    cobb_deg=(8.0, 60.0),
    scoliosis=0.4,
    sacral_slope_deg=(18.0, 58.0),
    deformed_patient=0.5,
    trabecular_hu=(10.0, 330.0),
    cortical_hu=(220.0, 1100.0),
    noise_hu=(2.0, 90.0),
    blur_mm=(0.15, 1.6),
    hu_offset=(-30.0, 30.0),
    contrast_hu=(110.0, 600.0),
    soft_hu_shift=(-30.0, 30.0),
)
