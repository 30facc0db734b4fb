"""The part of the capture that shows anatomy: the reformat with outlines, heights and points, marks, scale bar.

No word lies on the image: marks and bar stand in the margins around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inference.findings import Findings
from node.results import wording
from node.results.contours import dashed, outlines
from node.results.drawing import EXPECTED_COLOUR, FRAME, GRADE_COLOURS, TEXT, WHITE, font
from node.results.notes import shows_expected
from node.results.pictures import Pictures
from node.results.reformat import Ruler
from node.results.report import height_lines

WINDOW = (250.0, 1000.0)
"""Centre and width in HU: narrower than the reformat's, a picture cannot be windowed by its reader."""
FRONT_MM, BEHIND_MM, BEYOND_MM = 30.0, 45.0, 20.0
"""Shown before and behind, above and below the vertebrae; the whole is in the reformat."""
SUPERSAMPLE = 2
"""Lines on the image are drawn at twice the size and averaged: Pillow draws no smooth ones."""
OUTLINE, EXPECTED_OUTLINE = 2, 3
"""Thickness of the outlines, and `DASH` the length of the dashes, at the supersampled size."""
DASH = 14
MARK_SIZE = 22
BAR_LABEL_SIZE = 18
LEFT_MARGIN, RIGHT_MARGIN, ABOVE, BELOW = 44, 28, 30, 32
"""Room for the mark A and the scale bar, for P, for H, and for F and the bar's length."""


@dataclass(frozen=True)
class View:
    """A part of the reformat at a place on the picture.

    Attributes
    ----------
    first, last
        First (column, row) of the reformat that is shown, and the one after the last.
    left, top
        Of the image on the picture, in pixels.
    scale
        Pixels of the picture per pixel of the reformat.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    left: int
    top: int
    scale: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height on the picture, pixels."""
        columns, rows = (self.last - self.first) * self.scale
        return max(1, int(columns)), max(1, int(rows))

    @property
    def right(self) -> int:
        """First column of the picture right of the image."""
        return self.left + self.size[0]

    @property
    def bottom(self) -> int:
        """First row of the picture below the image."""
        return self.top + self.size[1]

    def rows_of(self, findings: Findings, ruler: Ruler) -> list[float]:
        """Row on the picture of each vertebra's centre."""
        if not findings.vertebrae:
            return []
        centres = ruler.to_pixel(np.array([v.centroid_lps_mm for v in findings.vertebrae], np.float64))
        return [self.top + float(row - self.first[1]) * self.scale for row in centres[:, 1]]


def crop(findings: Findings, pictures: Pictures) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First (column, row), and the one after the last, of the part that holds every vertebra and some room around."""
    ruler = pictures.ruler
    points = [np.array([v.centroid_lps_mm], np.float64) for v in findings.vertebrae]
    points += [height_lines(v).reshape(-1, 3) for v in wording.measured(findings)]
    pixels = ruler.to_pixel(np.concatenate(points))
    if pictures.masks is not None and pictures.masks.any():
        rows, columns = (np.flatnonzero(pictures.masks.any(axis=axis)) for axis in (1, 0))
        corners = [[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]
        pixels = np.concatenate([pixels, np.array(corners, np.float64)])
    limits = np.array([ruler.hu.shape[1], ruler.hu.shape[0]])
    before = pixels.min(axis=0) - np.array([FRONT_MM, BEYOND_MM]) / ruler.spacing_mm
    after = pixels.max(axis=0) + np.array([BEHIND_MM, BEYOND_MM]) / ruler.spacing_mm
    first = np.clip(np.floor(before), 0, limits - 1).astype(np.int64)
    last = np.clip(np.ceil(after), first + 1, limits).astype(np.int64)
    return first, last


def widened(
    first: NDArray[np.int64], last: NDArray[np.int64], room: NDArray[np.float64], ruler: Ruler
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The part grown on all sides alike to ``room`` (columns, rows), as far as the reformat reaches."""
    grow = np.maximum(room - (last - first), 0) / 2
    limits = np.array([ruler.hu.shape[1], ruler.hu.shape[0]])
    return np.maximum(first - grow.astype(np.int64), 0), np.minimum(last + grow.astype(np.int64), limits)


