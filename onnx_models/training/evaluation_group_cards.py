"""Figures of ``phantom-eval/2`` as sections of the cards of labeller, segmenter and shape completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from onnx_models.training.evaluation_group_figures import (
    by_group,
    by_spacing,
    mask_figures,
    name_figures,
    reliability,
    score_figures,
)
from onnx_models.training.metrics import Estimate

Record = dict[str, Any]


def group_figures(records: Sequence[Record], head: Record) -> Record:
    """Everything that is told of these records, ready for JSON; ``head``: set, hashes and date."""
    groups, spacings = by_group(records), by_spacing(records)
    groups = {name: members for name, members in groups.items() if members}
    return {
        **head,
        "cases": len(records),
        "names": {name: _plain(name_figures(members)) for name, members in groups.items()},
        "reliability": reliability(records),
        "masks": {name: _plain(mask_figures(members)) for name, members in (groups | spacings).items() if members},
        "scores": {name: _plain(score_figures(members)) for name, members in groups.items()},
        "seconds_per_case": sorted(r["seconds"] for r in records)[len(records) // 2] if records else 0.0,
    }


def _plain(figures: dict[str, Estimate]) -> dict[str, dict[str, float]]:
    return {key: asdict(value) for key, value in figures.items()}


def _head(told: Record, command: str) -> list[str]:
    hashes = ", ".join(f"{name} `{sha[:12]}`" for name, sha in told["models"].items())
    return [
        f"Date {told['date']}; `{command.strip()}`; models {hashes}.",
        f"Set {told['set']} (SHA-256 `{told['set_sha256'][:12]}`, phantom `{told['phantom_sha256'][:12]}`): "
        f"{told['cases']} cases through the whole pipeline, {told['seconds_per_case']:.1f} s each (median, one thread)."
        " Intervals are 95 %, by drawing patients again.",
    ]


def _table(told: Record, key: str, columns: Sequence[tuple[str, str, int, bool]]) -> list[str]:
    out = ["| group | " + " | ".join(name for _, name, _, _ in columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for group, figures in told[key].items():
        cells = [Estimate(**figures[figure]).text(digits, percent) for figure, _, digits, percent in columns]
        out.append(f"| {group} | {' | '.join(cells)} |")
    return out


def names_section(told: Record, command: str) -> str:
    """For the card of the labeller."""
    columns = [
        ("found", "found", 1, True),
        ("identified", "whole vertebrae with their right name (target ≥ 97 %)", 1, True),
        ("names_right", "of all names given right", 1, True),
        ("sure_right", "of names at .9 or above right (target ≥ 99 %)", 1, True),
        ("numbering_known", "views that are named", 1, True),
    ]
    out = [*_head(told, command), "", "**Names, on phantoms**", "", *_table(told, "names", columns), ""]
    out += ["Reliability of the confidence of a name, all groups together:", ""]
    out += ["| confidence from | names | mean confidence | right |", "| --- | --- | --- | --- |"]
    for row in told["reliability"]:
        out.append(f"| {row['from']:.2f} | {row['names']} | {row['confidence']:.3f} | {row['right']:.3f} |")
    return "\n".join(out)


def masks_section(told: Record, command: str) -> str:
    """For the card of the segmenter."""
    columns = [
        ("dice", "Dice (target ≥ .92)", 3, False),
        ("dice_p5", "5th percentile (≥ .85)", 3, False),
        ("body_dice", "Dice of bodies", 3, False),
        ("surface_mm", "surface distance (mm)", 2, False),
        ("volume_error", "volume error", 1, True),
        ("body_volume_error", "body volume error (≤ 5 %)", 1, True),
        ("body_volume_bias", "signed", 1, True),
    ]
    said = (
        "Masks at the places that the pipeline found; a whole vertebra in view without a mask counts with a Dice of 0."
    )
    return "\n".join(
        [*_head(told, command), "", f"**Masks, on phantoms.** {said}", "", *_table(told, "masks", columns)]
    )


def scores_section(told: Record, command: str) -> str:
    """For the card of the shape completion."""
    columns = [
        ("auc", "AUC, loss ≥ .25 (target ≥ .95)", 3, False),
        ("specificity_at_90", "specificity at .9 sensitivity", 1, True),
        ("normal", "mean of normal (≤ 10)", 1, False),
        ("moderate", "mean of moderate", 1, False),
        ("severe", "mean of severe (≥ 60)", 1, False),
    ]
    said = "From predicted masks and names, as the pipeline says it; n counts vertebrae, few of them deformed."
    return "\n".join(
        [*_head(told, command), "", f"**Score, on phantoms.** {said}", "", *_table(told, "scores", columns)]
    )
