"""The measurements of a radiograph as lines on it: what every number of its reports was measured along.

Points are (column, row) on the image as it was sent, the first pixel's centre being (0.5, 0.5).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.findings import KEYPOINTS, VertebraFinding
from node.results import codes
from node.results.context import ResultError
from node.results.report import HEIGHT_DIGITS, Drawn

RATIO_DIGITS, PERCENT_DIGITS = 3, 1
RING = (0, 2, 4, 5, 3, 1)
"""The six points around the body: superior end plate from front to back, inferior one from back to front."""


def height_ends(vertebra: VertebraFinding) -> NDArray[np.float64]:
    """(3, 2, 2): the heights as (anterior, middle, posterior; superior, inferior; column, row).

    Raises
    ------
    ResultError
        When a point is missing.
    """
    points = vertebra.keypoints_px
    if points is None or set(points) != set(KEYPOINTS):
        raise ResultError(f"{vertebra.name} has not all six points, so no height can be drawn")
    return np.array([points[name] for name in KEYPOINTS], np.float64).reshape(3, 2, 2)


def lines(vertebra: VertebraFinding) -> NDArray[np.float64]:
    """(n, 2, 2): the heights that are told, as `height_ends`; the middle one alone where the front is not sure.

    Raises
    ------
    ResultError
        When a point is missing.
    """
    points = vertebra.keypoints_px
    if vertebra.without_side is None or points is None:
        return height_ends(vertebra)
    return np.array([[points[name] for name in KEYPOINTS[2:4]]], np.float64)


def outline(vertebra: VertebraFinding) -> NDArray[np.float64]:
    """(7, 2): the body as the polygon of its six points, closed."""
    points = height_ends(vertebra).reshape(6, 2)
    return points[[*RING, RING[0]]]


def drawn(vertebra: VertebraFinding, *, short: bool = True) -> list[Drawn]:
    """The numbers of one vertebra: three heights in mm, or over the posterior one; then the compression ratio.

    Millimetres are followed by the two ratios of the vertebra's own heights: last, because viewers write the first
    few beside the lines, and an end vertebra has no compression ratio that would take their place.

    Where the front is not sure there is the middle height alone, and nothing without millimetres.

    The compression ratio compares anterior heights, so that it lies on the anterior line. ``short`` gives the names
    that viewers write beside a line.
    """
    if vertebra.without_side is not None:
        middle = vertebra.without_side.middle_mm
        name = (codes.SHORT_HEIGHTS if short else codes.HEIGHTS)[1]
        return [] if middle is None else [Drawn(name, middle, codes.MILLIMETRE, HEIGHT_DIGITS, lines(vertebra)[0])]
    ends = height_ends(vertebra)
    if vertebra.heights_mm is not None:
        names, unit, digits = codes.SHORT_HEIGHTS if short else codes.HEIGHTS, codes.MILLIMETRE, HEIGHT_DIGITS
        values = vertebra.heights_mm.as_tuple()
    elif vertebra.relative_heights is not None:
        names = codes.SHORT_RELATIVE_HEIGHTS if short else codes.RELATIVE_HEIGHTS
        unit, digits, values = codes.RATIO, RATIO_DIGITS, vertebra.relative_heights.as_tuple()
    else:
        raise ResultError(f"{vertebra.name} has points but no heights, so it cannot stand in the report")
    said = [Drawn(n, v, unit, digits, line) for n, v, line in zip(names, values, ends, strict=True)]
    if vertebra.compression_ratio_percent is not None:
        name = codes.SHORT_COMPRESSION_RATIO if short else codes.COMPRESSION_RATIO
        said.append(Drawn(name, vertebra.compression_ratio_percent, codes.PERCENT, PERCENT_DIGITS, ends[0]))
    if vertebra.heights_mm is not None and vertebra.relative_heights is not None:
        names = codes.SHORT_RELATIVE_HEIGHTS if short else codes.RELATIVE_HEIGHTS
        parts = zip(names[:2], vertebra.relative_heights.as_tuple()[:2], ends[:2], strict=True)
        said += [Drawn(n, v, codes.RATIO, RATIO_DIGITS, line) for n, v, line in parts]
    return said
