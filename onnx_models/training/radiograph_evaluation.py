"""Judges a network for films: ``python -m onnx_models.training.radiograph_evaluation film --films 320 --minutes 30``.

On ``radiograph-eval/1`` (rendered) and, where the real images are, on films of the real CT. It looks at the network's
maps alone; what the pipeline makes of them (points, heights, ratios) is judged with the pipeline. Written as JSON, with
the hash of the set.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from onnx_models.training.film_data import LATERAL_VIEWS, VIEWS, FormedFilm, end_plate_visibility
from onnx_models.training.film_evaluation_set import FilmSet, load_set, negative, positive
from onnx_models.training.film_geometry import FRONTAL, LATERAL
from onnx_models.training.film_real import POSES, RealSpineCt, example_ct, real_film
from onnx_models.training.metrics import dice_of
from onnx_models.training.radiograph_data import canvas_grid, canvas_matrix, prepared, target_maps
from onnx_models.training.radiograph_figures import PixelCounts, body_masks, vertebra_dice
from onnx_models.training.radiograph_network import WholeFilmNetwork
from onnx_models.training.real_cases import real_folder
from onnx_models.training.train import averaged_network

F32 = NDArray[np.float32]
Bools = NDArray[np.bool_]


@torch.no_grad()
def outputs_of(network: nn.Module, canvas: F32) -> dict[str, F32]:
    """{"body", ...} maps (256, 256) and "view" (6,); of a network of the comparison "body" alone."""
    film = torch.from_numpy(canvas[None, None])
    if not isinstance(network, WholeFilmNetwork):
        return {"body": torch.sigmoid(network(film))[0, 0].numpy()}
    body, centre, sacrum, front, view = (o[0].numpy() for o in network(film))
    return {"body": body[0], "centre": centre[0], "sacrum": sacrum[0], "front": front[0], "view": view}


def judge(network: nn.Module, chosen: FilmSet, films: int, negatives: int, deadline: float) -> dict[str, Any]:
    """Figures on the first films of the set; as many as are done by ``deadline`` (``time.monotonic``)."""
    pixels = PixelCounts()
    dice: dict[str, list[float]] = defaultdict(list)
    levels: dict[str, list[float]] = defaultdict(list)
    views: dict[str, list[bool]] = defaultdict(list)
    for index in range(films):
        if time.monotonic() > deadline:
            break
        film = positive(chosen, index)
        if film.seen.size == 0:
            continue
        found = _one(network, film, dice, levels, views)
        pixels.add(*found)
        seen = end_plate_visibility(film)[film.seen > 0.6]
        stratum = chosen.stratum(float(np.median(seen)) if seen.size else 0.0)
        dice[stratum].append(dice["all"][-1])
    for index in range(negatives):
        if time.monotonic() > deadline:
            break
        film, kind = negative(chosen, index)
        out = outputs_of(network, prepared(film.image)[0])
        if "view" in out:
            views[f"negative: {kind}"].append(int(out["view"].argmax()) != 0)
    return {
        "set": chosen.name,
        "sha256": chosen.sha256,
        "films": len(dice["all"]),
        "dice": _means(dice),
        "pixels": {k: round(float(v), 4) for k, v in pixels.figures().items()},
        "vertebrae": _means(levels),
        "right": _means(views),
    }


def _one(
    network: nn.Module, film: FormedFilm, dice: dict[str, list[float]], levels: dict[str, list[float]],
    views: dict[str, list[bool]],
) -> tuple[F32, Bools]:  # fmt: skip
    """Figures of one lateral film into the three tables; returns (probability, truth) of its pixels."""
    out = outputs_of(network, prepared(film.image)[0])
    matrix = canvas_matrix(film.image.shape)
    truth = film.truth.moved(matrix)
    maps, known = target_maps(film)
    sections, shadows = body_masks(truth, prepared_mask(film.exposed))
    found = out["body"] > 0.5
    dice["all"].append(dice_of(found, sections))
    dice["silhouette"].append(dice_of(found, shadows))
    whole = {level for level, part in zip(truth.levels, film.partial, strict=True) if not part}
    for level, value in vertebra_dice(found, truth).items():
        if level in whole:
            levels[level].append(value)
    if "view" in out:
        views["lateral spine"].append(int(out["view"].argmax()) == VIEWS.index("lateral spine"))
        if known.any():
            views["front"].append(bool((out["front"][known > 0].mean() > 0.5) == (maps[3][known > 0].mean() > 0.5)))
        if maps[2].sum() > 20:
            dice["sacrum"].append(dice_of(out["sacrum"] > 0.5, maps[2] > 0.5))
    return out["body"], maps[0] > 0.5


def judge_real(network: nn.Module, ct: RealSpineCt, poses: int = POSES) -> dict[str, Any]:
    """Dice of all projected silver bodies but S1 on films of the real CT, and whether views are told apart."""
    dice: dict[str, list[float]] = defaultdict(list)
    views: dict[str, list[bool]] = defaultdict(list)
    for number in range(poses):
        film = real_film(ct, number)
        out = outputs_of(network, prepared(film.image)[0])
        chosen = [n for n, level in enumerate(film.levels) if level != "S1"]
        found = out["body"] > 0.5
        masks = (film.sections[chosen].any(0), film.silhouettes[chosen].any(0))
        for name, mask in zip(("section", "silhouette"), masks, strict=True):
            true = prepared_mask(mask & film.exposed)
            dice[name].append(dice_of(found, true))
        if "view" in out:
            views[LATERAL].append(int(out["view"].argmax()) in {VIEWS.index(v) for v in LATERAL_VIEWS})
            frontal = real_film(ct, number, FRONTAL)
            said = outputs_of(network, prepared(frontal.image)[0])["view"]
            views[FRONTAL].append(int(said.argmax()) not in {VIEWS.index(v) for v in LATERAL_VIEWS})
    return {"films": poses, "dice": _means(dice), "right": _means(views)}


def prepared_mask(mask: Bools) -> Bools:
    """A film's mask on the canvas, by the nearest pixel."""
    return canvas_grid(mask.shape).from_film(mask, order=0) > 0.5


def _means(table: dict[str, Any]) -> dict[str, tuple[float, int]]:
    """(mean, count) of each list."""
    return {k: (round(float(np.mean(v)), 4), len(v)) for k, v in sorted(table.items()) if len(v)}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.radiograph_evaluation", description=__doc__)
    parser.add_argument("network", help="name of a training: film, film_unet, ...")
    parser.add_argument("--folder", type=Path, help="where its checkpoint is")
    parser.add_argument("--films", type=int, default=320)
    parser.add_argument("--negatives", type=int, default=120)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    network, state = averaged_network(options.network, options.folder)
    deadline = time.monotonic() + 60 * options.minutes
    told: dict[str, Any] = {"network": options.network, **state}
    root = real_folder()
    if root is not None:
        told["real"] = judge_real(network, example_ct(root))
    told["rendered"] = judge(network, load_set(), options.films, options.negatives, deadline)
    text = json.dumps(told, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
