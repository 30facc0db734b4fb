"""From records to the figures of a model card. Every figure is a function of a list of records, so that whole patients
can be drawn again for its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_models.training.metrics import (
    Agreement,
    Estimate,
    Floats,
    agreement,
    area_under_curve,
    bootstrapped,
    fraction,
    matched,
    slope,
)

Record = dict[str, Any]
Records = Sequence[Record]
MATCH_MM = 10.0
MODERATE = 0.25
"""Loss of height from which the rule height-loss/1 flags."""
G_MODERATE = 0.74
G_MILD = 0.80
NOT_GRADED = ("S1",)


class Pair(NamedTuple):
    """A measured vertebra beside its truth."""

    truth: Record
    found: Record


def is_vertebra(truth: Record) -> bool:
    """Whether a finding there is right: any vertebra but the sacrum."""
    return truth["level"] not in NOT_GRADED


def largest_loss(truth: Record) -> float:
    """Largest of the three losses against the undeformed twin."""
    return float(max(truth["loss"]))


def pairs(record: Record) -> tuple[list[Pair], list[Record], list[Record]]:
    """(matched pairs, whole vertebrae that were missed, findings that match nothing or the sacrum).

    Findings are those with heights: what was named without end plates (C1 and C2, which the truth does not list, or a
    cut body) is judged with the names.

    Kept for each record, since intervals ask for the same patients hundreds of times.
    """
    kept = _PAIRS.get(id(record))
    if kept is None or kept[0] is not record:
        kept = _PAIRS[id(record)] = (record, _paired(record))
    return kept[1]


_PAIRS: dict[int, tuple[Record, tuple[list[Pair], list[Record], list[Record]]]] = {}


def _paired(record: Record) -> tuple[list[Pair], list[Record], list[Record]]:
    truth, found = record["vertebrae"], [f for f in record["answer"]["found"] if f["heights"]]
    at = matched(_points(found), _points(truth), MATCH_MM)
    right = [Pair(truth[t], f) for f, t in zip(found, at, strict=True) if t is not None and is_vertebra(truth[t])]
    false = [f for f, t in zip(found, at, strict=True) if t is None or not is_vertebra(truth[t])]
    seen = {t for t in at if t is not None}
    missed = [v for t, v in enumerate(truth) if v["view"] == "whole" and is_vertebra(v) and t not in seen]
    return right, missed, false


def _points(items: Sequence[Record]) -> Floats:
    return np.array([i["centre"] for i in items], np.float64).reshape(-1, 3)


def measured(record: Record) -> list[Pair]:
    """Pairs of whole vertebrae that were measured and carry no implant."""
    return [p for p in pairs(record)[0] if p.found["heights"] and p.truth["view"] == "whole" and not p.truth["metal"]]


def flagged(found: Record) -> bool:
    """Whether this vertebra alone flags the patient (clinical.md): moderate by loss, or severe by G only."""
    needed = ("severe",) if "G_ONLY" in found["quality"] else ("moderate", "severe")
    return found["grade"] in needed


def readable(record: Record) -> bool:
    """Whether any whole vertebra is in view; where the field of view cuts them all, refusing is right."""
    return any(v["view"] == "whole" and is_vertebra(v) for v in record["vertebrae"])


def truly_deformed(record: Record) -> bool:
    """At least one whole vertebra without implant has lost a quarter of a height."""
    return any(
        largest_loss(v) >= MODERATE
        for v in record["vertebrae"]
        if v["view"] == "whole" and is_vertebra(v) and not v["metal"]
    )


def undeformed(record: Record) -> bool:
    """No vertebra in view, whole or cut, is deformed."""
    return all(v["deformity"] == "none" for v in record["vertebrae"])


def evaluated(record: Record) -> bool:
    """Whether the pipeline gave an answer other than "not evaluable"."""
    return record["answer"].get("refusal") is None


# --- figures ----------------------------------------------------------------------------------------------------------


def _line(records: Records) -> Floats:
    return np.array(
        [
            e
            for r in records
            for v, e in zip(r["vertebrae"], r["answer"]["line_mm"], strict=True)
            if e is not None and v["view"] == "whole" and is_vertebra(v)
        ]
    )


def _covered(records: Records) -> list[bool]:
    return [
        e is not None
        for r in records
        for v, e in zip(r["vertebrae"], r["answer"]["line_mm"], strict=True)
        if v["view"] == "whole" and is_vertebra(v)
    ]


def _all_pairs(records: Records) -> list[Pair]:
    return [p for r in records for p in measured(r)]


def _of(records: Records, value: Callable[[Pair], float]) -> Floats:
    return np.array([value(p) for p in _all_pairs(records)], np.float64)


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")


def _difference_of_heights(records: Records) -> Floats:
    out = [np.subtract(p.found["heights"], p.truth["heights"]) for p in _all_pairs(records)]
    return np.concatenate(out) if out else np.zeros(0)


def _point_errors(records: Records) -> Floats:
    out = [np.linalg.norm(np.subtract(p.found["points"], p.truth["points"]), axis=1) for p in _all_pairs(records)]
    return np.concatenate(out) if out else np.zeros(0)


def _d_g(records: Records, above: bool) -> Floats:
    return np.array([abs(p.found["G"] - p.truth["G"]) for p in _all_pairs(records) if (p.truth["G"] > G_MILD) == above])


def _losses(records: Records) -> tuple[Floats, Floats]:
    """(true, measured) largest loss of every vertebra that has one."""
    both = [(largest_loss(p.truth), max(p.found["loss"])) for p in _all_pairs(records) if p.found["loss"]]
    array = np.array(both, np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _auc_loss(records: Records) -> float:
    true, said = _losses(records)
    return area_under_curve(said, true >= MODERATE)


def _auc_g(records: Records) -> float:
    true, said = _of(records, lambda p: p.truth["G"]), _of(records, lambda p: p.found["G"])
    return area_under_curve(-said, true <= G_MODERATE)


def _per_patient(records: Records, said: Callable[[Pair], float | None]) -> Floats:
    """Worst value of each evaluated patient; -1 where nothing was measured."""
    return np.array(
        [max((s for p in measured(r) if (s := said(p)) is not None), default=-1.0) for r in records], np.float64
    )


def _auc_loss_patient(records: Records) -> float:
    score = _per_patient(records, lambda p: max(p.found["loss"]) if p.found["loss"] else None)
    return area_under_curve(score, np.array([truly_deformed(r) for r in records], bool))


def _auc_g_patient(records: Records) -> float:
    score = _per_patient(records, lambda p: 1.0 - p.found["G"])
    truth = [any(p.truth["G"] <= G_MODERATE for p in measured(r)) for r in records]
    return area_under_curve(score, np.array(truth, bool))


def _recall(records: Records, lowest_counts: Callable[[Record], bool] = is_vertebra) -> list[bool]:
    out: list[bool] = []
    for r in records:
        right, missed, _ = pairs(r)
        out += [True for p in right if p.truth["view"] == "whole" and lowest_counts(p.truth)]
        out += [False for v in missed if lowest_counts(v)]
    return out


def screened_level(truth: Record) -> bool:
    """T4 to L6: what is graded once levels are known."""
    name = truth["level"]
    return bool(name[0] == "L" or (name[0] == "T" and int(name[1:]) >= 4))


def _precision(records: Records) -> list[bool]:
    out: list[bool] = []
    for r in records:
        right, _, false = pairs(r)
        out += [True] * len(right) + [False] * len(false)
    return out


def _sensitivity(records: Records) -> list[bool]:
    return [bool(r["answer"].get("flag")) for r in records if truly_deformed(r)]


def _specificity(records: Records) -> list[bool]:
    return [not r["answer"].get("flag") for r in records if undeformed(r) and evaluated(r)]


def _false_flags(records: Records) -> list[bool]:
    return [flagged(p.found) for p in _all_pairs(records) if p.truth["deformity"] == "none"]


def _slope(records: Records) -> float:
    return slope(*_losses(records))


def localizer_figures(patients: Records, negatives: Records) -> dict[str, Estimate]:
    """What the localizer alone is judged by."""
    n = _counts(lambda r: len(_line(r)))
    return {
        "error_mean_mm": bootstrapped(patients, lambda r: _mean(_line(r)), n),
        "error_median_mm": bootstrapped(patients, lambda r: _percentile(_line(r), 50), n),
        "error_p95_mm": bootstrapped(patients, lambda r: _percentile(_line(r), 95), n),
        "covered": bootstrapped(patients, lambda r: fraction(_covered(r)), _counts(lambda r: len(_covered(r)))),
        "patients_with_curve": bootstrapped(
            patients, lambda r: fraction([x["answer"]["line_refusal"] is None for x in r])
        ),
        "negatives_refused": bootstrapped(
            negatives, lambda r: fraction([x["answer"]["line_refusal"] is not None for x in r])
        ),
    }


def _percentile(values: Floats, q: float) -> float:
    return float(np.percentile(values, q)) if values.size else float("nan")


def _counts(count: Callable[[Records], int]) -> Callable[[Records], int]:
    return count


def screening_figures(patients: Records, negatives: Records) -> dict[str, Estimate]:
    """What the whole pipeline is judged by."""
    n = _counts(lambda r: len(_all_pairs(r)))
    return {
        "recall": bootstrapped(patients, lambda r: fraction(_recall(r)), _counts(lambda r: len(_recall(r)))),
        "recall_t4_l5": bootstrapped(
            patients,
            lambda r: fraction(_recall(r, screened_level)),
            _counts(lambda r: len(_recall(r, screened_level))),
        ),
        "precision": bootstrapped(patients, lambda r: fraction(_precision(r)), _counts(lambda r: len(_precision(r)))),
        "point_error_mm": bootstrapped(patients, lambda r: _mean(_point_errors(r)), n),
        "height_error_mm": bootstrapped(patients, lambda r: _mean(np.abs(_difference_of_heights(r))), n),
        "d_g_above": bootstrapped(patients, lambda r: _mean(_d_g(r, True)), _counts(lambda r: len(_d_g(r, True)))),
        "d_g_below": bootstrapped(patients, lambda r: _mean(_d_g(r, False)), _counts(lambda r: len(_d_g(r, False)))),
        "slope_of_loss": bootstrapped(patients, _slope, _counts(lambda r: len(_losses(r)[0]))),
        "auc_loss_vertebra": bootstrapped(patients, _auc_loss, _counts(lambda r: len(_losses(r)[0]))),
        "auc_loss_patient": bootstrapped(patients, _auc_loss_patient),
        "auc_g_vertebra": bootstrapped(patients, _auc_g, n),
        "auc_g_patient": bootstrapped(patients, _auc_g_patient),
        "sensitivity": bootstrapped(
            patients, lambda r: fraction(_sensitivity(r)), _counts(lambda r: len(_sensitivity(r)))
        ),
        "specificity": bootstrapped(
            patients, lambda r: fraction(_specificity(r)), _counts(lambda r: len(_specificity(r)))
        ),
        "false_flags": bootstrapped(
            patients, lambda r: fraction(_false_flags(r)), _counts(lambda r: len(_false_flags(r)))
        ),
        "evaluated": bootstrapped(patients, lambda r: fraction([evaluated(x) for x in r])),
        "negatives_refused": bootstrapped(negatives, lambda r: fraction([not evaluated(x) for x in r])),
        "negatives_flagged": bootstrapped(negatives, lambda r: fraction([bool(x["answer"].get("flag")) for x in r])),
    }


def agreements(patients: Records) -> dict[str, Agreement]:
    """Limits of agreement of heights (mm), G, and the largest loss."""
    kept = _all_pairs(patients)
    true = np.array([h for p in kept for h in p.truth["heights"]], np.float64)
    return {
        "height_mm": agreement(true, true + _difference_of_heights(patients)),
        "G": agreement(_of(patients, lambda p: p.truth["G"]), _of(patients, lambda p: p.found["G"])),
        "loss": agreement(*_losses(patients)),
    }


def strata(patients: Records) -> dict[str, list[Record]]:
    """Patients by slice spacing, as clinical.md speaks of it."""
    bounds = (("to 1 mm", 0.0, 1.0), ("1 to 1.5 mm", 1.0, 1.5), ("1.5 to 3 mm", 1.5, 3.01))
    return {name: [r for r in patients if low < r["spacing_mm"] <= high] for name, low, high in bounds}


def constant_d_g(patients: Records) -> float:
    """|dG| above .8 of a model that always says the same: what the figure is worth."""
    values: NDArray[np.float64] = np.array([p.truth["G"] for p in _all_pairs(patients) if p.truth["G"] > G_MILD])
    return _mean(np.abs(values - np.median(values))) if values.size else float("nan")
