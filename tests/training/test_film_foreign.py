"""The network that tells cement and metal in bodies of films: its films, its batches, its figures, the export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from drawn_film import Sight, drawn_film, stored  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from inference.film_points import CHANNELS, SIZE  # noqa: E402
from inference.runtime import CPU, Models, load_models  # noqa: E402
from onnx_models import MODELS  # noqa: E402
from onnx_models.training import export as exporting  # noqa: E402
from onnx_models.training import film_foreign_films  # noqa: E402
from onnx_models.training.film_data import FormedFilm  # noqa: E402
from onnx_models.training.film_foreign_evaluation import BEGIN, END, LIMITS, probabilities, section  # noqa: E402
from onnx_models.training.film_foreign_evaluation import judged as judged_by_kind  # noqa: E402
from onnx_models.training.film_foreign_task import (  # noqa: E402
    DEFORMED_SHARE,
    FOREIGN_SHARE,
    FilmForeignTask,
    ForeignNetwork,
    export_network,
    judged,
    weights,
)
from onnx_models.training.film_points_data import HeldOutBodies, held_out_bodies  # noqa: E402
from onnx_models.training.train import load_task  # noqa: E402

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def drawn() -> FormedFilm:
    """L2 holds cement, L3 a screw."""
    film = drawn_film()
    holds = {name: np.array([level == name for level in film.truth.levels]) for name in ("L2", "L3")}
    return replace(film, truth=replace(film.truth, cement=holds["L2"], metal=holds["L3"]))


@pytest.fixture
def films(drawn: FormedFilm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one film for the training and one held out, which are shown as they were drawn."""
    monkeypatch.setattr("onnx_models.training.film_points_data.formed", lambda stored, rng, look=None: drawn)
    for name in ("train", "held_out"):
        stored(drawn).save(tmp_path / name / "00000000.npz")
    return tmp_path


def test_every_other_patient_has_screws_and_all_may_have_cement(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(film_foreign_films, "make_film", lambda *asked: drawn.append(asked))
    for number in range(12):
        film_foreign_films.film_of("train", number)
    ranges = [asked[2] for asked in drawn]
    assert [r.metal for r in ranges] == [1.0, 0.0] * 6
    assert {r.cement for r in ranges} == set(film_foreign_films.CEMENT)
    film_foreign_films.film_of("held_out", 0)
    assert drawn[-1][2:] != drawn[0][2:], "no film belongs to both sets"


def test_films_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: FormedFilm) -> None:
    made = []
    monkeypatch.setattr(film_foreign_films, "film_of", lambda name, n: (made.append((name, n)), stored(drawn))[1])
    for _ in range(2):
        assert film_foreign_films.main(["--folder", str(tmp_path), "--count", "2", "--held-out", "1"]) == 0
    assert made == [("held_out", 0), ("train", 0), ("train", 1)]


def test_half_of_a_batch_holds_something_and_of_the_others_half_are_deformed() -> None:
    foreign = np.array([True, False, False, False, True, False])
    deformed = np.array([True, True, False, False, False, False])
    weight = weights(foreign, deformed)
    assert weight.sum() == pytest.approx(1)
    assert weight[foreign].sum() == pytest.approx(FOREIGN_SHARE)
    assert weight[deformed & ~foreign].sum() == pytest.approx(DEFORMED_SHARE)
    none = weights(np.zeros(6, bool), deformed)
    assert none.sum() > 0 and (none > 0).all(), "a pool without implants can be drawn from"


def test_the_task_trains_and_judges(films: Path, drawn: FormedFilm) -> None:
    task = FilmForeignTask((films,), Sight(drawn))
    network = task.network()
    loss, parts = task.step(network, np.random.default_rng(0), 0.0)
    assert torch.isfinite(loss) and 0.3 < parts["foreign"] < 0.7
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())
    figures = task.evaluate(network.eval())
    assert set(figures) == {f"{films.name}_{name}" for name in ("auc", "sensitivity", "specificity")}
    assert load_task("film_foreign").name == "film_foreign"


def test_held_out_bodies_know_what_they_hold(films: Path, drawn: FormedFilm) -> None:
    bodies = held_out_bodies([films / "held_out" / "00000000.npz"], Sight(drawn))
    assert bodies.cement.sum() == bodies.metal.sum() == 1 and bodies.foreign.sum() == 2
    assert bodies.chosen(bodies.cement).foreign.tolist() == [True]


def test_figures_of_both_kinds_and_of_what_holds_nothing() -> None:
    probability = np.array([0.9, 0.2, 0.6, 0.1, 0.8])
    cement = np.array([True, True, False, False, False])
    metal = np.array([False, False, True, False, False])
    told = judged(probability, cement | metal)
    assert told == {"auc": pytest.approx(4 / 6), "sensitivity": pytest.approx(2 / 3), "specificity": 0.5}
    assert judged(probability, np.zeros(5, bool)) == {}, "nothing to find"
    bodies = HeldOutBodies(
        np.zeros((5, CHANNELS, SIZE, SIZE), np.float32), np.zeros((5, 6, 2)), np.ones(5),
        np.array([0.3, 0, 0, 0, 0.3]), np.ones(5), cement, metal,
    )  # fmt: skip
    by_kind = judged_by_kind(probability, bodies)
    assert by_kind["bodies"] == {"cement": 2, "metal": 1, "neither": 2, "neither, deformed": 1}
    assert by_kind["told"]["0.5"] == {"cement": 0.5, "metal": 1.0, "neither": 0.5, "neither, deformed": 1.0}
    text = section({"models": {"film_foreign": "abc"}, "limit": 0.5, "sets": {"some films": by_kind}})
    assert "**some films**: 5 bodies, area under the ROC 0.667" in text
    assert "| 0.5 | 0.500 | 1.000 | 0.500 | 1.000 |" in text
    assert all(f"| {limit} |" in text for limit in LIMITS)


def test_the_export_agrees_and_says_what_it_was_trained_on(tmp_path: Path) -> None:
    network = ForeignNetwork().eval()
    exported = export_network(network, {"steps": 3, "seed": 1, "begun_from": None}, tmp_path)
    assert exported.parity < exporting.PARITY
    entry = json.loads((tmp_path / "manifest.json").read_text())["models"][0]
    assert entry["name"] == "film_foreign" and entry["card"] == "film_foreign.md"
    assert entry["outputs"]["foreign"]["shape"] == ["bodies"]
    assert "no real implant" in entry["provenance"]["trained_on"] and entry["provenance"]["steps"] == 3


def test_the_shipped_network_is_its_weights() -> None:
    network = ForeignNetwork()
    network.load_state_dict(load_file(MODELS / "training" / "weights" / "film_foreign.safetensors"))
    network.eval()
    crops = np.random.default_rng(4).uniform(0, 1, (3, CHANNELS, SIZE, SIZE)).astype(np.float32)
    bodies = HeldOutBodies(crops, *(np.zeros(3) for _ in range(4)), np.zeros(3, bool), np.zeros(3, bool))
    models: Models = load_models(MODELS, "cpu", threads=1, names=["film_foreign"])
    assert models.provider == CPU
    with torch.no_grad():
        assert probabilities(bodies, models) == pytest.approx(network(torch.from_numpy(crops)).numpy(), abs=1e-4)


def test_the_card_has_its_figures() -> None:
    card = (MODELS / "film_foreign.md").read_text()
    figures = card[card.index(BEGIN) + len(BEGIN) : card.index(END)]
    assert "area under the ROC" in figures and "real CT" in figures
