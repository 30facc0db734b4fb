"""Where two readings of a height differ too much: ``python -m onnx_models.training.agreement``.

A height is read twice, from the middle of the body and at the end plates (``Detection.disagreement_mm``). The pipeline
flags a vertebra ``LOW_CONFIDENCE`` where they differ by more than ``sure_agreement_mm``. Here that limit is found as a
stated quantile over undeformed vertebrae of development phantoms: the ranges of ``phantom-eval/1`` with a seed of its
own, so neither patients of the training nor of the evaluation, and no real image. Every patient has one to four
deformed vertebrae. The same patients tell where the slope of measured on true loss is lost: in the rule, in the
heights, or because the largest of three losses is taken.

Answers are kept per patient under ``build/agreement``; an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from inference.findings import Heights
from inference.geometry import Volume
from inference.grading import expectations, height_uncertainty_mm
from inference.keypoints import Detection, chained, decode, normalised, refined
from inference.localization import localize
from inference.refusal import Refusal
from inference.runtime import Models
from inference.screening import ScreeningSettings, measured_only
from inference.straightening import straighten
from onnx_models.training.evaluation_figures import is_vertebra, largest_loss, measured
from onnx_models.training.evaluation_records import BUILD, Runner, load_runner, truth_of
from onnx_models.training.evaluation_set import EvaluationSet, case, load_set
from onnx_models.training.metrics import Floats, area_under_curve, slope

SEED = 20261207
"""Of the development patients; ``phantom-eval/1`` has another, the training draws from yet others."""
QUANTILES = (90.0, 95.0, 97.5, 99.0, 99.5, 99.9)
RESULT = Path("build/agreement.json")
Record = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """One measured whole vertebra without implant.

    ``error_mm`` is the largest absolute error of its three heights, ``stated_mm`` the stated error (one standard
    deviation) of one height at this slice spacing.
    """

    disagreement_mm: float
    error_mm: float
    stated_mm: float
    deformed: bool

    @property
    def badly_read(self) -> bool:
        """Whether a height is wrong by more than twice the stated error."""
        return self.error_mm > 2 * self.stated_mm


@dataclass(frozen=True)
class Limit:
    """What a limit of agreement would do.

    Attributes
    ----------
    quantile
        Per cent of the undeformed vertebrae that agree at least so well.
    limit_mm
        The limit itself.
    undeformed, deformed
        Part of these vertebrae that it flags.
    badly_read, well_read
        Part it flags of those with a height wrong by more than twice the stated error, and of the others.
    """

    quantile: float
    limit_mm: float
    undeformed: float
    deformed: float
    badly_read: float
    well_read: float

    @property
    def separation(self) -> float:
        """Youden's index: how much more often it flags what is badly read."""
        return self.badly_read - self.well_read


def development_set() -> EvaluationSet:
    """``phantom-eval/1``'s ranges with another seed, and a name that says so."""
    chosen = load_set()
    return replace(chosen, name="development", seed=SEED, sha256=f"{SEED}-{chosen.sha256}")


def detections(volume: Volume, models: Models, settings: ScreeningSettings) -> list[Detection]:
    """What the shipped pipeline finds on the straightened picture, from the head downward; empty where it refuses."""
    volume = measured_only(volume)
    found = localize(volume, models, settings.localization)
    if isinstance(found, Refusal):
        return []
    _, straight = straighten(found)
    maps = models.run("keypoints", {"image": normalised(straight.picture(volume))[None]})
    raw = decode(maps["objectness"][0], maps["keypoints"][0], threshold=settings.candidate_objectness)
    sure = [d for d in raw if d.confidence >= settings.detection_confidence]
    return [refined(d, maps["nearby"][0]) for d in chained(sure)]


def record_of(runner: Runner, index: int) -> Record:
    """Truth, answer and readings of one development patient; from disk where it is there.

    Raises
    ------
    RuntimeError
        Where the readings do not belong to the findings one by one.
    """
    path = BUILD.parent / "agreement" / runner.folder.name / f"{index:03d}.json"
    if path.is_file():
        kept: Record = json.loads(path.read_text())
        return kept
    made = case(runner.chosen, index)
    truth = truth_of(made, "patient")
    answer = runner.answer(made.volume, [v["middle"] for v in truth["vertebrae"]])
    if answer["found"]:
        read = detections(made.volume, runner.models, ScreeningSettings())
        if [round(d.confidence, 6) for d in read] != [round(f["confidence"], 6) for f in answer["found"]]:
            raise RuntimeError(f"patient {index}: the findings are not those of the key points")
        for found, detection in zip(answer["found"], read, strict=True):
            found |= {"disagreement_mm": detection.disagreement_mm, "place_mm": float(detection.centre[0])}
    out = {**truth, "answer": answer}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(out))
    partial.replace(path)
    return out


