"""The table on real shapes: the shipped pipeline on real vertebrae rendered as CT, whole or with known deformities.

Three spines only, each rendered several times: the figures tell whether shapes and grey values that no network was
trained on are measured, not how often in patients. Hence counts and no intervals.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inference.grading import GradingRule
from onnx_models import MODELS
from onnx_models.training.evaluation_figures import MODERATE, Pair, largest_loss, measured, pairs
from onnx_models.training.evaluation_records import Runner
from onnx_models.training.metrics import slope
from onnx_models.training.real_cases import real_folder
from onnx_models.training.real_rendering import KINDS, Body, Deformity, cast, render, sample_look
from onnx_models.training.real_shapes import load_label_map, load_mean_lumbar, load_visible_human

Record = dict[str, Any]
LOSSES = (0.2, 0.3, 0.4, 0.6)
UNDEFORMED = 3
"""Renderings of each spine as it is."""
SPINES = {
    "label map": (load_label_map, ("T7", "T10", "L1", "L3", "T8", "T11", "L2", "L4", "T9", "T12"), 3),
    "surfaces": (load_visible_human, ("L2", "L3", "L4"), 1),
    "mean surface": (load_mean_lumbar, ("L3", "L4"), 1),
}
"""How each is loaded, the levels deformed in turn (all have neighbours on both sides), and how many in one image."""


@dataclass(frozen=True)
class Plan:
    """One image: a spine, what is deformed, and the seed of its look."""

    spine: str
    index: int
    deformities: dict[str, Deformity]

    @property
    def seed(self) -> list[int]:
        """Of grey values, noise and grid."""
        return [zlib.crc32(self.spine.encode()), self.index]


def plans() -> list[Plan]:
    """Every kind and loss on each spine, after its undeformed images; on the label map three in one image."""
    each = [Deformity(kind, loss) for loss in LOSSES for kind in KINDS]
    out = []
    for name, (_, levels, together) in SPINES.items():
        out += [Plan(name, i, {}) for i in range(UNDEFORMED)]
        for i in range(0, len(each), together):
            turn = {levels[(i + k) % len(levels)]: d for k, d in enumerate(each[i : i + together])}
            out.append(Plan(name, UNDEFORMED + i // together, turn))
    return out


def shape_records(runner: Runner) -> list[Record]:
    """Truth and answer of every image, from disk where they are there.

    Raises
    ------
    FileNotFoundError
        Where the folder of real images is absent.
    """
    root = real_folder()
    if root is None:
        raise FileNotFoundError("the folder of real images is absent; set SPINE_NODE_REAL_DATA")
    spines = {}
    out = []
    for plan in plans():
        path = _folder(runner) / f"{plan.spine.replace(' ', '-')}-{plan.index:02d}.json"
        if not path.is_file():
            if plan.spine not in spines:
                spines[plan.spine] = SPINES[plan.spine][0](root)
            _keep(path, judged(runner, cast(spines[plan.spine], plan.deformities), plan))
        out.append(json.loads(path.read_text()))
    return out


def _folder(runner: Runner) -> Path:
    """Beside the records of the patients, under the hash of what makes the shapes."""
    digest = hashlib.sha256(repr(plans()).encode())
    for name in ("real_shapes.py", "real_rendering.py"):
        digest.update((MODELS / "training" / name).read_bytes())
    return runner.folder / f"shapes-{digest.hexdigest()[:10]}"


def _keep(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(record))
    partial.replace(path)


def judged(runner: Runner, bodies: list[Body], plan: Plan) -> Record:
    """One image through the pipeline, as a record like those of the phantom's patients."""
    rng = np.random.default_rng(plan.seed)
    look = sample_look(rng)
    volume = render(bodies, look, rng)
    truth = [_truth(body) for body in bodies]
    answer = runner.answer(volume, [v["middle"] for v in truth])
    return {
        "kind": "patient",
        "spine": plan.spine,
        "index": plan.index,
        "spacing_mm": look.spacing_mm[0],
        "vertebrae": truth,
        "answer": answer,
    }


