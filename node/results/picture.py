"""The capture as a picture: what a radiologist reads in five seconds, without opening anything else.

Above the verdict; left the reformat with the measured points and heights, as large as the page allows; right of it the
table, each row level with its vertebra; then what was not seen, below or, beside a tall spine, at the right. Every
colour stands beside its word, "not measured" is grey and never green, and no text lies on the image. 1280 x 1024
pixels; verdict and table can still be read when a viewer shows it 512 pixels wide.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from inference.findings import Findings, Grade, Quality, VertebraFinding
from node.results import anatomy, wording
from node.results.anatomy import View
from node.results.drawing import (
    BACKGROUND,
    DIM,
    FRAME,
    GRADE_COLOURS,
    TEXT,
    VERDICT_COLOURS,
    Line,
    broken,
    draw_fitted,
    draw_lines,
    font,
    lines_height,
    text_width,
)
from node.results.reformat import Ruler

WIDTH, HEIGHT = 1280, 1024
HEADER_HEIGHT = 104
CORNER = 16
"""The verdict begins here at the earliest; it stands in the middle, since viewers write into the corners."""
MARGIN = 12
TOP = HEADER_HEIGHT + MARGIN
LEADERS = 40
"""Room between the image's margin and the table, for the lines that join a row to its vertebra."""
NOTES_BESIDE_WIDTH = 330
NOTES_BELOW_MOST = 330
"""Pixels that notes below the image may take from it."""
BESIDE_IS_BETTER = 1.15
"""Notes go beside the table where that makes the image so much larger; below, letters are larger."""
ROW_ROOM = 8
"""Pixels between the letters of two rows of the table."""
FLAG_TINT = 0.3
"""Brightness of the band behind a vertebra that raises the flag."""
HEADINGS = ("", "Ha", "Hm", "Hp", "G", "loss", "grade")
WIDEST_CELLS = ("V24", "00.0", "00.0", "00.0", "0.00", "Hm -00 %", "not measured")
G_CUT_OFFS = ((0.74, "<=.74"), (0.8, "<=.80"))
COLUMN_GAP = 20


@dataclass(frozen=True)
class Caption:
    """What the picture says beside the findings: source series, software, and the day of the analysis."""

    source: str
    software: str
    date: str


@dataclass(frozen=True)
class Layout:
    """Where image, table and notes stand; ``letters`` is the size of the table's type, ``table_right`` its end."""

    view: View
    letters: int
    table_right: int
    notes_at: tuple[int, int]
    notes: list[Line]

    @property
    def table_left(self) -> int:
        """Where the table begins: as near to the image as the leaders allow."""
        return self.view.right + anatomy.RIGHT_MARGIN + LEADERS


def draw_picture(findings: Findings, ruler: Ruler | None, caption: Caption) -> Image.Image:
    """The capture as an RGB image of `WIDTH` x `HEIGHT`."""
    image = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(image)
    _header(draw, findings)
    if findings.refusal is not None or ruler is None:
        _refusal(draw, findings, caption)
        return image
    layout = lay_out(findings, ruler, caption)
    anatomy.draw_anatomy(image, draw, findings, ruler, layout.view)
    _table(draw, findings, layout, layout.view.rows_of(findings, ruler))
    draw_lines(draw, layout.notes_at, layout.notes)
    return image


