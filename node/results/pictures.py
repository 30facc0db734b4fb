"""What the capture shows beside the findings: the reformat, what lies on it, and the coronal view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from node.results.context import ResultError
from node.results.reformat import Ruler


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


@dataclass(frozen=True)
class Pictures:
    """Pictures of one answer.

    Attributes
    ----------
    ruler
        The curved mid-sagittal reformat.
    coronal
        The coronal view for the numbering; ``None`` where there is none.
    masks, expected
        uint8 of the shape of ``ruler.hu``: ordinal of the vertebra whose body, or whose expected body, a pixel shows.

    Raises
    ------
    ResultError
        When a map has another shape than the reformat.
    """

    ruler: Ruler
    coronal: Coronal | None = None
    masks: NDArray[np.uint8] | None = None
    expected: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        for name, given in (("masks", self.masks), ("expected bodies", self.expected)):
            if given is not None and given.shape != self.ruler.hu.shape:
                raise ResultError(f"the {name} have the shape {given.shape}, the reformat {self.ruler.hu.shape}")
