"""One series to a volume in Hounsfield units on its own grid, or to the reason why it is not evaluable.

Only the images of the chosen block are decoded, one after the other into one array: int16, or float32 where a rescale
slope or intercept is no whole number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from inference.findings import Acquisition, Quality
from inference.geometry import Volume
from inference.refusal import Refusal, RefusalCode
from node.gate.acquisition import acquisition
from node.gate.assessment import Assessment, assess
from node.gate.decoding import StoredValues, decoding, processes_for
from node.gate.geometry import Grid, Slice
from node.gate.headers import InstanceHeader
from node.gate.identity import input_sha256, pixel_digest
from node.gate.parallel import in_parallel
from node.gate.pixels import PixelError, is_lossy, stored_values
from node.gate.policy import GatePolicy
from node.gate.presentation import with_sign
from node.gate.values import integer

AIR_HU = -1024
TISSUE_HU = (-900.0, 3_000.0)
"""A padding value inside this range cannot be told from a measurement and is ignored."""


@dataclass(frozen=True)
class SliceReference:
    """The image behind one slice of a volume: what a result refers to. ``frame`` counts from 1."""

    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None


@dataclass(frozen=True, eq=False)
class LoadedSeries:
    """A series ready for a pipeline.

    Attributes
    ----------
    volume
        HU on the source grid, slices sorted along their normal; sheared where the gantry was tilted.
    datasets
        Headers without pixels in the volume's slice order; of a multi-frame series each instance once, in the order
        in which the volume first meets it.
    references
        One per slice of the volume.
    quality
        SPLIT_SERIES, TILT_CORRECTED, LOSSY_SOURCE.
    input_sha256
        Identity of the input (`node.gate.identity`).
    age_years
        ``None`` where unknown.
    acquisition
        Tube voltage, contrast agent, kernel.
    instances
        Number of instances that the volume rests on.
    """

    volume: Volume
    datasets: tuple[Dataset, ...]
    references: tuple[SliceReference, ...]
    quality: tuple[Quality, ...]
    input_sha256: str
    spine_expected: bool
    age_years: float | None
    spacing_along_normal_mm: float
    acquisition: Acquisition = field(default_factory=Acquisition)

    @property
    def instances(self) -> int:
        """Number of instances that the volume rests on."""
        return len(self.datasets)


@dataclass(frozen=True, eq=False)
class Unevaluable:
    """A series that cannot be evaluated, with what an answer that says so needs.

    Attributes
    ----------
    datasets
        Headers of the candidate images (of all instances where none is one), sorted by SOP instance UID.
    input_sha256
        Over the headers of the same images; pixels are not part of it.
    """

    refusal: Refusal
    datasets: tuple[Dataset, ...]
    input_sha256: str
    spine_expected: bool
    age_years: float | None


def load_volume(headers: Sequence[InstanceHeader], policy: GatePolicy) -> LoadedSeries | Unevaluable:
    """Load the instances of one series.

    Whatever the files hold, the answer is a volume or a refusal. Patient and study are not judged here:
    :func:`node.gate.choice.choose` does that, over all series of the study.

    Raises
    ------
    OSError
        A file cannot be read (gone, disk or network failing). That may pass and says nothing about the patient's
        images, so it is never turned into an answer.
    DecoderDiedError
        A process that decoded images died.
    """
    found = assess(headers, policy)
    if found.refusal is not None or found.grid is None:
        return _unevaluable(found, found.refusal or Refusal(RefusalCode.NOT_AN_IMAGE))
    try:
        processes = processes_for(found.grid.slices, policy.decoding_processes)
        with decoding(processes) as values_of:
            volume, digests = _read(found.grid, values_of, processes)
        _compare_repeated(found)
    except PixelError as error:
        return _unevaluable(
            found, Refusal(RefusalCode.PIXELS_UNREADABLE, f"({str(error)[:1].upper()}{str(error)[1:]}.)")
        )
    except _DifferentContentError:
        detail = "(Two different images carry the same SOP Instance UID.)"
        return _unevaluable(found, Refusal(RefusalCode.DUPLICATE_POSITIONS, detail))
    slices = found.grid.slices
    lossy = any(is_lossy(p.header) for p in slices)
    return LoadedSeries(
        volume=volume,
        datasets=_datasets(slices),
        references=tuple(
            SliceReference(p.header.sop_class_uid, p.header.sop_instance_uid, p.image.frame) for p in slices
        ),
        quality=(*found.grid.quality, *([Quality.LOSSY_SOURCE] if lossy else [])),
        input_sha256=input_sha256(slices, digests),
        spine_expected=found.spine_expected,
        age_years=found.age_years,
        spacing_along_normal_mm=found.grid.spacing_along_normal_mm,
        acquisition=acquisition(slices, policy),
    )


class _DifferentContentError(Exception):
    """One SOP instance UID names two different images."""


def _datasets(slices: Sequence[Slice]) -> tuple[Dataset, ...]:
    """Each instance's header once, in order of first appearance."""
    return tuple({p.header.sop_instance_uid: p.header.dataset for p in slices}.values())