def lay_out(findings: Findings, ruler: Ruler, caption: Caption) -> Layout:
    """The layout with the larger image: notes below it, or beside the table where the spine is tall."""
    first, last = anatomy.crop(findings, ruler)
    said = notes(findings, caption)
    left, top = anatomy.LEFT_MARGIN, TOP + anatomy.ABOVE

    def laid(letters: int, table_right: int, bottom: int) -> View:
        right = table_right - _table_width(letters) - LEADERS - anatomy.RIGHT_MARGIN
        room = np.array([right - left, bottom - anatomy.BELOW - top], np.float64)
        scale = float((room / (last - first)).min())
        return View(*anatomy.widened(first, last, room / scale, ruler), left, top, scale)

    below = _notes_lines(said, WIDTH - 2 * MARGIN, NOTES_BELOW_MOST)
    notes_top = HEIGHT - MARGIN - lines_height(below)
    notes_left = WIDTH - MARGIN - NOTES_BESIDE_WIDTH
    view = laid(24, WIDTH - MARGIN, notes_top - MARGIN)
    view_beside = laid(20, notes_left - 2 * MARGIN, HEIGHT - MARGIN)
    if view_beside.scale > view.scale * BESIDE_IS_BETTER:
        beside = _notes_lines(said, NOTES_BESIDE_WIDTH, HEIGHT - MARGIN - TOP)
        return Layout(view_beside, 20, notes_left - 2 * MARGIN, (notes_left, TOP), beside)
    return Layout(view, 24, WIDTH - MARGIN, (MARGIN, notes_top), below)


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
        return f"{wording.FLAG_SENTENCE}: please check on the reformat and the source images"
    if findings.patient.flag is None:
        return "Heights were measured, but no vertebra could be graded"
    lesser = [_below_the_flag(v) for v in findings.vertebrae if v.grade is not None and v.grade is not Grade.NORMAL]
    said = f"{graded} graded, none raises the flag" + (f" (not by itself: {', '.join(lesser)})" if lesser else "")
    return f"{said}; nothing is said of any other vertebra"


def _below_the_flag(vertebra: VertebraFinding) -> str:
    by = " by G only" if Quality.G_ONLY in vertebra.quality else ""
    return f"{vertebra.name} {vertebra.grade}{by}"


# the table


def _column_widths(letters: int) -> list[float]:
    """Width of each column; that of G has room for the cut-off beside the number, that of the grade for its square."""
    widths = [text_width(cell, letters) for cell in WIDEST_CELLS]
    widths[4] += text_width("<=.74", letters - 4) + 5
    widths[6] += letters
    return widths


def _table_width(letters: int) -> int:
    return int(sum(_column_widths(letters)) + COLUMN_GAP * (len(HEADINGS) - 1)) + 1


def _table(draw: ImageDraw.ImageDraw, findings: Findings, layout: Layout, wanted: Sequence[float]) -> None:
    """One row per vertebra, level with it as far as rows find room, and joined to it by a line."""
    view = layout.view
    first, last = view.top + 6.0, max(view.bottom - 6.0, view.top + 30.0 * len(wanted))
    pitch = min(layout.letters + ROW_ROOM, (last - first) / max(1, len(wanted) - 1))
    letters = min(layout.letters, int(pitch) - 3)
    places = spread(wanted, pitch, first + letters / 2, last - letters / 2)
    left, right = layout.table_left, layout.table_right
    ends, x = [], float(left)
    for width in _column_widths(layout.letters):
        ends.append((x, x + width))
        x += width + COLUMN_GAP
    heading_at = view.top - anatomy.ABOVE + 12
    mark_room = text_width("<=.74", layout.letters - 4) + 5
    for i, heading in enumerate(HEADINGS):
        at_start = i == len(HEADINGS) - 1
        at = ends[i][0] if at_start else ends[i][1] - (mark_room if heading == "G" else 0)
        draw.text((at, heading_at), heading, DIM, font(20), anchor="lm" if at_start else "rm")
    draw.line((left, heading_at + 14, right, heading_at + 14), FRAME, 1)
    for vertebra, row, place in zip(findings.vertebrae, wanted, places, strict=True):
        colour = GRADE_COLOURS[vertebra.grade]
        start = view.right + anatomy.RIGHT_MARGIN
        draw.line((start, row, start + LEADERS - 8, place), colour, 1)
        if wording.raises_flag(vertebra):
            band = tuple(int(FLAG_TINT * part) for part in colour)
            draw.rectangle((left - 4, place - pitch / 2 + 1, right, place + pitch / 2 - 1), fill=band)
        _table_row(draw, vertebra, place, letters, ends, mark_room)


