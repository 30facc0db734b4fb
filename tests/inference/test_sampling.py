"""How finely a volume is sampled along the patient, however its grid lies."""

from __future__ import annotations

import numpy as np
import pytest

from inference.geometry import Volume
from inference.sampling import spacing_along_z_mm


def volume(between_slices_mm: float, pixel_mm: float, tilt_deg: float, sheared: bool = False) -> Volume:
    """Slices whose normal, and with it rows, are turned about the patient's x; ``sheared``: they step along z alone."""
    turn = np.radians(tilt_deg)
    normal, column = np.array([0.0, np.sin(turn), np.cos(turn)]), np.array([0.0, np.cos(turn), -np.sin(turn)])
    affine = np.eye(4)
    step = np.array([0.0, 0.0, between_slices_mm / np.cos(turn)]) if sheared else normal * between_slices_mm
    affine[:3, :3] = np.column_stack([step, column * pixel_mm, np.array([pixel_mm, 0.0, 0.0])])
    return Volume(np.zeros((4, 4, 4), np.int16), affine, "1.2.3")


@pytest.mark.parametrize("sheared", [False, True])
@pytest.mark.parametrize(("between_mm", "tilt_deg"), [(1.0, 0), (5.0, 12), (3.0, 20), (2.0, 20), (1.0, 30)])
def test_oblique_slices_are_no_finer_than_they_are_apart(between_mm: float, tilt_deg: float, sheared: bool) -> None:
    told = spacing_along_z_mm(volume(between_mm, 0.7, tilt_deg, sheared))
    assert told == pytest.approx(between_mm / np.cos(np.radians(tilt_deg)), rel=1e-6)


def test_rows_that_run_along_the_patient_are_what_counts() -> None:
    told = spacing_along_z_mm(volume(3.0, 0.7, 90))
    assert told == pytest.approx(0.7)
