"""Stored values of a radiograph to what a reader sees: bone bright, air dark, 0 to 1 (PS3.3 C.11.1, C.11.2).

Modality LUT or rescale, then VOI LUT or window, then at most one inversion: MONOCHROME1 and the presentation LUT shape
INVERSE are two ways of saying the same thing (C.8.11.3). Whatever of that is malformed is left out, and a picture that
would be one even grey is spread over the range of its values instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

from node.gate.values import first_number, integer, item, items, numbers, text

Floats = NDArray[np.float32]

RANGE = (0.5, 99.5)
"""Percentiles of the values between which an image without a usable window is shown."""
EVEN = 0.02
"""An image whose values, but for 1 % at each end, lie closer together shows nothing."""
SAMPLES = 1_000_000
"""Pixels from which percentiles are taken."""


def as_read(stored: NDArray[np.integer], dataset: Dataset, *, for_processing: bool = False) -> Floats:
    """The image (rows, columns) as it is shown, 0 to 1; pixels that are padding are 0.

    An image for processing has no presentation: it is the detector's signal, made logarithmic where it is linear and
    turned so that less radiation is brighter, as far as its header tells.
    """
    outside = padding(stored, dataset)
    inside = None if outside is None else ~outside
    values = _modality(stored, dataset)
    if for_processing:
        shown = _spread(_logarithmic(values, dataset), inside)
        inverted = _signal_is_bright_where_dark(dataset)
    else:
        shown = _windowed(values, dataset, inside)
        inverted = is_inverted(dataset)
    if inverted:
        shown = 1 - shown
    if outside is not None:
        shown[outside] = 0
    return np.ascontiguousarray(shown, np.float32)


def is_inverted(dataset: Dataset) -> bool:
    """Whether small values are to be shown bright: said by the photometric interpretation or by the LUT shape."""
    return (
        text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1"
        or text(dataset, "PresentationLUTShape").upper() == "INVERSE"
    )


def padding(stored: NDArray[np.integer], dataset: Dataset) -> NDArray[np.bool_] | None:
    """True where a pixel is padding (C.7.5.1.1.2) that reaches the image's border, or ``None``.

    Inside the image the same value is a measurement: saturated bone is not outside the collimator.
    """
    limits = [integer(dataset, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    given = [with_sign(v, stored.dtype) for v in limits if v is not None]
    if limits[0] is None or any(v is None for v in given):
        return None
    values = sorted(v for v in given if v is not None)
    mask = (stored >= values[0]) & (stored <= values[-1])
    pieces, count = ndimage.label(mask)
    if not count:
        return None
    border = np.zeros(count + 1, np.bool_)
    for edge in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        border[edge] = True
    border[0] = False
    found: NDArray[np.bool_] = border[pieces]
    return found if found.any() and not found.all() else None


def with_sign(value: int, kind: np.dtype[np.integer]) -> int | None:
    """A value as the pixels' type holds it, whichever sign it was read with (US or SS); ``None`` where it cannot."""
    info = np.iinfo(kind)
    span = 1 << info.bits
    return next((v for v in (value, value - span, value + span) if info.min <= v <= info.max), None)


# modality LUT


def _modality(stored: NDArray[np.integer], dataset: Dataset) -> Floats:
    table = _table(item(dataset, "ModalityLUTSequence"), stored.dtype)
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
    if descriptor is None or data is None:
        return None
    count, first, bits = int(descriptor[0]) % 65536 or 65536, int(descriptor[1]), int(descriptor[2])
    if isinstance(data, bytes):
        narrow = bits <= 8 and len(data) < 2 * count
        entries = np.frombuffer(data[: len(data) // 2 * 2], np.uint8 if narrow else "<u2")
    else:
        try:
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


def _windowed(values: Floats, dataset: Dataset, inside: NDArray[np.bool_] | None) -> Floats:
    """The values by the first alternative that shows something: table, window, their own range."""
    for shown in (_by_table(values, dataset), _by_window(values, dataset)):
        if shown is not None and _shows_something(shown, inside):
            return shown
    return _spread(values, inside)


def _by_table(values: Floats, dataset: Dataset) -> Floats | None:
    sequence = items(dataset, "VOILUTSequence")
    table = _table(sequence[0]) if sequence else None
    if table is None:
        return None
    low, high = float(table.entries.min()), float(table.entries.max())
    if high <= low:
        return None
    if table.first > 32767 and float(values.min()) < 0:  # read as US where the values are signed
        table = _Table(table.first - 65536, table.entries)
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


def _spread(values: Floats, inside: NDArray[np.bool_] | None) -> Floats:
    low, high = np.percentile(_sample(values, inside), RANGE)
    if high <= low:
        low, high = float(values.min()), float(values.max())
    shown: Floats = np.clip((values - np.float32(low)) / np.float32(max(high - low, 1e-6)), 0, 1)
    return shown


def _shows_something(shown: Floats, inside: NDArray[np.bool_] | None) -> bool:
    low, high = np.percentile(_sample(shown, inside), (1, 99))
    return bool(high - low >= EVEN)


def _sample(values: Floats, inside: NDArray[np.bool_] | None) -> Floats:
    """Enough of the values, evenly taken, to know their percentiles."""
    flat = values.ravel() if inside is None else values[inside]
    return flat[:: max(1, flat.size // SAMPLES)]


# images for processing (C.8.11.3.1.2)


def _logarithmic(values: Floats, dataset: Dataset) -> Floats:
    if text(dataset, "PixelIntensityRelationship").upper() != "LIN":
        return values
    logarithms: Floats = np.log1p(values - min(float(values.min()), 0.0))
    return logarithms


def _signal_is_bright_where_dark(dataset: Dataset) -> bool:
    """Whether values have to be turned for bone to be bright: large ones mean more radiation."""
    sign = integer(dataset, "PixelIntensityRelationshipSign")
    return sign == 1 if sign in (1, -1) else is_inverted(dataset)
