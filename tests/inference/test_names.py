"""The shipped networks name vertebrae of phantoms and of the real abdomen, however the grid lies in the patient."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from inference.detection import box_along
from inference.geometry import Volume
from inference.labelling import candidates
from inference.localization import LocalizationSettings, localize
from inference.numbering import NamedSequence, number
from inference.runtime import Models, load_models
from inference.surface import CentreLine
from onnx_models import MODELS
from onnx_models.training.evaluation_groups import NO_ANCHOR, group_case, load_groups
from onnx_models.training.labeller_evaluation import real_views
from onnx_models.training.labeller_scenes import named_centres
from onnx_models.training.metrics import matched

SEED = 515


@pytest.fixture(scope="module")
def shipped() -> Models:
    return load_models(MODELS, "cpu", threads=1, names=["localizer", "labeller"])


@cache
def phantom(group: str, index: int) -> tuple[Volume, dict[str, np.ndarray]]:
    """A small view of a phantom, and the centres of its vertebrae."""
    chosen = replace(load_groups(), seed=SEED, spacings_mm=((2.0, 2.5),), most_voxels=500_000)
    case = group_case(chosen, group, index)
    return case.volume, dict(zip(*named_centres(case.patient), strict=True))


def named(volume: Volume, models: Models) -> tuple[NamedSequence, np.ndarray]:
    """The sequence, and the centres (n, 3) of what it names."""
    line = localize(volume, models, LocalizationSettings())
    assert isinstance(line, CentreLine)
    found = candidates(volume, box_along(line, volume), models)
    sequence = number(found)
    return sequence, np.array([found[i].centroid_lps_mm for i in sequence.kept])


def turned(volume: Volume, axes: tuple[int, ...], order: tuple[int, int, int] = (0, 1, 2)) -> Volume:
    """The same image with array axes turned round and exchanged."""
    affine, hu = volume.affine.copy(), volume.hu
    for axis in axes:
        affine[:3, 3] += affine[:3, axis] * (hu.shape[axis] - 1)
        affine[:3, axis] *= -1
        hu = np.flip(hu, axis)
    affine[:3, :3] = affine[:3, list(order)]
    return Volume(np.ascontiguousarray(hu.transpose(order)), affine)


def test_names_of_an_ordinary_abdomen_are_right(shipped: Models) -> None:
    volume, truth = phantom("ordinary", 1)
    sequence, at = named(volume, shipped)
    assert sequence.numbering is not None
    assert "sacrum" in sequence.numbering.anchor
    levels = list(truth)
    place = matched(at, np.array(list(truth.values())), 15.0)
    assert [str(level) for level in sequence.levels] == [levels[k] for k in place if k is not None]


@pytest.mark.parametrize(
    ("axes", "order"),
    [((0,), (0, 1, 2)), ((2,), (0, 1, 2)), ((0, 1, 2), (0, 1, 2)), ((1,), (2, 0, 1))],
    ids=["upside down", "mirrored", "all three", "sagittal slices"],
)
def test_no_orientation_of_the_grid_changes_a_name(
    axes: tuple[int, ...], order: tuple[int, int, int], shipped: Models
) -> None:
    volume, _ = phantom("ordinary", 1)
    straight, at = named(volume, shipped)
    other, there = named(turned(volume, axes, order), shipped)
    assert other.levels == straight.levels
    assert None not in straight.levels
    assert np.linalg.norm(there - at, axis=1).max() < 2.0
    assert np.allclose(np.array(other.confidences, float), np.array(straight.confidences, float), atol=0.1)


@pytest.mark.parametrize("index", [1, 2])
def test_a_view_without_an_anchor_is_not_named(index: int, shipped: Models) -> None:
    sequence, _ = named(phantom(NO_ANCHOR, index)[0], shipped)
    assert sequence.numbering is None
    assert set(sequence.levels) <= {None}
    assert sequence.alternatives


@pytest.mark.real_data
def test_the_real_abdomen_is_named_and_the_heart_is_not(real_data: object, shipped: Models) -> None:
    views = {name: (volume, centres) for name, volume, centres in real_views()}
    volume, truth = views["real, whole"]
    sequence, at = named(volume, shipped)
    place = matched(at, np.array(list(truth.values())), 15.0)
    assert [str(level) for level in sequence.levels] == [list(truth)[k] for k in place if k is not None]
    assert {"T12", "L1", "L2", "L3", "L4", "L5"} <= {str(level) for level in sequence.levels}
    heart, _ = named(views["real, cardiac crop"][0], shipped)
    assert all(c is None or c < 0.9 for c in heart.confidences)
