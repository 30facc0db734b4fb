"""Networks for films: what they are taught, their shapes, and the export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from onnx_models.training import export as exporting  # noqa: E402
from onnx_models.training.film_data import VIEWS, FormedFilm, Placement, StoredFilm, formed  # noqa: E402
from onnx_models.training.film_geometry import cone_beam  # noqa: E402
from onnx_models.training.film_look import Look  # noqa: E402
from onnx_models.training.film_rendering import LineIntegrals  # noqa: E402
from onnx_models.training.film_truth import FilmTruth, film_truth  # noqa: E402
from onnx_models.training.film_views import FILM, blank  # noqa: E402
from onnx_models.training.phantom import sample_patient  # noqa: E402
from onnx_models.training.radiograph_data import (  # noqa: E402
    FilmSource,
    Sample,
    canvas_matrix,
    prepared,
    repainted,
    sample,
    target_maps,
)
from onnx_models.training.radiograph_network import (  # noqa: E402
    MAPS,
    SIZE,
    ENet,
    MDR2UNet,
    MultiDilatedResidualBlock,
    R2UNet,
    RecurrentConv,
    SegNet,
    UNet,
    WholeFilmNetwork,
)
from onnx_models.training.radiograph_task import (  # noqa: E402
    BodyTask,
    WholeFilmTask,
    batch_of,
    cut,
    dice_loss,
    dice_of,
    export_network,
    judged,
    mirrored,
    occupied,
    whole_film_loss,
)
from onnx_models.training.train import TASKS, load_task  # noqa: E402

pytestmark = pytest.mark.training
COMPARED = (UNet, MDR2UNet, R2UNet, SegNet, ENet)


@pytest.fixture(scope="module")
def truth() -> FilmTruth:
    """Of a film of 240 x 120 pixels; its line integrals are made up."""
    patient = sample_patient(np.random.default_rng(8), FILM)
    centre = next(v.centroid_lps_mm for v in patient.vertebrae if v.level == "L4")
    return film_truth(patient, cone_beam(centre, 300, 150, long_side=240))


@pytest.fixture(scope="module")
def film(truth: FilmTruth) -> StoredFilm:
    rng = np.random.default_rng(3)
    soft = np.full((240, 120), 20, np.float32) + rng.normal(0, 0.2, (240, 120)).astype(np.float32)
    soft += np.linspace(-3, 3, 120, dtype=np.float32)
    return StoredFilm(LineIntegrals(soft, np.zeros_like(soft), np.zeros_like(soft)), truth, VIEWS[0], 1.5)


@pytest.fixture
def folder(film: StoredFilm, tmp_path: Path) -> Path:
    film.save(tmp_path / "train" / "00000000.npz")
    film.save(tmp_path / "held_out" / "09000000.npz")
    return tmp_path


def straight(film: StoredFilm, **place: object) -> FormedFilm:
    return formed(film, np.random.default_rng(1), Look(counts=1e6), Placement(**place))  # type: ignore[arg-type]


def test_repainted_bodies_differ_where_bodies_are_and_the_truth_stays(film: StoredFilm) -> None:
    shown = sample(film, np.random.default_rng(2), Look(counts=1e6))
    again = repainted(shown, np.random.default_rng(4))
    assert again.maps is shown.maps
    assert again.known is shown.known
    assert again.canvas.min() >= 0
    assert again.canvas.max() <= 1
    assert not again.canvas[shown.canvas == 0].any()  # outside the film and its field
    body, far = shown.maps[0] > 0.5, (shown.maps[0] == 0) & (shown.canvas > 0)
    change = np.abs(again.canvas - shown.canvas)
    assert change[body].mean() > 2 * np.median(change[far])
    empty = Sample(shown.canvas, np.zeros_like(shown.maps), shown.known, shown.view)
    assert repainted(empty, np.random.default_rng(4)) is empty


def test_a_canvas_holds_the_whole_film_in_its_middle() -> None:
    matrix = canvas_matrix((512, 256))
    np.testing.assert_allclose(matrix @ [255.5, 127.5, 1], [127.5, 127.5])
    np.testing.assert_allclose(matrix @ [-0.5, -0.5, 1], [-0.5, 63.5])
    image = np.zeros((512, 256), np.float32)
    image[100:140, 60:100] = 1  # rows 50 to 70, columns 64 + 30 to 64 + 50 of the canvas
    image += np.random.default_rng(1).uniform(0, 0.02, image.shape).astype(np.float32)
    canvas, measured = prepared(image)
    assert canvas.shape == measured.shape == (SIZE, SIZE)
    assert canvas[:, :63].max() == 0
    assert canvas[:, 193:].max() == 0
    assert canvas[52:68, 96:112].min() > 1.5 * canvas[75:240, 70:185].mean()


def test_what_the_pipeline_takes_for_unexposed_is_zero_and_teaches_nothing(film: StoredFilm) -> None:
    image = np.zeros((200, 150), np.float32)
    image[20:160, 30:120] = np.random.default_rng(1).uniform(0.4, 1, (140, 90))
    canvas, measured = prepared(image)
    assert not canvas[~measured].any()
    rows = np.flatnonzero(canvas.any(1))
    assert abs(rows[0] - 20 * 256 / 200) <= 3
    assert abs(rows[-1] - 160 * 256 / 200) <= 3
    assert np.isfinite(prepared(np.full((40, 30), 0.5, np.float32))[0]).all()
    shown = sample(film, np.random.default_rng(5), Look(counts=1e6, shutter="black", collimator=(0.2, 0.2, 0.2, 0.2)))
    assert not shown.maps[:, shown.canvas == 0].any()


def test_maps_lie_where_the_truth_lies(film: StoredFilm) -> None:
    shown = straight(film)
    maps, known = target_maps(shown)
    body, centre, sacrum, front, head = maps
    truth = shown.truth.moved(canvas_matrix(shown.image.shape))
    assert "S1" in truth.levels
    for n, level in enumerate(truth.levels):
        r, c = np.rint(truth.centres[n]).astype(int)
        if not (0 <= r < SIZE and 0 <= c < SIZE):
            continue
        if level == "S1":
            assert sacrum[r, c] == 1
            assert centre[r, c] < 0.2
        else:
            assert body[r, c] == 1
            if shown.seen[n] > 0.9:
                assert centre[r, c] > 0.7
    assert known.any(axis=(1, 2)).all()
    assert front[known[0] > 0].all() and head[known[1] > 0].all()  # towards column 0, and row 0
    mirrored, known = target_maps(straight(film, mirrored=True))
    assert not mirrored[3][known[0] > 0].any() and mirrored[4][known[1] > 0].all()
    upright, known = target_maps(straight(film, quarter_turns=1))
    assert known.sum() < 0.5 * target_maps(shown)[1].sum()
    np.testing.assert_allclose(upright[0].sum(), body.sum(), rtol=0.02)


def test_frontal_and_blank_films_have_no_bodies(film: StoredFilm) -> None:
    frontal = StoredFilm(film.integrals, film.truth, "AP spine", film.pitch_mm)
    assert not target_maps(straight(frontal))[0].any()
    nothing = sample(blank(np.random.default_rng(1), 64), np.random.default_rng(2))
    assert not nothing.maps.any()
    assert VIEWS[nothing.view] == "blank"


def test_films_are_drawn_from_their_folder_and_blank_ones_made(folder: Path, film: StoredFilm) -> None:
    source = FilmSource(folder / "train")
    assert len(source) == 1
    views = {source.draw(np.random.default_rng(n)).view for n in range(60)}
    assert views == {"lateral spine", "blank"}
    with pytest.raises(FileNotFoundError, match="film_generator"):
        source.draw(np.random.default_rng(1), ("chest",))
    StoredFilm(film.integrals, film.truth, "chest", 1.5).save(folder / "train" / "00000001.npz")
    source.reload()
    assert source.draw(np.random.default_rng(1), ("chest",)).view == "chest"


def test_the_whole_film_network_gives_maps_and_views() -> None:
    with torch.no_grad():
        outputs = WholeFilmNetwork((4, 4, 6, 6, 8, 8)).eval()(torch.rand(2, 1, 64, 96))
    assert [tuple(o.shape) for o in outputs] == [(2, 1, 64, 96)] * len(MAPS) + [(2, 6)]
    torch.testing.assert_close(outputs[-1].sum(1), torch.ones(2))
    assert all(float(o.min()) >= 0 and float(o.max()) <= 1 for o in outputs)


@pytest.mark.parametrize("kind", COMPARED)
def test_compared_networks_give_one_map_and_learn(kind: type[torch.nn.Module]) -> None:
    torch.manual_seed(1)
    network = kind(4)
    film = torch.rand(2, 1, 64, 64)
    truth = torch.zeros(2, 64, 64)
    truth[:, 20:40, 20:44] = 1
    film[:, 0] += truth
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = dice_loss(torch.sigmoid(network(film)[:, 0]), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert network(film).shape == (2, 1, 64, 64)
    assert losses[-1] < losses[0] - 0.05
    assert all(p.grad is not None for p in network.parameters())


def test_the_multi_dilated_block_is_as_published() -> None:
    """Rates 2, 4, 8, 16 side by side, concatenated, one bottleneck, a shortcut."""
    block = MultiDilatedResidualBlock(3, 5)
    dilations = [m.dilation for m in block.branches.modules() if isinstance(m, torch.nn.Conv2d)]
    assert dilations == [(2, 2), (4, 4), (8, 8), (16, 16)]
    for p in block.bottleneck.parameters():
        torch.nn.init.zeros_(p)
    x = torch.rand(1, 3, 40, 40)
    torch.testing.assert_close(block(x), block.enter(x))  # what is left is the shortcut


def test_recurrent_convolutions_share_their_weights_over_time() -> None:
    assert sum(isinstance(m, torch.nn.Conv2d) for m in RecurrentConv(4).modules()) == 1
    torch.manual_seed(2)
    once, thrice = RecurrentConv(4, steps=0).eval(), RecurrentConv(4, steps=2).eval()
    thrice.load_state_dict(once.state_dict())
    x = torch.rand(1, 4, 8, 8)
    first = once(x)
    torch.testing.assert_close(thrice(x), once(x + once(x + first)))


def test_dice_of_masks_and_of_probabilities() -> None:
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert dice_of(a, b) == 1.0
    a[:2], b[1:3] = True, True
    assert dice_of(a, b) == 0.5
    assert float(dice_loss(torch.from_numpy(a).float(), torch.from_numpy(b).float())) == pytest.approx(0.5, abs=0.04)


def test_the_loss_is_small_only_where_everything_is_right(film: StoredFilm) -> None:
    shown = straight(film)
    maps, known = target_maps(shown)
    _, maps, known, view = batch_of([Sample(shown.image, maps, known, 0)] * 2)
    right = (maps * 2 - 1) * 12
    views = torch.full((2, 6), -9.0)
    views[:, 0] = 9.0
    perfect = float(whole_film_loss(right, views, maps, known, view)[0])
    for channel in range(len(MAPS)):
        wrong = right.clone()
        wrong[:, channel] = -right[:, channel]
        assert float(whole_film_loss(wrong, views, maps, known, view)[0]) > perfect + 0.5
    assert float(whole_film_loss(right, -views, maps, known, view)[0]) > perfect + 0.5


def test_a_step_of_each_task_lowers_nothing_to_nan(folder: Path) -> None:
    whole = WholeFilmTask(folder)
    whole.batch = 2
    network = WholeFilmNetwork((4, 4, 4, 4, 4, 4))
    loss, numbers = whole.step(network, np.random.default_rng(1), 0.0)
    loss.backward()
    assert set(numbers) == {"body", "centre", "sacrum", "front", "head", "view"}
    assert np.isfinite(list(numbers.values())).all()
    assert {"dice", "view_right"} <= set(whole.evaluate(network.eval()))
    assert judged(network, []) == {}
    body = BodyTask("film_unet", lambda: UNet(4), folder)
    body.batch = 2
    loss, numbers = body.step(body.network(), np.random.default_rng(1), 0.0)
    assert 0 < numbers["dice"] < 1
    assert 0 <= body.evaluate(body.network().eval())["dice"] <= 1


def test_every_task_is_registered() -> None:
    names = [name for name in TASKS if name.startswith("film")]
    maps = ["film", "film_unet", "film_mdr2unet", "film_r2unet", "film_segnet", "film_enet"]
    assert names == [*maps, "film_points", "film_foreign"]
    for name in names:
        assert load_task(name).name == name


def test_the_export_has_the_pipelines_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    monkeypatch.setattr(exporting, "PARITY", 1e-4)  # random weights leave the batch normalisation ill-conditioned
    network = WholeFilmNetwork((4, 4, 4, 4, 4, 4)).eval()
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": exporting.SCHEMA, "models": []}))
    export_network(network, {"steps": 0, "seed": 1, "begun_from": None}, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "film.onnx", providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("film", [1, 1, SIZE, SIZE])]
    expected = [(name, [1, 1, SIZE, SIZE]) for name in MAPS] + [("view", [1, 6])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == expected


def test_an_image_of_the_pool_turned_about_tells_the_same_of_its_patient(film: StoredFilm) -> None:
    shown = sample(film, np.random.default_rng(5), Look(counts=1e6))
    for axis, which in ((0, 4), (1, 3)):
        turned = mirrored(shown, axis)
        np.testing.assert_array_equal(np.flip(turned.canvas, axis), shown.canvas)
        np.testing.assert_array_equal(np.flip(turned.maps[:3], 1 + axis), shown.maps[:3])
        known = turned.known[which - 3] > 0
        assert known.any() and not (turned.maps[which][known] == np.flip(shown.maps[which], axis)[known]).any()
        again = mirrored(turned, axis)
        np.testing.assert_array_equal(again.maps[3:] * again.known, shown.maps[3:] * shown.known)


def test_batches_are_cut_to_what_is_not_empty(folder: Path) -> None:
    task, rng = WholeFilmTask(folder), np.random.default_rng(2)
    for _ in range(3):
        batch = task.samples(rng, ("lateral spine",), 0.0)
    sizes = {s.canvas.shape for s in batch}
    assert len(sizes) == 1 and all(n % 32 == 0 for n in sizes.pop())
    assert all(s.maps.shape[1:] == s.known.shape[1:] == s.canvas.shape for s in batch)
    assert {s.canvas.shape for s in task.samples(rng, ("lateral spine",), 0.9)} == {(SIZE, SIZE)}
    full = task.samples(rng, ("lateral spine",), 0.9)[0]
    inner = cut(full, *occupied(full))
    for whole, part in ((full.canvas, inner.canvas), (full.maps, inner.maps)):
        assert part.sum() == pytest.approx(whole.sum(), rel=1e-5)
