"""From the records of ``phantom-eval/2`` to figures: names, masks, volumes and scores, by group and by spacing.

Every figure is a function of a list of records, so that whole patients can be drawn again for its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from onnx_models.training.evaluation_figures import MODERATE, is_vertebra, largest_loss
from onnx_models.training.evaluation_groups import NO_ANCHOR
from onnx_models.training.metrics import Estimate, Floats, area_under_curve, bootstrapped, fraction, specificity_at

SURE = 0.9
UNDEFORMED, SEVERE = 0.05, 0.40
"""Up to this true loss a vertebra counts as normal, from that on as severe."""
SPACINGS = (("to 1 mm", 0.0, 1.0), ("1 to 2 mm", 1.0, 2.0), ("2 to 3 mm", 2.0, 3.01))
BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.97, 1.0001)
"""Bounds of confidence of the figure of reliability."""
Record = dict[str, Any]
Records = Sequence[Record]


def whole(record: Record) -> list[Record]:
    """Vertebrae that must be found: wholly in view, the sacrum left out."""
    return [v for v in record["vertebrae"] if v["view"] == "whole" and is_vertebra(v)]


def names(record: Record) -> Iterator[tuple[float, bool]]:
    """(confidence, right) of every name that was given, to whole and cut vertebrae and to what is none."""
    for v in record["vertebrae"]:
        found = v.get("found")
        if found is not None and found["level"] is not None:
            yield found["level_confidence"], found["level"] == v["level"]
    for found in record["answer"]["elsewhere"]:
        if found["level"] is not None:
            yield found["level_confidence"], False


def _identified(records: Records) -> list[bool]:
    return [v.get("found", {}).get("level") == v["level"] for r in records for v in whole(r)]


def _found(records: Records) -> list[bool]:
    return ["found" in v for r in records for v in whole(r)]


def _sure(records: Records) -> list[bool]:
    return [right for r in records for confidence, right in names(r) if confidence >= SURE]


def _right(records: Records) -> list[bool]:
    return [right for r in records for _, right in names(r)]


def _masks(records: Records, key: str) -> Floats:
    """Of every whole vertebra; a vertebra without a mask has a Dice of 0 and no distance."""
    found = [v.get("found", {}).get(key) for r in records for v in whole(r)]
    if key == "surface_mm":
        return np.array([value for value in found if value is not None], np.float64)
    return np.array([0.0 if value is None else value for value in found], np.float64)


def _volume_errors(records: Records, part: int) -> Floats:
    """Measured over true volume, minus 1, where a volume is said; ``part``: 0 vertebra, 1 body."""
    out = []
    for r in records:
        for v in whole(r):
            said = v.get("found", {}).get("volumes_ml", (None, None))[part]
            if said is not None and v["true_ml"][part] > 0:
                out.append(said / v["true_ml"][part] - 1.0)
    return np.array(out, np.float64)


def _scores(records: Records) -> tuple[Floats, Floats]:
    """(largest true loss, score) of every vertebra that has a score and no implant."""
    pairs = [
        (largest_loss(v), v["found"]["score"])
        for r in records
        for v in whole(r)
        if not v["metal"] and v.get("found", {}).get("score") is not None
    ]
    table = np.array(pairs, np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")


def _of_scores(low: float, high: float) -> Callable[[Records], Floats]:
    def chosen(records: Records) -> Floats:
        loss, score = _scores(records)
        return score[(loss >= low) & (loss < high)]

    return chosen


def _estimate(records: Records, values: Callable[[Records], Any], figure: Callable[[Any], float]) -> Estimate:
    return bootstrapped(records, lambda r: figure(values(r)), lambda r: len(values(r)))


def name_figures(records: Records) -> dict[str, Estimate]:
    """How well vertebrae are found and named."""
    return {
        "found": _estimate(records, _found, fraction),
        "identified": _estimate(records, _identified, fraction),
        "names_right": _estimate(records, _right, fraction),
        "sure_right": _estimate(records, _sure, fraction),
        "numbering_known": bootstrapped(records, lambda r: fraction([x["answer"]["numbering"] for x in r])),
        "refused": bootstrapped(records, lambda r: fraction([x["answer"]["refusal"] is not None for x in r])),
    }


def mask_figures(records: Records) -> dict[str, Estimate]:
    """How well whole vertebrae are segmented, and their volumes."""
    dice = _values("dice")
    return {
        "dice": _estimate(records, dice, _mean),
        "dice_p5": _estimate(records, dice, lambda x: float(np.percentile(x, 5)) if len(x) else float("nan")),
        "body_dice": _estimate(records, _values("body_dice"), _mean),
        "surface_mm": _estimate(records, _values("surface_mm"), _mean),
        "volume_error": _estimate(records, lambda r: np.abs(_volume_errors(r, 0)), _mean),
        "body_volume_error": _estimate(records, lambda r: np.abs(_volume_errors(r, 1)), _mean),
        "body_volume_bias": _estimate(records, lambda r: _volume_errors(r, 1), _mean),
    }


def _values(key: str) -> Callable[[Records], Floats]:
    return lambda records: _masks(records, key)


def score_figures(records: Records) -> dict[str, Estimate]:
    """How well the score, made from predicted masks, tells deformed vertebrae from others."""

    def auc(r: Records) -> float:
        loss, score = _scores(r)
        return float(area_under_curve(score, loss >= MODERATE))

    def specificity(r: Records) -> float:
        loss, score = _scores(r)
        return float(specificity_at(score, loss >= MODERATE))

    def count(r: Records) -> int:
        return len(_scores(r)[0])

    return {
        "auc": bootstrapped(records, auc, count),
        "specificity_at_90": bootstrapped(records, specificity, count),
        "normal": _estimate(records, _of_scores(-1.0, UNDEFORMED), _mean),
        "moderate": _estimate(records, _of_scores(MODERATE, SEVERE), _mean),
        "severe": _estimate(records, _of_scores(SEVERE, 2.0), _mean),
    }


def reliability(records: Records) -> list[dict[str, float]]:
    """Of the names given, by confidence: how many, their mean confidence, and the part that is right."""
    table = np.array([pair for r in records for pair in names(r)], np.float64).reshape(-1, 2)
    out: list[dict[str, float]] = []
    for low, high in pairwise(BINS):
        members = table[(table[:, 0] >= low) & (table[:, 0] < high)]
        if len(members):
            confidence, right = (float(v) for v in members.mean(axis=0))
            out.append({"from": low, "names": len(members), "confidence": confidence, "right": right})
    return out


def by_group(records: Records) -> dict[str, list[Record]]:
    """Records by group, then all that hold an anchor."""
    groups = {name: [r for r in records if r["group"] == name] for name in dict.fromkeys(r["group"] for r in records)}
    return groups | {"all with an anchor": [r for r in records if r["group"] != NO_ANCHOR]}


def by_spacing(records: Records) -> dict[str, list[Record]]:
    """Records by slice spacing."""
    return {name: [r for r in records if low < r["spacing_mm"] <= high] for name, low, high in SPACINGS}
