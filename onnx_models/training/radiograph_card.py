"""The figures of `radiograph_summary` as the tables that stand in the card of the network for films, and their plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnx_models.training.evaluation_cards import replaced
from onnx_models.training.film_evaluation_set import STRATA

BEGIN = "<!-- figures: written by onnx_models.training.radiograph_evaluation --card, do not edit -->"
END = "<!-- end of the film network's own figures -->"
GOALS = {
    "Dice, section": "≥ .90",
    "Dice, readable": "≥ .93",
    "Dice, clear": "≥ .93",
    "Dice of a vertebra, L2 to L5": "≥ .95",
    "found, T11 to L5": "≥ .97",
    "merged, T11 to L5": "≤ .02",
    "AUC, moderate or worse": "≥ .93",
    "VCR measured": "≥ .80",
}
AGREEMENT_GOALS = {"VCR": "r ≥ .95, ± 10"}
Record = dict[str, Any]


def section(told: Record, command: str) -> str:
    """The section of the card; ``told`` is what `radiograph_evaluation` prints."""
    ways = list(told["ways"])
    first = told["ways"][ways[0]]
    lines = [
        f"Date {told['date']}; `{command}`; models "
        + ", ".join(f"{name} `{sha[:12]}`" for name, sha in told["models"].items())
        + ".",
        f"Set {told['set']} (SHA-256 `{told['set_sha256'][:12]}`): {first['films']} of {told['films_of_the_set']} "
        "films ("
        + ", ".join(f"{first['strata'][s]} {s}" for s in STRATA)
        + f"), {first['vertebrae']} whole vertebrae T11 to L5. Nothing was said of view or direction to the pipeline. "
        "Means with 95 % intervals by drawing films again.",
        "",
        "| | goal | " + " | ".join(ways) + " |",
        "|---" * (2 + len(ways)) + "|",
    ]
    for name in first["estimates"]:
        cells = [_interval(told["ways"][way]["estimates"][name]) for way in ways]
        lines.append(f"| {name} | {GOALS.get(name, '')} | " + " | ".join(cells) + " |")
    for name in first["agreements"]:
        cells = [_agreement(told["ways"][way]["agreements"][name]) for way in ways]
        lines.append(f"| {name}, points | {AGREEMENT_GOALS.get(name, '')} | " + " | ".join(cells) + " |")
    aucs = [f"{told['ways'][way]['vcr_auc']:.3f}" for way in ways]
    lines.append("| AUC of VCR for a true one above 20 % | | " + " | ".join(aucs) + " |")
    pixels = first["pixels"]
    upper = first["upper thoracic"]
    given, count = first["names"]
    front, sides = first["front_right"]
    head, ends = first["head_right"]
    refused, shown = first["refused_of_first_hundred"]
    lines += [
        "",
        f"Pixels of the network's map: sensitivity {pixels['sensitivity']:.3f}, specificity "
        f"{pixels['specificity']:.4f}, "
        f"area under the ROC {pixels['roc_auc']:.4f}, under the PR curve {pixels['pr_auc']:.4f}.",
        f"T1 to T6 ({upper['n']} whole ones): {100 * upper['found']:.0f} % found, of these "
        f"{100 * upper['flagged']:.0f} % flagged or not measured; "
        f"{100 * upper['sure']:.0f} % of all measured without doubt, with |dG| "
        f"{upper['sure G error']:.3f}; {100 * upper['named']:.0f} % of those found have a name.",
        f"Names: {_part(given)} of {count} given are right. Side of the front: right in {_part(front)} of {sides} "
        f"films; head up after turning: {_part(head)} of {ends}. "
        f"Median time {first['seconds']:.2f} s on one core.",
        "",
        f"Refused lateral films: {refused} of the first {shown} (goal: at most 2 of 100); of all "
        f"{first['films']}: {_refusals(first['refused'])}.",
        "",
        "| films that must be refused | refused |",
        "|---|---|",
        *(f"| {kind} | {n} of {m} |" for kind, (n, m) in first["negatives"].items()),
        "| all | {} of {} |".format(*(sum(row[n] for row in first["negatives"].values()) for n in (0, 1))),
    ]
    lines += _real_lines(told, ways)
    return "\n".join(lines)


def written(card: str, told: Record, command: str) -> str:
    """The card with its section replaced.

    Raises ``ValueError`` where it does not have the two markers.
    """
    return replaced(card, section(told, command), BEGIN, END)


def _real_lines(told: Record, ways: Sequence[str]) -> list[str]:
    real = told["ways"][ways[0]]["real"]
    if real is None:
        return ["", "Films of the real CT: not measured, the folder of real images is absent."]
    found, of = real["found"]
    right, given = real["names"]
    refused, frontal = real["frontal refused"]
    each = ", ".join("refused" if d is None else f"{d:.2f}" for d in real["each dice"])
    return [
        "",
        f"Films rendered from the one real CT (healthy lumbar spine, 3 mm voxels, silver masks), {real['films']} poses "
        "and formations; no training sees them, and they are a development case (see above):",
        "",
        "| | goal | |",
        "|---|---|---|",
        f"| Dice, projected mid-sagittal section | ≥ .88 | {real['dice']:.3f} ({each}) |",
        f"| Dice, silhouette | | {real['silhouette']:.3f} |",
        f"| Dice of a vertebra, L2 to L5 | | {real['vertebra dice']:.3f} |",
        f"| whole vertebrae found | | {found} of {of} |",
        f"| false findings a film, and the most | ≤ 1 | {real['false findings']:.2f}, {real['most false findings']} |",
        f"| lateral films refused | 0 | {real['refused']} of {real['films']} |",
        f"| AP films refused | all | {refused} of {frontal} |",
        f"| films flagged (the spine is healthy) | 0 | {real['flagged']} of {real['films']} |",
        f"| names right | | {_part(right)} of {given} |",
    ]


def plot(true: Sequence[float], said: Sequence[float], title: str) -> str:
    """A Bland-Altman plot as SVG: difference (measured - true) over their mean, per cent, with bias and limits."""
    t, m = np.array(true), np.array(said)
    mean, difference = (t + m) / 2, m - t
    bias, spread = (float(difference.mean()), 1.96 * float(difference.std(ddof=1))) if len(t) > 1 else (0.0, 0.0)
    left, right, top, bottom = 50, 590, 30, 340
    low_x, high_x = (float(np.floor(mean.min() / 10) * 10), float(np.ceil(mean.max() / 10) * 10)) if len(t) else (0, 1)
    reach = max(15.0, float(np.ceil(np.abs(difference).max() / 5) * 5)) if len(t) else 15.0

    def x(value: float) -> float:
        return left + (right - left) * (value - low_x) / max(high_x - low_x, 1e-9)

    def y(value: float) -> float:
        return (top + bottom) / 2 - (bottom - top) / 2 * value / reach

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 390" font-family="sans-serif" font-size="12">',
        '<rect width="700" height="390" fill="white"/>',
        f'<text x="{left}" y="18">{title}</text>',
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="none" stroke="#888"/>',
    ]
    for value in np.arange(low_x, high_x + 1, 10):
        parts.append(f'<text x="{x(value):.1f}" y="{bottom + 16}" text-anchor="middle">{value:.0f}</text>')
    for value in np.linspace(-reach, reach, 5):
        parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0f}</text>')
    for name, value in (("bias", bias), ("+1.96 sd", bias + spread), ("-1.96 sd", bias - spread)):
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#c33" '
            f'stroke-dasharray="{"none" if name == "bias" else "5 4"}"/>'
            f'<text x="{right + 5}" y="{y(value) + 4:.1f}" fill="#c33">{name} {value:.1f}</text>'
        )
    parts += [
        f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2" fill="#246" fill-opacity=".5"/>'
        for a, b in zip(mean, difference, strict=True)
    ]
    parts += [
        f'<text x="{(left + right) / 2}" y="{bottom + 36}" text-anchor="middle">mean of both, points</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _interval(estimate: Sequence[float]) -> str:
    value, low, high, _ = estimate
    return f"{value:.3f} ({low:.3f} to {high:.3f})" if np.isfinite(value) else "not measured"


def _agreement(found: Sequence[float]) -> str:
    bias, low, high, correlation, count = found
    if count < 3:
        return "not measured"
    return f"r {correlation:.3f}, bias {bias:.1f}, limits {low:.1f} to {high:.1f}, n {count:.0f}"


def _part(value: float) -> str:
    return f"{100 * value:.0f} %" if np.isfinite(value) else "none"


def _refusals(refused: Sequence[tuple[int, str]]) -> str:
    if not refused:
        return "none"
    codes = sorted({code for _, code in refused})
    return "; ".join(f"{sum(c == code for _, c in refused)} {code}" for code in codes)
