"""The capture as a picture: what a radiologist reads in five seconds (clinical.md, "Seen without opening anything").

Left the reformat with the measured points and heights, names in a margin of their own; right the table; above the
verdict, below what was not seen. Every colour stands beside its word, "not measured" is grey and never green, and no
text lies on the image. 1280 x 1024 pixels: legible on a display of one megapixel.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from inference.findings import Findings, Grade, Quality, VertebraFinding
from node.results import wording
from node.results.reformat import Ruler
from node.results.report import height_lines

WIDTH, HEIGHT = 1280, 1024
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

BACKGROUND: Colour = (0, 0, 0)
TEXT: Colour = (235, 235, 235)
DIM: Colour = (165, 165, 165)
FRAME: Colour = (80, 80, 80)
GRADE_COLOURS: dict[Grade | None, Colour] = {
    Grade.NORMAL: (90, 215, 110),
    Grade.MILD: (250, 225, 60),
    Grade.MODERATE: (255, 160, 40),
    Grade.SEVERE: (255, 85, 85),
    None: (175, 180, 190),
}
"""``None`` is for "not graded" and "not measured": grey."""
VERDICT_COLOURS: dict[str, Colour] = {
    "FLAG": (165, 25, 25),
    "no flag": (25, 65, 105),
    "not graded": (75, 75, 85),
    "not evaluable": (75, 75, 85),
}

HEADER_HEIGHT = 104
PANEL: Box = (12, 116, 628, 1012)
"""The image with its margins and names: left, top, right, bottom."""
NAMES_WIDTH = 190
MARGIN = 30
BELOW = 58
"""Room under the image for the mark F and the scale bar below it."""
GUTTER = 26
"""Room right of the image for the mark P, before the names."""
WINDOW = (250.0, 1000.0)
"""Centre and width in HU: narrower than the reformat's, a picture cannot be windowed by its reader."""
AROUND_MM = (50.0, 25.0)
"""Shown in front and behind, above and below the vertebrae; the whole is in the reformat."""
TABLE_LEFT = 648
SUPERSAMPLE = 2
"""Lines on the image are drawn at twice the size and averaged: Pillow draws no smooth ones."""
COLUMNS = (("vertebra", 0), ("Ha", 124), ("Hm", 184), ("Hp", 244), ("G", 304), ("loss", 458), ("grade", 476))
"""Heading and x within the table; numbers end at their x, the first and last column begin there."""


@dataclass(frozen=True)
class Caption:
    """What the picture says beside the findings: source series, software, and the day of the analysis."""

    source: str
    software: str
    date: str


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow carries within itself, so that every machine draws the same letters."""
    return ImageFont.load_default(size=size)


def draw_picture(findings: Findings, ruler: Ruler | None, caption: Caption) -> Image.Image:
    """The capture as an RGB image of `WIDTH` x `HEIGHT`."""
    image = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(image)
    _header(draw, findings)
    if findings.refusal is not None or ruler is None:
        _refusal(draw, findings, caption)
        return image
    _anatomy(image, draw, findings, ruler)
    bottom = _table(draw, findings, HEADER_HEIGHT + 14)
    _notes(draw, findings, caption, bottom + 12)
    return image


def _header(draw: ImageDraw.ImageDraw, findings: Findings) -> None:
    draw.rectangle((0, 0, WIDTH, HEADER_HEIGHT), fill=VERDICT_COLOURS[wording.verdict(findings)])
    label = wording.RESEARCH
    right = WIDTH - 16
    width = draw.textlength(label, font(22))
    draw.text((right - width, 14), label, TEXT, font(22))
    _fitted(draw, (16, 8), wording.verdict_sentence(findings), 46, int(right - width - 48))
    _fitted(draw, (16, 66), _subtitle(findings), 25, WIDTH - 32)


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


def _fitted(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, width: int) -> None:
    """Text in one line, smaller where it would not fit, cut with dots where it still does not."""
    while size > 18 and draw.textlength(text, font(size)) > width:
        size -= 1
    if draw.textlength(text, font(size)) > width:
        while text and draw.textlength(text + " ...", font(size)) > width:
            text = text[:-1]
        text += " ..."
    draw.text(at, text, (255, 255, 255), font(size))


# the image


def _anatomy(image: Image.Image, draw: ImageDraw.ImageDraw, findings: Findings, ruler: Ruler) -> None:
    """The reformat with lines and points, orientation marks, scale bar, and names in the margin to its right."""
    first, last = _crop(findings, ruler)
    columns, rows = last - first
    left, top = PANEL[0] + MARGIN, PANEL[1] + MARGIN
    room = (PANEL[2] - NAMES_WIDTH - MARGIN - left, PANEL[3] - BELOW - top)
    scale = min(room[0] / columns, room[1] / rows)
    size = (max(1, int(columns * scale)), max(1, int(rows * scale)))
    image.paste(_rendered(findings, ruler, first, last, size), (left, top))
    right, bottom = left + size[0], top + size[1]
    draw.rectangle((left - 1, top - 1, right, bottom), outline=FRAME)
    middle = ((left + right) // 2, (top + bottom) // 2)
    for mark, at in (
        ("A", (left - 22, middle[1] - 12)),
        ("P", (right + 8, middle[1] - 12)),
        ("H", (middle[0] - 8, top - 28)),
        ("F", (middle[0] - 8, bottom + 2)),
    ):
        draw.text(at, mark, TEXT, font(22))
    _scale_bar(draw, (left, bottom + 42), scale / ruler.spacing_mm, size[0])
    _names(draw, findings, ruler, top - float(first[1]) * scale, scale, right)


def _crop(findings: Findings, ruler: Ruler) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First (column, row) and the one after the last of the part that holds every vertebra and `AROUND_MM`."""
    points = [np.array([v.centroid_lps_mm], np.float64) for v in findings.vertebrae]
    points += [height_lines(v).reshape(-1, 3) for v in wording.measured(findings)]
    pixels = ruler.to_pixel(np.concatenate(points))
    around = np.array(AROUND_MM) / ruler.spacing_mm
    limits = np.array([ruler.hu.shape[1], ruler.hu.shape[0]])
    first = np.clip(np.floor(pixels.min(axis=0) - around), 0, limits - 1).astype(np.int64)
    last = np.clip(np.ceil(pixels.max(axis=0) + around), first + 1, limits).astype(np.int64)
    return first, last


