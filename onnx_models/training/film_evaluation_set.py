"""``radiograph-eval/1``: the rendered films that every network for films is judged on, fixed by one file.

``radiograph-eval-1.json`` holds the seed and every range, wider than the training's; its SHA-256 stands in each model
card. Films with an even index are of undeformed patients; deformities go through the levels in turn. A second list
holds films that must be refused, of twelve kinds in turn. Films are kept below ``build`` once they are made.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_models.training.film_data import FOLDER, LATERAL_VIEWS, VIEWS, FormedFilm, StoredFilm, formed
from onnx_models.training.film_views import make_film
from onnx_models.training.phantom import Plan, Ranges

PARAMETERS = Path(__file__).with_name("radiograph-eval-1.json")
_ANATOMY, _DEFORMITY, _FORMATION, _NEGATIVE, _NEGATIVE_FORMATION = range(5)
STRATA = ("hidden", "faint", "readable", "clear")


@dataclass(frozen=True)
class FilmSet:
    """What the parameter file says, and its SHA-256.

    Attributes
    ----------
    levels
        Levels deformed in turn, by region.
    negative_views
        (view, region or kind of object), in turn.
    visibility
        Edges between the `STRATA`: a film's is the median over its bodies of `film_data.end_plate_visibility`.
    """

    name: str
    seed: int
    films: int
    negatives: int
    long_side: int
    regions: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]
    kinds: tuple[str, ...]
    loss: tuple[float, float]
    deformed_count: tuple[int, int]
    negative_views: tuple[tuple[str, str | None], ...]
    visibility: tuple[float, float, float]
    ranges: Ranges
    sha256: str

    def stratum(self, visibility: float) -> str:
        """Which of the `STRATA` a film of this visibility belongs to."""
        return STRATA[int(np.searchsorted(self.visibility, visibility, side="right"))]


def load_set(path: Path = PARAMETERS) -> FilmSet:
    """Read the parameter file. An unknown or missing name raises ``TypeError``."""
    raw = path.read_bytes()
    values: dict[str, Any] = json.loads(raw)
    ranges = Ranges.from_json(json.dumps(values.pop("ranges")))
    levels = {region: tuple(names) for region, names in values.pop("levels").items()}
    negative = tuple((view, kind) for view, kind in values.pop("negative_views"))
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return FilmSet(
        **plain, levels=levels, negative_views=negative, ranges=ranges, sha256=hashlib.sha256(raw).hexdigest()
    )


def positive(chosen: FilmSet, index: int, folder: Path = FOLDER) -> FormedFilm:
    """Lateral film of the spine number ``index``."""

    def made() -> StoredFilm:
        region = chosen.regions[(index // 2) % len(chosen.regions)]
        plan = Plan(deformities=_deformities(chosen, index, region))
        return make_film(_rng(chosen, _ANATOMY, index), VIEWS[0], chosen.ranges, region, chosen.long_side, plan)

    film = _kept(chosen, folder, f"film_{index:04d}", made)
    return formed(film, _rng(chosen, _FORMATION, index))


def negative(chosen: FilmSet, index: int, folder: Path = FOLDER) -> tuple[FormedFilm, str]:
    """(film that must be refused, its kind) number ``index``."""
    view, kind = chosen.negative_views[index % len(chosen.negative_views)]

    def made() -> StoredFilm:
        side = chosen.long_side if view in LATERAL_VIEWS else min(320, chosen.long_side)
        return make_film(_rng(chosen, _NEGATIVE, index), view, chosen.ranges, kind, side)

    film = _kept(chosen, folder, f"negative_{index:04d}", made)
    return formed(film, _rng(chosen, _NEGATIVE_FORMATION, index)), f"{view}, {kind}" if kind else view


def _deformities(chosen: FilmSet, index: int, region: str) -> dict[str, tuple[str, float]]:
    """Level -> (kind, loss) of an odd index; neighbours are deformed together as well."""
    if index % 2 == 0:
        return {}
    rng = _rng(chosen, _DEFORMITY, index)
    levels = chosen.levels[region]
    first = (index // 2 // len(chosen.regions)) % len(levels)
    count = int(rng.integers(chosen.deformed_count[0], chosen.deformed_count[1] + 1))
    others = rng.permutation([name for name in levels if name != levels[first]])[: count - 1]
    names = [levels[first], *(str(o) for o in others)]
    return {name: (str(rng.choice(chosen.kinds)), float(rng.uniform(*chosen.loss))) for name in names}


def _rng(chosen: FilmSet, part: int, index: int) -> np.random.Generator:
    return np.random.default_rng([chosen.seed, part, index])


def _kept(chosen: FilmSet, folder: Path, name: str, make: Any) -> StoredFilm:
    path = folder / f"evaluation-{chosen.sha256[:12]}" / f"{name}.npz"
    if not path.is_file():
        make().save(path)
    return StoredFilm.load(path)
