"""Stored pixel values of one instance, decoded and cleaned of what does not belong to them (PS3.5 section 8).

Uncompressed data, the bulk of what scanners send, are taken from the file as they are; everything else goes through
pydicom's decoders, but for 12-bit JPEG (Extended), which pydicom has no decoder for and GDCM reads. Values are masked
to Bits Stored (older objects keep overlays in the bits above) and sign-extended, because scanners that store 12
signed bits leave the upper ones unset.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import gdcm
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from node.gate.codestream import JPEG_2000, coded_size, is_compressed, too_long_for_rle
from node.gate.headers import InstanceHeader
from node.gate.values import integer, permissive, text

NATIVE_LITTLE_ENDIAN = frozenset(
    {str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian), str(DeflatedExplicitVRLittleEndian)}
)
ALLOCATED = (8, 16)
"""Bits Allocated of the images that are read. Eight bits cannot hold Hounsfield units: radiographs only."""
WIDE = 16
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG_EXTENDED = str(JPEGExtended12Bit)
ALWAYS_LOSSY = frozenset({str(JPEGBaseline8Bit), JPEG_EXTENDED, str(JPEGLSNearLossless)})
PERHAPS_LOSSY = frozenset({str(JPEG2000), "1.2.840.10008.1.2.4.203"})
"""JPEG 2000 and HTJ2K: lossy unless the header says otherwise."""

_FASTEST = dict.fromkeys((str(JPEGLSLossless), str(JPEGLSNearLossless)), "pyjpegls")
"""pydicom's name of the decoder that is asked first; it would ask GDCM, which takes a quarter longer (measured)."""
_FASTEST_ALONE = _FASTEST | dict.fromkeys(JPEG_2000, "pylibjpeg")
"""Where every core has a process that decodes. GDCM decodes JPEG 2000 by as many threads as there are cores: right for
one image, and a fifth more work in all, on cores that are busy then."""

_PIXEL_ELEMENT = {
    str(ImplicitVRLittleEndian): (b"\xe0\x7f\x10\x00",),
    str(ExplicitVRLittleEndian): (b"\xe0\x7f\x10\x00OW\0\0", b"\xe0\x7f\x10\x00OB\0\0"),
}
"""Pixel Data (7FE0,0010) up to its length, by transfer syntax."""
_PIXEL_TAGS: list[str] = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
]


class PixelError(Exception):
    """The pixel data of an instance cannot be decoded. The message says why, without anything of their content."""


def is_lossy(header: InstanceHeader) -> bool:
    """Whether the pixels were ever compressed with loss (C.7.6.1.1.5), as far as header and transfer syntax say."""
    declared = text(header.dataset, "LossyImageCompression")
    syntax = header.transfer_syntax_uid
    return declared == "01" or syntax in ALWAYS_LOSSY or (syntax in PERHAPS_LOSSY and declared != "00")


def stored_values(
    header: InstanceHeader,
    frames: Sequence[int | None],
    into: NDArray[np.int16] | None = None,
    *,
    one_thread: bool = False,
) -> Iterator[NDArray[np.integer]]:
    """Stored values of some images of one instance, each (rows, columns), int16 or uint16; of 8-bit ones int8 or uint8.

    Parameters
    ----------
    frames
        Frame numbers counted from 1, or ``(None,)`` for a single-frame instance.
    into
        Contiguous (rows, columns) where the values of a single image may be put, whatever their sign: what is yielded
        is then perhaps a view of it.
    one_thread
        Other cores have images of their own to decode: the values are the same.

    Raises
    ------
    PixelError
        Truncated, corrupt, or in a syntax or layout that cannot be decoded: permanent.
    OSError
        The file itself cannot be read: may pass.
    MemoryError
        The machine has not enough memory for the decoded image: may pass.
    """
    arrays = _arrays(header, frames, into, _FASTEST_ALONE if one_thread else _FASTEST)
    while True:
        try:
            with permissive():
                array = next(arrays, None)
                values = None if array is None else _clean(array, header.dataset)
        except (PixelError, MemoryError):  # sizes were held against limits before: the machine is too small
            raise
        except OSError as error:
            if error.errno is not None:  # the file or its disk, not its content (Pillow's have no number)
                raise
            raise PixelError("Decoding failed (OSError)") from error
        except Exception as error:  # decoders are foreign code with exceptions of their own; the kind is reported
            raise PixelError(f"Decoding failed ({type(error).__name__})") from error
        if values is None:
            return
        yield values