def readings(records: Sequence[Record]) -> list[Reading]:
    """Every measured whole vertebra without implant."""
    return [
        Reading(
            p.found["disagreement_mm"],
            float(np.abs(np.subtract(p.found["heights"], p.truth["heights"])).max()),
            height_uncertainty_mm(r["spacing_mm"]),
            p.truth["deformity"] != "none",
        )
        for r in records
        for p in measured(r)
    ]


def limits(read: Sequence[Reading], quantiles: Sequence[float] = QUANTILES) -> list[Limit]:
    """What the quantiles over undeformed vertebrae would do as limits."""
    sound = np.array([r.disagreement_mm for r in read if not r.deformed])
    out = []
    for quantile in quantiles:
        limit = float(np.percentile(sound, quantile))

        def flagged(chosen: Callable[[Reading], bool], limit: float = limit) -> float:
            kept = [r.disagreement_mm > limit for r in read if chosen(r)]
            return float(np.mean(kept)) if kept else float("nan")

        out.append(
            Limit(
                quantile,
                limit,
                flagged(lambda r: not r.deformed),
                flagged(lambda r: r.deformed),
                flagged(lambda r: r.badly_read),
                flagged(lambda r: not r.badly_read),
            )
        )
    return out


def by_disagreement(read: Sequence[Reading], edges: Sequence[float] = (0, 0.25, 0.5, 1, 1.5, 2, 99)) -> list[Record]:
    """How the error depends on the disagreement: one row per interval of it."""
    out = []
    for low, high in pairwise(edges):
        kept = [r for r in read if low <= r.disagreement_mm < high]
        errors = np.array([r.error_mm for r in kept])
        out.append(
            {
                "from_mm": low,
                "to_mm": high,
                "count": len(kept),
                "mean_error_mm": float(errors.mean()) if kept else float("nan"),
                "p95_error_mm": float(np.percentile(errors, 95)) if kept else float("nan"),
                "badly_read": float(np.mean([r.badly_read for r in kept])) if kept else float("nan"),
            }
        )
    return out


# --- where the slope of loss is lost ----------------------------------------------------------------------------------


def slopes(records: Sequence[Record]) -> dict[str, tuple[float, float, int]]:
    """(slope on all vertebrae, slope on those that truly lost a tenth or more, count) of measured on true loss.

    Every line is on the same vertebrae, but for "true heights of all in view". A loss is 1 - own height / expected
    height; own and expected are each taken from the truth or from the network. "Part that lost most" compares the
    measured loss of that one part, where the others compare the largest of three measured losses.
    """
    names = (
        "true heights of all in view",
        "true heights of the found ones",
        "network's own height, expected from true ones",
        "true own height, expected from the network's",
        "network's heights (as shipped)",
        "as shipped, part that lost most",
        "network's own height against the twin's (no rule)",
    )
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for r in records:
        for v, loss in _rule_on_truth(r):
            rows[names[0]].append((largest_loss(v), float(loss.max())))
        both = sorted((p for p in measured(r) if p.truth["deformity"] is not None), key=lambda p: p.found["place_mm"])
        if not both:
            continue
        places = [p.found["place_mm"] for p in both]
        true, net = (np.array([p._asdict()[k]["heights"] for p in both]) for k in ("truth", "found"))
        expected_true, expected_net = _expected(true, places), _expected(net, places)
        twin = true / (1 - np.array([p.truth["loss"] for p in both]))
        for i, p in enumerate(both):
            a, b = expected_true[i], expected_net[i]
            if a is None or b is None:
                continue
            truth, part = largest_loss(p.truth), int(np.argmax(p.truth["loss"]))
            pairs = ((true[i], a), (net[i], a), (true[i], b), (net[i], b))
            for name, (own, expected) in zip(names[1:5], pairs, strict=True):
                rows[name].append((truth, float((1 - own / expected).max())))
            if truth > 0:
                rows[names[5]].append((truth, float((1 - net[i] / b)[part])))
            rows[names[6]].append((truth, float((1 - net[i] / twin[i]).max())))
    return {name: _slopes(np.array(pairs).reshape(-1, 2)) for name, pairs in rows.items()}


