"""The part of the capture that shows anatomy: reformat or film with outlines, heights and points, marks, scale bar.

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
from node.results.drawing import (
    ANCHOR_COLOUR,
    EXPECTED_COLOUR,
    FRAME,
    GRADE_COLOURS,
    TEXT,
    WHITE,
    font,
    spread,
    text_width,
)
from node.results.notes import shows_expected
from node.results.pictures import Shown

FRONT_MM, BEHIND_MM, BEYOND_MM = 30.0, 45.0, 20.0
"""Shown before and behind, above and below the vertebrae; the whole is in the reformat, or on the film."""
SUPERSAMPLE = 2
"""Lines on the image are drawn at twice the size and averaged: Pillow draws no smooth ones."""
OUTLINE, EXPECTED_OUTLINE = 2, 3
"""Thickness of the outlines, and `DASH` the length of the dashes, at the supersampled size."""
DASH = 14
MARK_SIZE = 22
BAR_LABEL_SIZE = 18
LEFT_MARGIN, RIGHT_MARGIN, ABOVE, BELOW = 44, 28, 30, 32
"""Room for the mark A and the scale bar, for P, for H, and for F and the bar's length."""
NAME_SIZE, NAMES = 18, 26
"""Letters of names below an image of vertebrae that lie beside each other, and the room for them."""


@dataclass(frozen=True)
class View:
    """A part of the reformat, or of the film, at a place on the picture.

    Attributes
    ----------
    first, last
        First (column, row) of the image that is shown, and the one after the last.
    left, top
        Of the image on the picture, in pixels.
    scale
        Pixels of the picture per pixel of the image.
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

    def rows_of(self, findings: Findings, pictures: Shown) -> list[float]:
        """Row on the picture of each vertebra's centre."""
        if not findings.vertebrae:
            return []
        centres = pictures.centres(findings.vertebrae)
        return [self.top + float(row - self.first[1]) * self.scale for row in centres[:, 1]]


def lies(findings: Findings, pictures: Shown) -> bool:
    """Whether the spine lies across the image: vertebrae beside each other, as on a film that was sent turned."""
    if len(findings.vertebrae) < 2:
        return False
    centres = pictures.centres(findings.vertebrae)
    across, along = np.abs(centres[-1] - centres[0])
    return bool(across > along)


def crop(findings: Findings, pictures: Shown) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First (column, row), and the one after the last, of the part that holds every vertebra and some room around."""
    points = [pictures.centres(findings.vertebrae)]
    points += [pictures.heights(v).reshape(-1, 2) for v in wording.told(findings)]
    pixels = np.concatenate(points)
    if pictures.masks is not None and pictures.masks.any():
        rows, columns = (np.flatnonzero(pictures.masks.any(axis=axis)) for axis in (1, 0))
        corners = [[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]
        pixels = np.concatenate([pixels, np.array(corners, np.float64)])
    if pictures.anchor is not None:
        pixels = np.concatenate([pixels, pictures.anchor])
    limits = np.array(pictures.shape[::-1])
    sides = {"A": FRONT_MM, "P": BEHIND_MM}
    marks = pictures.marks
    room_before = np.array([sides.get(marks.left, BEHIND_MM), sides.get(marks.above, BEYOND_MM)])
    room_after = np.array([sides.get(marks.right, BEHIND_MM), sides.get(marks.below, BEYOND_MM)])
    before = pixels.min(axis=0) - room_before * pictures.pixels_per_mm
    after = pixels.max(axis=0) + room_after * pictures.pixels_per_mm
    first = np.clip(np.floor(before), 0, limits - 1).astype(np.int64)
    last = np.clip(np.ceil(after), first + 1, limits).astype(np.int64)
    return first, last


def widened(
    first: NDArray[np.int64], last: NDArray[np.int64], room: NDArray[np.float64], pictures: Shown
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The part grown on all sides alike to ``room`` (columns, rows), as far as the image reaches."""
    grow = np.maximum(room - (last - first), 0) / 2
    limits = np.array(pictures.shape[::-1])
    return np.maximum(first - grow.astype(np.int64), 0), np.minimum(last + grow.astype(np.int64), limits)


