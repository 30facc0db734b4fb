"""The capture as a picture: what a radiologist reads in five seconds, without opening anything else.

Above the verdict; left the reformat, or the radiograph as it was sent, with outlines, measured points and heights, as
large as the page allows; right of it the table, each row level with its vertebra (of a film on which the spine lies,
in its order, with the names below the image); then the coronal view for the
numbering and what was not seen, below or, beside a tall spine, at the right. Every colour stands beside its word, "not
measured" is grey and never green, and no text lies on an image. 1280 x 1024 pixels; verdict and table can still be read
when a viewer shows it 512 pixels wide.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from inference.findings import Findings, Grade, Quality, VertebraFinding
from node.results import anatomy, coronal, table, wording
from node.results.anatomy import View
from node.results.drawing import (
    BACKGROUND,
    DIM,
    TEXT,
    VERDICT_COLOURS,
    Line,
    draw_fitted,
    draw_lines,
    font,
    lines_height,
    text_width,
)
from node.results.notes import Caption, note_lines, notes
from node.results.pictures import Shown
from node.results.table import Table

WIDTH, HEIGHT = 1280, 1024
HEADER_HEIGHT = 104
CORNER = 16
"""The verdict begins here at the earliest; it stands in the middle, since viewers write into the corners."""
MARGIN = 12
TOP = HEADER_HEIGHT + MARGIN
LEADERS = 34
"""Room between the image's margin and the table, for the lines that join a row to its vertebra."""
BESIDE_WIDTH = 310
"""Of the column with coronal view and notes at the right."""
BELOW_MOST = 330
"""Pixels that coronal view and notes below the image may take from it."""
CORONAL_WIDTH = 250
"""Of the coronal view with its names, where it stands below the image."""
CORONAL_LEAST = 280
"""Pixels of height that notes leave to the coronal view."""
CORONAL_PER_NAME = 10
"""Pixels of its height that each name needs: names stand in turn left and right."""
BESIDE_IS_BETTER = 1.15
"""Notes go beside the table where that makes the image so much larger; below, letters are larger."""
SMALL = 0.75
"""The least needed columns go where the table makes the image smaller than this part of what the height allows."""
LETTERS_BELOW, LETTERS_BESIDE = 24, 20


@dataclass(frozen=True)
class Layout:
    """Where image, table, coronal view and notes stand."""

    view: View
    table: Table
    coronal_within: coronal.Rectangle | None
    notes_at: tuple[int, int]
    notes: list[Line]

    @property
    def table_left(self) -> int:
        """Where the table begins: as near to the image as the leaders allow."""
        return self.view.right + anatomy.RIGHT_MARGIN + LEADERS


def draw_picture(findings: Findings, pictures: Shown | None, caption: Caption) -> Image.Image:
    """The capture as an RGB image of `WIDTH` x `HEIGHT`."""
    image = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(image)
    _header(draw, findings)
    if findings.refusal is not None or pictures is None:
        _refusal(draw, findings, caption)
        return image
    layout = lay_out(findings, pictures, caption)
    view = layout.view
    anatomy.draw_anatomy(image, draw, findings, pictures, view)
    lying = anatomy.lies(findings, pictures)
    wanted = view.rows_of(findings, pictures)
    if lying:
        wanted = [view.top + 6.0 + (layout.table.letters + table.ROW_ROOM) * n for n in range(1, len(wanted) + 1)]
    table.draw_table(
        draw,
        findings,
        layout.table,
        layout.table_left,
        view.top - anatomy.ABOVE + 12,
        (view.top + 6.0, max(view.bottom - 6.0, view.top + 30.0 * len(wanted), wanted[-1] if lying else 0.0)),
        wanted,
        None if lying else view.right + anatomy.RIGHT_MARGIN,
    )
    if pictures.coronal is not None and layout.coronal_within is not None:
        coronal.draw_coronal(image, draw, findings, pictures.coronal, layout.coronal_within)
    draw_lines(draw, layout.notes_at, layout.notes)
    return image


def lay_out(findings: Findings, pictures: Shown, caption: Caption) -> Layout:
    """The layout with the larger image: notes and coronal view below it, or at the right where the spine is tall."""
    below = _below(findings, pictures, caption)
    beside = _beside(findings, pictures, caption)
    return beside if beside.view.scale > below.view.scale * BESIDE_IS_BETTER else below


def _below(findings: Findings, pictures: Shown, caption: Caption) -> Layout:
    aside = CORONAL_WIDTH + 2 * MARGIN if pictures.coronal is not None else 0
    width = WIDTH - 2 * MARGIN - aside
    lines = note_lines(notes(findings, pictures, caption), width, BELOW_MOST)
    height = max(lines_height(lines), _coronal_least(findings) if aside else 0)
    top = HEIGHT - MARGIN - height
    view, laid = _fitted(findings, pictures, LETTERS_BELOW, WIDTH - MARGIN, top - MARGIN)
    within = (WIDTH - MARGIN - CORONAL_WIDTH, top, WIDTH - MARGIN, HEIGHT - MARGIN) if aside else None
    lines = note_lines(notes(findings, pictures, caption, laid.columns), width, height)
    return Layout(view, laid, within, (MARGIN, top), lines)


