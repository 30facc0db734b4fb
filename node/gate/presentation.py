"""Stored values of a radiograph to what a reader sees: bone bright, air dark, 0 to 1 (PS3.3 C.11.1, C.11.2).

Modality LUT or rescale, then VOI LUT or window, then at most one inversion: MONOCHROME1 and the presentation LUT shape
INVERSE are two ways of saying the same thing (C.8.11.3). Whatever of that is malformed is left out, and a picture that
would be one even grey, or black and white with hardly a grey between, is spread over the range of its values instead,
which is said.

All of it depends on a pixel's stored value alone, so it is worked out once for each value that occurs, not for each
pixel: a radiograph has ten million pixels, but at most 65,536 values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from node.gate.values import first_number, integer, item, items, number, numbers, text, texts

Floats = NDArray[np.float32]
CHUNK = 1 << 20
"""Pixels that are converted at a time: beside the image itself, conversions take little memory."""
FIRST_VALUES = (-32768, 65535)
TABLE_BITS = (1, 16)
"""First values mapped, and bits of an entry, that a look-up table can have (C.11.1.1.1)."""

RANGE = (0.5, 99.5)
"""Percentiles of the values between which an image without a usable window is shown."""
SHUTTER_EDGES = (
    "ShutterLeftVerticalEdge",
    "ShutterRightVerticalEdge",
    "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge",
)
SHUTTER = ("ShutterShape", *SHUTTER_EDGES, "CenterOfCircularShutter", "RadiusOfCircularShutter")
SHUTTER_POLYGON = "VerticesOfThePolygonalShutter"
VERTICES = (3, 1000)
"""Corners that a shutter's polygon can have."""
FARTHEST = 1e6
"""Pixels: a shutter's circle or corner farther away, or a larger circle, is taken for this."""
LEAST_OPEN = 0.15
"""A display shutter that leaves a smaller share of the image is not believed."""
EVEN = 0.02
"""An image whose values, but for 1 % at each end, lie closer together shows nothing."""
GREY = (1 / 256, 255 / 256)
"""What is shown below is black, above it white, on any screen."""
FILL, BORDERS = 0.05, 2
"""A stored value of a larger share of the pixels fills a border or is the detector's own limit, which has nothing to
show; so many of them do though a window shows them grey."""
LEAST_GREY = 0.05
"""A window that leaves a smaller share of the other pixels neither black nor white was not chosen by a person. A hard
one shows half of the exposed field in greys, and the smallest field takes 15 % of an image."""
LEAST_VARIED = 0.01
"""Where the other pixels are a smaller share of all, a window is not judged by them."""


@dataclass(frozen=True)
class _Values:
    """Every stored value between the smallest and the largest, and how many pixels have it."""

    stored: NDArray[np.int64]
    pixels: NDArray[np.int64]

    def percentiles(self, shown: Floats, which: tuple[float, float]) -> tuple[float, float]:
        """Of what the pixels show, where ``shown`` is that of each value."""
        order = np.argsort(shown, kind="stable")
        below = np.cumsum(self.pixels[order])
        at = np.searchsorted(below, np.array(which) / 100 * below[-1])
        low, high = shown[order][np.minimum(at, len(order) - 1)]
        return float(low), float(high)


@dataclass(frozen=True, eq=False)
class Presentation:
    """A radiograph as it is shown.

    Attributes
    ----------
    pixels
        (rows, columns), 0 to 1; pixels that are padding, or behind a display shutter, are 0.
    window_overruled
        Whether the header's window or VOI LUT shows almost nothing, so that the range of the values is shown instead.
    """

    pixels: Floats
    window_overruled: bool = False


