"""From records of `radiograph_records` to the figures of a film network's card.

Every figure is a function of a list of records, so that whole films can be drawn again for its interval. What is
missed counts: where a figure can be had with refused films and missed bodies as well, that one comes first, and what it
is of those answered, found or measured stands beside it. `ROWS` says of each what it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.findings import Quality
from inference.grading import SURE_LOSS
from onnx_models.training.film_evaluation_set import STRATA
from onnx_models.training.metrics import (
    Agreement,
    Estimate,
    Floats,
    agreement,
    area_under_curve,
    bootstrapped,
    fraction,
)
from onnx_models.training.radiograph_figures import PixelCounts

Record = dict[str, Any]
Records = Sequence[Record]
LUMBAR = ("L2", "L3", "L4", "L5")
LOWER = ("T11", "T12", "L1", *LUMBAR)
"""Where compression ratios are judged."""
MIDDLE = ("T7", "T8", "T9", "T10")
UPPER = ("T1", "T2", "T3", "T4", "T5", "T6")
DOUBTS = ("LOW_CONFIDENCE", "MASK_DISAGREES")
"""A vertebra with one of these is measured, and said not to be sure."""
VCR_FRACTURE = 20.0
FRACTURED = ("moderate", "severe")
NOT_MEASURED = -np.inf
"""Score of a body that nothing was measured of: no other one looks less deformed."""


def vertebrae(records: Records, levels: Sequence[str] | None = None, whole: bool = True) -> list[Record]:
    """True bodies of these levels that lie wholly on the film and within its field."""
    return [
        v
        for r in records
        for v in r["vertebrae"]
        if (levels is None or v["level"] in levels) and (v["whole"] or not whole)
    ]


def measured(records: Records, levels: Sequence[str] | None = None) -> list[Record]:
    """Those of them that were found and measured, without cement or metal."""
    bodies = vertebrae(records, levels)
    return [v for v in bodies if v["found"] and v["found"]["relative"] and not v["metal"]]


def sure(found: Record) -> bool:
    """Whether nothing casts doubt on a measurement."""
    return not any(doubt in found["quality"] for doubt in DOUBTS)


# --- the figures ------------------------------------------------------------------------------------------------------


def answered(records: Records) -> list[Record]:
    """Films that were not refused."""
    return [r for r in records if not r["refusal"]]


def fractured(body: Record) -> bool:
    """Whether a body truly lost a quarter or more of a height against its undeformed twin."""
    return bool(max(body["loss"]) >= SURE_LOSS)


def mean_dice(records: Records, name: str = "dice") -> float:
    """Mean over all films; 0 for those that were refused."""
    return _mean([r[name] or 0.0 for r in records])


def vertebra_dice(records: Records, levels: Sequence[str]) -> float:
    """Mean over all whole bodies; 0 for those that were not found, on refused films too."""
    return _mean([v["found"]["dice"] if v["found"] else 0.0 for v in vertebrae(records, levels)])


def found_vertebra_dice(records: Records, levels: Sequence[str]) -> float:
    """Mean over the whole bodies that were found."""
    return _mean([v["found"]["dice"] for v in vertebrae(records, levels) if v["found"]])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def found_part(records: Records, levels: Sequence[str]) -> float:
    """Part of whole bodies that were found, refused films included."""
    return fraction([bool(v["found"]) for v in vertebrae(records, levels)])


def merged_part(records: Records, levels: Sequence[str]) -> float:
    """Part of the whole bodies of answered films that share a found body with another one."""
    return fraction([v["merged"] for v in vertebrae(answered(records), levels)])


def false_findings(records: Records) -> float:
    """Measured bodies an answered film where none is, or S1."""
    return _mean([r["elsewhere"] for r in answered(records)])


def point_error_mm(records: Records, levels: Sequence[str] | None = None) -> float:
    """Mean distance of the six points from the true ones."""
    said = [v["found"]["error_mm"] for v in measured(records, levels) if v["found"]["error_mm"]]
    return float(np.mean(said)) if said else float("nan")


def error_percent(records: Records, name: str, levels: Sequence[str] | None = None) -> float:
    """Mean of "error_parts" (six points) or "height_error_parts", per cent of the true posterior height."""
    said = [v["found"][name] for v in measured(records, levels) if v["found"][name]]
    return 100 * float(np.mean(said)) if said else float("nan")


def height_error_mm(records: Records, levels: Sequence[str] | None = None) -> float:
    """Mean absolute error of the three heights."""
    pairs = [(v["found"]["heights"], v["heights"]) for v in measured(records, levels) if v["found"]["heights"]]
    return float(np.mean([np.abs(np.subtract(a, b)) for a, b in pairs])) if pairs else float("nan")


def ratio_error(records: Records, levels: Sequence[str] | None = None) -> float:
    """Mean |dG|."""
    pairs = [(v["found"]["G"], min(v["heights"]) / max(v["heights"])) for v in measured(records, levels)]
    said = [abs(a - b) for a, b in pairs if a is not None]
    return float(np.mean(said)) if said else float("nan")


def compressions(records: Records, levels: Sequence[str] = LOWER) -> tuple[Floats, Floats, int]:
    """(true VCR, measured VCR, how many could have been measured) in per cent.

    The true one compares with the same two vertebrae as the measured one did, by their heights in space; where one of
    those is no vertebra at all, with the next ones. Whole vertebrae whose neighbours are whole and which hold no metal
    could have been measured.
    """
    true, said, possible = [], [], 0
    for record in records:
        bodies = record["vertebrae"]
        ordinals = {v["found"]["ordinal"]: k for k, v in enumerate(bodies) if v["found"]}
        for k, v in enumerate(bodies):
            around = bodies[k - 1 : k + 2] if 0 < k < len(bodies) - 1 else []
            if v["level"] not in levels or not around or v["metal"] or not all(b["whole"] for b in around):
                continue
            possible += 1
            found = v["found"]
            if not found or found["vcr"] is None or not sure(found):
                continue
            with_which = [ordinals.get(o) for o in found["compared_with"]]
            above, below = (k - 1, k + 1) if None in with_which else with_which
            share = (k - above) / (below - above)
            upper, lower = (bodies[n]["heights"][0] for n in (above, below))
            true.append(100 * (1 - v["heights"][0] / (upper + share * (lower - upper))))
            said.append(found["vcr"])
    return np.array(true), np.array(said), possible


def vcr_measured(records: Records) -> float:
    """Part of the compression ratios of T11 to L5 that were told without doubt."""
    _, said, possible = compressions(records)
    return len(said) / possible if possible else float("nan")


def own_losses(records: Records, part: int, levels: Sequence[str] = LOWER) -> tuple[Floats, Floats]:
    """(true, measured) loss against the own posterior height, per cent; part 0: anterior, 1: middle."""
    bodies = [v for v in measured(records, levels) if sure(v["found"])]
    true = [100 * (1 - v["heights"][part] / v["heights"][2]) for v in bodies]
    return np.array(true), np.array([100 * (1 - v["found"]["relative"][part]) for v in bodies])


def loss_score(found: Record) -> float:
    """What orders vertebrae by deformity: the largest loss, where the neighbours tell none the own ratio."""
    return float(max(found["loss"])) if found["loss"] else 1.0 - float(found["G"])


def moderate_auc(records: Records, levels: Sequence[str] = LOWER) -> float:
    """Area under the ROC for a true loss of a quarter or more, of all whole bodies.

    Those of which nothing was measured, on refused films too, look least deformed.
    """
    return _auc(vertebrae(records, levels))


def measured_auc(records: Records, levels: Sequence[str] = LOWER) -> float:
    """The same of `measured` bodies."""
    return _auc(measured(records, levels))


def _auc(bodies: Sequence[Record]) -> float:
    told = [bool(v["found"]) and v["found"]["G"] is not None for v in bodies]
    score = np.array([loss_score(v["found"]) if t else NOT_MEASURED for v, t in zip(bodies, told, strict=True)])
    return area_under_curve(score, np.array([fractured(v) for v in bodies], bool))


def flags(records: Records, positive: bool, levels: Sequence[str] = LOWER) -> float:
    """Part of all whole bodies, truly fractured ones or others, that are graded moderate or severe, or are not.

    Bodies that were missed, on refused films too, or have no grade are not graded so. Those with cement or metal must
    not have one and are left out.
    """
    return _flagged([v for v in vertebrae(records, levels) if not v["metal"]], positive)


def measured_flags(records: Records, positive: bool, levels: Sequence[str] = LOWER) -> float:
    """The same of `measured` bodies."""
    return _flagged(measured(records, levels), positive)


def _flagged(bodies: Sequence[Record], positive: bool) -> float:
    chosen = [v for v in bodies if fractured(v) == positive]
    return fraction([(bool(v["found"]) and v["found"]["grade"] in FRACTURED) == positive for v in chosen])


def were_all_graded(records: Records, levels: Sequence[str] = LOWER) -> Record:
    """What would be called moderate or severe if no doubt kept a body from being graded.

    Returns
    -------
    "healthy": part of the healthy `measured` bodies that would be called so; "healthy graded": part of those of them
    with a grade that are; "films": [so many answered films without a fracture would have such a body, so many there
    are].
    """
    healthy = [v for v in measured(records, levels) if not fractured(v)]
    graded = [v["found"]["grade"] for v in healthy if v["found"]["grade"] is not None]
    films = [r for r in answered(records) if not any(fractured(v) for v in r["vertebrae"])]
    return {
        "healthy": fraction([v["found"]["called"] for v in healthy]),
        "healthy graded": fraction([grade in FRACTURED for grade in graded]),
        "films": [sum(r["called"] > 0 for r in films), len(films)],
    }


def pixel_figures(records: Records) -> dict[str, float]:
    """Of the network's probability over all pixels: sensitivity, specificity, areas under ROC and PR curve."""
    total = PixelCounts.empty(len(records[0]["pixels"][0])) if records else PixelCounts()
    for r in records:
        total.positive += np.array(r["pixels"][0])
        total.negative += np.array(r["pixels"][1])
    return total.figures()