def _truth(body: Body) -> Record:
    points = body.points_lps_mm
    heights = np.linalg.norm(points[0::2] - points[1::2], axis=1)
    return {
        "level": body.shape.level,
        "view": "whole",
        "centre": points.mean(axis=0).tolist(),
        "middle": points[2:4].mean(axis=0).tolist(),
        "points": points.tolist(),
        "heights": heights.tolist(),
        "loss": body.loss.tolist(),
        "G": float(heights.min() / heights.max()),
        "deformity": "none" if body.deformity is None else body.deformity.kind,
        "metal": False,
    }


def shape_figures(records: Sequence[Record]) -> Record:
    """Figures of each spine and of all of them."""
    groups = {name: [r for r in records if r["spine"] == name] for name in SPINES}
    return {name: _figures(chosen) for name, chosen in [*groups.items(), ("all", list(records))] if chosen}


def _figures(records: Sequence[Record]) -> Record:
    seen = [p for r in records for p in measured(r)]
    found = [p for r in records for p in pairs(r)[0]]
    missed = sum(len(pairs(r)[1]) for r in records)
    line = [e for r in records for e in r["answer"]["line_mm"] if e is not None]
    intact = [p for p in seen if p.truth["deformity"] == "none"]
    hurt = [p for p in seen if p.truth["deformity"] != "none"]
    compared = [p for p in hurt if p.found["loss"]]
    graded = [p for p in hurt if p.found["grade"] is not None and largest_loss(p.truth) >= GradingRule().mild_loss]
    steps = [_steps(p) for p in graded]
    whole = [r for r in records if all(v["deformity"] == "none" for v in r["vertebrae"])]
    broken = [r for r in records if any(largest_loss(v) >= MODERATE for v in r["vertebrae"])]
    return {
        "images": len(records),
        "vertebrae": sum(len(r["vertebrae"]) for r in records),
        "refused": sum(r["answer"].get("refusal") is not None for r in records),
        "found": len(found),
        "missed": missed,
        "false": sum(len(pairs(r)[2]) for r in records),
        "line_mm": _mean(line),
        "line_p95_mm": float(np.percentile(line, 95)) if line else None,
        "centre_mm": _mean([float(np.linalg.norm(np.subtract(p.found["centre"], p.truth["centre"]))) for p in found]),
        "height_intact_mm": _mean(_height_errors(intact)),
        "height_hurt_mm": _mean(_height_errors(hurt)),
        "d_g_intact": _mean([abs(p.found["G"] - p.truth["G"]) for p in intact]),
        "d_g_hurt": _mean([abs(p.found["G"] - p.truth["G"]) for p in hurt]),
        "loss_error": _mean([abs(max(p.found["loss"]) - largest_loss(p.truth)) for p in compared]),
        "slope": _slope(compared),
        "graded": len(graded),
        "same_grade": sum(s == 0 for s in steps),
        "within_one": sum(s <= 1 for s in steps),
        "doubtful_intact": sum("LOW_CONFIDENCE" in p.found["quality"] for p in intact),
        "intact": len(intact),
        "doubtful_hurt": sum("LOW_CONFIDENCE" in p.found["quality"] for p in hurt),
        "hurt": len(hurt),
        "undeformed_flagged": sum(bool(r["answer"].get("flag")) for r in whole),
        "undeformed": len(whole),
        "deformed_flagged": sum(bool(r["answer"].get("flag")) for r in broken),
        "deformed": len(broken),
    }


def _height_errors(kept: Sequence[Pair]) -> list[float]:
    return [abs(a - b) for p in kept for a, b in zip(p.found["heights"], p.truth["heights"], strict=True)]


def _steps(p: Pair) -> int:
    """How many grades the answer lies from the grade of the true loss."""
    grades = ("normal", "mild", "moderate", "severe")
    return abs(grades.index(str(GradingRule().by_loss(largest_loss(p.truth)))) - grades.index(p.found["grade"]))


def _slope(kept: Sequence[Pair]) -> float | None:
    true = np.array([largest_loss(p.truth) for p in kept])
    said = np.array([max(p.found["loss"]) for p in kept])
    value = slope(true, said)
    return float(value) if np.isfinite(value) else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
