"""Compressed images decoded by several processes, where that pays: decoders hold Python's lock, so threads do not help.

Each process is another Python that decodes one image after the other (:mod:`node.gate.decoder`), by one thread, with
the same code and the same limits as without it. One that dies, by a signal or for want of memory, is the end of the
work that it had, and an error there. They live as long as the series is read that they were started for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from node.gate.codestream import JPEG_2000, is_compressed
from node.gate.decoder import request
from node.gate.geometry import Slice
from node.gate.headers import InstanceHeader
from node.gate.parallel import MOST_THREADS
from node.gate.pixels import PixelError, stored_values

COMMAND = (sys.executable, "-c", "from node.gate.decoder import main; main()")
START_S = 0.6
"""Of one process, most of it numpy's, pydicom's and the decoders' (measured)."""
JPEG_2000_NS, JPEG_NS, DEFLATED_NS, RLE_NS = 40.0, 22.0, 10.0, 3.5
"""Of decoding one pixel of a CT, as far as several processes can share it out (measured with GDCM, pyjpegls and GDCM,
zlib, pylibjpeg-rle). JPEG 2000 takes 160 ns, but one process has the threads of GDCM for it: it gains what these leave
to one core, and what the decoder with one thread takes less."""
LONGEST_LINE = 4096

StoredValues = Callable[[InstanceHeader, Sequence[int | None], NDArray[np.int16] | None], Iterator[NDArray[np.integer]]]
"""As :func:`node.gate.pixels.stored_values`."""
_one_series_at_a_time = threading.Lock()
"""More processes than cores gain nothing, whoever starts them."""


class DecoderDiedError(RuntimeError):
    """A process that decoded images ended: it was killed, by the system for its memory or by what an image held."""


def processes_for(slices: Sequence[Slice], most: int) -> int:
    """How many processes should decode these images; 1: this one.

    Parameters
    ----------
    most
        As many at most; 0: as many as there are cores, up to `MOST_THREADS`.
    """
    number = most or min(len(os.sched_getaffinity(0)), MOST_THREADS)
    seconds = sum(_seconds(part) for part in slices)
    return number if number > 1 and seconds * (1 - 1 / number) > 2 * START_S else 1


def _seconds(part: Slice) -> float:
    """Estimated time of decoding one image, as far as it can be shared out."""
    return (part.image.rows or 0) * (part.image.columns or 0) * _nanoseconds(part.header.transfer_syntax_uid) * 1e-9


def _nanoseconds(syntax: str) -> float:
    """Of decoding one pixel, as far as it can be shared out; 0: there is nothing to decode."""
    if syntax == DeflatedExplicitVRLittleEndian:
        return DEFLATED_NS
    if not is_compressed(syntax):
        return 0.0
    return JPEG_2000_NS if syntax in JPEG_2000 else RLE_NS if syntax == RLELossless else JPEG_NS


@contextmanager
def decoding(processes: int) -> Iterator[StoredValues]:
    """Gives what reads images as :func:`node.gate.pixels.stored_values` does, in as many processes as threads call it.

    It raises :class:`DecoderDiedError`, too. One series at a time is read in this way; others wait.
    """
    if processes == 1:
        yield stored_values
        return
    with _one_series_at_a_time:
        pool = _Decoders()
        try:
            yield pool.stored_values
        finally:
            pool.close()


class _Decoders:
    """Started as they are asked for, at most one for each thread that asks."""

    def __init__(self) -> None:
        self._idle: SimpleQueue[_Decoder] = SimpleQueue()
        self._died: DecoderDiedError | None = None

    def stored_values(
        self, header: InstanceHeader, frames: Sequence[int | None], into: NDArray[np.int16] | None = None
    ) -> Iterator[NDArray[np.integer]]:
        if not _nanoseconds(header.transfer_syntax_uid):
            yield from stored_values(header, frames, into)
            return
        if self._died is not None:  # the series is lost: no others for the images that are left
            raise self._died
        try:
            decoder = self._idle.get_nowait()
        except Empty:
            decoder = _Decoder()
        try:
            yield from decoder.stored_values(header, frames, into)
        except DecoderDiedError as error:
            self._died = error
            raise
        finally:
            if decoder.at_rest:
                self._idle.put(decoder)
            else:
                decoder.end()

    def close(self) -> None:
        with suppress(Empty):
            while True:
                self._idle.get_nowait().end()


class _Decoder:
    """One process, asked by one thread at a time.

    Attributes
    ----------
    at_rest
        Whether its last answer is complete, so that it can be asked again.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.at_rest = True

    def stored_values(
        self, header: InstanceHeader, frames: Sequence[int | None], into: NDArray[np.int16] | None
    ) -> Iterator[NDArray[np.integer]]:
        process = self._process
        assert process.stdin is not None
        self.at_rest = False
        try:
            process.stdin.write(request(header, list(frames)))
            process.stdin.flush()
        except BrokenPipeError:
            raise DecoderDiedError(self._how_it_ended()) from None
        for left in reversed(range(len(frames))):
            said = self._said()
            if "dtype" not in said:
                break
            array = self._array(said, header, into)
            self.at_rest = not left
            yield array
        else:
            return
        self.at_rest = True
        failed = said.get("failed")
        if failed == "file":
            raise OSError(said["errno"], said["message"], str(header.path))
        if failed == "memory":
            raise MemoryError
        if failed is not None:
            raise PixelError(said["message"])

    def _said(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline(LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise DecoderDiedError(self._how_it_ended())
        said: dict[str, Any] = json.loads(line)
        return said

    def _array(
        self, said: dict[str, Any], header: InstanceHeader, into: NDArray[np.int16] | None
    ) -> NDArray[np.integer]:
        assert self._process.stdout is not None
        dtype = np.dtype(said["dtype"])
        rows, columns = said["shape"]
        shape: tuple[int, ...] = rows, columns
        if shape != (header.images[0].rows, header.images[0].columns):
            raise PixelError("The decoded image has another size than the header says")
        array: NDArray[np.integer] = np.empty(shape, dtype)
        if into is not None and into.shape == shape and into.itemsize == dtype.itemsize:
            array = into.view(dtype)
        content = array.data.cast("B")
        while content:
            got = self._process.stdout.readinto(content)  # type: ignore[attr-defined]  # a BufferedReader
            if not got:
                raise DecoderDiedError(self._how_it_ended())
            content = content[got:]
        return array

    def _how_it_ended(self) -> str:
        self._process.kill()  # it closed its end: nothing sensible comes any more
        return f"a process that decodes images ended with {self._process.wait()}"

    def end(self) -> None:
        """Let it end, or kill it in the middle of an answer."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        if not self.at_rest:
            process.kill()
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        process.wait()
