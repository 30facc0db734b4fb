"""What thresholds of the radiograph pipeline cost: it is the pipeline that decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from inference.film_points import PointSettings  # noqa: E402
from inference.radiograph import RadiographSettings  # noqa: E402
from inference.runtime import Models  # noqa: E402
from onnx_models.training.film_data import VIEWS, FormedFilm, Placement, StoredFilm, formed  # noqa: E402
from onnx_models.training.film_geometry import cone_beam  # noqa: E402
from onnx_models.training.film_look import Look  # noqa: E402
from onnx_models.training.film_rendering import LineIntegrals  # noqa: E402
from onnx_models.training.film_truth import film_truth  # noqa: E402
from onnx_models.training.film_views import FILM  # noqa: E402
from onnx_models.training.phantom import sample_patient  # noqa: E402
from onnx_models.training.radiograph_data import target_maps  # noqa: E402
from onnx_models.training.radiograph_evaluation import OUTLINE, POINTS  # noqa: E402
from onnx_models.training.radiograph_records import FilmRunner  # noqa: E402
from onnx_models.training.radiograph_thresholds import (  # noqa: E402
    SURE_BODY,
    SURE_POINTS,
    named,
    records,
    remembering,
    settings_of,
    told_of,
)

pytestmark = pytest.mark.training


@dataclass(frozen=True)
class Seen(Models):
    """Networks that give these maps, and of every body the same points with this spread (parts of the height)."""

    maps: NDArray[np.float32] | None = None
    spread: float = 0.0
    asked: tuple[list[str], ...] = ([],)

    def run(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        assert self.maps is not None
        self.asked[0].append(name)
        if name == "film_points":
            count = len(inputs["crops"])
            points = np.array([[20, 16], [44, 16], [21, 32], [43, 32], [20, 48], [44, 48]], np.float32)
            spread = np.full((count, 3), 24 * self.spread, np.float32)
            return {"points": np.repeat(points[None], count, axis=0), "spread": spread}
        view = np.zeros((1, len(VIEWS)), np.float32)
        view[0, 0] = 1
        names = ("body", "centre", "sacrum", "front", "head")
        return {n: m[None, None] for n, m in zip(names, self.maps, strict=True)} | {"view": view}


@pytest.fixture(scope="module")
def stored() -> StoredFilm:
    patient = sample_patient(np.random.default_rng(8), replace(FILM, cement=0.0, metal=0.0))
    centre = next(v.centroid_lps_mm for v in patient.vertebrae if v.level == "L2")
    truth = film_truth(patient, cone_beam(centre, 320, 160, long_side=480))
    soft = np.random.default_rng(3).normal(20, 0.5, (480, 240)).astype(np.float32)
    return StoredFilm(LineIntegrals(soft, np.zeros_like(soft), np.zeros_like(soft)), truth, VIEWS[0], 0.8)


@pytest.fixture(scope="module")
def film(stored: StoredFilm) -> FormedFilm:
    return formed(stored, np.random.default_rng(1), Look(counts=1e6), Placement())


def there() -> dict[str, RadiographSettings]:
    outline = RadiographSettings(points=None, foreign=None, mirrored_too=False)
    return {POINTS: replace(outline, points=PointSettings()), OUTLINE: outline}


def test_a_body_that_the_second_network_doubts_is_sure_at_no_threshold(film: FormedFilm) -> None:
    maps = target_maps(film)[0]
    chosen = settings_of(there())["sure_points"]
    assert list(chosen) == list(SURE_POINTS)
    for spread, doubted in ((0.2, True), (0.01, False)):
        for settings in chosen.values():
            runner = FilmRunner(Seen({}, (), "none", maps=maps, spread=spread), settings, "source")
            told = runner.judged(film, 0)
            found = [v["found"] for v in told["vertebrae"] if v["whole"]]
            assert len(found) > 3
            assert all(("LOW_CONFIDENCE" in f["quality"]) == doubted for f in found)
            assert told_of([told])["told"] == 0 or not doubted


def test_the_pipeline_decides_which_outlines_are_sure(film: FormedFilm) -> None:
    maps = target_maps(film)[0].copy()
    maps[0] *= 0.92
    told = {}
    for least, settings in settings_of(there())["sure_body"].items():
        assert settings.points is None
        told[least] = told_of([FilmRunner(Seen({}, (), "none", maps=maps), settings, "source").judged(film, 0)])
    assert list(told) == list(SURE_BODY)
    assert told[0.8]["told"] == 1
    assert told[0.98]["told"] == 0


def test_the_pipeline_s_own_thresholds_stay_but_for_those_of_the_view() -> None:
    own = replace(RadiographSettings(), foreign=None)
    for settings in settings_of({name: replace(s, mirrored_too=True) for name, s in there().items()}).values():
        for one in settings.values():
            assert (one.lateral, one.lateral_by_header) == (0, 0)
    points = settings_of(there())["sure_points"][PointSettings().sure]
    assert replace(points, lateral=own.lateral, lateral_by_header=own.lateral_by_header, mirrored_too=True) == own


def test_networks_are_asked_once_whatever_the_thresholds(film: FormedFilm) -> None:
    models = Seen({}, (), "none", maps=target_maps(film)[0], asked=([],))
    once = remembering(models)
    told = [
        FilmRunner(once, settings, "source").judged(film, 0)
        for settings in settings_of(there())["sure_points"].values()
    ]
    assert models.asked[0] == ["film", "film_points"]
    assert named(told)["of"] == len(SURE_POINTS)


def test_every_held_out_film_is_judged_with_every_setting(stored: StoredFilm, tmp_path: Path) -> None:
    stored.save(tmp_path / "a.npz")
    replace(stored, view="other").save(tmp_path / "b.npz")
    maps = np.zeros((5, 256, 256), np.float32)
    settings = list(settings_of(there())["sure_body"].values())
    lateral, others = records(FilmRunner(Seen({}, (), "none", maps=maps), settings[0], "source"), settings, tmp_path, 2)
    assert [len(films) for films in lateral] == [2] * len(SURE_BODY)
    assert [r["kind"] for r in others] == ["other", "other"]
    assert all(r["refusal"] == "NO_SPINE_FOUND" for films in lateral for r in films)
