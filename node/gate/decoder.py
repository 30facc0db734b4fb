"""A process that decodes compressed images for another one (:mod:`node.gate.decoding`).

Requests come as lines of JSON on the standard input, and the process ends when that does. Each image is answered with a
line that says its type and shape, and its stored values behind it; where fewer come than were asked for, a line says
why.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom.dataset import Dataset

from node.gate.headers import InstanceHeader
from node.gate.pixels import PixelError, stored_values
from node.gate.values import integer

CODING = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
"""All of a header that decoding asks for: whole numbers, nothing about a patient."""


def request(header: InstanceHeader, frames: list[int | None]) -> bytes:
    """The line that asks for images of one instance (frames as for :func:`node.gate.pixels.stored_values`)."""
    coding = {keyword: integer(header.dataset, keyword) for keyword in CODING}
    asked = {"path": str(header.path), "syntax": header.transfer_syntax_uid, "frames": frames, "coding": coding}
    return json.dumps(asked).encode("ascii") + b"\n"


def _header(asked: dict[str, Any]) -> InstanceHeader:
    dataset = Dataset()
    for keyword, value in asked["coding"].items():
        if value is not None:
            setattr(dataset, keyword, value)
    return InstanceHeader(Path(asked["path"]), dataset, "", "", "", "", asked["syntax"], "", "", ())


def answer(asked: dict[str, Any], replies: BinaryIO) -> None:
    """Decode what is asked for; what goes wrong is told, with the kind that it would have had in the asking process."""

    def tell(**words: object) -> None:
        replies.write(json.dumps(words).encode("ascii") + b"\n")

    told = 0
    try:
        for values in stored_values(_header(asked), asked["frames"], one_thread=True):
            told += 1
            tell(dtype=values.dtype.str, shape=values.shape)
            replies.write(np.ascontiguousarray(values).data)
    except PixelError as error:
        tell(failed="pixels", message=str(error))
    except MemoryError:
        tell(failed="memory")
    except OSError as error:
        tell(failed="file", errno=error.errno, message=error.strerror)
    else:
        if told < len(asked["frames"]):
            tell(failed=None)
    replies.flush()


def main() -> None:
    """Answer until there are no more requests."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the asking process may want to finish: it says when it is over
        signal.signal(number, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print must not talk in between
    with os.fdopen(0, "rb") as requests:
        for line in requests:
            answer(json.loads(line), replies)
