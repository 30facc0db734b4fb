"""The figures of `completion_evaluation` as the tables that stand in the completion's card."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

import numpy as np

from onnx_models.training.evaluation_cards import replaced

BEGIN = "<!-- figures: written by onnx_models.training.completion_evaluation --card, do not edit -->"
END = "<!-- end of the completion's own figures -->"
COLUMNS = {
    "AUC": "auc",
    "specificity at .9 sensitivity": "specificity_at_90",
    "normal": "mean_normal",
    "mild": "mean_mild",
    "moderate": "mean_moderate",
    "severe": "mean_severe",
}
ROWS = {
    "phantoms_segmented": "masks of the shipped segmenter",
    "phantoms": "perfect masks",
    "phantoms_degraded": "masks degraded as a segmenter's",
}
NEIGHBOURS = {"0": "no fractured neighbour", "1": "one", "2 or more": "two or more"}
CHANGES = ("as it is", "crush 30%", "crush 50%", "wedge 30%", "wedge 50%")
Record = dict[str, Any]


def section(told: Record, shas: dict[str, str], command: str) -> str:
    """The section of the card; `told` is what `completion_evaluation` prints."""
    models = ", ".join(f"{name} `{sha[:12]}`" for name, sha in shas.items())
    lines = [
        f"`{command}`; models {models}.",
        "Positive: a height has lost 25 % or more; negatives: all others, mild ones too. Means of the score by true",
        "loss; 95 % bootstrap intervals over patients; n in all (normal, mild, moderate, severe).",
        "",
        "| masks, fractured among the four neighbours | n | " + " | ".join(COLUMNS) + " |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    other = "zeros" if told["fractured_neighbours_are"] == "told" else "told"
    for key, words in ROWS.items():
        if key in told:
            lines.append(_row(f"**{words}**", told[key]))
            lines += _by_neighbours(told.get(f"{key}_by_fractured_neighbours", {}))
    if f"phantoms_{other}" in told:
        lines.append(f"| **perfect masks, fractured ones as {other}** |" + " |" * (1 + len(COLUMNS)))
        lines += _by_neighbours(told[f"phantoms_{other}"])
    lines += _real_lines(told)
    return "\n".join(lines)


def written(card: str, told: Record, shas: dict[str, str], command: str) -> str:
    """The card with its section replaced. Raises ``ValueError`` where it does not have the two markers."""
    return replaced(card, section(told, shas, command), BEGIN, END)


def _by_neighbours(groups: Record) -> list[str]:
    return [_row(NEIGHBOURS[name], group) for name, group in groups.items()]


def _row(words: str, group: Record) -> str:
    counts = ", ".join(str(group[f"n_{name}"]) for name in ("normal", "mild", "moderate", "severe"))
    cells = " | ".join(
        _interval(group[key], 3 if key in ("auc", "specificity_at_90") else 1) for key in COLUMNS.values()
    )
    return f"| {words} | {group['vertebrae']} ({counts}) | {cells} |"


def _interval(value: list[float], digits: int) -> str:
    if not isfinite(value[0]):
        return "none"
    mean, low, high = (f"{v:.{digits}f}" for v in value)
    return f"{mean} (too few for an interval)" if low == high else f"{mean} ({low} to {high})"


def _real_lines(told: Record) -> list[str]:
    lines = []
    for key, words in (
        ("real_ct_segmented", "masks of the segmenter"),
        ("real_ct", "silver masks"),
        ("real_ct_without_sacrum", "silver masks, sacrum left out"),
    ):
        if key in told:
            lines.append(f"* {words}: " + ", ".join(_scored(told[key])))
    if lines:
        who = "one healthy person; this network was not tuned on it, the segmenter's sampling was"
        lines = ["", f"The real abdomen-pelvis CT ({who}), scores:", "", *lines]
    if "real_shapes" in told:
        lines += [
            "",
            "Real shapes, none of them trained on; each body as it is, then pressed together alone:",
            "",
            "| change | n | mean score (smallest to largest) |",
            "|---|---|---|",
        ]
        for change in CHANGES:
            scores = [r["score"] for r in told["real_shapes"] if r["change"] == change and r["score"] is not None]
            if scores:
                spread = f"{np.mean(scores):.1f} ({min(scores):.1f} to {max(scores):.1f})"
                lines.append(f"| {change} | {len(scores)} | {spread} |")
    return lines


def _scored(rows: Iterable[Record]) -> list[str]:
    return [f"{r['level']} {'none' if r['score'] is None else format(r['score'], '.1f')}" for r in rows]
