"""The figures of `film_points_evaluation` as the tables that stand in the card of ``film_points``."""

from __future__ import annotations

from typing import Any

from onnx_models.training.evaluation_cards import replaced

BEGIN = "<!-- figures: written by onnx_models.training.film_points_evaluation --card, do not edit -->"
END = "<!-- end of the figures of film_points -->"
COLUMNS = {
    "bodies": ("bodies", 0),
    "points, mm": ("point_mm", 2),
    "heights, mm": ("height_mm", 2),
    "heights, % of posterior": ("height_percent", 1),
    "their 95th percentile": ("height_percent_p95", 1),
    "anterior loss": ("anterior_loss", 3),
    "middle loss": ("middle_loss", 3),
    "dG above .8": ("dg_high", 3),
    "dG to .8": ("dg_low", 3),
    "slope": ("slope", 2),
    "VCR: r": ("vcr_r", 3),
    "limits": ("vcr_limits", 1),
}
WAYS = (
    "**Every way on the same bodies**, those that the network for whole films sees. True outline: contour on the true "
    "masks of the 256 x 256 grid (no network comes nearer with an outline); outline: on what is seen; points: this "
    "network on crops placed by it."
)
SURE = "**Bodies that the pipeline is sure of** (without `LOW_CONFIDENCE`), with each way alone:"
REAL = (
    "**On films rendered from the one real CT** ({films} poses, {bodies} whole bodies that are seen, no fracture), "
    "against the contour of the projected silver masks, whose voxels are 3 mm wide: likeness, not exactness."
)


def section(told: dict[str, Any]) -> str:
    """The section of the card; `told` is what `film_points_evaluation` prints."""
    strata = ", ".join(f"{name} {count}" for name, count in told["strata"].items())
    models = ", ".join(f"{name} `{sha}`" for name, sha in told["models"].items())
    lines = [
        f"`python -m onnx_models.training.film_points_evaluation --card`; {models}.",
        f"{told['bodies']} whole bodies that are seen on {told['films']} held-out rendered films; end plates {strata}.",
        "Loss columns: mean absolute error of h_a / h_p and h_m / h_p; slope: of told on true h_a / h_p; VCR: against",
        "the next neighbours, limits of agreement ± points. Errors are absolute.",
    ]
    lines += ["", WAYS, "", *_table(told["ways"]), "", SURE, "", *_table({"sure": told["sure"]})]
    if told.get("real"):
        real = told["real"]
        lines += ["", REAL.format(**real), "", *_table({"real CT": real["ways"]})]
    if told.get("spread"):
        lines += ["", *_spreads(told["spread"])]
    if told.get("agreement"):
        lines += ["", *_agreements(told["agreement"])]
    return "\n".join(lines)


def written(card: str, told: dict[str, Any]) -> str:
    """The card with its section replaced. Raises ``ValueError`` where it does not have the two markers."""
    return replaced(card, section(told), BEGIN, END)


def _table(groups: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    lines = ["| bodies | way | " + " | ".join(COLUMNS) + " |", "|---" * (2 + len(COLUMNS)) + "|"]
    for group, ways in groups.items():
        for way, figures in ways.items():
            cells = [_cell(figures.get(key), digits) for key, digits in COLUMNS.values()]
            lines.append(f"| {group} | {way} | " + " | ".join(cells) + " |")
    return lines


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _spreads(spread: dict[str, Any]) -> list[str]:
    """Expected against real errors, by fifths of what is expected."""
    said, real = spread["said_percent"], spread["error_percent"]
    return [
        "**Spread**: largest expected and largest real error of a height by fifths of the former, per cent of the",
        f"posterior height (rank correlation {spread['rank_r']:.2f}):",
        "",
        "| fifth | 1 | 2 | 3 | 4 | 5 |",
        "|---|---|---|---|---|---|",
        "| expected | " + " | ".join(f"{v:.1f}" for v in said) + " |",
        "| real | " + " | ".join(f"{v:.1f}" for v in real) + " |",
        "",
        "By limit of the spread, a part of the posterior height:",
        "",
        "| limit | bodies within | badly measured among them | compression ratios | r | limits of agreement ± |",
        "|---|---|---|---|---|---|",
        *(_kept(limit, cut) for limit, cut in spread["cut"].items()),
    ]


def _kept(limit: str, cut: dict[str, Any]) -> str:
    cells = [f"{1 - cut['flagged']:.2f}", f"{cut['bad_among_others']:.3f}", str(cut.get("vcr", ""))]
    cells += [_cell(cut.get("vcr_r"), 3), _cell(cut.get("vcr_limits"), 1)]
    return f"| {limit} | " + " | ".join(cells) + " |"


def _agreements(told: dict[str, Any]) -> list[str]:
    """What a limit of disagreement flags."""
    limits = [key for key in told if key != "bodies"]
    rows = {
        "flagged": "flagged",
        "badly measured ones flagged": "bad_flagged",
        "badly measured among flagged": "bad_among_flagged",
    }
    return [
        f"**Disagreement** of both ways in the pipeline, {told['bodies']} sure bodies; badly measured: a height of",
        "this network is off by more than 10 % of the posterior height:",
        "",
        "| limit | " + " | ".join(limits) + " |",
        "|---" * (1 + len(limits)) + "|",
        *(f"| {name} | " + " | ".join(f"{told[k][key]:.2f}" for k in limits) + " |" for name, key in rows.items()),
    ]