def draw_anatomy(
    image: Image.Image, draw: ImageDraw.ImageDraw, findings: Findings, pictures: Pictures, view: View
) -> None:
    """The view with its outlines, lines, points, orientation marks and scale bar."""
    image.paste(_rendered(findings, pictures, view), (view.left, view.top))
    draw.rectangle((view.left - 1, view.top - 1, view.right, view.bottom), outline=FRAME)
    centre = ((view.left + view.right) // 2, (view.top + view.bottom) // 2)
    for mark, at in (
        ("A", (view.left - 34, centre[1] - 12)),
        ("P", (view.right + 8, centre[1] - 12)),
        ("H", (centre[0] - 8, view.top - 28)),
        ("F", (centre[0] - 8, view.bottom + 3)),
    ):
        draw.text(at, mark, TEXT, font(MARK_SIZE))
    _scale_bar(draw, view, pictures.ruler.spacing_mm)


def _scale_bar(draw: ImageDraw.ImageDraw, view: View, spacing_mm: float) -> None:
    """A bar of 50 mm left of the image, of 10 mm where 50 would be longer than the image, with ticks every 10 mm."""
    pixels_per_mm = view.scale / spacing_mm
    length_mm = 50 if 50 * pixels_per_mm <= view.size[1] else 10
    x, bottom = view.left - 7, view.bottom
    draw.line((x, bottom - round(length_mm * pixels_per_mm), x, bottom), TEXT, 2)
    for tick in range(0, length_mm + 1, 10):
        y = bottom - round(tick * pixels_per_mm)
        draw.line((x - (8 if tick in (0, length_mm) else 4), y, x, y), TEXT, 2)
    draw.text((view.left - 34, bottom + 7), f"{length_mm} mm", TEXT, font(BAR_LABEL_SIZE))


def windowed(hu: NDArray[np.int16]) -> NDArray[np.uint8]:
    """HU to grey by `WINDOW` (linear, PS3.3 C.11.2.1.2)."""
    centre, width = WINDOW
    grey = (hu.astype(np.float32) - (centre - 0.5 - (width - 1) / 2)) / (width - 1)
    return np.asarray(np.clip(grey, 0, 1) * 255 + 0.5, np.uint8)


def _rendered(findings: Findings, pictures: Pictures, view: View) -> Image.Image:
    """The reformat at its size on the picture, with outlines, heights and points drawn smoothly."""
    ruler = pictures.ruler
    large = (view.size[0] * SUPERSAMPLE, view.size[1] * SUPERSAMPLE)
    part = ruler.hu[view.first[1] : view.last[1], view.first[0] : view.last[0]]
    grey = Image.fromarray(windowed(part)).resize(large, Image.Resampling.BICUBIC).convert("RGB")
    canvas = Image.fromarray(_outlined(np.array(grey), findings, pictures, view))
    draw = ImageDraw.Draw(canvas)
    factor = np.array(large) / (view.last - view.first)
    for vertebra in wording.measured(findings):
        colour = GRADE_COLOURS[vertebra.grade]
        lines = (ruler.to_pixel(height_lines(vertebra)) - view.first) * factor
        for upper, lower in lines:
            draw.line((*upper, *lower), colour, 2 * SUPERSAMPLE)
        for x, y in lines.reshape(-1, 2):
            radius = 2 * SUPERSAMPLE
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=WHITE, outline=colour)
    return canvas.resize(view.size, Image.Resampling.BOX)


def _outlined(canvas: NDArray[np.uint8], findings: Findings, pictures: Pictures, view: View) -> NDArray[np.uint8]:
    """The canvas (rows, columns, RGB) with the outlines of the masks in the colours of their grades.

    Where the score is notable the expected body is dashed below them.
    """
    vertebrae = {v.ordinal: v for v in findings.vertebrae}
    factor = canvas.shape[0] / float(view.last[1] - view.first[1])
    for labels, is_expected in ((pictures.expected, True), (pictures.masks, False)):
        if labels is None:
            continue
        shown = labels[view.first[1] : view.last[1], view.first[0] : view.last[0]]
        for ordinal, (rows, columns), edge in outlines(shown, factor, EXPECTED_OUTLINE if is_expected else OUTLINE):
            vertebra = vertebrae.get(ordinal)
            if vertebra is None or (is_expected and not shows_expected(vertebra)):
                continue
            colour = EXPECTED_COLOUR if is_expected else GRADE_COLOURS[vertebra.grade]
            place = canvas[rows, columns]
            drawn = (dashed(edge, DASH) if is_expected else edge)[: place.shape[0], : place.shape[1]]
            place[drawn] = colour
    return canvas
