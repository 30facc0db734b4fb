"""Judges the shipped models: ``python -m onnx_models.training.evaluate``.

``--set 2`` judges ``phantom-eval/2``: names, masks and scores of the groups whose names are hard to tell, written into
the cards of labeller, segmenter and shape completion, and into ``build/evaluation-2.json``.

Otherwise it runs the shipped pipeline with the shipped ONNX files on every patient of ``phantom-eval/1``, on the images
that must be refused, and on the real images where they are present; writes the figures into the model cards, between
their markers, and into ``build/evaluation.json``.

Answers are kept per patient, so an interrupted run goes on; ``--minutes`` ends it early with what there is, and the
card says of how many patients it speaks.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from rich.progress import track

from onnx_models import MODELS
from onnx_models.training.evaluation_cards import BEGIN, localizer_section, replaced, screening_section
from onnx_models.training.evaluation_figures import (
    agreements,
    constant_d_g,
    localizer_figures,
    readable,
    screening_figures,
    strata,
)
from onnx_models.training.evaluation_group_cards import group_figures, masks_section, names_section, scores_section
from onnx_models.training.evaluation_real import RealRow, real_rows
from onnx_models.training.evaluation_records import BUILD, Runner, load_runner, phantom_hash, prepared
from onnx_models.training.evaluation_set import load_set
from onnx_models.training.evaluation_shapes import shape_figures, shape_records
from onnx_models.training.evaluation_vertebrae import load_group_runner
from onnx_models.training.evaluation_vertebrae import prepared as prepared_group
from onnx_models.training.real_cases import real_folder

RESULT, GROUPS_RESULT = Path("build/evaluation.json"), Path("build/evaluation-2.json")
Record = dict[str, Any]
Job = tuple[str, int]


@cache
def _runner(folder: Path) -> Runner:
    return load_runner(load_set(), folder)


def _judge(job: tuple[Path, Job]) -> Record:
    folder, (kind, index) = job
    return _runner(folder).record(kind, index)


def jobs(patients: int, negatives: int) -> list[Job]:
    """Patients and negatives mixed, so that a run that is cut short has seen both."""
    out: list[Job] = []
    for i in range(max(patients, negatives)):
        out += [("patient", i)] if i < patients else []
        out += [("negative", i)] if i < negatives else []
    return out


def judged(folder: Path, todo: Sequence[Job], workers: int, deadline: float, quiet: bool) -> list[Record]:
    """Records of all jobs until the deadline."""
    out: list[Record] = []
    work = [(folder, job) for job in todo]
    if workers <= 1:
        answers: Iterable[Record] = map(_judge, work)
        _collect(answers, len(work), deadline, quiet, out)
        return out
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        _collect(pool.imap(_judge, work), len(work), deadline, quiet, out)
    return out


def _collect(answers: Iterable[Record], count: int, deadline: float, quiet: bool, out: list[Record]) -> None:
    for record in track(answers, description="patients", total=count, disable=quiet):
        out.append(record)
        if time.monotonic() > deadline:
            break


def figures(
    runner: Runner, records: Sequence[Record], rows: Sequence[RealRow], shapes: Sequence[Record] = ()
) -> Record:
    """Everything that is told of these records, ready for JSON."""
    seen = [r for r in records if r["kind"] == "patient"]
    patients = [r for r in seen if readable(r)]
    negatives = [r for r in records if not (r["kind"] == "patient" and readable(r))]
    out: Record = {
        "set": runner.chosen.name,
        "set_sha256": runner.chosen.sha256,
        "phantom_sha256": phantom_hash(),
        "models": runner.hashes,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "patients_seen": len(seen),
        "patients": len(patients),
        "patients_of_the_set": runner.chosen.patients,
        "negatives": len(negatives),
        "vertebrae": sum(v["view"] == "whole" and v["level"] != "S1" for r in patients for v in r["vertebrae"]),
        "seconds_per_patient": _median([r["seconds"] for r in patients]),
        "localizer": {k: asdict(v) for k, v in localizer_figures(patients, negatives).items()},
        "real": [asdict(row) for row in rows],
        "shapes": shape_figures(shapes),
    }
    if not runner.localizer_only:
        out["screening"] = {k: asdict(v) for k, v in screening_figures(patients, negatives).items()}
        out["agreement"] = {k: asdict(v) for k, v in agreements(patients).items()}
        out["constant_d_g_above"] = constant_d_g(patients)
        out["strata"] = {
            name: {k: asdict(v) for k, v in screening_figures(chosen, []).items()} | {"patients": len(chosen)}
            for name, chosen in strata(patients).items()
        }
    return out


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def write_cards(folder: Path, told: Record, command: str) -> list[str]:
    """Put the figures between the markers of the cards; returns the names of the cards changed."""
    sections = {"localizer.md": localizer_section(told, command)}
    if "screening" in told:
        sections["keypoints.md"] = screening_section(told, command)
    done = []
    for name, section in sections.items():
        path = folder / name
        if path.is_file():
            path.write_text(replaced(path.read_text(), section))
            done.append(name)
    return done


def evaluate_groups(options: argparse.Namespace, command: str) -> None:
    """Judge ``phantom-eval/2`` and write what is told of it."""
    runner = load_group_runner(options.folder, masks=not options.without_masks)
    cases = min(options.patients if options.patients is not None else runner.chosen.cases, runner.chosen.cases)
    todo = [(group, index) for index in range(2 if options.quick else cases) for group in runner.chosen.groups]
    deadline = time.monotonic() + 60 * options.minutes
    records = []
    for group, index in track(todo, description="cases", disable=not sys.stderr.isatty()):
        if options.prepare:
            prepared_group(runner.chosen, group, index)
        else:
            records.append(runner.record(group, index))
        if time.monotonic() > deadline:
            break
    if options.prepare:
        return
    head: Record = {
        "set": runner.chosen.name,
        "set_sha256": runner.chosen.sha256,
        "phantom_sha256": phantom_hash(),
        "models": {m.name: m.sha256 for m in runner.models.identities},
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }
    told = group_figures(records, head)
    GROUPS_RESULT.parent.mkdir(parents=True, exist_ok=True)
    GROUPS_RESULT.write_text(json.dumps(told, indent=1) + "\n")
    sections = {"labeller.md": names_section(told, command)}
    if not options.without_masks:
        sections["segmenter.md"] = masks_section(told, command)
        sections["completion.md"] = scores_section(told, command)
    for name, section in sections.items():
        print(section, end="\n\n")
        path = options.folder / name
        if path.is_file() and BEGIN in path.read_text() and not (options.no_cards or options.quick):
            path.write_text(replaced(path.read_text(), section))
    print(f"written: {GROUPS_RESULT}; records: {runner.folder}")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.evaluate", description=__doc__)
    parser.add_argument("--set", type=int, choices=(1, 2), default=1, help="phantom-eval/1 or phantom-eval/2")
    parser.add_argument("--patients", type=int, help="only so many patients of the set, or cases of each group")
    parser.add_argument("--negatives", type=int, help="only so many of the images that must be refused")
    parser.add_argument("--without-masks", action="store_true", help="of phantom-eval/2 the names alone")
    parser.add_argument("--quick", action="store_true", help="8 patients and 4 negatives; cards are left alone")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then, with what there is")
    parser.add_argument("--prepare", action="store_true", help="only make the images, in advance")
    parser.add_argument("--no-cards", action="store_true", help="do not touch the model cards")
    parser.add_argument("--without-real", action="store_true", help="write cards even where the real data are absent")
    parser.add_argument("--folder", type=Path, default=MODELS, help="folder of manifest, models and cards")
    options = parser.parse_args(arguments)
    command = "python -m onnx_models.training.evaluate " + " ".join(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.set == 2:
        evaluate_groups(options, command)
        return 0
    writes_cards = not (options.no_cards or options.quick or options.prepare)
    real = real_folder() is not None
    if writes_cards and not real and not options.without_real:
        writes_cards = False
        print(
            "The folder of real images is absent: the cards are left alone, lest they lose what was measured on it. "
            "Set SPINE_NODE_REAL_DATA, or pass --without-real to write cards without it."
        )
    chosen = load_set()
    patients = min(options.patients if options.patients is not None else chosen.patients, chosen.patients)
    negatives = min(options.negatives if options.negatives is not None else chosen.negatives, chosen.negatives)
    if options.quick:
        patients, negatives = min(patients, 8), min(negatives, 4)
    todo = jobs(patients, negatives)
    quiet = not sys.stderr.isatty()
    deadline = time.monotonic() + 60 * options.minutes
    if options.prepare:
        for kind, index in track(todo, description="images", disable=quiet):
            prepared(chosen, kind, index)
            if time.monotonic() > deadline:
                break
        return 0
    runner = _runner(options.folder)
    records = judged(options.folder, todo, options.workers, deadline, quiet)
    shapes = shape_records(runner) if real and not (options.quick or runner.localizer_only) else []
    told = figures(runner, records, real_rows(runner), shapes)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(told, indent=1) + "\n")
    print(localizer_section(told, command))
    if "screening" in told:
        print(screening_section(told, command))
    if writes_cards:
        print("written:", ", ".join([*write_cards(options.folder, told, command), str(RESULT)]))
    print(f"records: {runner.folder} under {BUILD}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
