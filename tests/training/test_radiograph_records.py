"""Films through the whole pipeline beside their truth: what is compared, the figures and the card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from inference.film_names import NameSettings  # noqa: E402
from inference.radiograph import RadiographSettings  # noqa: E402
from inference.runtime import Models  # noqa: E402
from onnx_models.training import radiograph_records  # noqa: E402
from onnx_models.training.film_data import VIEWS, FormedFilm, Placement, StoredFilm, formed  # noqa: E402
from onnx_models.training.film_geometry import cone_beam  # noqa: E402
from onnx_models.training.film_look import Look  # noqa: E402
from onnx_models.training.film_rendering import LineIntegrals  # noqa: E402
from onnx_models.training.film_truth import film_truth  # noqa: E402
from onnx_models.training.film_views import FILM  # noqa: E402
from onnx_models.training.phantom import Plan, sample_patient  # noqa: E402
from onnx_models.training.radiograph_card import BEGIN, END, plot, written  # noqa: E402
from onnx_models.training.radiograph_data import target_maps  # noqa: E402
from onnx_models.training.radiograph_evaluation import evaluated  # noqa: E402
from onnx_models.training.radiograph_records import FilmRunner  # noqa: E402
from onnx_models.training.radiograph_summary import LOWER, compressions, estimates, found_part, summary  # noqa: E402

pytestmark = pytest.mark.training


@dataclass(frozen=True)
class Told(Models):
    """Gives the maps that it was told, whatever it is shown."""

    maps: NDArray[np.float32] | None = None

    def run(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        assert self.maps is not None
        view = np.zeros((1, len(VIEWS)), np.float32)
        view[0, 0] = 1
        names = ("body", "centre", "sacrum", "front", "head")
        return {n: m[None, None] for n, m in zip(names, self.maps, strict=True)} | {"view": view}


@pytest.fixture(scope="module")
def film() -> FormedFilm:
    """A film of 480 x 240 pixels with a crushed front of L2; its line integrals are made up, its truth is not."""
    plan = Plan(deformities={"L2": ("wedge", 0.4)})
    patient = sample_patient(np.random.default_rng(8), replace(FILM, cement=0.0, metal=0.0), plan)
    centre = next(v.centroid_lps_mm for v in patient.vertebrae if v.level == "L2")
    truth = film_truth(patient, cone_beam(centre, 320, 160, long_side=480))
    soft = np.random.default_rng(3).normal(20, 0.5, (480, 240)).astype(np.float32)
    stored = StoredFilm(LineIntegrals(soft, np.zeros_like(soft), np.zeros_like(soft)), truth, VIEWS[0], 0.8)
    return formed(stored, np.random.default_rng(1), Look(counts=1e6), Placement())


def runner(maps: NDArray[np.float32]) -> FilmRunner:
    settings = RadiographSettings(points=None, names=NameSettings(sure_sacrum=0.8), sure_body=0.85, mirrored_too=False)
    return FilmRunner(Told({}, (), "none", maps=maps), settings, "source")


@pytest.fixture(scope="module")
def record(film: FormedFilm) -> dict[str, Any]:
    """Of a network that knows the truth."""
    made: dict[str, Any] = json.loads(json.dumps(runner(target_maps(film)[0]).judged(film, 0)))
    return made


def test_perfect_maps_have_nearly_perfect_figures(record: dict[str, Any]) -> None:
    assert record["refusal"] is None
    assert record["front_right"] is True
    assert record["head_right"] is True
    assert record["dice"] > 0.94
    assert record["silhouette_dice"] < record["dice"]
    assert record["elsewhere"] == 0
    whole = [v for v in record["vertebrae"] if v["whole"]]
    assert len(whole) >= 5
    assert all(v["found"] and not v["merged"] and v["found"]["dice"] > 0.9 for v in whole)
    assert np.mean([v["found"]["error_mm"] for v in whole]) < 1.0
    assert all(v["found"]["level"] == v["level"] for v in whole)
    true, said, possible = compressions([record])
    assert len(said) == possible > 2
    assert np.abs(said - true).max() < 4
    assert true.max() > 25  # the crushed one
    figures = {name: e.value for name, e in estimates([record]).items()}
    assert figures["found, T11 to L5"] == 1
    assert figures["merged, T11 to L5"] == 0
    assert figures["AUC, moderate or worse"] == 1
    assert figures["graded moderate or worse, sensitivity"] == 1


def test_a_body_that_covers_two_has_merged_them(film: FormedFilm) -> None:
    maps = target_maps(film)[0].copy()
    rows = np.flatnonzero(maps[1].max(axis=1) > 0.9)
    middle = (rows[0] + rows[-1]) // 2
    columns = np.flatnonzero(maps[0][middle - 30 : middle + 30].max(axis=0) > 0.5)
    maps[0][middle - 30 : middle + 30, columns[0] : columns[-1] + 1] = 1
    maps[1][middle - 31 : middle + 31] = 0
    maps[1][middle, (columns[0] + columns[-1]) // 2] = 1
    told = runner(maps).judged(film, 0)
    assert sum(v["merged"] for v in told["vertebrae"]) >= 2
    assert found_part([told], LOWER) < 1
    assert sum(bool(v["found"]) for v in told["vertebrae"] if v["merged"]) <= 1


def test_nothing_found_is_refused_and_counts_as_not_found(film: FormedFilm) -> None:
    told = runner(np.zeros((5, 256, 256), np.float32)).judged(film, 0)
    assert told["refusal"] == "NO_SPINE_FOUND"
    assert told["dice"] is None
    assert found_part([told], LOWER) == 0
    assert compressions([told])[2] > 0


def test_records_are_kept_and_an_early_end_leaves_some_of_each(
    film: FormedFilm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(radiograph_records, "BUILD", tmp_path)
    monkeypatch.setattr(radiograph_records, "positive", lambda chosen, n: film)
    monkeypatch.setattr(radiograph_records, "negative", lambda chosen, n: (film, "other, hand"))
    judge = runner(target_maps(film)[0])
    told = evaluated(judge, 2, 1, 3, float("inf"))
    assert told["films"] == 2
    assert told["negatives"] == {"other, hand": [0, 1]}
    assert told["real"] is None
    assert len(list(judge.folder.glob("*.json"))) == 3
    monkeypatch.setattr(radiograph_records, "positive", None)  # not needed again
    assert json.dumps(evaluated(judge, 2, 1, 3, float("inf"))) == json.dumps(told)
    assert evaluated(judge, 2, 1, 3, 0.0)["films"] == 0


def test_the_card_holds_both_ways_and_the_plot_every_vertebra(record: dict[str, Any]) -> None:
    figures = summary([record] * 3, [{"kind": "blank", "refusal": "NO_SPINE_FOUND"}], [record], [{"refusal": None}])
    told = {
        "date": "2026-11-21",
        "set": "radiograph-eval/1",
        "set_sha256": "0" * 64,
        "films_of_the_set": 320,
        "models": {"film": "1" * 64},
        "ways": {"six-point network": figures, "outline": figures},
    }
    card = written(f"before\n{BEGIN}\nold\n{END}\nafter\n", told, "the command")
    assert "old" not in card
    assert card.startswith("before")
    assert "| | goal | six-point network | outline |" in card
    assert "| blank | 1 of 1 |" in card
    assert "| AP films refused | all | 0 of 1 |" in card
    true, said = figures["vcr"]
    drawn = plot(true, said, "A title")
    assert drawn.count("<circle") == len(said) > 2
    assert "A title" in drawn
    assert "nan" not in drawn
