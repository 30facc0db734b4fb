"""Figures as the sections that stand in the model cards, between two markers; nothing else of a card is touched."""

from __future__ import annotations

from typing import Any

from onnx_models.training.evaluation_shape_cards import shape_lines
from onnx_models.training.metrics import Agreement, Estimate

BEGIN = "<!-- figures: written by onnx_models.training.evaluate, do not edit -->"
END = "<!-- end of figures -->"
Record = dict[str, Any]


def replaced(card: str, section: str, begin: str = BEGIN, end: str = END) -> str:
    """The card with `section` between its markers.

    Raises
    ------
    ValueError
        Where the card does not have each marker once, in order.
    """
    if card.count(begin) != 1 or card.count(end) != 1 or card.index(begin) > card.index(end):
        raise ValueError("the card does not have its two markers, once each and in order")
    before, after = card.split(begin, maxsplit=1)[0], card.split(end)[1]
    return f"{before}{begin}\n\n{section.strip()}\n\n{end}{after}"


def _head(told: Record, command: str) -> list[str]:
    cut = told["patients_seen"] - told["patients"]
    hashes = ", ".join(f"{name} `{sha[:12]}`" for name, sha in told["models"].items())
    part = "" if told["patients_seen"] >= told["patients_of_the_set"] else f" of {told['patients_of_the_set']}"
    return [
        f"Date {told['date']}; `{command.strip()}`; models {hashes}.",
        f"Set {told['set']} (SHA-256 `{told['set_sha256'][:12]}`, phantom `{told['phantom_sha256'][:12]}`): "
        f"{told['patients_seen']}{part} patients, {told['patients']} with {told['vertebrae']} whole vertebrae in view; "
        f"{told['negatives']} images without a whole vertebra ({told['negatives'] - cut} beside the spine or of none, "
        f"{cut} whose field of view cuts all bodies). Intervals are 95 %, by drawing patients again.",
    ]


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    out = ["| figure | measured | target |", "| --- | --- | --- |"]
    return out + [f"| {name} | {value} | {target} |" for name, value, target in rows]


def _text(told: Record, group: str, key: str, digits: int = 2, percent: bool = False) -> str:
    return Estimate(**told[group][key]).text(digits, percent)


def localizer_section(told: Record, command: str) -> str:
    """Figures of the localizer as Markdown."""

    def of(key: str, digits: int = 2, percent: bool = False) -> str:
        return _text(told, "localizer", key, digits, percent)

    rows = [
        ("error at the vertebra centres, mean (mm)", of("error_mean_mm"), "≤ 1.0"),
        ("the same, median (mm)", of("error_median_mm"), ""),
        ("the same, 95th percentile (mm)", of("error_p95_mm"), "≤ 3"),
        ("whole vertebrae on the believed curve", of("covered", 1, True), ""),
        ("patients with a believed curve", of("patients_with_curve", 1, True), ""),
        ("images without a whole vertebra refused", of("negatives_refused", 1, True), "100 %"),
    ]
    lines = [*_head(told, command), "", "**On phantoms**", "", *_table(rows), ""]
    return "\n".join([*lines, *shape_lines(told, localizer=True), "", *_real_lines(told)])


def _real_lines(told: Record) -> list[str]:
    if not told["real"]:
        return ["**On real images**: not measured here, the images are absent."]
    out = ["**On real images** (one patient each; silver labels of another model)", ""]
    out += ["| image | expected | answer | centre line to silver centroid (mm) |", "| --- | --- | --- | --- |"]
    for row in told["real"]:
        line = ", ".join(f"{k} {'–' if v is None else f'{v:.1f}'}" for k, v in row["line_mm"].items())
        out.append(f"| {row['name']} | {row['expected']} | {row['answer']} | {line or '–'} |")
    return out