def _beside(findings: Findings, pictures: Shown, caption: Caption) -> Layout:
    left = WIDTH - MARGIN - BESIDE_WIDTH
    view, laid = _fitted(findings, pictures, LETTERS_BESIDE, left - 2 * MARGIN, HEIGHT - MARGIN)
    said = notes(findings, pictures, caption, laid.columns)
    room = HEIGHT - MARGIN - TOP
    if pictures.coronal is None:
        return Layout(view, laid, None, (left, TOP), note_lines(said, BESIDE_WIDTH, room))
    lines = note_lines(said, BESIDE_WIDTH, room - MARGIN - _coronal_least(findings))
    top = HEIGHT - MARGIN - lines_height(lines)
    return Layout(view, laid, (left, TOP, WIDTH - MARGIN, top - MARGIN), (left, top), lines)


def _coronal_least(findings: Findings) -> int:
    names = CORONAL_PER_NAME * len(findings.vertebrae) + coronal.ABOVE + coronal.BELOW
    return max(CORONAL_LEAST, names)


def _fitted(findings: Findings, pictures: Shown, letters: int, table_right: int, bottom: int) -> tuple[View, Table]:
    """View and table side by side up to ``table_right``; the least needed columns go where the view is too small."""
    first, last = anatomy.crop(findings, pictures)
    left, top = anatomy.LEFT_MARGIN, TOP + anatomy.ABOVE
    if anatomy.lies(findings, pictures):
        bottom -= anatomy.NAMES
    columns = table.columns_of(findings)
    for dropped in (*table.least_needed(columns), None):
        laid = table.laid(findings, columns, letters)
        right = table_right - laid.width - LEADERS - anatomy.RIGHT_MARGIN
        room = np.array([right - left, bottom - anatomy.BELOW - top], np.float64)
        scales = room / (last - first)
        if dropped is None or scales[0] >= SMALL * scales[1]:
            break
        columns = tuple(c for c in columns if c is not dropped)
    scale = float(scales.min())
    return View(*anatomy.widened(first, last, room / scale, pictures), left, top, scale), laid


# the verdict


def _header(draw: ImageDraw.ImageDraw, findings: Findings) -> None:
    draw.rectangle((0, 0, WIDTH, HEADER_HEIGHT), fill=VERDICT_COLOURS[wording.verdict(findings)])
    label = wording.RESEARCH
    right = WIDTH - 16
    width = text_width(label, 22)
    draw.text((right - width, 14), label, TEXT, font(22))
    side = right - width - 24
    draw_fitted(draw, 8, wording.verdict_sentence(findings), 46, (CORNER, int(side)))
    draw_fitted(draw, 66, _subtitle(findings), 25, (16, WIDTH - 16))


def _subtitle(findings: Findings) -> str:
    """One line under the verdict; "no flag" says in how many vertebrae, and that the rest was not looked at."""
    if findings.refusal is not None:
        return "Nothing was measured: this is neither a normal nor an abnormal result"
    graded = sum(v.grade is not None for v in findings.vertebrae)
    if findings.patient.flag:
        where = "the reformat and the source images" if findings.pixel_size is None else "the radiograph"
        return f"{wording.FLAG_SENTENCE}: please check on {where}"
    if not wording.told(findings):
        return wording.named_only_text(findings)
    if findings.patient.flag is None:
        return "Heights were measured, but no vertebra could be graded"
    lesser = [_below_the_flag(v) for v in findings.vertebrae if v.grade is not None and v.grade is not Grade.NORMAL]
    said = f"{graded} graded, none raises the flag" + (f" (not by itself: {', '.join(lesser)})" if lesser else "")
    return f"{said}; nothing is said of any other vertebra"


def _below_the_flag(vertebra: VertebraFinding) -> str:
    by = " by G only" if Quality.G_ONLY in vertebra.quality else ""
    return f"{vertebra.name} {vertebra.grade}{by}"


# the page of a refusal


def _refusal(draw: ImageDraw.ImageDraw, findings: Findings, caption: Caption) -> None:
    """The page of an answer without measurements: the reason in large letters."""
    y = HEADER_HEIGHT + 60
    reason = findings.refusal.sentence if findings.refusal is not None else "No image could be drawn."
    for line in textwrap.wrap(wording.ascii_text(reason), 62):
        draw.text((60, y), line, TEXT, font(38))
        y += 52
    y += 30
    code = str(findings.refusal.code) if findings.refusal is not None else "-"
    for line in (
        f"Reason code: {code}",
        f"Source: {caption.source}",
        *(f"Note: {wording.quality_sentence(flag)}" for flag in wording.answer_quality(findings)),
        f"{caption.software}, {caption.date}",
    ):
        for part in textwrap.wrap(wording.ascii_text(line), 100):
            draw.text((60, y), part, DIM, font(24))
            y += 34
    y = HEIGHT - 110
    for part in textwrap.wrap(f"0 vertebrae measured. {wording.LIMITS_SENTENCE}", 105):
        draw.text((60, y), part, TEXT, font(22))
        y += 30
