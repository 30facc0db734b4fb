"""Reading a series from its files: headers, uncompressed pixels, compressed ones by one process and by all cores.

``python -m tests.benchmarks.reading [--slices 600] [--compressed 300]`` prints these rows alone. Files are in the page
cache; the same work done by pydicom alone, or by one read of the bytes, stands beside ours. Compressed images stand
beside pydicom's own decoding of them, one after the other by its choice of a decoder, which for JPEG 2000 (GDCM) keeps
all cores busy itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import gdcm
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless

from node.gate import GatePolicy, read_headers, volume
from node.gate.assessment import assess
from node.gate.decoding import decoding, processes_for
from node.gate.geometry import Grid
from node.gate.plain import PlainReader
from tests.benchmarks.rows import Row, paired
from tests.dicom import ct_slice

MATRIX = 512
SLICES, COMPRESSED = 600, 300
SYNTAXES = {"JPEG 2000": (JPEG2000Lossless, 1), "JPEG-LS": (JPEGLSLossless, 2), "JPEG lossless": (JPEGLosslessSV1, 2)}
"""With how many times the slices: what is decoded sooner is worth processes only where there is more of it."""
PAIRS = 3


def write(folder: Path, count: int, syntax: str | None = None) -> list[Path]:
    """A series of one body with a little noise, 12 bits stored; compressed ones share their codestream."""
    folder.mkdir()
    row, column = np.mgrid[:MATRIX, :MATRIX]
    body = ((row - 256) / 200) ** 2 + ((column - 256) / 230) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 12, (MATRIX, MATRIX))
    image = np.where(body, 1064 + 60 * np.sin(column / 23) * np.cos(row / 31), 24) + noise
    first = ct_slice(0, size=8)
    first.Rows = first.Columns = MATRIX
    first.BitsStored, first.HighBit = 12, 11
    first.PixelData = np.clip(np.rint(image), 0, 4095).astype("<u2").tobytes()
    if syntax == JPEGLosslessSV1:
        _compress_by_gdcm(first, folder / "first.dcm")
    elif syntax is not None:
        first.compress(syntax, generate_instance_uid=False)
    paths = []
    for number in range(count):
        data_set = ct_slice(number, size=8)
        for keyword in ("Rows", "Columns", "BitsStored", "HighBit", "PixelData"):
            data_set[keyword] = first[keyword]
        data_set.file_meta.TransferSyntaxUID = first.file_meta.TransferSyntaxUID
        paths.append(folder / f"{number:04d}.dcm")
        data_set.save_as(paths[-1], enforce_file_format=True)
    return paths


def _compress_by_gdcm(data_set: Dataset, path: Path) -> None:
    """To JPEG lossless, which pydicom does not write; ``path`` is used for a moment."""
    data_set.save_as(path, enforce_file_format=True)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    if not reader.Read():
        raise RuntimeError("GDCM does not read the slice")
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise RuntimeError("GDCM does not compress the slice")
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    if not writer.Write():
        raise RuntimeError("GDCM does not write the slice")
    compressed = dcmread(path)
    path.unlink()
    data_set.PixelData = compressed.PixelData
    data_set["PixelData"].VR = "OB"
    data_set["PixelData"].is_undefined_length = True
    data_set.file_meta.TransferSyntaxUID = compressed.file_meta.TransferSyntaxUID


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _paired(name: str, ours: Callable[[], object], peer: str, theirs: Callable[[], object]) -> Row:
    return paired(name, "s", lambda: _seconds(ours), peer, lambda: _seconds(theirs), PAIRS)


def _grid(paths: Sequence[Path]) -> Grid:
    found = assess(read_headers(paths).headers, GatePolicy()).grid
    if found is None:
        raise RuntimeError("the series has no grid")
    return found


def _raw(paths: Sequence[Path]) -> None:
    """The last bytes of each file into one array, one after the other: what the machine needs at least."""
    stored = np.empty((len(paths), MATRIX, MATRIX), np.int16)
    for path, image in zip(paths, stored, strict=True):
        descriptor = os.open(path, os.O_RDONLY)
        os.preadv(descriptor, [image], os.fstat(descriptor).st_size - image.nbytes)
        os.close(descriptor)


def _pydicom_alone(work: Callable[[], object]) -> None:
    with mock.patch.object(PlainReader, "read", return_value=None):
        work()


def _decoded(grid: Grid, processes: int) -> None:
    with decoding(processes) as values_of:
        volume._read(grid, values_of, processes)


def _compressed_rows(folder: Path, label: str, syntax: str, count: int) -> list[Row]:
    paths = write(folder, count, syntax)
    packed = _grid(paths)
    processes = processes_for(packed.slices, 0)
    name = f"{count} {label} slices"
    several = f"{name}, processes: {processes}"

    def chosen() -> None:
        _decoded(packed, processes)

    rows = [_paired(several, chosen, "pydicom", lambda: [dcmread(path).pixel_array for path in paths])]
    if processes > 1:
        rows.append(_paired(several, chosen, "one process", lambda: _decoded(packed, 1)))
    shutil.rmtree(folder)
    return rows


def measure(scratch: Path, slices: int = SLICES, compressed: int = COMPRESSED) -> list[Row]:
    """All rows; ratios of times, below 1 where ours is faster."""
    folder = scratch / "reading"
    folder.mkdir()
    paths = write(folder / "plain", slices)
    grid = _grid(paths)
    name = f"{slices} uncompressed slices of {MATRIX} x {MATRIX}"

    def headers() -> object:
        return read_headers(paths)

    def without_digests() -> None:
        with mock.patch.object(volume, "pixel_digest", return_value=""):
            volume._read(grid)

    def with_digests() -> object:
        return volume._read(grid)

    def arrays() -> object:
        return [dcmread(path).pixel_array for path in paths]

    rows = [
        _paired(f"headers of {name}", headers, "pydicom", lambda: _pydicom_alone(headers)),
        _paired(f"pixels of {name} to HU", without_digests, "read", lambda: _raw(paths)),
        _paired("  the same with their SHA-256", with_digests, "pydicom", arrays),
    ]
    shutil.rmtree(folder / "plain")
    for label, (syntax, times) in SYNTAXES.items():
        rows += _compressed_rows(folder / "compressed", label, syntax, times * compressed)
    shutil.rmtree(folder)
    return rows


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slices", type=int, default=SLICES)
    parser.add_argument("--compressed", type=int, default=COMPRESSED)
    chosen = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="spine-bench-"))
    try:
        for row in measure(scratch, chosen.slices, chosen.compressed):
            print(row.line())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