def _real_vertebrae(told: Record) -> list[str]:
    out = []
    for row in told["real"]:
        if row["centre_mm"]:
            centres = ", ".join(f"{k} {v:.1f}" for k, v in row["centre_mm"].items())
            heights = ", ".join(f"{k} {v:.1f}" for k, v in row["height_error_mm"].items())
            out.append(
                f"{row['name']}: centre to silver centroid (mm) {centres}; mean absolute difference of the three "
                f"heights to the silver ones, quantised to 1.5 mm (mm) {heights or '–'}; findings on the sacrum, "
                f"twice or outside: {row['extra']}."
            )
    return out


def screening_section(told: Record, command: str) -> str:
    """Figures of the whole pipeline as Markdown; they stand in the card of the key points."""

    def of(key: str, digits: int = 2, percent: bool = False) -> str:
        return _text(told, "screening", key, digits, percent)

    rows = [
        ("recall, all whole vertebrae", of("recall", 1, True), "≥ 99 %"),
        ("recall, T4 to L5", of("recall_t4_l5", 1, True), "≥ 99 %"),
        ("precision (the sacrum and doubles are false)", of("precision", 1, True), "≥ 99 %"),
        ("key point error (mm)", of("point_error_mm"), ""),
        ("height error, mean absolute (mm)", of("height_error_mm"), "≤ .8"),
        ("\\|dG\\| where G > .8", of("d_g_above", 3), f"a constant: {told['constant_d_g_above']:.3f}"),
        ("\\|dG\\| where G ≤ .8", of("d_g_below", 3), "≤ .035"),
        ("slope of measured on true loss", of("slope_of_loss"), "≥ .9"),
        ("AUC of loss, vertebrae (true loss ≥ .25)", of("auc_loss_vertebra", 3), "≥ .96"),
        ("AUC of loss, patients", of("auc_loss_patient", 3), ""),
        ("AUC of G, vertebrae (true G ≤ .74)", of("auc_g_vertebra", 3), ""),
        ("AUC of G, patients", of("auc_g_patient", 3), ""),
        ("flag that ships: sensitivity, patients", of("sensitivity", 1, True), "≥ 90 %"),
        ("flag that ships: specificity, undeformed patients", of("specificity", 1, True), "≥ 95 %"),
        ("false flags among undeformed vertebrae", of("false_flags", 2, True), ""),
        ("patients evaluable", of("evaluated", 1, True), ""),
        ("images without a whole vertebra refused", of("negatives_refused", 1, True), "100 %"),
        ("images without a whole vertebra flagged", of("negatives_flagged", 1, True), "0 %"),
    ]
    lines = [*_head(told, command), f"{told['seconds_per_patient']:.1f} s a patient (median, one thread)."]
    lines += ["", "**On phantoms**", "", *_table(rows), "", *_agreement_lines(told), "", *_strata_lines(told), ""]
    real = [*shape_lines(told, localizer=False), "", *_real_lines(told), "", *_real_vertebrae(told)]
    return "\n".join(lines + real)


def _agreement_lines(told: Record) -> list[str]:
    names = {"height_mm": ("heights", " mm", 2), "G": ("G", "", 3), "loss": ("largest loss", "", 3)}
    return [f"Agreement (measured minus true): {_agreements(told, names)}."]


def _agreements(told: Record, names: dict[str, tuple[str, str, int]]) -> str:
    return "; ".join(
        f"{name}: {Agreement(**told['agreement'][key]).text(unit, digits)}"
        for key, (name, unit, digits) in names.items()
    )


def _strata_lines(told: Record) -> list[str]:
    head = "| slice spacing | patients | recall | height error (mm) | \\|dG\\| ≤ .8 | sensitivity | specificity |"
    out = [head, "| --- | --- | --- | --- | --- | --- | --- |"]
    for name, values in told["strata"].items():
        cells = [
            Estimate(**values["recall"]).text(1, True),
            Estimate(**values["height_error_mm"]).text(),
            Estimate(**values["d_g_below"]).text(3),
            Estimate(**values["sensitivity"]).text(1, True),
            Estimate(**values["specificity"]).text(1, True),
        ]
        out.append(f"| {name} | {values['patients']} | {' | '.join(cells)} |")
    return out