def _unevaluable(found: Assessment, refusal: Refusal) -> Unevaluable:
    headers = sorted(found.headers, key=lambda h: (h.sop_instance_uid, str(h.path)))
    parts = found.candidates or tuple(Slice(h, image) for h in headers for image in h.images)
    datasets = _datasets(parts) or tuple(h.dataset for h in headers)
    return Unevaluable(refusal, datasets, input_sha256(parts, {}), found.spine_expected, found.age_years)


def _by_instance(slices: Sequence[Slice]) -> list[tuple[InstanceHeader, list[int]]]:
    """Instances with the indices of the slices that they hold, frames in ascending order."""
    places: dict[str, list[int]] = defaultdict(list)
    for index, part in enumerate(slices):
        places[part.header.sop_instance_uid].append(index)
    for indices in places.values():
        indices.sort(key=lambda i: slices[i].image.frame or 0)
    return [(slices[indices[0]].header, indices) for indices in places.values()]


def _parts(slices: Sequence[Slice], processes: int) -> Iterator[tuple[InstanceHeader, list[int]]]:
    """As `_by_instance`, with the frames of one instance shared out where several processes decode them."""
    for header, indices in _by_instance(slices):
        step = len(indices) if processes == 1 else max(1, len(indices) // (2 * processes))
        for start in range(0, len(indices), step):
            yield header, indices[start : start + step]


def _read(
    grid: Grid, values_of: StoredValues = stored_values, processes: int = 1
) -> tuple[Volume, dict[tuple[str, int], str]]:
    """Decode a grid's images into one volume; also the digest of each image by :attr:`Slice.name`."""
    slices = grid.slices
    rows, columns = slices[0].image.rows or 0, slices[0].image.columns or 0
    whole = all(float(v).is_integer() for p in slices for v in (p.image.slope or 0.0, p.image.intercept or 0.0))
    shape = (len(slices), rows, columns)
    hu: NDArray[np.int16] | NDArray[np.float32]
    hu = np.empty(shape, np.int16) if whole else np.empty(shape, np.float32)
    padding: NDArray[np.bool_] | None = None
    digests: dict[tuple[str, int], str] = {}
    outside: dict[int, NDArray[np.bool_]] = {}

    def read(header: InstanceHeader, indices: list[int]) -> None:
        done = 0
        into = hu[indices[0]] if hu.dtype == np.int16 and len(indices) == 1 else None
        for index, stored in zip(
            indices, values_of(header, [slices[i].image.frame for i in indices], into), strict=False
        ):
            if stored.shape != (rows, columns):
                raise PixelError("The decoded image has another size than the header says")
            digests[slices[index].name] = pixel_digest(stored)
            padded = _padding(stored, slices[index])
            _rescale(stored, slices[index], hu[index])  # perhaps the same memory: what is stored is gone then
            if padded is not None and padded.any():
                outside[index] = padded
                hu[index][padded] = AIR_HU
            done += 1
        if done != len(indices):
            raise PixelError(f"{done} of {len(indices)} frames could be decoded")

    in_parallel(read, _parts(slices, processes), processes if processes > 1 else None)
    if outside:
        padding = np.zeros(hu.shape, np.bool_)
        for index, padded in outside.items():
            padding[index] = padded
    frame_of_reference = slices[0].header.frame_of_reference_uid
    return Volume(hu, grid.affine, frame_of_reference, padding), digests


def _rescale(stored: NDArray[np.integer], part: Slice, out: NDArray[np.int16] | NDArray[np.float32]) -> None:
    """Stored values to HU in place (C.11.1.1.2); what int16 cannot hold is cut off at its ends."""
    slope, intercept = part.image.slope or 0.0, part.image.intercept or 0.0
    fits = any(
        -32768 <= v * slope + intercept <= 32767 and -32768 <= w * slope + intercept <= 32767
        for v, w in _limits(stored, integer(part.header.dataset, "BitsStored"))
    )
    if out.dtype == np.int16 and fits and slope == 1:
        # modulo 65,536, so exact where the sum fits; three times as fast as by way of 32 bits
        np.add(stored.view(np.int16), np.int64(intercept).astype(np.int16), out=out)
    elif out.dtype == np.int16:
        values = stored.astype(np.int32) * int(slope) + int(intercept)
        out[...] = np.clip(values, -32768, 32767, out=values)
    else:
        out[...] = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _limits(stored: NDArray[np.integer], bits: int | None) -> Iterator[tuple[float, float]]:
    """Values between which all others lie: those that so many bits hold, then, looked at, the lowest and highest."""
    bits = bits or 8 * stored.itemsize
    signed = stored.dtype.kind == "i"
    yield -(2.0 ** (bits - 1)) * signed, 2.0 ** (bits - signed) - 1
    yield float(stored.min()), float(stored.max())


def _padding(stored: NDArray[np.integer], part: Slice) -> NDArray[np.bool_] | None:
    """True where a pixel is padding (C.7.5.1.1.2), or ``None``.

    The padding value may have been read with the wrong sign (its VR is US or SS); it is brought to the sign of the
    pixels. Values in the range of tissue are ignored: taken at its word, a padding of 0 HU would punch holes in water.
    """
    dataset = part.header.dataset
    limits = [integer(dataset, "PixelPaddingValue"), integer(dataset, "PixelPaddingRangeLimit")]
    given = [with_sign(v, stored.dtype) for v in limits if v is not None]
    if limits[0] is None or any(v is None for v in given):
        return None
    values = sorted(v for v in given if v is not None)
    slope, intercept = part.image.slope or 0.0, part.image.intercept or 0.0
    low, high = sorted(v * slope + intercept for v in (values[0], values[-1]))
    if low <= TISSUE_HU[1] and high >= TISSUE_HU[0]:
        return None
    return (stored >= values[0]) & (stored <= values[-1])


def _compare_repeated(found: Assessment) -> None:
    """Instances that came twice must be the same image both times (C.12.1: a SOP instance UID names one object).

    Raises
    ------
    _DifferentContentError
        Where geometry, identifiers or pixels differ.
    """
    firsts = {p.header.sop_instance_uid: p.header for p in found.grid.slices} if found.grid is not None else {}
    for header in found.repeated:
        first = firsts.get(header.sop_instance_uid)
        if first is not None and _content(first) != _content(header):
            raise _DifferentContentError


def _content(header: InstanceHeader) -> str:
    parts = [Slice(header, image) for image in header.images]
    frames = [image.frame for image in header.images]
    digests = {p.name: pixel_digest(v) for p, v in zip(parts, stored_values(header, frames), strict=True)}
    return input_sha256(parts, digests)