def _table_row(
    draw: ImageDraw.ImageDraw,
    vertebra: VertebraFinding,
    y: float,
    letters: int,
    ends: Sequence[tuple[float, float]],
    mark_room: float,
) -> None:
    colour = GRADE_COLOURS[vertebra.grade]
    ratio = vertebra.height_ratio
    numbers = (
        *wording.heights_text(vertebra.heights_mm),
        "-" if ratio is None else f"{ratio:.2f}",
        wording.loss_text(vertebra),
    )
    draw.text((ends[0][0], y), vertebra.name, colour, font(letters), anchor="lm")
    for i, (cell, (_, end)) in enumerate(zip(numbers, ends[1:6], strict=True), start=1):
        draw.text((end - (mark_room if i == 4 else 0), y), cell, TEXT, font(letters), anchor="rm")
    mark = next((sign for cut_off, sign in G_CUT_OFFS if ratio is not None and ratio <= cut_off), None)
    if mark is not None:
        draw.text((ends[4][1] - mark_room + 5, y), mark, DIM, font(letters - 4), anchor="lm")
    side = letters * 0.6
    draw.rectangle((ends[6][0], y - side / 2, ends[6][0] + side, y + side / 2), fill=colour)
    draw.text((ends[6][0] + letters, y), wording.grade_word(vertebra), colour, font(letters), anchor="lm")


def spread(wanted: Sequence[float], step: float, first: float, last: float) -> list[float]:
    """Places in the order of ``wanted``, at least ``step`` apart, within [first, last], as near as pushing allows."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [0.0] * len(wanted)
    floor = first
    for i in order:
        places[i] = max(wanted[i], floor)
        floor = places[i] + step
    ceiling = last
    for i in reversed(order):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - step
    return places


# the notes


def _notes_lines(said: Sequence[str], width: int, height: int) -> list[Line]:
    """The notes in lines of ``width``; the type shrinks until they fit ``height``. What was seen is the brightest."""
    lines: list[Line] = []
    for size in range(20, 12, -1):
        lines = []
        for i, paragraph in enumerate(said):
            letters, colour = (size + 2, TEXT) if i == 0 else (size, DIM)
            lines += [(part, letters, colour) for part in broken(paragraph, letters, width)]
        if lines_height(lines) <= height:
            break
    return lines


def notes(findings: Findings, caption: Caption) -> list[str]:
    """The paragraphs below the table, in ASCII: what was seen, how to read it, what is doubtful, limits, source."""
    said = [f"{wording.seen_text(findings)}; {wording.graded_text(findings)}."]
    uncertain = [v.height_uncertainty_mm for v in findings.vertebrae if v.height_uncertainty_mm is not None]
    heights = "Ha, Hm, Hp: anterior, middle, posterior height in mm"
    if uncertain:
        heights += f" (+/- {max(uncertain):.1f} mm, one SD)"
    said.append(
        f"{heights}; loss against neighbours, rule {findings.patient.rule}. "
        "G = smallest / largest height; published cut-offs 0.80 and 0.74."
    )
    by_flag: dict[Quality, list[str]] = {}
    for vertebra in findings.vertebrae:
        for flag in vertebra.quality:
            by_flag.setdefault(flag, []).append(vertebra.name)
    doubts = []
    for flag, names in by_flag.items():
        who = "all" if len(names) == len(findings.vertebrae) > 1 else ", ".join(names)
        doubts.append(f"{who}: {wording.quality_sentence(flag)}.")
    whole = [f for f in wording.answer_quality(findings) if f is not Quality.LEVELS_UNKNOWN and f not in by_flag]
    if whole:
        doubts.append(f"Note: {'; '.join(wording.quality_sentence(flag) for flag in whole)}.")
    if doubts:
        said.append(" ".join(doubts))
    said.append(wording.LIMITS_SENTENCE)
    said.append(f"Source: {caption.source}. {caption.software}, {caption.date}.")
    return [wording.ascii_text(paragraph) for paragraph in said]


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
