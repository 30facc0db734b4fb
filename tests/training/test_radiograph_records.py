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
from onnx_models import MODELS  # noqa: E402
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
from onnx_models.training.radiograph_evaluation import OUTLINE, POINTS, evaluated, outlines_only, ways  # noqa: E402
from onnx_models.training.radiograph_records import FilmRunner  # noqa: E402
from onnx_models.training.radiograph_summary import (  # noqa: E402
    LOWER,
    compressions,
    error_percent,
    estimates,
    flags,
    found_part,
    measured_flags,
    pixel_figures,
    point_error_mm,
    summary,
    were_all_graded,
)

pytestmark = pytest.mark.training


@dataclass(frozen=True)
class Told(Models):
    """Gives the maps that it was told, whatever it is shown; "bodies alone" gives a map of its own."""

    maps: NDArray[np.float32] | None = None
    bodies: NDArray[np.float32] | None = None
    lateral: float = 1.0

    def run(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        assert self.maps is not None
        if name == "bodies alone":
            assert self.bodies is not None
            return {"body": self.bodies[None, None]}
        view = np.zeros((1, len(VIEWS)), np.float32)
        view[0, 0], view[0, VIEWS.index("other")] = self.lateral, 1 - self.lateral
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
    settings = RadiographSettings(
        points=None, foreign=None, names=NameSettings(sure_sacrum=0.8), sure_body=0.85, mirrored_too=False
    )
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
    assert len(list(judge.folder.glob("*.json"))) == 4
    monkeypatch.setattr(radiograph_records, "positive", None)  # not needed again
    assert json.dumps(evaluated(judge, 2, 1, 3, float("inf"))) == json.dumps(told)
    assert evaluated(judge, 2, 1, 3, 0.0)["films"] == 0


def test_missed_bodies_and_refused_films_count_in_what_has_a_goal(film: FormedFilm, record: dict[str, Any]) -> None:
    refused = runner(np.zeros((5, 256, 256), np.float32)).judged(film, 0)
    both = [record | {"elsewhere": 2}, refused]
    figures = {name: e.value for name, e in estimates(both).items()}
    for dice in ("Dice, section", "Dice, silhouette", f"Dice, {record['stratum']}"):
        assert figures[dice] == pytest.approx(figures[f"{dice}, answered"] / 2)
    assert figures["Dice, section, answered"] == record["dice"]
    vertebra = "Dice of a vertebra, L2 to L5"
    assert figures[vertebra] == pytest.approx(figures[f"{vertebra}, found"] / 2)
    assert figures["graded moderate or worse, sensitivity"] == 0.5
    assert figures["graded moderate or worse, sensitivity, measured"] == 1
    assert figures["AUC, moderate or worse"] < figures["AUC, moderate or worse, measured"] == 1
    assert figures["false findings a film"] == 2
    with_merged = record | {"vertebrae": [v | {"merged": True} for v in record["vertebrae"]]}
    assert estimates([with_merged, refused])["merged, T11 to L5"].value == 1
    assert summary([record], [], [record, refused], [])["real"]["dice"] == pytest.approx(record["dice"] / 2)


def test_an_ungraded_fracture_is_not_flagged_however_few_are_graded(record: dict[str, Any]) -> None:
    def doubted(body: dict[str, Any]) -> dict[str, Any]:
        return body | {"found": body["found"] | {"grade": None, "quality": ["LOW_CONFIDENCE"]}}

    missed = record | {"vertebrae": [v | {"found": None} if max(v["loss"]) >= 0.25 else v for v in record["vertebrae"]]}
    unsure = record | {"vertebrae": [doubted(v) for v in record["vertebrae"]]}
    assert flags([record] + 5 * [missed], True) == pytest.approx(1 / 6)
    assert measured_flags([record] + 5 * [missed], True) == 1
    assert flags([record, unsure], True) == measured_flags([record, unsure], True) == 0.5
    assert flags([missed], False) == 1


def test_what_would_be_called_were_all_graded_is_told(record: dict[str, Any]) -> None:
    unsure = {"grade": None, "quality": ["LOW_CONFIDENCE"], "called": True}
    healthy = [v for v in record["vertebrae"] if max(v["loss"]) < 0.25]
    film = record | {"vertebrae": [v | {"found": v["found"] | unsure} for v in healthy], "called": len(healthy)}
    told = were_all_graded([film, record])
    count = sum(v["level"] in LOWER and v["whole"] for v in healthy)
    assert count > 0
    assert told["films"] == [1, 1]  # the other one has a fracture
    assert told["healthy"] == pytest.approx(0.5)
    assert told["healthy graded"] == 0
    assert sum(v["found"]["called"] for v in record["vertebrae"] if v["found"]) == record["called"] >= 1


def test_another_network_s_map_of_bodies_is_judged_in_place_of_the_first_one_s(film: FormedFilm) -> None:
    maps = target_maps(film)[0]
    models = Told({}, (), "none", maps=np.concatenate([np.zeros_like(maps[:1]), maps[1:]]), bodies=maps[0])
    settings = runner(maps).settings
    alone = FilmRunner(models, settings, "source").judged(film, 0)
    other = FilmRunner(models, replace(settings, body_network="bodies alone"), "source").judged(film, 0)
    assert alone["refusal"] == "NO_SPINE_FOUND"
    assert other["dice"] > 0.94
    assert pixel_figures([alone])["sensitivity"] == 0
    assert pixel_figures([other])["sensitivity"] > 0.94


def test_a_body_network_is_one_of_the_ways() -> None:
    found = ways(MODELS, "film", "film_mdr2unet")
    way = f"{POINTS}, bodies of film_mdr2unet"
    assert list(found) == [POINTS, OUTLINE, way]
    assert found[way].body_network == "film_mdr2unet"
    assert found[way].points == found[POINTS].points is not None
    alone = outlines_only(found)
    assert list(alone) == [OUTLINE, f"{OUTLINE}, bodies of film_mdr2unet"]
    assert not any(settings.points for settings in alone.values())


def test_films_that_must_be_refused_are_shown_with_a_header_that_says_lateral_too(
    film: FormedFilm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(radiograph_records, "BUILD", tmp_path)
    monkeypatch.setattr(radiograph_records, "negative", lambda chosen, n: (film, "other, hand"))
    doubtful = runner(target_maps(film)[0])
    doubtful.models = Told({}, (), "none", maps=target_maps(film)[0], lateral=0.5)
    told = summary(
        [], [doubtful.negative(0)], [], [], called_lateral=[doubtful.negative_called_lateral(n) for n in range(2)]
    )
    assert told["negatives"] == {"other, hand": [1, 1]}
    assert told["called lateral"] == {"other, hand": [0, 2]}


def test_a_film_that_is_not_calibrated_is_compared_in_parts_of_a_height(film: FormedFilm) -> None:
    judge = runner(target_maps(film)[0])
    unknown, known = judge.judged(film, 0, calibrated=False), judge.judged(film, 0)
    for told, in_mm in ((unknown, False), (known, True)):
        found = [v["found"] for v in told["vertebrae"] if v["found"]]
        assert len(found) >= 5
        assert all(bool(f["error_mm"]) == bool(f["heights"]) == in_mm for f in found if f["relative"])
    assert np.isnan(point_error_mm([unknown]))
    assert error_percent([unknown], "error_parts") == pytest.approx(error_percent([known], "error_parts"))
    assert 0 < error_percent([unknown], "height_error_parts") < 5


def test_the_card_holds_both_ways_and_the_plot_every_vertebra(record: dict[str, Any]) -> None:
    passed = {"kind": "blank", "refusal": None}
    negatives = [{"kind": "blank", "refusal": "NO_SPINE_FOUND"}] * 2
    figures = summary([record] * 3, negatives, [record], [{"refusal": None}], [negatives[0], passed])
    told = {
        "date": "2026-11-21",
        "set": "radiograph-eval/1",
        "set_sha256": "0" * 64,
        "films_of_the_set": 320,
        "models": {"film": "1" * 64},
        "ways": {"six-point network": figures, "outline": figures},
    }
    card = written(f"before\n{BEGIN}\nold\n{END}\nafter\n", told, "the command")
    assert "\nold\n" not in card
    assert "told of 0 of 0 whole bodies found that hold some, and of 0 of 30 that hold none" in card
    assert card.startswith("before")
    assert "| | counted | goal | six-point network | outline |" in card
    assert "| blank | 2 of 2 | 2 of 2 |" in card
    assert "| **all, with a header that says lateral** | 1 of 2 (not 1 blank) | 1 of 2 (not 1 blank) |" in card
    assert "| AP films refused | all | 0 of 1 | 0 of 1 |" in card
    assert "| a body on answered films without a fracture | 0 of 0 | 0 of 0 |" in card
    assert "| a body on answered films of the healthy real CT | 1 of 1 | 1 of 1 |" in card
    for block in card.split("\n\n"):
        rows = [line.replace(r"\|", "").count("|") for line in block.splitlines() if line.startswith("|")]
        assert len(set(rows)) <= 1
    assert [line.split(" | ")[1] for line in card.splitlines() if line.startswith("| Dice, section |")] == [
        "all films, 0 where refused"
    ]
    true, said = figures["vcr"]
    drawn = plot(true, said, "A title")
    assert drawn.count("<circle") == len(said) > 2
    assert "A title" in drawn
    assert "nan" not in drawn
