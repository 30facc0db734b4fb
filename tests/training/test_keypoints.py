"""The key point network's training: truth on the picture, targets, losses, and that learning goes downhill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from inference.keypoints import ANCHORS, decode  # noqa: E402
from inference.straightening import COLUMNS, straighten  # noqa: E402
from inference.surface import CentreLine  # noqa: E402
from onnx_models.training import keypoints_crops as crops  # noqa: E402
from onnx_models.training import keypoints_data as data  # noqa: E402
from onnx_models.training import keypoints_task as task  # noqa: E402
from onnx_models.training.keypoints_network import MULTIPLE, PLANES, KeypointNetwork  # noqa: E402
from onnx_models.training.phantom import sample_patient  # noqa: E402

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def patient():
    return sample_patient(np.random.default_rng(11))


@pytest.fixture(scope="module")
def lumbar(patient) -> data.Slab:
    """A sharp scan of the lumbar spine, cut below through S1 and above through T11 or so."""
    by_level = {v.level: v for v in patient.vertebrae}
    top = by_level["L1"].centroid_lps_mm[2] + 45
    bottom = by_level["S1"].centroid_lps_mm[2]
    scanner = data.Scanner((0.8, 1.0), 1.0, np.zeros(3), bottom, top, np.inf)
    z = np.arange(top, bottom, -3.0)
    line = CentreLine(np.column_stack([*patient.centre_line(z), z]), np.ones(len(z)))
    return data.straightened_slab(patient, line, scanner)


def test_truth_lies_on_the_end_plates_of_the_picture(lumbar: data.Slab) -> None:
    """Just inside the end plates there is body, just outside there is none."""
    positive = lumbar.points[lumbar.kind == data.POSITIVE]
    assert len(positive) >= 4
    for points in positive:
        middle = points.mean(axis=0)
        for k in (2, 3):
            inward = (middle - points[k]) / np.linalg.norm(middle - points[k])
            inner, outer = (np.rint(points[k] + inward * d).astype(int) for d in (2.5, -2.5))
            assert lumbar.tissue[tuple(inner)] == 1
            assert lumbar.tissue[tuple(outer)] == 0


def test_sacrum_and_cut_vertebrae_are_negatives(lumbar: data.Slab) -> None:
    assert (lumbar.kind == data.NEGATIVE).sum() >= 1
    assert (lumbar.tissue == 2).any()
    rows = lumbar.points[lumbar.kind == data.NEGATIVE].mean(axis=1)[:, 0]
    assert rows.max() > lumbar.points[lumbar.kind == data.POSITIVE].mean(axis=1)[:, 0].max()


def test_head_is_up_and_the_canal_is_behind(lumbar: data.Slab) -> None:
    positive = lumbar.points[lumbar.kind == data.POSITIVE]
    assert np.all(np.diff(positive.mean(axis=1)[:, 0]) > 0)
    assert np.all(positive[:, 0, 1] < positive[:, 4, 1])
    assert lumbar.hu.shape == (PLANES, lumbar.tissue.shape[0], COLUMNS + 2 * data.MARGIN)
    assert lumbar.hu.shape[1] % MULTIPLE == 0


def test_a_line_beside_the_spine_has_nothing_to_find(patient) -> None:
    rng = np.random.default_rng(3)
    scanner = data.sample_scanner(rng, patient)
    line = data.erring_line(rng, patient, scanner, aside=True)
    assert line is not None
    slab = data.straightened_slab(patient, line, scanner, aside=True)
    assert len(slab.points) == 0 and not (slab.tissue == 1).any()


def test_voxels_of_three_millimetres_blur_but_do_not_shift(patient) -> None:
    v = next(v for v in patient.vertebrae if v.level == "L2")
    up = np.linspace(-25, 25, 101)[:, None] * [0, 0, 1.0]
    points = (v.centroid_lps_mm + up).astype(np.float32)
    fine = data.Scanner((0.6, 0.6), 0.6, np.zeros(3), -1e4, 1e4, np.inf).measure(patient, points)
    thick = data.Scanner((0.6, 3.0), 3.0, np.zeros(3), -1e4, 1e4, np.inf).measure(patient, points)
    cubes = data.Scanner((3.0, 3.0), 3.0, np.zeros(3), -1e4, 1e4, np.inf).measure(patient, points)
    for coarse in (thick, cubes):
        assert coarse.mean() == pytest.approx(fine.mean(), abs=25)
        assert np.abs(np.diff(coarse)).max() < np.abs(np.diff(fine)).max()


def test_a_slab_survives_its_file(tmp_path: Path, lumbar: data.Slab) -> None:
    lumbar.save(tmp_path / "slab.npz")
    again = data.Slab.load(tmp_path / "slab.npz")
    assert np.array_equal(again.hu, lumbar.hu) and np.array_equal(again.points, lumbar.points)
    assert [p.name for p in tmp_path.iterdir()] == ["slab.npz"]


def test_slabs_are_made_from_their_seed(tmp_path: Path) -> None:
    assert data.main(["--count", "1", "--first", "7", "--folder", str(tmp_path)]) == 0
    made = data.Slab.load(tmp_path / "0000007.npz")
    assert np.array_equal(made.hu, data.make_slab(7).hu)


def test_points_of_a_crop_move_with_its_picture(lumbar: data.Slab) -> None:
    """The picture's body voxels and the points' centres agree after turning, shearing, scaling and mirroring."""
    for seed in range(6):
        crop = crops.crop_of(np.random.default_rng(seed), lumbar)
        assert crop.hu.shape == (PLANES, crops.ROWS, COLUMNS)
        for points in crop.points[crop.kind == data.POSITIVE]:
            assert crop.tissue[tuple(np.rint(points.mean(axis=0)).astype(int))] == 1


def test_targets_follow_the_paper(lumbar: data.Slab) -> None:
    batch = crops.batch_of([crops.crop_of(np.random.default_rng(s), lumbar) for s in range(2)])
    p = batch.positives
    assert len(p.points) >= 4 and set(p.owner) <= {0, 1}
    for n in range(0, len(p.image), max(1, len(p.image) // 50)):
        low, high = p.points[p.vertebra[n]].min(axis=0), p.points[p.vertebra[n]].max(axis=0)
        box = np.array([*low, *high], np.float64)
        covered = crops.anchor_overlap(box, p.row[n : n + 1], p.column[n : n + 1])[p.anchor[n], 0]
        assert covered > 0.45
        assert p.owner[p.vertebra[n]] == p.image[n]
    assert batch.taught[p.image, p.anchor, p.row, p.column].all()


def test_a_very_flat_vertebra_still_has_anchors() -> None:
    flat = np.array([[100, 20], [106, 20], [100, 40], [106, 40], [100, 60], [106, 60]], float)
    hu = np.zeros((PLANES, crops.ROWS, COLUMNS), np.float32)
    crop = crops.Crop(hu, np.zeros(hu.shape[1:], np.uint8), flat[None], np.array([data.POSITIVE], np.uint8))
    assert len(crops.batch_of([crop]).positives.image) > 0


def test_the_network_keeps_its_contract() -> None:
    network = KeypointNetwork().eval()
    assert sum(p.numel() for p in network.parameters()) < 1.5e6
    with torch.no_grad():
        objectness, keypoints, nearby = network(torch.zeros((1, PLANES, 64, 80)))
    assert objectness.shape == (1, 16, 64, 80) and float(objectness.max()) <= 1
    assert keypoints.shape == (1, 16, 12, 64, 80)
    assert nearby.shape == (1, 12, 64, 80)


def test_sparse_and_dense_key_points_are_the_same() -> None:
    network = KeypointNetwork().eval()
    image = torch.randn((1, PLANES, 32, 80), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        dense = network(image)[1]
        hidden = network.features(image).hidden
        sparse = network.keypoints_at(hidden[[0, 0], :, [3, 20], [40, 7]], torch.tensor([5, 11]))
    assert torch.allclose(sparse[0], dense[0, 5, :, 3, 40], atol=1e-5)
    assert torch.allclose(sparse[1], dense[0, 11, :, 20, 7], atol=1e-5)


def test_learning_goes_downhill_and_no_vertebra_is_no_error(lumbar: data.Slab) -> None:
    torch.manual_seed(1)
    network = KeypointNetwork((8, 16, 16, 16, 16))
    batch = crops.batch_of([crops.crop_of(np.random.default_rng(1), lumbar)])
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss, parts = task.loss_of(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.85 * losses[0]
    assert {"objectness", "tissue", "points", "heights_mm", "shape", "nearby_mm"} == set(parts)
    nothing = crops.Crop(
        np.zeros((PLANES, 32, COLUMNS), np.float32), np.zeros((32, COLUMNS), np.uint8), np.zeros((0, 6, 2)), np.zeros(0)
    )
    loss, parts = task.loss_of(network, crops.batch_of([nothing]))
    assert np.isfinite(float(loss.detach())) and set(parts) == {"objectness", "tissue"}


def test_losses_are_zero_for_the_truth(lumbar: data.Slab) -> None:
    """The encoding of the loss is that of the decoder: a perfect answer has no error and decodes to the truth."""
    truth = lumbar.points[lumbar.kind == data.POSITIVE].astype(np.float64) - [0, data.MARGIN]
    crop = crops.Crop(
        lumbar.hu[:, :, data.MARGIN : -data.MARGIN].astype(np.float32),
        lumbar.tissue[:, data.MARGIN : -data.MARGIN],
        truth,
        np.full(len(truth), data.POSITIVE, np.uint8),
    )
    p = crops.batch_of([crop]).positives
    shape = crop.tissue.shape
    objectness, encoded = np.zeros((16, *shape), np.float32), np.zeros((16, 12, *shape), np.float32)
    objectness[p.anchor, p.row, p.column] = 0.99
    points = p.points[p.vertebra]
    encoded[p.anchor, 0::2, p.row, p.column] = (points[..., 1] - p.column[:, None]) / ANCHORS[p.anchor, :1]
    encoded[p.anchor, 1::2, p.row, p.column] = (points[..., 0] - p.row[:, None]) / ANCHORS[p.anchor, 1:]
    found = decode(objectness, encoded)
    assert len(found) == len(truth)
    for detection, points in zip(found, truth, strict=True):
        assert detection.points == pytest.approx(points, abs=0.01)


def test_judging_counts_what_is_found_missed_and_false(lumbar: data.Slab) -> None:
    class Blind(KeypointNetwork):
        def forward(self, image):
            objectness, keypoints, nearby = super().forward(image)
            return objectness * 0, keypoints, nearby

    assert task.judged(Blind((8, 8, 8, 8, 8)).eval(), [lumbar]) == {"recall": 0.0, "false": 0.0}
    assert task.judged(KeypointNetwork((8, 8, 8, 8, 8)).eval(), []) == {"recall": 0.0, "false": 0.0}


def test_straightened_width_is_what_the_network_was_taught(patient) -> None:
    z = np.arange(patient.presence_mm[1], patient.presence_mm[0], -3.0)
    line = CentreLine(np.column_stack([*patient.centre_line(z), z]), np.ones(len(z)))
    _, straight = straighten(line)
    assert straight.grid_points().shape[2] == COLUMNS
    assert straight.grid_points(margin=data.MARGIN).shape[2] == COLUMNS + 2 * data.MARGIN
