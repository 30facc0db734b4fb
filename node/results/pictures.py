"""What the capture draws on and beside: an image of the anatomy with what lies on it, and the coronal view of a CT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from inference.findings import VertebraFinding
from node.results.context import ResultError
from node.results.reformat import Ruler
from node.results.report import height_lines

Floats = NDArray[np.float64]

WINDOW = (250.0, 1000.0)
"""Centre and width in HU: narrower than the reformat's, a picture cannot be windowed by its reader."""


class Marks(NamedTuple):
    """Letters at the four sides of an image: where the patient's front, back, head and feet are."""

    left: str
    right: str
    above: str
    below: str


class Coronal(Protocol):
    """What is needed of ``inference.reformat.CoronalPicture``.

    ``hu`` is int16 (rows head to feet, columns from the patient's right to the left), ``spacing_mm`` the side of its
    square pixels; ``to_pixel`` maps LPS mm (..., 3) to (column, row), the first pixel's centre being (0.5, 0.5).
    """

    @property
    def hu(self) -> NDArray[np.int16]: ...

    @property
    def spacing_mm(self) -> float: ...

    def to_pixel(self, points_lps_mm: NDArray[np.floating[Any]]) -> NDArray[np.float64]: ...


class Shown(Protocol):
    """An image of the anatomy with square pixels, and where the findings lie on it.

    Points are (column, row), the first pixel's centre being (0.5, 0.5). ``spacing_mm`` is ``None`` where the size of a
    pixel is not known; ``pixels_per_mm`` says it roughly even then, for margins. ``masks`` and ``expected`` are of the
    shape of the image: ordinal of the vertebra whose body, or whose expected body, a pixel shows. ``anchor`` (n, 2) is
    the closed outline of what levels were counted from, where it lies on the image.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def spacing_mm(self) -> float | None: ...

    @property
    def pixels_per_mm(self) -> float: ...

    @property
    def marks(self) -> Marks: ...

    @property
    def coronal(self) -> Coronal | None: ...

    @property
    def masks(self) -> NDArray[np.uint8] | None: ...

    @property
    def expected(self) -> NDArray[np.uint8] | None: ...

    @property
    def anchor(self) -> Floats | None: ...

    def grey(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """A part of the image as it is shown."""

    def centres(self, vertebrae: Sequence[VertebraFinding]) -> Floats:
        """(n, 2): centres of the bodies."""

    def heights(self, vertebra: VertebraFinding) -> Floats:
        """(3, 2, 2): the lines of the heights as (anterior, middle, posterior; superior, inferior; column, row)."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of one answer to a CT.

    Attributes
    ----------
    ruler
        The curved mid-sagittal reformat.
    coronal
        The coronal view for the numbering; ``None`` where there is none.
    masks, expected
        uint8 of the shape of ``ruler.hu``: ordinal of the vertebra whose body, or whose expected body, a pixel shows.
    anchor
        The coronal view shows it better.

    Raises
    ------
    ResultError
        When a map has another shape than the reformat.
    """

    ruler: Ruler
    coronal: Coronal | None = None
    masks: NDArray[np.uint8] | None = None
    expected: NDArray[np.uint8] | None = None
    anchor: None = None

    def __post_init__(self) -> None:
        for name, given in (("masks", self.masks), ("expected bodies", self.expected)):
            if given is not None and given.shape != self.ruler.hu.shape:
                raise ResultError(f"the {name} have the shape {given.shape}, the reformat {self.ruler.hu.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the reformat."""
        rows, columns = self.ruler.hu.shape
        return rows, columns

    @property
    def spacing_mm(self) -> float:
        """Side of the reformat's square pixels."""
        return self.ruler.spacing_mm

    @property
    def pixels_per_mm(self) -> float:
        """Of the reformat."""
        return 1 / self.ruler.spacing_mm

    @property
    def marks(self) -> Marks:
        """The reformat is always shown from the patient's left, head up."""
        return Marks("A", "P", "H", "F")

    def grey(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """A part of the reformat in the capture's window."""
        return windowed(self.ruler.hu[rows, columns])

    def centres(self, vertebrae: Sequence[VertebraFinding]) -> Floats:
        """(n, 2) as (column, row) on the reformat."""
        points = np.array([v.centroid_lps_mm for v in vertebrae], np.float64).reshape(-1, 3)
        return self.ruler.to_pixel(points)

    def heights(self, vertebra: VertebraFinding) -> Floats:
        """(3, 2, 2) on the reformat."""
        return self.ruler.to_pixel(height_lines(vertebra))


def windowed(hu: NDArray[np.int16]) -> NDArray[np.uint8]:
    """HU to grey by `WINDOW` (linear, PS3.3 C.11.2.1.2)."""
    centre, width = WINDOW
    grey = (hu.astype(np.float32) - (centre - 0.5 - (width - 1) / 2)) / (width - 1)
    return np.asarray(np.clip(grey, 0, 1) * 255 + 0.5, np.uint8)