def _arrays(
    header: InstanceHeader,
    frames: Sequence[int | None],
    into: NDArray[np.int16] | None,
    first: Mapping[str, str],
) -> Iterator[NDArray[np.integer]]:
    indices = [f - 1 for f in frames if f is not None]
    if not indices:
        at_end = _at_end(header, into)
        yield _single(header, first) if at_end is None else at_end
        return
    if is_compressed(header.transfer_syntax_uid):
        _check_frames(dcmread(header.path, force=True, specific_tags=list(_PIXEL_TAGS)), header, indices)
    if _is_wide_jpeg(header):
        decoded = _by_gdcm(header)
        yield from (decoded[index] for index in indices)
    else:
        yield from _decoded(header.path, header, indices, first)


def _decoded(
    source: Path | Dataset, header: InstanceHeader, indices: Sequence[int], first: Mapping[str, str]
) -> Iterator[NDArray[np.integer]]:
    """Images by the decoder that is to be asked ``first`` in their syntax, and where it fails by any that can."""
    syntax = header.transfer_syntax_uid
    plugin = first.get(syntax)
    done = 0
    if plugin is not None and plugin in get_decoder(syntax).available_plugins:
        with suppress(Exception):
            for array in iter_pixels(source, indices=indices, raw=True, decoding_plugin=plugin):
                yield array
                done += 1
    if done < len(indices):
        yield from iter_pixels(source, indices=indices[done:], raw=True)


def _extended_offsets(dataset: FileDataset) -> tuple[bytes, bytes] | None:
    if "ExtendedOffsetTable" not in dataset or "ExtendedOffsetTableLengths" not in dataset:
        return None
    return dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths


def _is_wide_jpeg(header: InstanceHeader) -> bool:
    return header.transfer_syntax_uid == JPEG_EXTENDED and integer(header.dataset, "BitsAllocated") == WIDE


def _single(header: InstanceHeader, first: Mapping[str, str]) -> NDArray[np.integer]:
    dataset: FileDataset = dcmread(header.path, force=True, specific_tags=list(_PIXEL_TAGS))
    rows, columns = integer(header.dataset, "Rows") or 0, integer(header.dataset, "Columns") or 0
    if "PixelData" not in dataset:
        raise PixelError("The instance has no pixel data")
    big = header.transfer_syntax_uid == BIG_ENDIAN or dataset.original_encoding[1] is False
    native = header.transfer_syntax_uid in NATIVE_LITTLE_ENDIAN or header.transfer_syntax_uid in ("", BIG_ENDIAN)
    allocated = integer(header.dataset, "BitsAllocated")
    if native and (allocated == WIDE or (allocated == 8 and not big)):
        data = dataset["PixelData"].value
        kind: np.dtype[np.integer] = np.dtype("u1" if allocated == 8 else ">u2" if big else "<u2")
        wanted = rows * columns * kind.itemsize
        if len(data) < wanted:
            raise PixelError(f"{len(data)} of {wanted} bytes of pixel data are there")
        return np.frombuffer(data, kind, rows * columns).reshape(rows, columns)
    _check_frames(dataset, header, [0])
    if _is_wide_jpeg(header):
        array: NDArray[np.integer] = _by_gdcm(header)[0]
    else:
        array = next(_decoded(dataset, header, [0], first))
    if array.shape != (rows, columns):
        raise PixelError("The decoded image has another size than the header says")
    return array