def upper_thoracic(records: Records) -> dict[str, float]:
    """What becomes of T1 to T6: found, measured, measured without doubt; and the largest loss's error of the last."""
    bodies = [v for v in vertebrae(records, UPPER) if not v["metal"]]
    found = [v for v in bodies if v["found"]]
    told = [v for v in found if v["found"]["relative"]]
    certain = [v for v in told if sure(v["found"])]
    return {
        "n": len(bodies),
        "found": fraction([bool(v["found"]) for v in bodies]),
        "flagged": fraction([not sure(v["found"]) or not v["found"]["relative"] for v in found]),
        "sure": len(certain) / max(len(bodies), 1),
        "sure G error": ratio_error([{"vertebrae": certain}]),
        "named": fraction([v["found"]["level"] is not None for v in found]),
    }


def foreign_told(records: Records) -> dict[str, list[int]]:
    """[told to hold cement or metal, all] of whole bodies found that hold some, and of those that hold none."""
    found = [v for v in vertebrae(records) if v["found"]]
    groups = {"with": [v for v in found if v["metal"]], "without": [v for v in found if not v["metal"]]}
    flag = str(Quality.FOREIGN_MATERIAL)
    return {name: [sum(flag in v["found"]["quality"] for v in group), len(group)] for name, group in groups.items()}