def as_read(stored: NDArray[np.integer], dataset: Dataset, *, for_processing: bool = False) -> Presentation:
    """The image as it is shown.

    An image for processing has no presentation: it is the detector's signal, made logarithmic where it is linear and
    turned so that less radiation is brighter, as far as its header tells.
    """
    outside, opened = padding(stored, dataset), shutter(stored.shape, dataset)
    if opened is not None:
        outside = ~opened if outside is None else outside | ~opened
    first, last = int(stored.min()), int(stored.max())
    pixels = np.zeros(last - first + 1, np.int64)
    for rows in _chunks(stored.shape):
        index = stored[rows].astype(np.int32) - first
        pixels += np.bincount((index if outside is None else index[~outside[rows]]).ravel(), minlength=len(pixels))
    values = _Values(np.arange(first, last + 1), pixels)
    overruled = False
    if for_processing:
        shown = _for_processing(values, dataset)
    else:
        shown, overruled = _presented(values, dataset, stored.dtype)
    shown = shown.astype(np.float32)
    image = np.empty(stored.shape, np.float32)
    for rows in _chunks(stored.shape):
        image[rows] = shown[stored[rows].astype(np.int32) - first]
    if outside is not None:
        image[outside] = 0
    return Presentation(image, overruled)


def _chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of rows that hold about `CHUNK` pixels each."""
    step = max(1, CHUNK // max(1, shape[1]))
    for begin in range(0, shape[0], step):
        yield slice(begin, begin + step)


def _presented(values: _Values, dataset: Dataset, kind: np.dtype[np.integer]) -> tuple[Floats, bool]:
    """What is shown of each value, and whether a window was overruled for it."""
    shown, overruled = _windowed(_modality(values.stored, dataset, kind), values, dataset)
    return (1 - shown if is_inverted(dataset) else shown), overruled


def _for_processing(values: _Values, dataset: Dataset) -> Floats:
    """C.8.11.3.1.2: linear in the intensity, or its logarithm; the sign says whether large values mean more of it."""
    signal = values.stored.astype(np.float32)
    if text(dataset, "PixelIntensityRelationship").upper() == "LIN":
        signal = np.log1p(signal - min(float(signal.min()), 0.0))
    shown = _spread(signal, values)
    sign = integer(dataset, "PixelIntensityRelationshipSign")
    turned = sign == 1 if sign in (1, -1) else is_inverted(dataset)
    return 1 - shown if turned else shown


def is_inverted(dataset: Dataset) -> bool:
    """Whether small values are to be shown bright: said by the photometric interpretation or by the LUT shape."""
    return (
        text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1"
        or text(dataset, "PresentationLUTShape").upper() == "INVERSE"
    )


def padding(stored: NDArray[np.integer], dataset: Dataset) -> NDArray[np.bool_] | None:
    """True where a pixel is padding (C.7.5.1.1.2) that reaches the image's border in a straight line, or ``None``.

    Inside the image the same value is a measurement: saturated bone is not outside the collimator.
    """
    limits = [integer(dataset, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    given = [with_sign(v, stored.dtype) for v in limits if v is not None]
    if limits[0] is None or any(v is None for v in given):
        return None
    values = sorted(v for v in given if v is not None)
    mask = (stored >= values[0]) & (stored <= values[-1])
    if not any(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1])) or mask.all():
        return None
    reached = np.zeros_like(mask)
    for axis in (0, 1):
        reached |= np.logical_and.accumulate(mask, axis=axis)
        reached |= np.flip(np.logical_and.accumulate(np.flip(mask, axis), axis=axis), axis)
    return reached


def shutter(shape: tuple[int, ...], dataset: Dataset) -> NDArray[np.bool_] | None:
    """True where a pixel is within the display shutter (C.7.6.11); ``None``: all are.

    Viewers hide what lies beyond it: scatter, lead and letters. Of several shapes what lies within all of them is seen.
    Edges and corners count rows and columns from 1, and pixels on them are seen. What is malformed is left out, and all
    of it where it would hide nearly everything.
    """
    shapes = {value.upper() for value in texts(dataset, "ShutterShape")}
    if not shapes:
        return None
    edges = [number(dataset, keyword) for keyword in SHUTTER_EDGES]
    circle = (*(numbers(dataset, "CenterOfCircularShutter", 2) or ()), number(dataset, "RadiusOfCircularShutter"))
    corners = _corners(dataset)
    opened = np.ones((shape[0], shape[1]), bool)
    rows, columns = np.arange(1.0, shape[0] + 1)[:, None], np.arange(1.0, shape[1] + 1)
    if "RECTANGULAR" in shapes and None not in edges:
        left, right, upper, lower = np.array(edges, np.float64)
        opened &= (rows >= upper) & (rows <= lower)
        opened &= (columns >= left) & (columns <= right)
    if "CIRCULAR" in shapes and len(circle) == 3 and None not in circle:
        row, column, radius = np.clip(np.array(circle, np.float64), -FARTHEST, FARTHEST)
        half = np.sqrt(np.maximum(radius**2 - (rows - row) ** 2, 0))
        opened &= np.abs(rows - row) <= radius
        opened &= (columns >= np.ceil(column - half)) & (columns <= np.floor(column + half))
    if "POLYGONAL" in shapes and corners is not None:
        drawn = Image.new("L", (shape[1], shape[0]))
        ImageDraw.Draw(drawn).polygon([(column - 1, row - 1) for row, column in corners], fill=1)
        opened &= np.asarray(drawn, bool)
    return opened if float(opened.mean()) >= LEAST_OPEN and not opened.all() else None


def _corners(dataset: Dataset) -> list[tuple[float, float]] | None:
    """(row, column) of each corner of the polygonal shutter; ``None`` where it has none or they make no polygon."""
    count = len(texts(dataset, SHUTTER_POLYGON))
    given = numbers(dataset, SHUTTER_POLYGON, count)
    if given is None or count % 2 or not VERTICES[0] <= count // 2 <= VERTICES[1]:
        return None
    at = np.clip(np.array(given), -FARTHEST, FARTHEST).tolist()
    return list(zip(at[0::2], at[1::2], strict=True))


def with_sign(value: int, kind: np.dtype[np.integer]) -> int | None:
    """A value as the pixels' type holds it, whichever sign it was read with (US or SS); ``None`` where it cannot."""
    info = np.iinfo(kind)
    span = 1 << info.bits
    return next((v for v in (value, value - span, value + span) if info.min <= v <= info.max), None)