def _at_end(header: InstanceHeader, into: NDArray[np.int16] | None = None) -> NDArray[np.uint16] | None:
    """Uncompressed 16-bit pixels where nothing follows them, read from their place without parsing what is before.

    ``None`` where the last bytes of the file are no such Pixel Data of the size that the header says: then they are
    looked for.
    """
    rows, columns = integer(header.dataset, "Rows") or 0, integer(header.dataset, "Columns") or 0
    element = _PIXEL_ELEMENT.get(header.transfer_syntax_uid)
    wanted = rows * columns * 2
    if element is None or not 0 < wanted < 2**31 or integer(header.dataset, "BitsAllocated") != WIDE:
        return None
    expected = tuple(start + wanted.to_bytes(4, "little") for start in element)
    before = max(map(len, expected))
    descriptor = os.open(header.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        start = os.fstat(descriptor).st_size - wanted
        if start <= before or not os.pread(descriptor, before, start - before).endswith(expected):
            return None
        if into is None or into.shape != (rows, columns):
            into = np.empty((rows, columns), np.int16)
        content = into.data.cast("B")
        while content:
            got = os.preadv(descriptor, [content], start)
            if not got:
                return None
            content, start = content[got:], start + got
    finally:
        os.close(descriptor)
    return into.view("<u2")


def _check_frames(dataset: FileDataset, header: InstanceHeader, indices: Sequence[int]) -> None:
    """That compressed frames have the size of the header, before a decoder allocates what they ask for.

    Raises
    ------
    PixelError
        When one has another size, or states none.
    """
    if not is_compressed(header.transfer_syntax_uid):
        return
    rows, columns = integer(header.dataset, "Rows") or 0, integer(header.dataset, "Columns") or 0
    samples = integer(header.dataset, "SamplesPerPixel") or 1
    depth = (integer(header.dataset, "BitsAllocated") or 0) // 8
    rle = header.transfer_syntax_uid == RLELossless
    for index in indices:
        try:
            frame = get_frame(
                dataset.PixelData,
                index,
                number_of_frames=integer(header.dataset, "NumberOfFrames") or 1,
                extended_offsets=_extended_offsets(dataset),
            )
        except (ValueError, EOFError, struct.error) as error:
            raise PixelError("The compressed pixel data are malformed") from error
        coded = coded_size(frame, header.transfer_syntax_uid)
        if coded is None:
            raise PixelError("The compressed image does not state its size")
        same = (coded.rows, coded.columns) in ((rows, columns), (None, None))
        if coded.components != samples * (depth if rle else 1) or not same:
            raise PixelError("The compressed image has another size than the header says")
        if rle and too_long_for_rle(len(frame), rows * columns * samples * depth):
            raise PixelError("The compressed image is longer than its pixels")


def _by_gdcm(header: InstanceHeader) -> NDArray[np.uint16]:
    """All frames (frames, rows, columns) of an instance that GDCM reads, 16 bits allocated."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(header.path))
    if not reader.Read():
        raise PixelError("GDCM cannot decode this JPEG")
    image = reader.GetImage()
    if image.GetPixelFormat().GetPixelSize() != 2:
        raise PixelError("Only 16 bits per pixel are read")
    # the binding gives the bytes as text, each undecodable one as a surrogate
    data = image.GetBuffer().encode("utf-8", "surrogateescape")
    rows, columns = integer(header.dataset, "Rows") or 0, integer(header.dataset, "Columns") or 0
    return np.frombuffer(data, "<u2").reshape(-1, rows, columns)


def _clean(array: NDArray[np.integer], dataset: Dataset) -> NDArray[np.integer]:
    """Only the stored bits, with their sign."""
    allocated = integer(dataset, "BitsAllocated")
    if allocated not in ALLOCATED or array.dtype.itemsize * 8 != allocated:
        raise PixelError("Only 8 or 16 bits per pixel are read")
    stored = integer(dataset, "BitsStored") or allocated
    if not 1 <= stored <= allocated:
        raise PixelError("Bits Stored is larger than Bits Allocated")
    high = integer(dataset, "HighBit")
    unused, unused_above = allocated - stored, allocated - 1 - (high if high is not None else stored - 1)
    if not 0 <= unused_above <= unused:
        raise PixelError("High Bit lies outside the allocated bits")
    signed = integer(dataset, "PixelRepresentation") == 1
    kind = np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")
    bits = array.astype(array.dtype.newbyteorder("="), copy=False).view(kind)
    if not unused or (not signed and unused_above == unused and not bits.max() >> stored):
        return bits
    moved: NDArray[np.integer] = np.left_shift(bits, unused_above, out=bits if bits.flags.writeable else None)
    np.right_shift(moved, unused, out=moved)
    return moved