def _scale_bar(draw: ImageDraw.ImageDraw, at: tuple[int, int], pixels_per_mm: float, room: int) -> None:
    """A bar of 50 mm, or of 10 mm where 50 would be wider than the image, with ticks every 10 mm."""
    length_mm = 50 if 50 * pixels_per_mm <= room else 10
    x, y = at
    end = x + round(length_mm * pixels_per_mm)
    draw.line((x, y, end, y), TEXT, 2)
    for tick in range(0, length_mm + 1, 10):
        at_x = x + round(tick * pixels_per_mm)
        draw.line((at_x, y - (6 if tick in (0, length_mm) else 3), at_x, y), TEXT, 2)
    draw.text((end + 8, y - 14), f"{length_mm} mm", TEXT, font(18))


def windowed(hu: NDArray[np.int16]) -> NDArray[np.uint8]:
    """HU to grey by `WINDOW` (linear, PS3.3 C.11.2.1.2)."""
    centre, width = WINDOW
    grey = (hu.astype(np.float32) - (centre - 0.5 - (width - 1) / 2)) / (width - 1)
    return np.asarray(np.clip(grey, 0, 1) * 255 + 0.5, np.uint8)


def _rendered(
    findings: Findings, ruler: Ruler, first: NDArray[np.int64], last: NDArray[np.int64], size: tuple[int, int]
) -> Image.Image:
    """The reformat at its size on the picture, with heights and points drawn smoothly."""
    large = (size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE)
    part = ruler.hu[first[1] : last[1], first[0] : last[0]]
    grey = Image.fromarray(windowed(part)).resize(large, Image.Resampling.BICUBIC)
    canvas = grey.convert("RGB")
    draw = ImageDraw.Draw(canvas)
    factor = np.array(large) / (last - first)
    for vertebra in wording.measured(findings):
        colour = GRADE_COLOURS[vertebra.grade]
        lines = (ruler.to_pixel(height_lines(vertebra)) - first) * factor
        for upper, lower in lines:
            draw.line((*upper, *lower), colour, 2 * SUPERSAMPLE - 1)
        for x, y in lines.reshape(-1, 2):
            radius = 1.5 * SUPERSAMPLE
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255), outline=colour)
    return canvas.resize(size, Image.Resampling.BOX)


def _names(
    draw: ImageDraw.ImageDraw,
    findings: Findings,
    ruler: Ruler,
    origin: float,
    scale: float,
    right: int,
) -> None:
    """Name and grade word of every vertebra right of the image, level with it; a line where it had to move."""
    if not findings.vertebrae:
        return
    centres = ruler.to_pixel(np.array([v.centroid_lps_mm for v in findings.vertebrae], np.float64))
    wanted = [float(np.clip(origin + row * scale, PANEL[1] + 12, PANEL[3] - 12)) for row in centres[:, 1]]
    step = min(22.0, (PANEL[3] - PANEL[1] - 24) / max(1, len(wanted)))
    places = spread(wanted, step, PANEL[1] + 12, PANEL[3] - 12)
    for vertebra, at, place in zip(findings.vertebrae, wanted, places, strict=True):
        colour = GRADE_COLOURS[vertebra.grade]
        draw.line((right + GUTTER, at, right + GUTTER + 18, place), colour, 1)
        name = f"{vertebra.name} {wording.grade_word(vertebra)}"
        draw.text((right + GUTTER + 22, place), name, colour, font(18), anchor="lm")


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


