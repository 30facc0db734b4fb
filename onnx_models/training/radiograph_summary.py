"""From records of `radiograph_records` to the figures of a film network's card.

Every figure is a function of a list of records, so that whole films can be drawn again for its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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


def mean_dice(records: Records, name: str = "dice") -> float:
    """Mean over the films that were answered."""
    said = [r[name] for r in records if r[name] is not None]
    return float(np.mean(said)) if said else float("nan")


def vertebra_dice(records: Records, levels: Sequence[str]) -> float:
    """Mean over whole bodies that were found."""
    said = [v["found"]["dice"] for v in vertebrae(records, levels) if v["found"]]
    return float(np.mean(said)) if said else float("nan")


def found_part(records: Records, levels: Sequence[str]) -> float:
    """Part of whole bodies that were found, refused films included."""
    return fraction([bool(v["found"]) for v in vertebrae(records, levels)])


def merged_part(records: Records, levels: Sequence[str]) -> float:
    """Part of whole bodies that share a found body with another one."""
    return fraction([v["merged"] for v in vertebrae(records, levels)])


def false_findings(records: Records) -> float:
    """Measured bodies a film where none is, or S1."""
    return float(np.mean([r["elsewhere"] for r in records])) if records else float("nan")


def point_error_mm(records: Records, levels: Sequence[str] | None = None) -> float:
    """Mean distance of the six points from the true ones."""
    said = [v["found"]["error_mm"] for v in measured(records, levels) if v["found"]["error_mm"]]
    return float(np.mean(said)) if said else float("nan")


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


def own_losses(records: Records, part: int, levels: Sequence[str] = LOWER) -> tuple[Floats, Floats]:
    """(true, measured) loss against the own posterior height, per cent; part 0: anterior, 1: middle."""
    bodies = [v for v in measured(records, levels) if sure(v["found"])]
    true = [100 * (1 - v["heights"][part] / v["heights"][2]) for v in bodies]
    return np.array(true), np.array([100 * (1 - v["found"]["relative"][part]) for v in bodies])


def loss_score(found: Record) -> float:
    """What orders vertebrae by deformity: the largest loss, where the neighbours tell none the own ratio."""
    return float(max(found["loss"])) if found["loss"] else 1.0 - float(found["G"])


def moderate_auc(records: Records, levels: Sequence[str] = LOWER) -> float:
    """Area under the ROC for a true loss of a quarter or more against the undeformed twin."""
    bodies = measured(records, levels)
    truth = np.array([max(v["loss"]) >= SURE_LOSS for v in bodies], bool)
    return area_under_curve(np.array([loss_score(v["found"]) for v in bodies]), truth)


def flags(records: Records, positive: bool, levels: Sequence[str] = LOWER) -> float:
    """Part of the truly (un)deformed ones that are graded moderate or severe, or are not, among those measured."""
    bodies = [v for v in measured(records, levels) if (max(v["loss"]) >= SURE_LOSS) == positive]
    return fraction([(v["found"]["grade"] in ("moderate", "severe")) == positive for v in bodies])


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


def names_right(records: Records) -> tuple[float, int]:
    """(part of the names given that are right, how many were given)."""
    given = [v for v in vertebrae(records, whole=False) if v["found"] and v["found"]["level"]]
    return fraction([v["found"]["level"] == v["level"] for v in given]), len(given)


# --- all together -----------------------------------------------------------------------------------------------------


def estimates(records: Records) -> dict[str, Estimate]:
    """Every figure with its 95 % interval, films drawn again."""
    figures: dict[str, Callable[[Records], float]] = {
        "Dice, section": mean_dice,
        "Dice, silhouette": lambda r: mean_dice(r, "silhouette_dice"),
        "Dice of a vertebra, L2 to L5": lambda r: vertebra_dice(r, LUMBAR),
        "found, T11 to L5": lambda r: found_part(r, LOWER),
        "merged, T11 to L5": lambda r: merged_part(r, LOWER),
        "found, T7 to T10": lambda r: found_part(r, MIDDLE),
        "merged, T7 to T10": lambda r: merged_part(r, MIDDLE),
        "found, T1 to T6": lambda r: found_part(r, UPPER),
        "false findings a film": false_findings,
        "six points, mm": lambda r: point_error_mm(r, LOWER),
        "heights, mm": lambda r: height_error_mm(r, LOWER),
        "|dG|": lambda r: ratio_error(r, LOWER),
        "AUC, moderate or worse": moderate_auc,
        "graded moderate or worse, sensitivity": lambda r: flags(r, True),
        "graded moderate or worse, specificity": lambda r: flags(r, False),
        "VCR measured": vcr_measured,
    }
    for stratum in STRATA:
        figures[f"Dice, {stratum}"] = lambda r, s=stratum: mean_dice(_of(r, s))  # type: ignore[misc]
        figures[f"found, T11 to L5, {stratum}"] = lambda r, s=stratum: found_part(_of(r, s), LOWER)  # type: ignore[misc]
    return {name: bootstrapped(records, over) for name, over in figures.items()}


def _of(records: Records, stratum: str) -> list[Record]:
    return [one for one in records if one["stratum"] == stratum]


def vcr_measured(records: Records) -> float:
    """Part of the compression ratios of T11 to L5 that were told without doubt."""
    _, said, possible = compressions(records)
    return len(said) / possible if possible else float("nan")


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


def summary(films: Records, negatives: Records, real: Records, frontal: Records) -> Record:
    """Every figure, ready for JSON and for the card."""
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
        "names": names_right(films),
        "front_right": _part([r["front_right"] for r in films if r["front_right"] is not None]),
        "head_right": _part([r["head_right"] for r in films if r["head_right"] is not None]),
        "seconds": float(np.median([r["seconds"] for r in films])) if films else float("nan"),
        "negatives": _refusals(negatives),
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
        "each dice": [r["dice"] for r in lateral],
        "silhouette": mean_dice(lateral, "silhouette_dice"),
        "vertebra dice": vertebra_dice(lateral, LUMBAR),
        "found": [sum(bool(v["found"]) for v in bodies), len(bodies)],
        "most false findings": max(r["elsewhere"] for r in lateral),
        "false findings": false_findings(lateral),
        "flagged": sum(r["flag"] for r in lateral),
        "names": names_right(lateral),
        "frontal refused": [sum(bool(r["refusal"]) for r in frontal), len(frontal)],
    }
