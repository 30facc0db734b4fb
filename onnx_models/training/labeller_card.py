"""The figures of `labeller_evaluation` as the table that stands in the labeller's card."""

from __future__ import annotations

from typing import Any

from onnx_models.training.evaluation_cards import replaced

BEGIN = "<!-- figures: written by onnx_models.training.labeller_evaluation --card, do not edit -->"
END = "<!-- end of the labeller's own figures -->"
ROWS = {
    "real, sacrum in view": "sacrum in view",
    "real, last rib in view": "last rib in view, no sacrum",
    "real, whole": "the whole CT",
    "real, no anchor": "no anchor (silence wanted)",
    "real, cardiac crop": "cardiac crop, T12 cut off (silence wanted)",
    "phantoms with an anchor": "phantoms with an anchor",
    "no anchor": "phantoms without an anchor (silence wanted)",
}


def section(told: dict[str, Any], command: str) -> str:
    """The section of the card; `told` is what `labeller_evaluation` writes."""
    sha256 = next(one["sha256"] for one in told["models"] if one["name"] == "labeller")
    lines = [
        f"`{command}`; model `{sha256[:12]}`. Views of one real abdomen, never trained on, and phantoms.",
        "",
        "| views | n | not named at all | with a wrong name | whole vertebrae with their right name |",
        "|---|---|---|---|---|",
    ]
    for group, words in ROWS.items():
        if group in told["groups"]:
            one = told["groups"][group]
            n = one["views"]
            cells = [
                f"{round(n * one['abstained'])}",
                f"{round(n * (one['views_any_wrong']))}",
                _share(one["identified"]),
            ]
            lines.append(f"| {words} | {n} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def written(card: str, told: dict[str, Any], command: str) -> str:
    """The card with its section replaced. Raises ``ValueError`` where it does not have the two markers."""
    return replaced(card, section(told, command), BEGIN, END)


def _share(value: list[float] | None) -> str:
    return "none in view" if value is None else f"{100 * value[0]:.1f} % ({100 * value[1]:.1f} to {100 * value[2]:.1f})"