# modality LUT


def _modality(stored: NDArray[np.int64], dataset: Dataset, kind: np.dtype[np.integer]) -> Floats:
    """What stored values of that type mean (C.11.1)."""
    table = _table(item(dataset, "ModalityLUTSequence"), kind)
    if table is not None:
        return table.of(stored)
    slope, intercept = first_number(dataset, "RescaleSlope"), first_number(dataset, "RescaleIntercept")
    if slope is None or intercept is None or not 1e-6 <= abs(slope) <= 1e6 or abs(intercept) > 1e7:
        return stored.astype(np.float32)
    return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


@dataclass(frozen=True)
class _Table:
    """A look-up table: ``entries[0]`` is shown for every value up to ``first``, the last one beyond the end."""

    first: int
    entries: Floats

    def of(self, values: NDArray[np.integer] | Floats) -> Floats:
        """The entries at the values."""
        at = np.clip(np.rint(values).astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[at]


def _table(lut: Dataset, kind: np.dtype[np.integer] | None = None) -> _Table | None:
    """The table of one item (C.11.1.1.1): number of entries, first value mapped, bits; ``None`` where it is not whole.

    Parameters
    ----------
    kind
        Type of the values that are looked up where they are stored ones: the first value mapped has their sign.
    """
    descriptor, data = numbers(lut, "LUTDescriptor", 3), lut.get("LUTData")
    if descriptor is None or data is None or any(v != int(v) for v in descriptor):
        return None
    declared, first, bits = (int(v) for v in descriptor)
    count = declared % 65536 or 65536  # 0 means 65,536; read as SS more than 32,767 are negative
    if (
        not -32768 <= declared <= 65536
        or not FIRST_VALUES[0] <= first <= FIRST_VALUES[1]
        or not TABLE_BITS[0] <= bits <= TABLE_BITS[1]
    ):
        return None
    try:
        if isinstance(data, bytes):
            narrow = bits <= 8 and len(data) < 2 * count
            entries = np.frombuffer(data if narrow else data[: len(data) // 2 * 2], np.uint8 if narrow else "<u2")
        else:
            entries = np.asarray(data, np.int64).reshape(-1) & 0xFFFF
    except (TypeError, ValueError, OverflowError):
        return None
    if not 1 < count <= len(entries):
        return None
    if kind is not None:
        known = with_sign(first, kind)
        if known is None:
            return None
        first = known
    return _Table(first, entries[:count].astype(np.float32))


# VOI LUT and window


def _windowed(meant: Floats, values: _Values, dataset: Dataset) -> tuple[Floats, bool]:
    """What is shown by the first alternative that shows something: table, window, the values' own range.

    Beside it whether there was one before the last, and none of them showed anything of values that differ.
    """
    given = [shown for shown in (_by_table(meant, dataset), _by_window(meant, dataset)) if shown is not None]
    for shown in given:
        low, high = values.percentiles(shown, (1, 99))
        if high - low >= EVEN and not _is_black_and_white(shown, values):
            return shown, False
    return _spread(meant, values), bool(given and np.count_nonzero(values.pixels) > 1)


def _is_black_and_white(shown: Floats, values: _Values) -> bool:
    """Whether hardly a grey is left of pixels whose stored values differ.

    Values that fill much of the image do not count: the two fullest, whatever they are shown as, and others that are
    shown black or white.
    """
    pixels, grey = values.pixels, (shown > GREY[0]) & (shown < GREY[1])
    fills = pixels > FILL * pixels.sum()
    left = ~fills | grey
    fullest = np.argsort(pixels, kind="stable")[-BORDERS:]
    left[fullest] = ~fills[fullest]
    varied = pixels[left].sum()
    return bool(varied >= LEAST_VARIED * pixels.sum() and pixels[left & grey].sum() < LEAST_GREY * varied)


def _by_table(values: Floats, dataset: Dataset) -> Floats | None:
    sequence = items(dataset, "VOILUTSequence")
    table = _table(sequence[0]) if sequence else None
    if table is None:
        return None
    low, high = float(table.entries.min()), float(table.entries.max())
    if high <= low:
        return None
    smallest, largest = float(values.min()), float(values.max())
    if table.first > 32767 and smallest < 0:  # read as US where the values are signed
        table = _Table(table.first - 65536, table.entries)
    elif table.first < 0 <= smallest and table.first + 65536 <= largest:  # and the reverse
        table = _Table(table.first + 65536, table.entries)
    return (table.of(values) - np.float32(low)) / np.float32(high - low)


def _by_window(values: Floats, dataset: Dataset) -> Floats | None:
    """C.11.2.1.2 (LINEAR) and C.11.2.1.3 (LINEAR_EXACT, SIGMOID); an unknown function is LINEAR."""
    centre, width = first_number(dataset, "WindowCenter"), first_number(dataset, "WindowWidth")
    function = text(dataset, "VOILUTFunction").upper()
    if centre is None or width is None or width <= 0 or (width < 1 and function not in ("SIGMOID", "LINEAR_EXACT")):
        return None
    shown: Floats
    if function == "SIGMOID":
        shown = 1 / (1 + np.exp(np.clip(-4 * (values - np.float32(centre)) / np.float32(width), -60, 60)))
    elif function == "LINEAR_EXACT":
        shown = np.clip((values - np.float32(centre)) / np.float32(width) + np.float32(0.5), 0, 1)
    else:
        span = max(width - 1, 1e-3)
        shown = np.clip((values - np.float32(centre - 0.5)) / np.float32(span) + np.float32(0.5), 0, 1)
    return shown


def _spread(meant: Floats, values: _Values) -> Floats:
    low, high = values.percentiles(meant, RANGE)
    if high <= low:
        low, high = float(meant.min()), float(meant.max())
    shown: Floats = np.clip((meant - np.float32(low)) / np.float32(max(high - low, 1e-6)), 0, 1)
    return shown
