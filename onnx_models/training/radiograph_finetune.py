"""Goes on training the shipped whole-film network on a site's own films:
``python -m onnx_models.training.radiograph_finetune FOLDER --minutes 30 --out build/finetuned``.

``FOLDER`` holds DICOM images with segmentations or six-point annotations (see `film_annotations`). A quarter of the
patients is held out. Half of each batch are the site's films, varied a little; the other half are rendered ones
(``python -m onnx_models.training.film_generator``), without which the network would forget other views, upside-down
films and fractures. The result is exported into ``--out`` beside copies of the other networks, so that the node can
be given that folder, with a card that compares it with the shipped one on the held-out films, through the pipeline as
the node runs it and with outlines alone. Nothing is shipped. A folder to try it with is made by
``python -m onnx_models.training.film_site``.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor, nn

from inference.film_field import block_mean
from inference.film_points import PointSettings
from inference.runtime import read_manifest
from onnx_models.training.export import MODELS
from onnx_models.training.film_annotations import AnnotatedFilm, AnnotationError, folder_digest, read_folder
from onnx_models.training.film_data import FOLDER, VIEWS, FormedFilm, seen_part
from onnx_models.training.radiograph_card import interval
from onnx_models.training.radiograph_data import Sample, prepared, target_maps
from onnx_models.training.radiograph_evaluation import POINTS, ways
from onnx_models.training.radiograph_network import WholeFilmNetwork
from onnx_models.training.radiograph_records import Record, load_film_runner
from onnx_models.training.radiograph_summary import SITE_ROWS, estimates
from onnx_models.training.radiograph_task import (
    FULL_FROM,
    RENDERED_ALONE,
    WholeFilmTask,
    batch_of,
    export_network,
    whole_film_loss,
)
from onnx_models.training.radiograph_widening import widths_of
from onnx_models.training.train import Schedule, Training

F64 = NDArray[np.float64]
HELD_OUT = 0.25
"""Part of the patients that is judged on; at least one, and one is left to learn from."""
RATE = 4e-4
LONGEST = 1024
"""Longer sides are reduced first: the network sees 256 pixels."""
SITE_SHARE = 0.5
SHIPPED, TUNED = "shipped", "fine-tuned"


def split(films: Sequence[AnnotatedFilm], seed: int = 1) -> tuple[list[AnnotatedFilm], list[AnnotatedFilm]]:
    """(to learn from, held out), whole patients.

    Raises
    ------
    AnnotationError
        Where all films are of one patient.
    """
    patients = sorted({f.patient for f in films})
    if len(patients) < 2:
        raise AnnotationError(f"{len(films)} film(s) of one patient: at least two patients are needed, one to judge on")
    count = min(max(1, round(HELD_OUT * len(patients))), len(patients) - 1)
    held = set(np.random.default_rng(seed).permutation(patients)[:count].tolist())
    return [f for f in films if f.patient not in held], [f for f in films if f.patient in held]


def varied(film: FormedFilm, rng: np.random.Generator) -> FormedFilm:
    """The film cut, turned, mirrored and with another grey scale, as a department's own might be."""
    block = max(1, -(-max(film.image.shape) // LONGEST))
    image = block_mean(film.image, block)
    truth = film.truth.moved(np.column_stack([np.eye(2), [-(block - 1) / 2] * 2]) / block)
    shape = np.array(image.shape)
    size = np.maximum(8, np.rint(shape * rng.uniform(0.75, 1.0, 2))).astype(int)
    low = (shape - size) * rng.random(2)
    angle = float(np.radians(rng.normal(0, 4)))
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # new index to old one
    if rng.random() < 0.5:
        back = back @ np.diag([1.0, -1.0])
    offset = low + (size - 1) / 2 - back @ ((size - 1) / 2)
    rows, columns = int(size[0]), int(size[1])
    seen = ndimage.affine_transform(image, back, offset, (rows, columns), order=1, mode="nearest")
    grey = np.clip(seen, 0, 1) ** np.exp(rng.normal(0, 0.25)) * rng.uniform(0.85, 1.0) + rng.normal(0, 0.03)
    grey = grey + rng.normal(0, rng.uniform(0, 0.03), grey.shape)
    inverse = np.linalg.inv(back)
    truth = truth.moved(np.column_stack([inverse, -inverse @ offset]))
    exposed = np.ones((rows, columns), bool)
    there = np.array([seen_part(o, exposed) for o in truth.outlines])
    kept = there > 0.02
    return replace(
        film, image=np.clip(grey, 0, 1).astype(np.float32), exposed=exposed, truth=truth.chosen(kept), seen=there[kept]
    )


class FineTuning(WholeFilmTask):
    """Half of each batch are the site's films, half rendered ones; see `train.Task`.

    ``widths`` are those of the weights that it goes on from: a network that begins narrower than others stays so.
    """

    name = "film"
    learning_rate = RATE

    def __init__(
        self,
        films: Sequence[AnnotatedFilm],
        held_out: Sequence[AnnotatedFilm],
        widths: tuple[int, ...],
        rendered: Path = FOLDER,
    ) -> None:
        super().__init__(rendered)
        self._widths = widths
        self._films = list(films)
        self._judged = list(held_out)

    def network(self) -> nn.Module:
        """A network of these widths with random weights."""
        return WholeFilmNetwork(self._widths).to(memory_format=torch.channels_last)

    def step(self, network: nn.Module, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """One batch."""
        assert isinstance(network, WholeFilmNetwork)
        own = max(1, round(SITE_SHARE * self.batch))
        site = [self._films[int(n)] for n in rng.integers(len(self._films), size=own)]
        shown = [_sample(varied(f.film, rng), f.front_known) for f in site]
        shown += self.samples(rng, VIEWS, max(progress, FULL_FROM))[: self.batch - own]  # of the site's films' shape
        canvas, maps, known, view = batch_of(shown)
        return whole_film_loss(*network.logits(canvas), maps, known, view)

    def held_out(self) -> list[Sample]:
        """The site's held-out films as they are."""
        return [_sample(f.film, f.front_known) for f in self._judged]


def _sample(film: FormedFilm, front_known: bool) -> Sample:
    canvas, measured = prepared(film.image)
    maps, known = target_maps(film)
    known[0] *= front_known
    return Sample(canvas, maps * measured, known * measured, VIEWS.index(film.view))


def compared(shipped: Path, tuned: Path, held_out: Sequence[AnnotatedFilm]) -> dict[str, dict[str, list[Record]]]:
    """Records of the held-out films through the pipeline, by way of measuring, with the shipped and the new network.

    The first way is what the node does with such a folder.
    """
    out: dict[str, dict[str, list[Record]]] = {}
    for way, settings in ways(shipped).items():
        for name, folder in ((SHIPPED, shipped), (TUNED, tuned)):
            runner = load_film_runner(settings, folder)
            records = [runner.judged(f.film, n, f.calibrated) for n, f in enumerate(held_out)]
            out.setdefault(way, {})[name] = records
    return out


def card(told: Record) -> str:
    """The card of the new network."""
    records = told["records"]
    columns = [(way, name) for way in records for name in (SHIPPED, TUNED)]
    rows = {(way, name): estimates(records[way][name], SITE_ROWS) for way, name in columns}
    figures = [n for n in SITE_ROWS if np.isfinite([rows[column][n].value for column in columns]).any()]
    films = next(iter(records.values()))[SHIPPED]
    calibrated = sum(f["vertebrae"][0]["calibrated"] for f in films if f["vertebrae"])
    refused = [f"{sum(bool(r['refusal']) for r in records[way][name])} of {len(films)}" for way, name in columns]
    before, after = told["rendered"]
    site = told["site"]
    lines = [
        "# Whole-film network, fine-tuned on a site's own films",
        "",
        f"Research use only. Made {told['date']} from the shipped weights `{told['begun_from'][:12]}` "
        f"({told['shipped']['version']}: {told['shipped']['trained_on']}) in "
        f"{told['steps']} steps on {site['films']} films of {site['patients']} patients of one site "
        f"({', '.join(told['makers'])}; folder SHA-256 `{site['folder_sha256'][:12]}`) beside rendered ones.",
        "",
        *_warning(told),
        f"Judged on {len(films)} held-out films of {site['held_out_patients']} other patients ({calibrated} with "
        "pixels of a known size: mm are of these alone); truth is what the site's readers drew, so neither losses nor "
        "grades are judged. Few films make wide intervals (95 %, films drawn again): believe no difference that lies "
        "within them.",
        "",
        "| held-out films of the site | counted | " + " | ".join(f"{name}, {way}" for way, name in columns) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for name in figures:
        told_of = [rows[column][name] for column in columns]
        cells = [interval((estimate.value, estimate.low, estimate.high)) for estimate in told_of]
        lines.append("| " + " | ".join([name.replace("|", r"\|"), SITE_ROWS[name].counts, *cells]) + " |")
    lines += [
        "| refused | all films | " + " | ".join(refused) + " |",
        "",
        "| rendered held-out films (what might be forgotten) | shipped | fine-tuned |",
        "|---|---|---|",
        *(f"| {name} | {before[name]:.3f} | {after[name]:.3f} |" for name in before if name in after),
        "",
        "The set and figures that the shipped network was judged on are in its own card; they were not made again.",
        "",
    ]
    return "\n".join(lines)


def _warning(told: Record) -> list[str]:
    """What in the folder is of the shipped network still."""
    lines = [
        "**Thresholds were not chosen again**: those of the view, of names and of what is sure belong to the shipped "
        "weights and to rendered films."
    ]
    if POINTS in told["records"]:
        lines = [
            "**The six-point network beside it is the shipped one, unchanged; so is that for cement and metal.** Both "
            "are shown the new maps. Annotations do not tell which bodies hold cement or metal: that is not judged "
            "here, and a body that is taken for one has no grade. The six-point network was trained on the maps of the "
            f"shipped network, and the limit by which it calls a body sure ({PointSettings().sure}) was chosen with "
            "them: how sure its bodies are with the new maps is not known. What the node tells of heights and grades "
            f'is its. Use this folder only where "{TUNED}, {POINTS}" is no worse than "{SHIPPED}, {POINTS}" below.',
            "",
            *lines,
        ]
    return [*lines, ""]


def fine_tuned(
    folder: Path, out: Path, schedule: Schedule, shipped: Path = MODELS, rendered: Path = FOLDER, seed: int = 1
) -> Record:
    """Train, export into ``out``, judge and write the card there; returns what the card is made of.

    Raises
    ------
    AnnotationError
        The folder cannot be used, or the training in ``out`` was begun with other films.
    FileNotFoundError
        There are no rendered films beside it.
    """
    learn, held_out = split(read_folder(folder), seed)
    site = {
        "films": len(learn),
        "patients": len({f.patient for f in learn}),
        "held_out_films": len(held_out),
        "held_out_patients": len({f.patient for f in held_out}),
        "folder_sha256": folder_digest(folder),
    }
    entry = read_manifest(shipped)["film"]
    widths = widths_of(load_file(shipped / str(entry["weights"])))
    task = FineTuning(learn, held_out, widths, rendered)
    training = Training(task, out / "training", seed=seed)
    _same_site(training, site | {"seed": seed})
    if not training.resume():
        training.start_from(shipped / str(entry["weights"]))
    start = copy.deepcopy(training.network) if training.step == 0 else _network(shipped)
    training.run(schedule)
    copied(shipped, out)
    before = {"version": entry["version"], "sha256": entry["sha256"], **dict(entry["provenance"])}
    trained_on = before.get("trained_on", RENDERED_ALONE)
    provenance = {
        "trained_on": f"as the shipped weights ({trained_on}); then {site['films']} films of {site['patients']} "
        "patients of one site, annotated there, beside rendered ones",
        "steps": training.step,
        "seed": seed,
        "begun_from": training.begun_from,
        "shipped": before,
        "site": site,
        "source": "onnx_models/training/radiograph_finetune.py",
    }
    export_network(training.averaged, provenance, out, version=f"{entry['version']}+site")
    rendered_task = WholeFilmTask(rendered)
    told: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "begun_from": training.begun_from,
        "shipped": {"version": entry["version"], "trained_on": trained_on},
        "steps": training.step,
        "site": site,
        "makers": sorted({f.maker for f in learn}),
        "records": compared(shipped, out, held_out),
        "rendered": (rendered_task.evaluate(start.eval()), rendered_task.evaluate(training.averaged.eval())),
    }
    (out / "film.md").write_text(card(told))
    return told


def _same_site(training: Training, site: Record) -> None:
    """Keep beside the checkpoint what it was taught: with other films, some held out now were learnt from then."""
    path = training.folder / "site.json"
    begun = training.checkpoint.is_file()
    if begun and (not path.is_file() or json.loads(path.read_text()) != site):
        raise AnnotationError(f"{path.parent}: this training was begun with other films; give another folder as --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(site))


def _network(folder: Path) -> nn.Module:
    state = load_file(folder / str(read_manifest(folder)["film"]["weights"]))
    network = WholeFilmNetwork(widths_of(state))
    network.load_state_dict(state)
    return network


def copied(shipped: Path, out: Path) -> None:
    """Manifest and networks of ``shipped`` in ``out``, so that a node can be given that folder."""
    out.mkdir(parents=True, exist_ok=True)
    for entry in read_manifest(shipped).values():
        shutil.copy2(shipped / str(entry["file"]), out / str(entry["file"]))
    shutil.copy2(shipped / "manifest.json", out / "manifest.json")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.radiograph_finetune", description=__doc__)
    parser.add_argument("folder", type=Path, help="DICOM images with segmentations or six-point annotations")
    parser.add_argument("--out", type=Path, default=Path("build/finetuned"))
    parser.add_argument("--minutes", type=float, help="end after this many minutes of training in all")
    parser.add_argument("--steps", type=int, help="end after this many steps in all")
    parser.add_argument("--models", type=Path, default=MODELS, help="the shipped ones")
    parser.add_argument("--rendered", type=Path, default=FOLDER, help="rendered films of the phantom")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.minutes is None and options.steps is None:
        parser.error("say how long: --minutes or --steps")
    torch.set_num_threads(options.threads)
    schedule = Schedule(minutes=options.minutes, steps=options.steps, warm_up_steps=20, evaluate_every_s=300.0)
    try:
        fine_tuned(options.folder, options.out, schedule, options.models, options.rendered, options.seed)
    except (AnnotationError, FileNotFoundError) as error:
        print(error)
        return 1
    print((options.out / "film.md").read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
