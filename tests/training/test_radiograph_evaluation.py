"""The fixed set of films, and the figures of a network on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from onnx_models.training import radiograph_comparison  # noqa: E402
from onnx_models.training.film_data import VIEWS  # noqa: E402
from onnx_models.training.film_evaluation_set import STRATA, FilmSet, load_set, negative, positive  # noqa: E402
from onnx_models.training.film_truth import coverage  # noqa: E402
from onnx_models.training.film_views import FILM, FILM_EVALUATION  # noqa: E402
from onnx_models.training.metrics import area_under_curve, dice_of  # noqa: E402
from onnx_models.training.radiograph_comparison import COMPARED, compared, judge, prepared_mask, section  # noqa: E402
from onnx_models.training.radiograph_data import canvas_matrix, prepared  # noqa: E402
from onnx_models.training.radiograph_figures import PixelCounts, body_masks, vertebra_dice  # noqa: E402
from onnx_models.training.radiograph_network import UNet, WholeFilmNetwork  # noqa: E402

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def small() -> FilmSet:
    """The set with small films."""
    return replace(load_set(), long_side=80)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


def test_the_set_is_large_enough_and_wider_than_the_training() -> None:
    chosen = load_set()
    assert chosen.name == "radiograph-eval/1"
    assert chosen.films >= 300
    assert chosen.negatives >= 100
    assert len(set(chosen.negative_views)) >= 10
    assert chosen.ranges == FILM_EVALUATION
    assert chosen.ranges.size[0] < FILM.size[0]
    assert chosen.ranges.cobb_deg[1] > FILM.cobb_deg[1]
    assert len(chosen.sha256) == 64


def test_strata_go_by_visibility() -> None:
    chosen = load_set()
    assert [chosen.stratum(v) for v in (0.0, 0.5, 1.0, 5.0)] == list(STRATA)


def test_half_of_the_films_are_of_undeformed_patients(small: FilmSet, kept: Path) -> None:
    for index in (0, 1):
        film = positive(small, index, kept)
        kinds = {d for d, seen in zip(film.truth.deformity, film.seen, strict=True) if seen > 0}
        assert (kinds == {"none"}) == (index % 2 == 0)
        assert film.view == "lateral spine"


def test_a_film_is_the_same_every_time(small: FilmSet, kept: Path) -> None:
    first = positive(small, 1, kept)
    files = sorted(p.name for p in kept.rglob("*.npz"))
    again = positive(small, 1, kept)
    np.testing.assert_array_equal(first.image, again.image)
    assert sorted(p.name for p in kept.rglob("*.npz")) == files
    assert kept.joinpath(f"evaluation-{small.sha256[:12]}").is_dir()


def test_negatives_come_in_twelve_kinds(small: FilmSet, kept: Path) -> None:
    chosen = [0, 3, 4, 11]
    found = [negative(small, n, kept) for n in chosen]
    assert [kind for _, kind in found] == ["AP spine, lumbar", "lateral chest", "other, hand", "blank"]
    assert all(film.view != VIEWS[0] for film, _ in found)


def test_pixel_figures_agree_with_counting() -> None:
    rng = np.random.default_rng(4)
    truth = rng.random((60, 50)) < 0.2
    probability = np.clip(rng.normal(0.35 + 0.3 * truth, 0.2), 0, 1).astype(np.float32)
    counts = PixelCounts()
    counts.add(probability[:30], truth[:30])
    counts.add(probability[30:], truth[30:])
    told = counts.figures()
    found = probability >= 0.5
    assert told["dice"] == pytest.approx(dice_of(found, truth), abs=1e-9)
    assert told["sensitivity"] == pytest.approx(found[truth].mean())
    assert told["specificity"] == pytest.approx((~found)[~truth].mean())
    assert told["accuracy"] == pytest.approx((found == truth).mean())
    assert told["roc_auc"] == pytest.approx(
        area_under_curve(probability.ravel().astype(float), truth.ravel()), abs=2e-3
    )
    assert truth.mean() < told["pr_auc"] < 1


def test_single_vertebrae_are_judged_by_themselves(small: FilmSet, kept: Path) -> None:
    film = positive(small, 0, kept)
    truth = film.truth.moved(canvas_matrix(film.image.shape))
    sections, shadows = body_masks(truth, np.ones((256, 256), bool))
    perfect = vertebra_dice(sections, truth)
    whole = [level for level, seen in zip(truth.levels, film.seen, strict=True) if seen > 0.99 and level != "S1"]
    assert len(whole) >= 3
    assert min(perfect[level] for level in whole) > 0.95
    gone = sections & ~(coverage(truth.outlines[truth.levels.index(whole[1])], (256, 256)) > 0)
    assert vertebra_dice(gone, truth)[whole[1]] < 0.1
    assert vertebra_dice(gone, truth)[whole[0]] > 0.95
    assert dice_of(sections, shadows) < 0.97
    assert set(vertebra_dice(np.zeros((256, 256), bool), truth).values()) == {0.0}


def test_masks_lie_on_the_canvas_as_images_do() -> None:
    mask = np.zeros((300, 170), bool)
    mask[60:200, 40:110] = True
    image = mask.astype(np.float32) + np.random.default_rng(1).uniform(0, 0.2, mask.shape).astype(np.float32)
    canvas = prepared(image)[0]
    assert dice_of(canvas > 0.6, prepared_mask(mask)) > 0.95


@pytest.mark.parametrize("network", [WholeFilmNetwork((4, 4, 4, 4, 4, 4)), UNet(4)])
def test_a_network_is_judged_whatever_its_outputs(
    network: torch.nn.Module, small: FilmSet, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(radiograph_comparison, "positive", lambda chosen, n: positive(chosen, n, kept))
    told = judge(network, small, 2)
    assert told["films"] == 2
    assert 0 <= told["dice"]["all"] <= 1
    assert 0 <= json.loads(json.dumps(told))["specificity"] <= 1
    rows = {"one": [told | {"steps": 3, "weights": 400_000}] * 2}
    text = section({"set": small.name, "sha256": small.sha256, "minutes": 4.0, "networks": rows}, "the command")
    assert "| one | 0.40 M | 3; 3 |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_a_training_that_was_judged_is_not_done_again(
    small: FilmSet, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int]] = []

    def trained(name: str, seed: int, _minutes: float) -> SimpleNamespace:
        done.append((name, seed))
        network = UNet(2)
        return SimpleNamespace(averaged=network, network=network, step=5)

    monkeypatch.setattr(radiograph_comparison, "trained", trained)
    monkeypatch.setattr(radiograph_comparison, "load_set", lambda: small)
    monkeypatch.setattr(radiograph_comparison, "positive", lambda chosen, n: positive(chosen, n, kept))
    one = compared(1.0, 1, seeds=[1], say=lambda _: None, judged=tmp_path / "judged")
    assert done == [(name, 1) for name in COMPARED]
    both = compared(1.0, 1, seeds=[1, 2], say=lambda _: None, judged=tmp_path / "judged")
    assert done[5:] == [(name, 2) for name in COMPARED]
    assert all(both["networks"][name][:1] == one["networks"][name] for name in COMPARED)
    compared(2.0, 1, seeds=[1], say=lambda _: None, judged=tmp_path / "judged")
    assert len(done) == 15, "other minutes, another training"


def test_compared_networks_have_about_as_many_weights() -> None:
    weights = [sum(p.numel() for p in make().parameters()) for make in COMPARED.values()]
    assert len(weights) == 5
    assert max(weights) < 1.2 * min(weights)
