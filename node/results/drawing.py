"""Colours, letters and lines of text: what every part of the capture is drawn with."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cache

from PIL import ImageDraw, ImageFont

from inference.findings import Grade

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BACKGROUND: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
TEXT: Colour = (235, 235, 235)
DIM: Colour = (175, 175, 175)
FRAME: Colour = (80, 80, 80)
GRADE_COLOURS: dict[Grade | None, Colour] = {
    Grade.NORMAL: (90, 215, 110),
    Grade.MILD: (250, 225, 60),
    Grade.MODERATE: (255, 160, 40),
    Grade.SEVERE: (255, 85, 85),
    None: (175, 180, 190),
}
"""``None`` is for "not graded" and "not measured": grey."""
EXPECTED_COLOUR: Colour = (105, 165, 255)
"""Of the body that the neighbours predict."""
ANCHOR_COLOUR: Colour = (200, 130, 255)
"""Of what levels were counted from on a radiograph."""
VERDICT_COLOURS: dict[str, Colour] = {
    "FLAG": (165, 25, 25),
    "no flag": (25, 65, 105),
    "not graded": (75, 75, 85),
    "not evaluable": (75, 75, 85),
}

Line = tuple[str, int, Colour]
"""A line of text, the size of its letters in pixels, its colour."""
LEADING = 4
"""Pixels between two lines of text."""


@cache
def font(size: int) -> Font:
    """The font that Pillow carries within itself, so that every machine draws the same letters."""
    return ImageFont.load_default(size=size)


@cache
def text_width(text: str, size: int) -> float:
    """Width of a line in pixels."""
    return font(size).getlength(text)


def draw_fitted(
    draw: ImageDraw.ImageDraw, top: int, text: str, size: int, between: tuple[int, int], colour: Colour = WHITE
) -> None:
    """Text in one line in the middle of the page, or as near to it as the room ``between`` two columns allows.

    Where it does not fit it is smaller, and where it still does not it is cut with dots.
    """
    left, right = between
    while size > 18 and text_width(text, size) > right - left:
        size -= 1
    if text_width(text, size) > right - left:
        while text and text_width(text + " ...", size) > right - left:
            text = text[:-1]
        text += " ..."
    width = text_width(text, size)
    middle = (draw.im.size[0] - width) / 2
    draw.text((max(left, min(middle, right - width)), top), text, colour, font(size))


def broken(text: str, size: int, width: float) -> list[str]:
    """The text in lines of at most ``width`` pixels, broken between words; a longer word has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines += textwrap.wrap(word, max(1, int(width / size)) * 2)
    return lines


def lines_height(lines: list[Line]) -> int:
    """Height in pixels of lines below each other."""
    return sum(size + LEADING for _, size, _ in lines)


def draw_lines(draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: list[Line]) -> None:
    """Lines below each other, the first one's upper left corner at ``at``."""
    x, y = at
    for text, size, colour in lines:
        draw.text((x, y), text, colour, font(size))
        y += size + LEADING


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
