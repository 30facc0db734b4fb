"""The table of the capture: one row per vertebra, level with it, and only columns that hold something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import ImageDraw

from inference.findings import Findings, VertebraFinding
from inference.grading import PUBLISHED_G
from node.results import film_notes, wording
from node.results.drawing import DIM, FRAME, GRADE_COLOURS, TEXT, font, spread, text_width
from node.results.gaps import gaps

ROW_ROOM = 8
"""Pixels between the letters of two rows."""
FLAG_TINT = 0.3
"""Brightness of the band behind a vertebra that raises the flag."""
G_CUT_OFFS = tuple((cut_off, f"<=.{100 * cut_off:.0f}") for cut_off in sorted(PUBLISHED_G))
UNSEEN = "at least one not seen"
COLUMN_GAP = 14
HEADING_LETTERS = 18
NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """A column: its heading, what stands in it of a vertebra, and how: words begin, numbers end below each other."""

    heading: str
    cell: Callable[[VertebraFinding], str]
    words: bool = False
    in_colour: bool = False
    """Of the grade, whose word stands in the same row."""
    smaller: int = 0
    """Letters are smaller by this, and dim."""


def _number(pattern: str, value: float | None) -> str:
    return NOTHING if value is None else pattern.format(value)


def density_text(vertebra: VertebraFinding) -> str:
    """Mean HU; a star where it is unsafe to compare (the notes say why)."""
    said = _number("{:.0f}", vertebra.trabecular_mean_hu)
    return f"{said}*" if said != NOTHING and wording.DENSITY_FLAGS.intersection(vertebra.quality) else said


def _cut_off(vertebra: VertebraFinding) -> str:
    """The published cut-off that G does not exceed: it stands beside a grade, never instead of one."""
    ratio = vertebra.height_ratio if vertebra.grade is not None else None
    return next((sign for cut_off, sign in G_CUT_OFFS if ratio is not None and ratio <= cut_off), NOTHING)


FRONT_RATIO = Column("Ha/Hp", lambda v: film_notes.relative_text(v, 0) or NOTHING)
MIDDLE_RATIO = Column("Hm/Hp", lambda v: film_notes.relative_text(v, 1) or NOTHING)
NAME = Column("", lambda v: v.name, words=True, in_colour=True)
RATIO = Column("G", lambda v: NOTHING if v.height_ratio is None else wording.ratio_text(v.height_ratio))
FRONT = Column("Ha", lambda v: wording.heights_text(v.heights_mm)[0])
CUT_OFF = Column("", lambda v: _cut_off(v).replace(NOTHING, ""), words=True, smaller=4)
GRADE = Column("grade", wording.grade_word, words=True, in_colour=True)
DENSITY = Column("HU", density_text)
UNSAFE_DENSITY = replace(DENSITY, heading="HU*")
"""Where the acquisition makes every one of them unsafe to compare."""


def _middle(vertebra: VertebraFinding) -> str:
    """The middle height, which needs no side of the front."""
    if vertebra.without_side is not None:
        return _number("{:.1f}", vertebra.without_side.middle_mm)
    return wording.heights_text(vertebra.heights_mm)[1]


COLUMNS = (
    NAME,
    FRONT,
    Column("Hm", _middle),
    Column("Hp", lambda v: wording.heights_text(v.heights_mm)[2]),
    FRONT_RATIO,
    MIDDLE_RATIO,
    Column("VCR", lambda v: film_notes.compression_text(v) or NOTHING),
    RATIO,
    CUT_OFF,
    Column("loss", wording.loss_text),
    GRADE,
    Column("score", lambda v: NOTHING if v.abnormality_score is None else wording.score_text(v.abnormality_score)),
    DENSITY,
)


def least_needed(columns: Sequence[Column]) -> list[Column]:
    """Those of ``columns`` that are left out, in this order, where the image would become too small beside the table.

    The notes say what stood there. Ratios of heights go only where the heights themselves stay.
    """
    ratios = (MIDDLE_RATIO, FRONT_RATIO) if FRONT in columns else ()
    return [c for c in (CUT_OFF, DENSITY, UNSAFE_DENSITY, *ratios) if c in columns]


def columns_of(findings: Findings) -> tuple[Column, ...]:
    """The columns that hold something of one vertebra at least; name and grade always do."""
    full = [c for c in COLUMNS if any(c.cell(v) not in ("", NOTHING) for v in findings.vertebrae)]
    unsafe = wording.DENSITY_FLAGS.intersection(findings.quality)
    return tuple(UNSAFE_DENSITY if c is DENSITY and unsafe else c for c in full)


@dataclass(frozen=True)
class Table:
    """A table laid out: its columns, the size of its letters, and where it begins and ends across the page."""

    columns: tuple[Column, ...]
    letters: int
    widths: tuple[float, ...]

    @property
    def width(self) -> int:
        """Of all columns with the gaps between them, pixels."""
        return int(sum(self.widths) + COLUMN_GAP * (len(self.columns) - 1)) + 1


def laid(findings: Findings, columns: Sequence[Column], letters: int) -> Table:
    """The table with columns as wide as what stands in them."""
    widths = []
    for column in columns:
        cells = max((text_width(column.cell(v), letters - column.smaller) for v in findings.vertebrae), default=0.0)
        cells += letters if column is GRADE else 0
        widths.append(max(cells, text_width(column.heading, HEADING_LETTERS)))
    return Table(tuple(columns), letters, tuple(widths))


def draw_table(
    draw: ImageDraw.ImageDraw,
    findings: Findings,
    table: Table,
    left: int,
    headings_at: float,
    rows: tuple[float, float],
    wanted: Sequence[float],
    joined_from: int | None,
) -> None:
    """One row per vertebra, level with it as far as rows find room, and joined to it by a line.

    Where a vertebra was not seen between two, a row between theirs says so.
    Where vertebrae lie beside each other rows stand in their order, and nothing joins them.

    Parameters
    ----------
    left
        Where the table begins.
    headings_at
        Middle of the line of headings.
    rows
        First and last pixel of the page that rows may use.
    wanted
        Row of the page at which each vertebra lies.
    joined_from
        Where the lines to the rows begin; ``None``: there are none.
    """
    first, last = rows
    at = dict(zip((v.ordinal for v in findings.vertebrae), wanted, strict=True))
    missed = gaps(findings)
    rows_wanted = [*wanted, *((at[above.ordinal] + at[below.ordinal]) / 2 for above, below in missed)]
    pitch = min(table.letters + ROW_ROOM, (last - first) / max(1, len(rows_wanted) - 1))
    letters = min(table.letters, int(pitch) - 3)
    places = spread(rows_wanted, pitch, first + letters / 2, last - letters / 2)
    for (above, below), place in zip(missed, places[len(wanted) :], strict=True):
        draw.text((left, place), f"{above.name} - {below.name}: {UNSEEN}", TEXT, font(letters - 2), anchor="lm")
    ends, x = [], float(left)
    for width in table.widths:
        ends.append((x, x + width))
        x += width + COLUMN_GAP
    for column, (start, end) in zip(table.columns, ends, strict=True):
        edge, anchor = (start, "lm") if column.words else (end, "rm")
        draw.text((edge, headings_at), column.heading, DIM, font(HEADING_LETTERS), anchor=anchor)
    draw.line((left, headings_at + 14, left + table.width, headings_at + 14), FRAME, 1)
    for vertebra, row, place in zip(findings.vertebrae, wanted, places[: len(wanted)], strict=True):
        colour = GRADE_COLOURS[vertebra.grade]
        if joined_from is not None:
            draw.line((joined_from, row, left - 8, place), colour, 1)
        if wording.raises_flag(vertebra, findings.patient):
            band = tuple(int(FLAG_TINT * part) for part in colour)
            draw.rectangle((left - 4, place - pitch / 2 + 1, left + table.width, place + pitch / 2 - 1), fill=band)
        _row(draw, vertebra, table, place, letters, ends)


def _row(
    draw: ImageDraw.ImageDraw,
    vertebra: VertebraFinding,
    table: Table,
    y: float,
    letters: int,
    ends: Sequence[tuple[float, float]],
) -> None:
    for column, (start, end) in zip(table.columns, ends, strict=True):
        colour = GRADE_COLOURS[vertebra.grade] if column.in_colour else DIM if column.smaller else TEXT
        at, anchor = (start, "lm") if column.words else (end, "rm")
        if column is GRADE:
            side = letters * 0.6
            draw.rectangle((at, y - side / 2, at + side, y + side / 2), fill=colour)
            at += letters
        draw.text((at, y), column.cell(vertebra), colour, font(letters - column.smaller), anchor=anchor)