def _slopes(pairs: Floats) -> tuple[float, float, int]:
    deformed = pairs[:, 0] >= 0.1
    return slope(pairs[:, 0], pairs[:, 1]), slope(pairs[deformed, 0], pairs[deformed, 1]), len(pairs)


def _expected(heights: Floats, places: Sequence[float]) -> list[Floats | None]:
    made = expectations([Heights(*(float(x) for x in h)) for h in heights], places, [True] * len(heights))
    return [None if e.expected_mm is None else np.array(e.expected_mm.as_tuple()) for e in made]


def _rule_on_truth(record: Record) -> list[tuple[Record, Floats]]:
    """Whole vertebrae in view without implant with the losses that the rule gives them from true heights."""
    kept = [v for v in record["vertebrae"] if v["view"] == "whole" and is_vertebra(v) and not v["metal"]]
    if not kept:
        return []
    steps = np.linalg.norm(np.diff([v["centre"] for v in kept], axis=0), axis=1)
    heights = np.array([v["heights"] for v in kept])
    expected = _expected(heights, [0.0, *np.cumsum(steps).tolist()])
    return [(v, 1 - h / e) for v, h, e in zip(kept, heights, expected, strict=True) if e is not None]


# --- telling ----------------------------------------------------------------------------------------------------------


def figures(records: Sequence[Record], runner: Runner) -> Record:
    """All of it, ready for JSON."""
    read = readings(records)
    made = limits(read)
    best = max(made, key=lambda limit: limit.separation)
    score = np.array([r.disagreement_mm for r in read])
    return {
        "seed": SEED,
        "models": runner.hashes,
        "patients": len(records),
        "undeformed": sum(not r.deformed for r in read),
        "deformed": sum(r.deformed for r in read),
        "badly_read": sum(r.badly_read for r in read),
        "auc_badly_read": area_under_curve(score, np.array([r.badly_read for r in read], bool)),
        "limits": [vars(limit) | {"separation": limit.separation} for limit in made],
        "best_quantile": best.quantile,
        "best_limit_mm": best.limit_mm,
        "by_disagreement": by_disagreement(read),
        "slopes": slopes(records),
    }


def section(told: Record) -> str:
    """The figures as Markdown."""
    hashes = ", ".join(f"{name} `{sha[:12]}`" for name, sha in told["models"].items())
    lines = [
        f"Seed {told['seed']}, {told['patients']} patients; models {hashes}. {told['undeformed']} undeformed and "
        f"{told['deformed']} deformed whole vertebrae measured; {told['badly_read']} of them with a height wrong by "
        f"more than twice the stated error. AUC of the disagreement for these: {told['auc_badly_read']:.2f}.",
        "",
        "| quantile of the undeformed | limit (mm) | flags undeformed | deformed | badly read | the others | Youden |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in told["limits"]:
        parts = (f"{100 * row[k]:.1f} %" for k in ("undeformed", "deformed", "badly_read", "well_read"))
        lines.append(f"| {row['quantile']} % | {row['limit_mm']:.2f} | {' | '.join(parts)} | {row['separation']:.2f} |")
    lines += [
        "",
        "| the two readings differ by (mm) | vertebrae | largest error, mean (mm) | 95 % (mm) | badly read |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in told["by_disagreement"]:
        to = "more" if row["to_mm"] > 50 else f"{row['to_mm']:g}"
        errors = f"{row['mean_error_mm']:.2f} | {row['p95_error_mm']:.2f} | {100 * row['badly_read']:.1f} %"
        lines.append(f"| {row['from_mm']:g} to {to} | {row['count']} | {errors} |")
    lines += ["", "| loss against the true one | slope | slope from .1 on | n |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {a:.3f} | {b:.3f} | {n} |" for name, (a, b, n) in told["slopes"].items()]
    return "\n".join(lines)


@cache
def _runner() -> Runner:
    return load_runner(development_set())


def _judge(index: int) -> Record:
    return record_of(_runner(), index)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.agreement", description=__doc__)
    parser.add_argument("--patients", type=int, default=116)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then, with what there is")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    deadline = time.monotonic() + 60 * options.minutes
    records: list[Record] = []
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        answers: Iterable[Record] = pool.imap(_judge, range(1, 2 * options.patients, 2))  # odd: the deformed ones
        for record in track(answers, description="patients", total=options.patients, disable=not sys.stderr.isatty()):
            records.append(record)
            if time.monotonic() > deadline:
                break
    told = figures(records, _runner())
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(told, indent=1) + "\n")
    print(section(told))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