def names_right(records: Records) -> tuple[float, int]:
    """(part of the names given that are right, how many were given)."""
    given = [v for v in vertebrae(records, whole=False) if v["found"] and v["found"]["level"]]
    return fraction([v["found"]["level"] == v["level"] for v in given]), len(given)


# --- all together -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A figure of the card.

    Attributes
    ----------
    counts
        In words, what it is a mean or a part of.
    figure
        From records to its value; nan where there is none.
    graded
        Whether it rests on true losses, which a site's annotations do not tell.
    """

    counts: str
    figure: Callable[[Records], float]
    graded: bool = False


_FILMS, _ANSWERED = "all films, 0 where refused", "answered films"
_WHOLE, _FOUND = "all whole bodies", "whole bodies found"
_MEASURED = "whole bodies measured, T11 to L5"
_ALL_LOWER = "all whole bodies T11 to L5, also missed or refused"
_TO_GRADE = f"{_ALL_LOWER}, without cement or metal"
ROWS = {
    "Dice, section": Row(_FILMS, mean_dice),
    "Dice, section, answered": Row(_ANSWERED, lambda r: mean_dice(answered(r))),
    "Dice, silhouette": Row(_FILMS, lambda r: mean_dice(r, "silhouette_dice")),
    "Dice, silhouette, answered": Row(_ANSWERED, lambda r: mean_dice(answered(r), "silhouette_dice")),
    "Dice of a vertebra, L2 to L5": Row(f"{_WHOLE}, 0 where not found", lambda r: vertebra_dice(r, LUMBAR)),
    "Dice of a vertebra, L2 to L5, found": Row(_FOUND, lambda r: found_vertebra_dice(r, LUMBAR)),
    "found, T11 to L5": Row(_WHOLE, lambda r: found_part(r, LOWER)),
    "merged, T11 to L5": Row(f"{_WHOLE} of answered films", lambda r: merged_part(r, LOWER)),
    "found, T7 to T10": Row(_WHOLE, lambda r: found_part(r, MIDDLE)),
    "merged, T7 to T10": Row(f"{_WHOLE} of answered films", lambda r: merged_part(r, MIDDLE)),
    "found, T1 to T6": Row(_WHOLE, lambda r: found_part(r, UPPER)),
    "false findings a film": Row(_ANSWERED, false_findings),
    "six points, mm": Row(_MEASURED, lambda r: point_error_mm(r, LOWER)),
    "heights, mm": Row(_MEASURED, lambda r: height_error_mm(r, LOWER)),
    "|dG|": Row(_MEASURED, lambda r: ratio_error(r, LOWER)),
    "AUC, moderate or worse": Row(_ALL_LOWER, moderate_auc, graded=True),
    "AUC, moderate or worse, measured": Row(_MEASURED, measured_auc, graded=True),
    "graded moderate or worse, sensitivity": Row(_TO_GRADE, lambda r: flags(r, True), graded=True),
    "graded moderate or worse, sensitivity, measured": Row(_MEASURED, lambda r: measured_flags(r, True), graded=True),
    "graded moderate or worse, specificity": Row(_TO_GRADE, lambda r: flags(r, False), graded=True),
    "graded moderate or worse, specificity, measured": Row(_MEASURED, lambda r: measured_flags(r, False), graded=True),
    "VCR measured": Row("whole bodies T11 to L5 with whole neighbours", vcr_measured),
}
"""The figures of every set of films, in the order of the card: those with a goal before what stands beside them."""


def _stratum_rows(stratum: str) -> dict[str, Row]:
    def of(records: Records) -> list[Record]:
        return [one for one in records if one["stratum"] == stratum]

    return {
        f"Dice, {stratum}": Row(_FILMS, lambda r: mean_dice(of(r))),
        f"Dice, {stratum}, answered": Row(_ANSWERED, lambda r: mean_dice(answered(of(r)))),
        f"found, T11 to L5, {stratum}": Row(_WHOLE, lambda r: found_part(of(r), LOWER)),
    }


for _name in STRATA:
    ROWS |= _stratum_rows(_name)
_POSTERIOR = "of the posterior height; whole bodies measured"
SITE_ROWS = {
    **{n: row for n, row in ROWS.items() if not row.graded and not n.endswith(", mm") and "silhouette" not in n},
    "six points, %": Row(_POSTERIOR, lambda r: error_percent(r, "error_parts")),
    "heights, %": Row(_POSTERIOR, lambda r: error_percent(r, "height_error_parts")),
    "six points, mm": Row("the same, of calibrated films", point_error_mm),
    "heights, mm": Row("the same, of calibrated films", height_error_mm),
}
"""Figures of films that a site annotated: losses and silhouettes are not known, and mm only of calibrated ones."""


def estimates(records: Records, rows: Mapping[str, Row] = ROWS) -> dict[str, Estimate]:
    """Every figure with its 95 % interval, films drawn again."""
    return {name: bootstrapped(records, row.figure) for name, row in rows.items()}


def agreements(records: Records) -> dict[str, Agreement]:
    """Measured against true ones, T11 to L5, per cent."""
    true, said, _ = compressions(records)
    low = compressions(records, LUMBAR)
    return {
        "VCR": agreement(true, said),
        "VCR, L2 to L5": agreement(low[0], low[1]),
        "anterior loss against the own back": agreement(*own_losses(records, 0)),
        "middle loss against the own back": agreement(*own_losses(records, 1)),
    }


def summary(
    films: Records, negatives: Records, real: Records, frontal: Records, called_lateral: Records = ()
) -> Record:
    """Every figure, ready for JSON and for the card.

    ``called_lateral`` are films that must be refused, with a header that says lateral.
    """
    true, said, _ = compressions(films)
    counts = {s: sum(r["stratum"] == s for r in films) for s in STRATA}
    return {
        "films": len(films),
        "strata": counts,
        "vertebrae": len(vertebrae(films, LOWER)),
        "refused": [[r["index"], r["refusal"]] for r in films if r["refusal"]],
        "refused_of_first_hundred": [sum(bool(r["refusal"]) for r in films[:100]), len(films[:100])],
        "estimates": {k: [e.value, e.low, e.high, e.count] for k, e in estimates(films).items()},
        "agreements": {k: [a.bias, a.low, a.high, a.correlation, a.count] for k, a in agreements(films).items()},
        "vcr": [np.round(true, 2).tolist(), np.round(said, 2).tolist()],
        "vcr_auc": area_under_curve(said, true > VCR_FRACTURE),
        "pixels": pixel_figures(films),
        "upper thoracic": upper_thoracic(films),
        "cement or metal": foreign_told(films),
        "names": names_right(films),
        "front_right": _part([r["front_right"] for r in films if r["front_right"] is not None]),
        "head_right": _part([r["head_right"] for r in films if r["head_right"] is not None]),
        "seconds": float(np.median([r["seconds"] for r in films])) if films else float("nan"),
        "were all graded": were_all_graded(films),
        "negatives": _refusals(negatives),
        "called lateral": _refusals(called_lateral),
        "real": _real(real, frontal),
    }


def _part(hits: Sequence[bool]) -> tuple[float, int]:
    return fraction(hits), len(hits)


def _refusals(negatives: Records) -> dict[str, list[int]]:
    """Kind -> [refused, shown]."""
    out: dict[str, list[int]] = {}
    for r in negatives:
        row = out.setdefault(r["kind"], [0, 0])
        row[0] += bool(r["refusal"])
        row[1] += 1
    return dict(sorted(out.items()))


def _real(lateral: Records, frontal: Records) -> Record | None:
    if not lateral:
        return None
    bodies = vertebrae(lateral)
    return {
        "films": len(lateral),
        "refused": sum(bool(r["refusal"]) for r in lateral),
        "dice": mean_dice(lateral),
        "dice answered": mean_dice(answered(lateral)),
        "each dice": [r["dice"] for r in lateral],
        "silhouette": mean_dice(lateral, "silhouette_dice"),
        "silhouette answered": mean_dice(answered(lateral), "silhouette_dice"),
        "vertebra dice": vertebra_dice(lateral, LUMBAR),
        "vertebra dice found": found_vertebra_dice(lateral, LUMBAR),
        "found": [sum(bool(v["found"]) for v in bodies), len(bodies)],
        "most false findings": max(r["elsewhere"] for r in lateral),
        "false findings": false_findings(lateral),
        "flagged": sum(r["flag"] for r in lateral),
        "called": sum(r["called"] > 0 for r in answered(lateral)),
        "names": names_right(lateral),
        "frontal refused": [sum(bool(r["refusal"]) for r in frontal), len(frontal)],
    }
