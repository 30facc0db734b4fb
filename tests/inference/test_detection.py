"""The box of the spine from its ridge, and the small sampling helpers, whichever way the grid lies."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.canonical import canonical, cropped, network_input, reduced
from inference.detection import GRID_MM, MULTIPLE, DetectionSettings, SpineBox, box_of, detect
from inference.geometry import Volume
from inference.refusal import Refusal, RefusalCode
from inference.runtime import Models


def ridge(depth: int = 40, height: int = 30, width: int = 30, spine: range | None = None) -> NDArray[np.float64]:
    out = np.zeros((depth, height, width))
    rows, columns = np.mgrid[:height, :width]
    for k in spine if spine is not None else range(5, 35):
        j, i = 18 + 0.1 * k, 14 + 2 * np.sin(k / 9)
        out[k] = np.exp(-0.5 * ((rows - j) ** 2 + (columns - i) ** 2) * (GRID_MM / 9.0) ** 2)
    return out


def test_the_line_follows_the_ridge_and_the_box_holds_it() -> None:
    box = box_of(ridge(), np.array([-90.0, -100.0, 300.0]), (60.0, 306.0), DetectionSettings())
    assert isinstance(box, SpineBox)
    z = box.line_lps_mm[:, 2]
    assert np.all(np.diff(z) < 0)
    assert (z[0], z[-1]) == (270.0, 96.0)
    k = (300.0 - z) / GRID_MM
    truth = np.column_stack([-90 + GRID_MM * (14 + 2 * np.sin(k / 9)), -100 + GRID_MM * (18 + 0.1 * k)])
    assert np.abs(box.line_lps_mm[:, :2] - truth).max() < 2.0
    assert np.all(box.lower_lps_mm < box.line_lps_mm.min(axis=0))
    assert np.all(box.upper_lps_mm > box.line_lps_mm.max(axis=0))
    assert box.lower_lps_mm[2] == 60.0  # never beyond the images
    assert 0.9 < box.confidence <= 1.0


def test_a_short_interruption_is_passed_over_and_a_far_second_piece_is_not() -> None:
    whole = ridge()
    whole[15:17] = 0
    box = box_of(whole, np.zeros(3), (-1e3, 1e3), DetectionSettings())
    assert isinstance(box, SpineBox)
    assert box.line_lps_mm[0, 2] - box.line_lps_mm[-1, 2] == 29 * GRID_MM
    whole[15:25] = 0
    box = box_of(whole, np.zeros(3), (-1e3, 1e3), DetectionSettings())
    assert isinstance(box, SpineBox)
    assert box.line_lps_mm[0, 2] - box.line_lps_mm[-1, 2] < 11 * GRID_MM


@pytest.mark.parametrize("nothing", [np.zeros((12, 20, 20)), ridge(spine=range(3)), 0.3 * ridge()])
def test_no_ridge_no_spine(nothing: NDArray[np.float64]) -> None:
    found = box_of(nothing, np.zeros(3), (-1e3, 1e3), DetectionSettings())
    assert isinstance(found, Refusal)
    assert found.code == RefusalCode.NO_SPINE_FOUND


def rod(flip: tuple[int, ...] = ()) -> Volume:
    """A bright leaning rod along z in water, 3 x 2 x 2 mm, its array axes turned round where asked."""
    hu = np.zeros((60, 72, 81), np.int16)
    rows, columns = np.mgrid[:72, :81]
    for k in range(60):
        hu[k][np.hypot(rows - 40 - 0.2 * k, columns - 30) < 6] = 900
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 2.0], [0, 2.0, 0], [-3.0, 0, 0]])
    affine[:3, 3] = (-80, -70, 90)
    for axis in flip:
        affine[:3, 3] += affine[:3, axis] * (hu.shape[axis] - 1)
        affine[:3, axis] *= -1
        hu = np.flip(hu, axis)
    return Volume(np.ascontiguousarray(hu), affine)


@pytest.mark.parametrize("flip", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_the_grid_of_the_network_is_the_same_whichever_way_the_images_lie(flip: tuple[int, ...]) -> None:
    one, at = canonical(rod(), GRID_MM)
    other, at_other = canonical(rod(flip), GRID_MM)
    assert np.allclose(at, at_other)
    assert np.abs(one - other).max() < 1e-2
    k, j, i = np.unravel_index(int(one.argmax()), one.shape)
    assert one.shape == (30, 24, 27)
    assert abs(at[0] + GRID_MM * i - (-80 + 60)) < 8
    assert abs(at[1] + GRID_MM * j - (-70 + 2 * (40 + 0.2 * 2 * k))) < 10


def test_input_is_normalised_and_padded() -> None:
    made = network_input(canonical(rod(), GRID_MM)[0], MULTIPLE)
    assert made.shape == (1, 1, 32, 24, 28)
    assert abs(float(made[0, 0, :30, :24, :27].mean())) < 1e-3
    assert made[0, 0, 31].max() == made.min()


def test_reduced_and_cropped_keep_places() -> None:
    volume = rod((0, 2))
    small = reduced(volume, 6.0)
    middle = volume.to_lps((np.array(volume.hu.shape) - 1) / 2)
    assert np.allclose(small.to_lps((np.array([30, 24, 27]) - 1) / 2), middle)
    part = cropped(volume, np.array([-40.0, 0.0, -30.0]), np.array([10.0, 40.0, 30.0]))
    assert part is not None
    index = np.argwhere(part.hu > 500)[7].astype(float)
    back = np.rint(volume.to_index(part.to_lps(index))).astype(int)
    assert volume.hu[tuple(back)] > 500
    assert cropped(volume, np.array([900.0, 0.0, 0.0]), np.array([950.0, 9.0, 9.0])) is None


@dataclass
class _Bright:
    """A network whose ridge is what is brighter than one standard deviation above the mean."""

    asked: list[tuple[int, ...]] = field(default_factory=list)

    def get_outputs(self) -> list[object]:
        return [type("Output", (), {"name": "ridge"})()]

    def run(self, _: object, inputs: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        self.asked.append(inputs["volume"].shape)
        return [(inputs["volume"] > 1.0).astype(np.float32)]


@pytest.mark.parametrize("flip", [(), (0,), (2,), (0, 1, 2)])
def test_detection_is_the_same_for_every_orientation(flip: tuple[int, ...]) -> None:
    network = _Bright()
    box = detect(rod(flip), Models({"detector": network}, (), "CPUExecutionProvider"))
    assert isinstance(box, SpineBox)
    assert np.abs(box.line_lps_mm[:, 0] + 20).max() < 6
    assert np.abs(box.line_lps_mm[:, 1] - (10 + 0.4 * (90 - box.line_lps_mm[:, 2]) / 3)).max() < 8
    assert all(n % 4 == 0 for n in network.asked[0][2:])


def test_more_than_a_patient_is_refused() -> None:
    huge = Volume(np.zeros((4, 4, 4), np.int16), np.diag([900.0, 5.0, 5.0, 1.0]))
    found = detect(huge, Models({}, (), "CPUExecutionProvider"))
    assert isinstance(found, Refusal)
    assert "more than a patient" in found.sentence
