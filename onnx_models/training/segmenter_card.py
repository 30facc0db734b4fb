"""The figures of `segmenter_evaluation` as the table that stands in the segmenter's card."""

from __future__ import annotations

from typing import Any

from onnx_models.training.evaluation_cards import replaced

BEGIN = "<!-- figures: written by onnx_models.training.segmenter_evaluation --card, do not edit -->"
END = "<!-- end of the segmenter's own figures -->"
COLUMNS = {
    "Dice": "dice",
    "5th percentile": "dice_p5",
    "body Dice": "body_dice",
    "posterior Dice": "posterior_dice",
    "surface, mm": "surface_mm",
    "volume / true": "volume_ratio",
    "its error": "volume_error",
    "body / true": "body_ratio",
    "its error ": "body_volume_error",
    "within 5 %": "body_within_5_percent",
}
REAL_COLUMNS = {
    "Dice": "dice",
    "body Dice": "body_dice",
    "posterior Dice": "posterior_dice",
    "surface, mm": "surface_mm",
    "volume / silver": "volume_ratio",
    "body / silver": "body_ratio",
}
MISPLACED = ", centroids off by 4 mm"
Record = dict[str, Any]


def section(told: Record, sha256: str, command: str) -> str:
    """The section of the card; `told` is what `segmenter_evaluation` prints."""
    groups = {
        name: value for name, value in told.items() if isinstance(value, dict) and "body_within_5_percent" in value
    }
    plain = {name: value for name, value in groups.items() if not name.startswith("real")}
    lines = [
        f"`{command}`; model `{sha256[:12]}`. Means with 95 % bootstrap intervals over patients (over",
        'shapes where they are shapes). "Its error" is the mean of |ratio - 1|; "within 5 %" the part of the bodies.',
        "",
        "| | n | " + " | ".join(name.strip() for name in COLUMNS) + " |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for name, value in plain.items():
        cells = [_interval(value[key]) for key in COLUMNS.values()]
        lines.append(f"| {name} | {value['vertebrae']} | " + " | ".join(cells) + " |")
    real = [name for name in told if name.startswith("real ") and not name.endswith(MISPLACED)]
    if real:
        lines += [
            "",
            "Real, silver masks of another model, at their silver centroids; in brackets the mean of two with",
            "centroids off by 4 mm:",
            "",
            "| | " + " | ".join(REAL_COLUMNS) + " |",
            "|---" * (1 + len(REAL_COLUMNS)) + "|",
        ]
    for name in real:
        moved = told.get(name + MISPLACED, {})
        cells = [
            f"{told[name][key]:.3f}" + (f" ({_mean(moved[key]):.3f})" if key in moved else "")
            for key in REAL_COLUMNS.values()
        ]
        lines.append(f"| {name.removeprefix('real ')} | " + " | ".join(cells) + " |")
    worst = ", ".join(f"{one['level']} {one['dice']:.2f}" for one in told["worst phantoms"][:3])
    bound = told["limits of the patch"]
    lines += [
        "",
        f"Worst phantoms: {worst}. What the grid of 2 mm allows: Dice {bound['dice']:.3f} (5th percentile "
        f"{bound['dice_p5']:.3f}),",
        f"{100 * bound['outside']:.2f} % of the vertebrae lies outside the patch.",
    ]
    return "\n".join(lines)


def written(card: str, told: Record, sha256: str, command: str) -> str:
    """The card with its section replaced.

    Raises ``ValueError`` where it does not have the two markers.
    """
    return replaced(card, section(told, sha256, command), BEGIN, END)


def _interval(value: list[float]) -> str:
    mean, low, high = value
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def _mean(value: float | list[float]) -> float:
    return value[0] if isinstance(value, list) else value
