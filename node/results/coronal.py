"""The small coronal view for the numbering: ribs and pelvis, and the names of the vertebrae beside it.

No word lies on the image. Nothing is measured on it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from inference.findings import Findings
from node.results.drawing import DIM, FRAME, TEXT, font, spread, text_width
from node.results.pictures import Coronal, windowed

LETTERS = 16
MARKS = 18
GUTTER = 44
"""Room for names on each side."""
ABOVE, BELOW = 22, 22
"""Room for R, H and L, and for F."""
DOT = 2
"""Radius of the point at the centre of a body, pixels."""
Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the page."""


def image_box(coronal: Coronal, within: Rectangle) -> Rectangle:
    """Where the image stands: as large as the rectangle allows with marks and names around it, at the top."""
    left, top, right, bottom = within
    rows, columns = coronal.hu.shape
    room = (right - left - 2 * GUTTER, bottom - top - ABOVE - BELOW)
    scale = max(min(room[0] / columns, room[1] / rows), 1 / min(rows, columns))
    width, height = max(1, int(columns * scale)), max(1, int(rows * scale))
    x = (left + right - width) // 2
    return x, top + ABOVE, x + width, top + ABOVE + height


def draw_coronal(
    image: Image.Image, draw: ImageDraw.ImageDraw, findings: Findings, coronal: Coronal, within: Rectangle
) -> None:
    """The view with its marks; names stand in turn left and right of it, level with their vertebrae."""
    left, top, right, bottom = image_box(coronal, within)
    shown = Image.fromarray(windowed(coronal.hu)).resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    image.paste(shown.convert("RGB"), (left, top))
    draw.rectangle((left - 1, top - 1, right, bottom), outline=FRAME)
    middle = (left + right) // 2
    for mark, x, y, anchor in (
        ("R", left - 6, top - ABOVE + 1, "rt"),
        ("H", middle, top - ABOVE + 1, "mt"),
        ("L", right + 6, top - ABOVE + 1, "lt"),
        ("F", middle, bottom + 4, "mt"),
    ):
        draw.text((x, y), mark, TEXT, font(MARKS), anchor=anchor)
    if not findings.vertebrae:
        return
    rows, columns = coronal.hu.shape
    centres = coronal.to_pixel(np.array([v.centroid_lps_mm for v in findings.vertebrae], np.float64))
    centres = centres * [(right - left) / columns, (bottom - top) / rows] + [left, top]
    for side in (0, 1):
        of_side = list(zip(findings.vertebrae, centres, strict=True))[side::2]
        places = spread([float(y) for _, (_, y) in of_side], LETTERS + 2, top + LETTERS / 2, bottom - LETTERS / 2)
        for (vertebra, (x, y)), place in zip(of_side, places, strict=True):
            if left + DOT < x < right - DOT and top + DOT < y < bottom - DOT:
                draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=DIM)
            edge, out = (left - 2, -1) if side == 0 else (right + 1, 1)
            draw.line((edge, y, edge + 6 * out, place), DIM, 1)
            at = edge + 8 * out - (text_width(vertebra.name, LETTERS) if side == 0 else 0)
            draw.text((at, place), vertebra.name, TEXT, font(LETTERS), anchor="lm")
