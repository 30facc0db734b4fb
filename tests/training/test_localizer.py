"""The localizer's network, its training crops, and that training prepares volumes as inference does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from inference.localization import CanonicalGrid  # noqa: E402
from onnx_models.training import localizer_data as data  # noqa: E402
from onnx_models.training.localizer_data import CropRanges, CropSource, Scene, draw_crop, prepared  # noqa: E402
from onnx_models.training.localizer_generator import NEGATIVE_EVERY, make_scene  # noqa: E402
from onnx_models.training.localizer_network import Localizer, centre_of, map_probability, peak_of  # noqa: E402
from onnx_models.training.localizer_task import judged, loss_of, summary, target_map  # noqa: E402

pytestmark = pytest.mark.training


@pytest.fixture
def scene() -> Scene:
    """A thin bright rod in water, leaning and bending, from slice 10 to slice 80 of 90."""
    k = np.arange(90)
    centre = np.stack([50 + 0.15 * k, 44 + 6 * np.sin(k / 20)], axis=1)
    rows, columns = np.mgrid[:80, :90]
    hu = np.empty((90, 80, 90), np.float32)
    for i, (r, c) in enumerate(centre):
        hu[i] = 1500 * np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / 4)
    known = centre.astype(np.float32)
    known[:10] = known[81:] = np.nan
    hu[:10] = hu[81:] = 0
    vertebrae = np.column_stack([k[15:80:10], known[15:80:10]]).astype(np.float32)
    return Scene(hu.astype(np.int16), known, vertebrae)


def test_shapes_and_ranges() -> None:
    network = Localizer((4, 8, 8)).eval()
    with torch.no_grad():
        centre, peak, presence = network(torch.randn(2, 1, 16, 24, 40))
    assert centre.shape == (2, 16, 2)
    assert peak.shape == presence.shape == (2, 16)
    assert bool((centre[..., 0] <= 23).all()) and bool((centre[..., 1] <= 39).all())
    assert bool((presence >= 0).all()) and bool((presence <= 1).all())


def test_soft_argmax_is_the_middle_of_a_blob() -> None:
    truth = torch.tensor([[[8.25, 10.5], [7.0, 9.0]]])
    blob = target_map(truth, (20, 24))
    assert torch.allclose(blob.sum(dim=(2, 3)), torch.ones(1, 2))
    assert torch.allclose(centre_of(blob), truth, atol=0.05)
    flat = map_probability(torch.zeros(1, 2, 20, 24))
    assert torch.allclose(centre_of(flat), torch.tensor([9.5, 11.5]))
    assert float(peak_of(flat).max()) == pytest.approx(9 / 480, rel=1e-3)
    assert float(peak_of(blob).min()) > 0.35


def test_frozen_statistics_stay(scene: Scene) -> None:
    network = Localizer((4, 8, 8))
    network.statistics_frozen = True
    network.train()
    before = network.stem[1].running_mean.clone()
    network(torch.randn(1, 1, 16, 16, 16) + 3)
    assert torch.equal(network.stem[1].running_mean, before)
    network.statistics_frozen = False
    network.train()(torch.randn(1, 1, 16, 16, 16) + 3)
    assert not torch.equal(network.stem[1].running_mean, before)


def test_training_prepares_a_volume_as_inference_does() -> None:
    hu = np.random.default_rng(0).normal(0, 900, (13, 21, 30)).astype(np.float32)
    ours = prepared(hu)
    theirs = CanonicalGrid(hu, np.zeros(3)).network_input()
    assert ours.shape == theirs.shape == (1, 1, 16, 24, 32)
    assert np.allclose(ours, theirs, atol=1e-5)


def test_the_curve_lies_on_the_rod_in_every_crop(scene: Scene) -> None:
    # whatever scale, turn, mirror and shear a crop has; without changes of intensity
    rng = np.random.default_rng(7)
    seen = 0
    for _ in range(12):
        size = (24, 56, 56)
        window = data.draw_window(scene, size, rng, CropRanges(), "present")
        hu = data.sampled(scene, window, size)
        curve = window.from_scene(data._curve_at(scene.centre, window.slices()))
        rows, columns = np.mgrid[:56, :56]
        for k, (r, c) in enumerate(curve):
            weight = np.clip(hu[k], 0, None)
            if np.isfinite(r) and 6 < r < 49 and 6 < c < 49 and weight.max() > 600:
                found = [(weight * a).sum() / weight.sum() for a in (rows, columns)]
                assert np.hypot(found[0] - r, found[1] - c) < 0.5
                seen += 1
    assert seen > 60


def test_what_a_crop_teaches(scene: Scene) -> None:
    rng = np.random.default_rng(3)
    ranges = CropRanges(absent=0.3, truncated=0.3)
    kinds = set()
    for _ in range(30):
        crop = draw_crop(scene, (16, 48, 48), rng, ranges)
        assert crop.volume.shape == (1, 16, 48, 48) and np.isfinite(crop.volume).all()
        assert set(np.unique(crop.presence)) <= {-1.0, 0.0, 1.0}
        inside = crop.centre[crop.taught]
        assert (inside >= 0).all() and (inside <= 47).all()
        assert (crop.presence[~crop.taught] == 0).all(), "where no centre is taught there is no spine"
        assert crop.taught[crop.presence == 1].all()
        kinds |= set(crop.presence.tolist())
    assert kinds == {-1.0, 0.0, 1.0}


def test_scenes_are_kept_whole(scene: Scene, tmp_path: Path) -> None:
    scene.save(tmp_path, "0000001")
    (tmp_path / "0000002.npy").write_bytes(b"half of one")
    (path,) = data.scene_files(tmp_path)
    again = Scene.load(path)
    assert np.array_equal(again.hu, scene.hu)
    assert np.array_equal(again.centre, scene.centre, equal_nan=True)
    batch = CropSource(tmp_path, fewest=1).batch(np.random.default_rng(0), 2)
    assert batch.volume.shape[0] == batch.centre.shape[0] == 2


def test_loss_teaches_every_part(scene: Scene) -> None:
    crops = [draw_crop(scene, (16, 48, 48), np.random.default_rng(s), CropRanges(absent=0.5)) for s in range(2)]
    batch = data.Crop(*(np.stack(parts) for parts in zip(*crops, strict=True)))
    network = Localizer((4, 8, 8))
    loss, numbers = loss_of(network, batch, 0.1)
    loss.backward()
    assert set(numbers) == {"distance_mm", "near_mm", "spread", "flat", "presence"}
    without = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert not without


def test_judging_a_scene(scene: Scene) -> None:
    case = judged(Localizer((4, 8, 8)).eval(), scene)
    assert case["vertebra_mm"].shape == (len(scene.vertebrae),)
    assert case["presence"].shape == (90,)
    numbers = summary([case, case])
    assert numbers["vertebra_mm_mean"] == pytest.approx(case["vertebra_mm"].mean())
    assert 0 <= numbers["presence_right"] <= 1
    assert summary([]) == {}


def test_phantom_scenes_have_the_spine_where_they_say() -> None:
    made = make_scene(1)
    k = np.flatnonzero(np.isfinite(made.centre[:, 0]))
    at = np.rint(made.centre[k]).astype(int)
    on_curve = made.hu[k, at[:, 0], at[:, 1]]
    behind = np.median(made.hu[k, np.minimum(at[:, 0] + 4, made.hu.shape[1] - 1), at[:, 1]])
    assert -60 < np.median(on_curve) < 400, "marrow and discs, neither air nor lung"
    assert np.isfinite(behind)
    assert len(made.vertebrae) >= 4
    negative = make_scene(NEGATIVE_EVERY - 1)
    assert not np.isfinite(negative.centre).any() and not len(negative.vertebrae)