def draw_anatomy(
    image: Image.Image, draw: ImageDraw.ImageDraw, findings: Findings, pictures: Shown, view: View
) -> None:
    """The view with its outlines, lines, points, orientation marks and scale bar."""
    image.paste(_rendered(findings, pictures, view), (view.left, view.top))
    draw.rectangle((view.left - 1, view.top - 1, view.right, view.bottom), outline=FRAME)
    centre = ((view.left + view.right) // 2, (view.top + view.bottom) // 2)
    names = NAMES if lies(findings, pictures) else 0
    if names:
        _draw_names(draw, findings, pictures, view)
    for mark, at in zip(
        pictures.marks,
        (
            (view.left - 34, centre[1] - 12),
            (view.right + 8, centre[1] - 12),
            (centre[0] - 8, view.top - 28),
            (centre[0] - 8, view.bottom + 3 + names),
        ),
        strict=True,
    ):
        draw.text(at, mark, TEXT, font(MARK_SIZE))
    if pictures.spacing_mm is not None:
        _scale_bar(draw, view, pictures.spacing_mm)


def _draw_names(draw: ImageDraw.ImageDraw, findings: Findings, pictures: Shown, view: View) -> None:
    """The names of vertebrae that lie beside each other, each below its own, right of the scale bar's length."""
    columns = [view.left + float(x - view.first[0]) * view.scale for x in pictures.centres(findings.vertebrae)[:, 0]]
    wide = max(text_width(v.name, NAME_SIZE) for v in findings.vertebrae)
    places = spread(columns, wide + 6, view.left + LEFT_MARGIN, view.right - wide / 2)
    at = view.bottom + NAMES // 2 + 4
    for vertebra, column, place in zip(findings.vertebrae, columns, places, strict=True):
        colour = GRADE_COLOURS[vertebra.grade]
        draw.line((column, view.bottom + 2, place, at - NAME_SIZE // 2), colour, 1)
        draw.text((place, at), vertebra.name, colour, font(NAME_SIZE), anchor="mm")


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


def _rendered(findings: Findings, pictures: Shown, view: View) -> Image.Image:
    """The image at its size on the picture, with outlines, heights and points drawn smoothly."""
    large = (view.size[0] * SUPERSAMPLE, view.size[1] * SUPERSAMPLE)
    part = pictures.grey(slice(view.first[1], view.last[1]), slice(view.first[0], view.last[0]))
    grey = Image.fromarray(part).resize(large, Image.Resampling.BICUBIC, reducing_gap=2.0).convert("RGB")
    canvas = Image.fromarray(_outlined(np.array(grey), findings, pictures, view))
    draw = ImageDraw.Draw(canvas)
    factor = np.array(large) / (view.last - view.first)
    if pictures.anchor is not None:
        _draw_dashes(draw, (pictures.anchor - view.first) * factor)
    for vertebra in wording.told(findings):
        colour = GRADE_COLOURS[vertebra.grade]
        lines = (pictures.heights(vertebra) - view.first) * factor
        for upper, lower in lines:
            draw.line((*upper, *lower), colour, 2 * SUPERSAMPLE)
        for x, y in lines.reshape(-1, 2):
            radius = 2 * SUPERSAMPLE
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=WHITE, outline=colour)
    return canvas.resize(view.size, Image.Resampling.BOX)


def _draw_dashes(draw: ImageDraw.ImageDraw, line: NDArray[np.float64]) -> None:
    """A line (n, 2) of (column, row), at the supersampled size, in dashes as long as the gaps between them."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    ends = np.linspace(0, along[-1], 1 + 2 * max(2, round(along[-1] / (2 * DASH))))
    for begin, end in zip(ends[0::2], ends[1::2], strict=False):
        at = np.linspace(begin, end, 5)
        dash = np.stack([np.interp(at, along, line[:, axis]) for axis in (0, 1)], axis=1)
        draw.line([(float(x), float(y)) for x, y in dash], ANCHOR_COLOUR, EXPECTED_OUTLINE)


def _outlined(canvas: NDArray[np.uint8], findings: Findings, pictures: Shown, view: View) -> NDArray[np.uint8]:
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
