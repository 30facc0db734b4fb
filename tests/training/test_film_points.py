"""The network that looks at each body of a film again: its crops, its loss, its figures, the export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from drawn_film import Sight, drawn_film, stored  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from inference.film_bodies import find_bodies  # noqa: E402
from inference.film_grid import FilmGrid, pixel_centres  # noqa: E402
from inference.film_points import CHANNELS, SIZE  # noqa: E402
from inference.film_preparation import PreparedFilm  # noqa: E402
from inference.film_sight import FilmSight  # noqa: E402
from inference.runtime import CPU, Models  # noqa: E402
from onnx_models import MODELS  # noqa: E402
from onnx_models.training import export as exporting  # noqa: E402
from onnx_models.training.film_data import FormedFilm, StoredFilm  # noqa: E402
from onnx_models.training.film_points_card import BEGIN, END, section, written  # noqa: E402
from onnx_models.training.film_points_data import (  # noqa: E402
    FRACTURED_SHARE,
    BodyPool,
    SeenFilm,
    Warp,
    axes_of,
    crop_of,
    held_out_bodies,
    jittered,
    placed,
    seen_film,
)
from onnx_models.training.film_points_evaluation import judged as told_by  # noqa: E402
from onnx_models.training.film_points_evaluation import measured  # noqa: E402
from onnx_models.training.film_points_films import KINDS, LEVELS, film_of  # noqa: E402
from onnx_models.training.film_points_network import CELLS, LEAST_SPREAD, BodyPoints, BodyPointsNetwork  # noqa: E402
from onnx_models.training.film_points_task import (  # noqa: E402
    FilmPointsTask,
    export_network,
    heights_of,
    judged,
    loss_of,
    peaks,
    ratios_of,
    told_of,
    widen,
)
from onnx_models.training.film_points_ways import (  # noqa: E402
    OUTLINE,
    POINTS,
    TRUE_OUTLINE,
    Body,
    Told,
    bodies_of,
    errors,
    ratios,
)
from onnx_models.training.film_truth import coverage  # noqa: E402
from onnx_models.training.train import load_task  # noqa: E402

pytestmark = pytest.mark.training
WHOLE = np.array([[20.0, 13], [44, 13], [21, 32], [43, 32], [20, 51], [44, 51]])
"""Points of a body in a crop, 24 pixels high."""


class Session:
    """Answers with the same points in every crop: an upright body 20 pixels high, each height unsure by 2."""

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="points"), SimpleNamespace(name="spread")]

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        count = len(inputs["crops"])
        rows = SIZE / 2 + np.array([-10, 10] * 3)
        points = np.stack([rows, np.repeat([13.0, 32.0, 51.0], 2)], axis=1)
        return [np.repeat(points[None], count, axis=0).astype(np.float32), np.full((count, 3), 2, np.float32)]


@pytest.fixture(scope="module")
def drawn() -> FormedFilm:
    return drawn_film()


@pytest.fixture(scope="module")
def sight(drawn: FormedFilm) -> Sight:
    return Sight(drawn)


@pytest.fixture
def as_drawn(drawn: FormedFilm, monkeypatch) -> None:
    """Films of the disk are shown as they were drawn."""
    for module in ("film_points_data", "film_points_evaluation"):
        monkeypatch.setattr(f"onnx_models.training.{module}.formed", lambda stored, rng, look=None: drawn)


@pytest.fixture(scope="module")
def seen(drawn: FormedFilm, sight: Sight) -> SeenFilm:
    found = seen_film(drawn, sight)
    assert found is not None
    return found


def test_only_whole_bodies_that_are_seen_are_taught(drawn: FormedFilm, seen: SeenFilm, sight: Sight) -> None:
    assert 4 <= len(seen.truth.levels) < len(drawn.truth.levels)
    assert "S1" not in seen.truth.levels and "L1" in seen.truth.levels
    assert list(seen.fractured) == [level == "L1" for level in seen.truth.levels]
    assert len(seen.visibility) == len(seen.truth.levels) and seen.visibility.min() > 0.5
    assert seen_film(replace(drawn, seen=np.zeros_like(drawn.seen)), sight) is None
    for n, outlined in enumerate(seen.outlined):
        true = seen.grid.to_grid(seen.truth.points[n])
        assert np.abs(outlined.six.points[[0, 1, 4, 5]] - true[[0, 1, 4, 5]]).max() < 1.5
        assert outlined.alone.max() > 0.9 and seen.probability[n] > 0.9

    def blind(film: PreparedFilm) -> FilmSight:
        look = sight(film)
        zero = np.zeros_like(look.maps["body"])
        return replace(look, found=find_bodies(zero, zero, zero, film.measured_on(look.grid)))

    assert seen_film(drawn, blind) is None


def test_points_are_jittered_within_their_bounds() -> None:
    rng = np.random.default_rng(0)
    points = np.array([[0.0, 0], [30, 0], [2, 20], [28, 20], [0, 40], [30, 40]])
    for _ in range(200):
        moved = jittered(points, rng)
        depth = np.linalg.norm(moved[4:].mean(axis=0) - moved[:2].mean(axis=0))
        assert 0.8 * 40 < depth < 1.2 * 40
        assert np.abs(moved.mean(axis=0) - points.mean(axis=0)).max() < 0.05 * 40 + 2
        up = axes_of(moved)[1]
        assert np.degrees(np.arccos(-up[0])) < 8 + 4


def test_a_crop_shows_the_body_upright_with_its_points(seen: SeenFilm) -> None:
    rng = np.random.default_rng(1)
    for body in range(len(seen.truth.levels)):
        crop, points = placed(seen, body, rng)
        mask = coverage(crop.to_grid(seen.truth.outlines[body]), (SIZE, SIZE))
        picture, bodies, alone = seen.shown(body, crop)
        row, column = np.argwhere(mask > 0.5).mean(axis=0)
        assert abs(row - SIZE / 2) < 9 and abs(column - SIZE / 2) < 9
        ring = np.abs(pixel_centres((SIZE, SIZE)) - [row, column]).max(axis=-1) < 0.5
        assert picture[mask == 1].mean() > picture[mask == 0].mean() + 0.1 and picture[ring].min() > 0
        assert bodies[mask == 1].mean() > 0.9 and max(bodies[:4].max(), bodies[-4:].max()) > 0.9  # neighbours, too
        assert alone[mask == 1].mean() > 0.9 and alone[mask == 0].mean() < 0.1
        assert (points[1::2, 0] > points[0::2, 0] + 3).all()  # each lower point below its upper one
        assert points[:2, 1].max() < points[2:4, 1].min() and points[2:4, 1].max() < points[4:, 1].min()


def test_a_warped_crop_keeps_picture_and_points_together() -> None:
    at = np.array([[20.0, 17.0], [42.0, 47.0], [33.0, 31.0]])

    def dots(grid: FilmGrid) -> np.ndarray:
        film = grid.to_film(pixel_centres(grid.shape))
        distance = np.linalg.norm(film[..., None, :] - at, axis=-1)
        spots = np.exp(-0.5 * (distance / 1.5) ** 2).astype(np.float32)
        return np.stack([spots.sum(axis=-1), spots[..., 0]])

    grid = FilmGrid((SIZE, SIZE), (200, 200), np.array([[1.0, 0, 0], [0, 1, 0]]), 1.0)
    warp = Warp(0.15, -0.3, 0.1)
    pictures = warp.shown(dots, grid)
    for picture, points in zip(pictures, (at, at[:1]), strict=True):
        for point in warp.points(points):
            near = np.linalg.norm(pixel_centres((SIZE, SIZE)) - point, axis=-1) < 6
            weight = picture * near
            middle = (pixel_centres((SIZE, SIZE)) * weight[..., None]).sum(axis=(0, 1)) / weight.sum()
            np.testing.assert_allclose(middle, point, atol=0.4)
    np.testing.assert_allclose(Warp().points(at), at)
    np.testing.assert_allclose(Warp().shown(dots, grid), dots(grid), atol=1e-5)


def test_a_wedge_makes_the_front_lower_than_the_back() -> None:
    points = WHOLE.copy()
    points[2:4, 0] = points[:2, 0]
    warped = Warp(wedge=-0.3).points(points)
    heights = np.linalg.norm(warped[0::2] - warped[1::2], axis=1)
    assert heights[0] < heights[1] < heights[2]
    hollow = Warp(bend=0.12).points(points)
    heights = np.linalg.norm(hollow[0::2] - hollow[1::2], axis=1)
    assert heights[1] < heights[0] == pytest.approx(heights[2], rel=0.03)


def test_no_taught_point_lies_outside_its_crop(seen: SeenFilm) -> None:
    rng = np.random.default_rng(2)
    for n in range(60):
        drawn = crop_of(seen, n % len(seen.truth.levels), rng)
        assert drawn is not None
        crop, points = drawn
        assert crop.shape == (CHANNELS, SIZE, SIZE) and crop.dtype == np.float32
        assert points.min() > 0 and points.max() < SIZE - 1
    six = seen.outlined[0].six
    far = replace(seen.outlined[0], six=replace(six, points=six.points + np.array([0.0, 40.0])))
    assert crop_of(replace(seen, outlined=(far, *seen.outlined[1:])), 0, rng) is None


class Source:
    """Gives one film again and again."""

    def __init__(self, film: StoredFilm) -> None:
        self.film = film

    def __len__(self) -> int:
        return 1

    def draw(self, rng: np.random.Generator, views: tuple[str, ...]) -> StoredFilm:
        assert self.film.view in views
        return self.film


@pytest.mark.usefixtures("as_drawn")
def test_fractured_bodies_are_drawn_more_often_than_they_are(drawn: FormedFilm, sight: Sight, monkeypatch) -> None:
    pool = BodyPool((Source(stored(drawn)),), sight, size=2)  # type: ignore[arg-type]
    rng = np.random.default_rng(3)
    pool.renew(rng)
    assert pool.films == 2
    seen = []
    monkeypatch.setattr(
        "onnx_models.training.film_points_data.crop_of",
        lambda film, body, rng: (
            seen.append(film.fractured[body]),
            (np.zeros((CHANNELS, SIZE, SIZE)), np.zeros((6, 2))),
        )[1],
    )
    crops, points = pool.batch(rng, 400)
    assert crops.shape == (400, CHANNELS, SIZE, SIZE) and points.shape == (400, 6, 2)
    assert np.mean(seen) == pytest.approx(FRACTURED_SHARE, abs=0.08)
    before = list(pool._films)
    pool.renew(rng)
    assert pool.films == 2 and pool._films[0] is not before[0] and pool._films[1] is before[1]


def test_without_films_the_message_says_what_to_run() -> None:
    with pytest.raises(FileNotFoundError, match="film_points_films"):
        BodyPool((), lambda film: pytest.fail("nothing to see")).renew(np.random.default_rng(0))


def test_a_film_rich_in_fractures_has_the_planned_ones(monkeypatch) -> None:
    plans = []

    def made(rng, view, ranges, region, long_side, plan):
        plans.append((view, region, plan))
        return "film"

    monkeypatch.setattr("onnx_models.training.film_points_films.make_film", made)
    for name in ("train", "held_out"):
        assert [film_of(name, n) for n in range(7)] == ["film"] * 7
    assert {view for view, _, _ in plans} == {"lateral spine"}
    for _, region, plan in plans:
        assert set(plan.deformities) <= set(LEVELS[region])
        assert all(kind in KINDS and 0.08 <= loss <= 0.65 for kind, loss in plan.deformities.values())
    assert plans[0][2] != plans[7][2]
    film_of("train", 0)
    assert plans[-1] == plans[0]


def test_the_network_is_small_and_keeps_its_contract() -> None:
    network = BodyPointsNetwork().eval()
    assert sum(p.numel() for p in network.parameters()) <= 500_000
    with torch.no_grad():
        points, spread = network(torch.rand(3, CHANNELS, SIZE, SIZE))
    assert points.shape == (3, 6, 2) and spread.shape == (3, 3)
    assert (points >= 0).all() and (points <= SIZE - 1).all() and (spread > 0).all()


def test_contrast_and_brightness_of_a_crop_do_not_matter() -> None:
    network = BodyPointsNetwork().eval()
    crop = torch.rand(1, CHANNELS, SIZE, SIZE)
    other = torch.cat([0.5 * crop[:, :1] + 0.3, crop[:, 1:]], dim=1)
    with torch.no_grad():
        first, second = network(crop)[0], network(other)[0]
    assert (first - second).abs().max() < 0.5


def test_a_peak_has_its_mean_at_the_point() -> None:
    points = torch.tensor([[[13.3, 10.8], [45.0, 11.0], [13.0, 33.5], [44.6, 33.0], [15.0, 51.0], [47.5, 53.1]]])
    maps = peaks(points).unflatten(2, (CELLS, CELLS))
    at = BodyPointsNetwork().at
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(1, 6))
    torch.testing.assert_close((maps.sum(dim=3) * at).sum(dim=2), points[..., 0], atol=0.05, rtol=0)
    torch.testing.assert_close((maps.sum(dim=2) * at).sum(dim=2), points[..., 1], atol=0.05, rtol=0)


def exact(points: torch.Tensor, spread: float = 1.0) -> BodyPoints:
    logs = (peaks(points) + 1e-12).log().unflatten(2, (CELLS, CELLS))
    return BodyPoints(points, logs, torch.full((len(points), 3), spread))


def test_the_loss_is_least_at_the_truth_and_fractures_weigh_more() -> None:
    whole = torch.tensor(WHOLE, dtype=torch.float32)
    wedge = whole.clone()
    wedge[0, 0] = 32.0
    truth = torch.stack([whole, wedge])
    best, parts = loss_of(exact(truth), truth, 0.5)
    assert parts["points_px"] == pytest.approx(0) and parts["heights_px"] == pytest.approx(0, abs=1e-4)
    assert parts["shape"] == pytest.approx(0, abs=1e-5)
    off = []
    for n in (0, 1):
        moved = truth.clone()
        moved[n, 4, 0] += 2
        worse, numbers = loss_of(exact(moved), truth, 0.5)
        assert worse > best
        off.append(numbers["heights_px"])
    assert off[1] > 1.5 * off[0]
    along = truth.clone()
    along[:, 2, 1] += 2  # a middle point moved along its plate costs less than one across
    across = truth.clone()
    across[:, 2, 0] += 2
    assert loss_of(exact(along), truth, 1.0)[1]["points_px"] < loss_of(exact(across), truth, 1.0)[1]["points_px"]


def test_the_spread_is_taught_the_error_and_teaches_nothing_else() -> None:
    network = BodyPointsNetwork()
    found = network.features(torch.rand(2, CHANNELS, SIZE, SIZE))
    found.spread.sum().backward()
    taught = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught == {"doubt"}
    truth = torch.tensor(WHOLE[None], dtype=torch.float32)
    off = truth.clone()
    off[:, 1::2, 0] += 2
    by_spread = {s: loss_of(exact(off, s), truth, 1.0)[1]["spread"] for s in (0.5, 2.0, 8.0)}
    assert min(by_spread, key=by_spread.__getitem__) == 2.0


def test_spreads_are_widened_to_the_errors_of_held_out_films() -> None:
    """So that what the reports state as uncertainty is what was measured; never narrowed."""
    network, crops = BodyPointsNetwork().eval(), np.random.default_rng(4).random((3, CHANNELS, SIZE, SIZE), np.float32)
    points, spread = told_of(network, crops)
    assert widen(network, {"error_over_spread": 1.304}) == 1.3
    again, wider = told_of(network, crops)
    np.testing.assert_array_equal(again, points)
    np.testing.assert_allclose(wider - LEAST_SPREAD, 1.3 * (spread - LEAST_SPREAD), rtol=1e-4)
    assert widen(network, {"error_over_spread": 0.8}) == 1.0
    with pytest.raises(ValueError, match="no held-out film"):
        widen(network, {})


def test_ratios_are_those_of_heights() -> None:
    points = torch.tensor([[[0.0, 0], [20, 0], [0, 10], [30, 10], [0, 20], [40, 20]]])
    torch.testing.assert_close(heights_of(points), torch.tensor([[20.0, 30.0, 40.0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(ratios_of(heights_of(points)), torch.log(torch.tensor([[0.5, 0.75]])), atol=1e-3, rtol=0)


@pytest.mark.usefixtures("as_drawn")
def test_the_task_trains_and_judges(drawn: FormedFilm, sight: Sight, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("onnx_models.training.film_points_task.FILL", 2)
    monkeypatch.setattr(FilmPointsTask, "batch", 4)
    for part in ("train", "held_out"):
        stored(drawn).save(tmp_path / part / "00000000.npz")
    task = FilmPointsTask((tmp_path,), sight)
    network = task.network()
    loss, parts = task.step(network, np.random.default_rng(0), 0.0)
    assert torch.isfinite(loss) and set(parts) == {"points_px", "heights_px", "shape", "maps", "spread"}
    loss.backward()
    figures = task.evaluate(network.eval())
    assert figures["bodies"] >= 3 and figures["height_px"] > 0
    bodies = held_out_bodies([tmp_path / "held_out" / "00000000.npz"], sight)

    class Knows(torch.nn.Module):
        def forward(self, crops):
            found = [n for c in crops for n in range(len(bodies.crops)) if np.array_equal(c, bodies.crops[n])]
            return torch.from_numpy(bodies.points[found]), torch.ones(len(found), 3)

    perfect = judged(Knows(), bodies)
    assert perfect["point_px"] == 0 and perfect["height_px"] == 0 and perfect["dg_high"] == 0
    assert load_task("film_points").name == "film_points"


def test_the_export_agrees_and_says_what_it_was_trained_on(tmp_path: Path) -> None:
    network = BodyPointsNetwork().eval()
    state = {"steps": 3, "seed": 1, "begun_from": None}
    exported = export_network(network, state, tmp_path)
    assert exported.parity < exporting.PARITY
    entry = json.loads((tmp_path / "manifest.json").read_text())["models"][0]
    assert entry["name"] == "film_points" and entry["card"] == "film_points.md"
    assert entry["outputs"]["points"]["shape"] == ["bodies", 6, 2]
    assert "no real radiograph" in entry["provenance"]["trained_on"] and entry["provenance"]["steps"] == 3


def test_the_shipped_network_is_its_weights() -> None:
    if "film_points" not in [m["name"] for m in json.loads((MODELS / "manifest.json").read_text())["models"]]:
        pytest.skip("film_points is not shipped: train and export it")
    weights = MODELS / "training" / "weights" / "film_points.safetensors"
    network = BodyPointsNetwork().eval()
    network.load_state_dict(load_file(weights))
    rng = np.random.default_rng(5)
    crops = [(torch.from_numpy(rng.random((n, CHANNELS, SIZE, SIZE), np.float32)),) for n in (1, 5)]
    assert exporting.compare(network, MODELS / "film_points.onnx", crops) < exporting.PARITY
    card = (MODELS / "film_points.md").read_text()
    assert "No real radiograph was tested" in card.splitlines()[0]


def body(n: int, told: dict[str, Told]) -> Body:
    points = WHOLE + np.array([50.0 * n, 0.0])
    return Body(0, n, f"L{n + 1}", points, 0.5, 0.0, 1.0, told)


def lowered(b: Body, by: float, **said: float) -> Told:
    """Its points with the upper front one lower by so many pixels."""
    points = b.points.copy()
    points[0, 0] += by
    return Told(points, **said)


def test_figures_of_ways_are_those_of_their_points() -> None:
    bodies = [body(n, {}) for n in range(4)]
    for b in bodies:
        b.told[TRUE_OUTLINE] = Told(b.points)
        b.told[POINTS] = lowered(b, 2.4 if b.place == 1 else 0.0, spread=0.1 if b.place == 1 else 0.01)
    exact_ones, off = errors(bodies, TRUE_OUTLINE), errors(bodies, POINTS)
    assert exact_ones["height_mm"] == 0 and exact_ones["point_mm"] == 0
    assert off["height_mm"] == pytest.approx(2.4 * 0.5 / 12, abs=1e-3)
    assert off["height_percent_p95"] == pytest.approx(100 * 0.1 * 0.85, abs=0.1)
    assert errors(bodies, OUTLINE) == {"bodies": 0}
    pairs = ratios(bodies, POINTS)
    assert pairs[0] == pytest.approx((10.0, 0.0)) and pairs[1] == pytest.approx((100 * (1 - 24 / 22.8), 0.0))
    assert ratios(bodies[:2], POINTS) == []


def test_the_card_holds_what_was_measured() -> None:
    bodies = [body(n % 5, {}) for n in range(20)]
    bodies = [replace(b, film=n // 5) for n, b in enumerate(bodies)]
    for n, b in enumerate(bodies):
        by = 6.0 if n % 4 == 0 else 0.0
        b.told.update({TRUE_OUTLINE: Told(b.points), OUTLINE: Told(b.points, sure=n % 2 == 0)})
        b.told[POINTS] = lowered(b, by, spread=0.3 if by else 0.01, apart=by / 24)
    told = {"models": {"film_points": "abc"}, **told_by(bodies)}
    assert told["spread"]["cut"]["0.1"]["bad_flagged"] == 1.0 and told["spread"]["cut"]["0.1"]["bad_among_others"] == 0
    assert told["spread"]["cut"]["0.1"]["vcr_limits"] == 0 and told["sure"][OUTLINE]["bodies"] == 10
    assert told["agreement"]["0.1"] == {
        "flagged": 0.25, "bad_flagged": 1.0, "bad_among_flagged": 1.0, "bad_among_others": 0.0,
        "error_percent_of_others": 0.0,
    }  # fmt: skip
    card = written(f"before\n{BEGIN}\noutdated\n{END}\nafter\n", told)
    assert card.startswith("before") and "outdated" not in card and card.endswith("after\n")
    assert "| all | true outline | 20 | 0.00 |" in card and "| flagged | 0.25 |" in card
    assert "| 0.1 | 0.75 | 0.000 |" in card and "| sure | outline | 10 |" in card
    assert section(told) in card
    with pytest.raises(ValueError, match="markers"):
        written("nothing", told)


@pytest.mark.usefixtures("as_drawn")
def test_bodies_of_a_film_are_measured_by_outline_and_network(drawn: FormedFilm, sight: Sight, tmp_path: Path) -> None:
    models = Models({"film_points": Session()}, (), CPU)
    bodies = bodies_of(drawn, 3, sight, models)
    assert len(bodies) >= 4 and all(b.film == 3 for b in bodies)
    assert errors(bodies, TRUE_OUTLINE)["height_mm"] < 0.5  # the outline of true masks is right
    assert errors(bodies, OUTLINE)["height_mm"] < 0.5
    assert [b.told[OUTLINE].sure for b in bodies] == [p >= 0.96 for p in seen_film(drawn, sight).probability]
    assert errors(bodies, POINTS)["height_mm"] > 1 and bodies[0].told[POINTS].spread == pytest.approx(0.1)
    assert not bodies[0].told[POINTS].sure
    path = tmp_path / "00000000.npz"
    stored(drawn).save(path)
    assert measured([path], sight, models) and measured([path], sight, models, deadline=0.0) == []


def test_points_are_told_in_single_precision_whatever_the_convolutions_are() -> None:
    network = BodyPointsNetwork().eval()
    crops = torch.from_numpy(np.random.default_rng(4).uniform(0, 1, (3, CHANNELS, SIZE, SIZE)).astype(np.float32))
    plain = network.features(crops)
    with torch.autocast("cpu", torch.bfloat16):
        half = network.features(crops)
    assert {told.dtype for told in half} == {torch.float32}
    assert (half.points - plain.points).abs().max() < 0.5
    assert (half.points != plain.points).any(), "the convolutions were in bfloat16"
