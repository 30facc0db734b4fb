"""A radiograph as the capture shows it: as it was sent, neither turned nor mirrored, with square pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.findings import Findings, VertebraFinding
from inference.geometry import Radiograph
from node.results.context import ResultError
from node.results.film_lines import height_ends, lines
from node.results.pictures import Floats, Marks
from node.results.wording import measured, told

BODY_MM = 25.0
"""Posterior height of a vertebral body, roughly: it says how wide margins are where pixels have no known size."""
SQUARE = 1e-3
"""Pixels whose aspect differs less from 1 are square."""
CLEARLY = 0.5
"""Cosine of an angle above which a direction belongs to a side of the image."""
OPPOSITE = {"A": "P", "P": "A", "H": "F", "F": "H"}


@dataclass(frozen=True)
class FilmPicture:
    """See `node.results.pictures.Shown`. ``stretch`` is (column, row) of the picture per pixel of the radiograph."""

    image: NDArray[np.uint8]
    stretch: NDArray[np.float64]
    spacing_mm: float | None
    pixels_per_mm: float
    marks: Marks
    masks: NDArray[np.uint8] | None
    anchor: Floats | None = None
    coronal: None = None
    expected: None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the picture."""
        rows, columns = self.image.shape
        return rows, columns

    def grey(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """A part of the film as a reader sees it."""
        return self.image[rows, columns]

    def centres(self, vertebrae: Sequence[VertebraFinding]) -> Floats:
        """(n, 2) as (column, row) on the picture."""
        points = np.array([v.centroid_px for v in vertebrae], np.float64).reshape(-1, 2)
        return np.asarray(points * self.stretch, np.float64)

    def heights(self, vertebra: VertebraFinding) -> Floats:
        """(n, 2, 2) on the picture: of the three heights, or of the middle one alone where the front is not sure."""
        return np.asarray(lines(vertebra) * self.stretch, np.float64)


def film_picture(
    film: Radiograph, findings: Findings, labels: NDArray[np.uint8] | None, sacrum_px: Floats | None = None
) -> FilmPicture:
    """The film with what was found on it; S1 only where levels were counted from it.

    Raises
    ------
    ResultError
        When the labels have another shape than the film.
    """
    if labels is not None and labels.shape != film.pixels.shape:
        raise ResultError(f"the labels have the shape {labels.shape}, the radiograph {film.pixels.shape}")
    height, width = film.pixel_mm
    side = min(height, width)
    stretch = np.array([width / side, height / side])
    if np.abs(stretch - 1).max() < SQUARE:
        stretch = np.ones(2)
    rows, columns = film.pixels.shape
    size = (max(1, round(columns * float(stretch[0]))), max(1, round(rows * float(stretch[1]))))
    stretch = np.array(size) / (columns, rows)
    image = _resized(_grey(film.pixels), size, Image.Resampling.BICUBIC)
    spacing_mm = None if film.spacing_mm is None else side
    counted = findings.numbering is not None and findings.numbering.known
    return FilmPicture(
        image=image,
        stretch=stretch,
        spacing_mm=spacing_mm,
        pixels_per_mm=1 / spacing_mm if spacing_mm is not None else _roughly(findings, stretch, size),
        marks=marks(film, findings),
        masks=None if labels is None else _resized(labels, size, Image.Resampling.NEAREST),
        anchor=sacrum_px * stretch if counted and sacrum_px is not None else None,
    )


def _grey(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """0 to 1 as 0 to 255, row by row: a film may have 40 million pixels."""
    grey = np.empty(pixels.shape, np.uint8)
    for row, shades in zip(grey, pixels, strict=True):
        row[:] = shades * np.float32(255) + np.float32(0.5)
    return grey


def _resized(image: NDArray[np.uint8], size: tuple[int, int], how: Image.Resampling) -> NDArray[np.uint8]:
    if image.shape == size[::-1]:
        return image
    return np.asarray(Image.fromarray(image).resize(size, how), np.uint8)


def _roughly(findings: Findings, stretch: NDArray[np.float64], size: tuple[int, int]) -> float:
    """Pixels per mm, from how high the bodies are; where none was measured the film is taken to be 400 mm high."""
    heights = [lines(v)[-1] * stretch for v in told(findings)]
    if not heights:
        return size[1] / 400
    return float(np.median([np.linalg.norm(upper - lower) for upper, lower in heights])) / BODY_MM


def marks(film: Radiograph, findings: Findings) -> Marks:
    """Where front, back, head and feet are: by the points that were measured, else as the header says, else unsaid.

    Where the front is not sure only head and feet are said.
    """
    ends = [height_ends(v) for v in measured(findings)]
    if ends:
        points = np.array(ends)
        to_front = (points[:, 0] - points[:, 2]).mean(axis=(0, 1))
        to_head = (points[:, :, 0] - points[:, :, 1]).mean(axis=(0, 1))
        directions = {"A": to_front, "P": -to_front, "H": to_head, "F": -to_head}
    elif upright := [lines(v)[0] for v in told(findings)]:
        to_head = np.mean([upper - lower for upper, lower in upright], axis=0)
        directions = {"H": to_head, "F": -to_head}
    else:
        directions = _by_header(film.orientation)
    left, right, above, below = (
        _nearest(np.array(side, np.float64), directions) for side in ((-1, 0), (1, 0), (0, -1), (0, 1))
    )
    return Marks(left, right, above, below)


def _by_header(orientation: tuple[str, str] | None) -> dict[str, NDArray[np.float64]]:
    said: dict[str, NDArray[np.float64]] = {}
    for letters, axis in zip(orientation or (), np.eye(2), strict=False):
        if letters[0] in OPPOSITE:
            said[letters[0]] = axis
            said[OPPOSITE[letters[0]]] = -axis
    return said


def _nearest(side: NDArray[np.float64], directions: dict[str, NDArray[np.float64]]) -> str:
    cosines = {m: float(side @ d) / max(float(np.linalg.norm(d)), 1e-9) for m, d in directions.items()}
    best = max(cosines, key=lambda mark: cosines[mark], default="")
    return best if best and cosines[best] > CLEARLY else ""