# the table and the notes


def _table(draw: ImageDraw.ImageDraw, findings: Findings, top: int) -> int:
    """One row per vertebra, top to bottom; returns where the table ends."""
    n = len(findings.vertebrae)
    row = 27 if n <= 18 else max(19, 490 // n)
    size = min(20, row - 3)
    for heading, x in COLUMNS:
        draw.text((TABLE_LEFT + x, top + 12), heading, DIM, font(18), anchor="lm" if x in (0, COLUMNS[-1][1]) else "rm")
    y = top + 28
    draw.line((TABLE_LEFT, y, WIDTH - 12, y), FRAME, 1)
    y += 4
    for vertebra in findings.vertebrae:
        _table_row(draw, vertebra, y + row // 2, size)
        y += row
    draw.line((TABLE_LEFT, y + 3, WIDTH - 12, y + 3), FRAME, 1)
    return y + 4


def _table_row(draw: ImageDraw.ImageDraw, vertebra: VertebraFinding, y: int, size: int) -> None:
    colour = GRADE_COLOURS[vertebra.grade]
    loss, ratio = wording.largest_loss(vertebra), vertebra.height_ratio
    cells = (
        vertebra.name,
        *wording.heights_text(vertebra.heights_mm),
        "-" if ratio is None else f"{ratio:.2f}",
        f"{loss[0]} {wording.percent(loss[1])}"
        if loss
        else "-"
        if Quality.G_ONLY not in vertebra.quality
        else "G only",
        wording.grade_word(vertebra),
    )
    for (heading, x), cell in zip(COLUMNS, cells, strict=True):
        at_start = x in (0, COLUMNS[-1][1])
        ink = colour if at_start else TEXT
        left = TABLE_LEFT + x
        if x == COLUMNS[-1][1]:
            draw.rectangle((left, y - 6, left + 12, y + 6), fill=colour)
            left += 20
        draw.text((left, y), cell, ink, font(size), anchor="lm" if at_start else "rm")
        if heading == "G" and ratio is not None and ratio <= 0.8:
            draw.text((left + 5, y), "<=.74" if ratio <= 0.74 else "<=.80", DIM, font(size - 4), anchor="lm")


def _notes(draw: ImageDraw.ImageDraw, findings: Findings, caption: Caption, top: int) -> None:
    """What was seen, quality, source and the limits of the finding; the type shrinks until all of it fits."""
    lines = notes(findings, caption)
    for size in (20, 19, 18, 17, 16, 15, 14, 13):
        # an average letter is half as wide as it is high
        wrapped = [
            part for line in lines for part in textwrap.wrap(line, int((WIDTH - TABLE_LEFT - 16) / (0.5 * size)))
        ]
        if top + len(wrapped) * (size + 4) <= HEIGHT - 8:
            break
    y = top
    for part in wrapped:
        draw.text((TABLE_LEFT, y), part, TEXT, font(size))
        y += size + 4


def notes(findings: Findings, caption: Caption) -> list[str]:
    """The lines below the table, in ASCII, unwrapped."""
    lines = [f"{wording.seen_text(findings)}; {wording.graded_text(findings)}."]
    uncertain = [v.height_uncertainty_mm for v in findings.vertebrae if v.height_uncertainty_mm is not None]
    heights = "Ha, Hm, Hp: anterior, middle, posterior height in mm"
    if uncertain:
        heights += f" (+/- {max(uncertain):.1f} mm, one SD)"
    lines.append(f"{heights}; loss against neighbours, rule {findings.patient.rule}.")
    lines.append("G = smallest / largest height; published cut-offs 0.80 and 0.74.")
    by_flag: dict[Quality, list[str]] = {}
    for vertebra in findings.vertebrae:
        for flag in vertebra.quality:
            by_flag.setdefault(flag, []).append(vertebra.name)
    for flag, names in by_flag.items():
        who = "all" if len(names) == len(findings.vertebrae) > 1 else ", ".join(names)
        lines.append(f"{who}: {wording.quality_sentence(flag)}.")
    said = [f for f in wording.answer_quality(findings) if f is not Quality.LEVELS_UNKNOWN and f not in by_flag]
    if said:
        lines.append(f"Note: {'; '.join(wording.quality_sentence(flag) for flag in said)}.")
    lines.append(wording.LIMITS_SENTENCE)
    lines.append(f"Source: {caption.source}. {caption.software}, {caption.date}.")
    return [wording.ascii_text(line) for line in lines]


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
