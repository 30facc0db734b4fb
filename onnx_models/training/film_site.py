"""Films of a site that does not exist, as DICOM images with six-point annotations, to try a fine-tuning with:
``python -m onnx_models.training.film_site --count 24 --maker B --folder build/site``.

Each film is of a patient and a seed of its own, of the training's ranges of anatomy. What a maker does is the same on
all films of a site: "A" processes as those of the training are, "B" beyond what they draw. Every body that is on a film
is annotated with its true points. ``python -m onnx_models.training.radiograph_finetune build/site`` reads them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom

from inference.findings import KEYPOINTS
from onnx_models.training.film_data import VIEWS, FormedFilm, Placement, formed
from onnx_models.training.film_dicom import write_film
from onnx_models.training.film_look import Look, clinical_look
from onnx_models.training.film_views import make_film

SEEDS = 83
"""What a seed begins with here: no film of a training or an evaluation is among them."""
MAKERS: dict[str, Callable[[Look], Look]] = {
    "A": lambda look: look,
    "B": lambda look: replace(look, curve="root", sharpen=4.0, sharpen_width=3.0, gamma=2.2, high=6.0),
}
LONG_SIDE = 512
REGIONS = ("lumbar", "thoracolumbar", "thoracic", "lumbar")
"""In turn; the pixels of a whole spine would be larger than the gate believes a detector's to be."""


def site_film(number: int, maker: str = "B", long_side: int = LONG_SIDE) -> FormedFilm:
    """Film ``number``: a lateral one of the spine, upright, with a look that a department would pass but for the maker.

    Raises ``KeyError`` for a maker that is none of `MAKERS`.
    """
    rng = np.random.default_rng([SEEDS, number])
    stored = make_film(rng, VIEWS[0], region=REGIONS[number % len(REGIONS)], long_side=long_side)
    place = Placement(mirrored=bool(rng.random() < 0.5))
    return formed(stored, rng, MAKERS[maker](clinical_look(rng)), place)


def write_points(film: FormedFilm, path: Path, sop_instance_uid: str) -> None:
    """The true points of every body, as `film_annotations` reads them."""
    vertebrae = [
        {"level": level, "keypoints_px": {k: [p[1] + 0.5, p[0] + 0.5] for k, p in zip(KEYPOINTS, points, strict=True)}}
        for level, points in zip(film.truth.levels, film.truth.points.tolist(), strict=True)
    ]
    path.write_text(json.dumps({"input": {"sop_instance_uid": sop_instance_uid}, "vertebrae": vertebrae}, indent=1))


def write_site(folder: Path, count: int, maker: str = "B", long_side: int = LONG_SIDE) -> None:
    """Write so many films with their annotations; those that are there already stay. They state their magnification."""
    for number in range(count):
        points = folder / f"{number:04d}.json"
        if points.is_file():
            continue
        film = site_film(number, maker, long_side)
        path = write_film(
            film,
            folder / f"{number:04d}.dcm",
            patient_id=f"SITE-{maker}-{number}",
            seed=SEEDS * 100_000 + number,
            magnification=float(np.median(film.truth.magnification)),
            maker=f"Phantom maker {maker}",
        )
        write_points(film, points, str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.film_site", description=__doc__)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--maker", choices=sorted(MAKERS), default="B")
    parser.add_argument("--folder", type=Path, default=Path("build/site"))
    parser.add_argument("--long-side", type=int, default=LONG_SIDE, help="pixels")
    options = parser.parse_args(arguments)
    write_site(options.folder, options.count, options.maker, options.long_side)
    print(f"{options.folder}: {options.count} films of maker {options.maker}, annotated")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
