"""What a destination's answer means (PS3.4 B.2.3, PS3.7 C): delivered, try again, unclear, or act.

::

    answer ─┬─ 0x0000, 0xB000, 0xB006, 0xB007, 0x0111 ──────────▶ STORED
            ├─ no association, no answer, 0xA700..0xA7FF ───────▶ PASSING   retried for days
            ├─ 0x0110, 0xC000..0xCFFF, anything unknown ────────▶ UNCLEAR   a few tries, then parked
            └─ 0x0122, 0x0124, 0xA900..0xA9FF, no context ──────▶ PERMANENT parked at once: a person must act
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How delivery goes on."""

    STORED = "stored"
    PASSING = "passing"
    UNCLEAR = "unclear"
    PERMANENT = "permanent"


@dataclass(frozen=True)
class Reply:
    """A destination's answer to one C-STORE, or why there was none.

    ``status_code`` is the DIMSE status, ``None`` without an answer. ``sentence`` is for a person.
    """

    verdict: Verdict
    sentence: str | None
    status_code: int | None = None


_SINGLE = {
    0x0000: (Verdict.STORED, None),
    0xB000: (Verdict.STORED, "stored; the destination coerced data elements (0xB000)"),
    0xB006: (Verdict.STORED, "stored; the destination discarded elements (0xB006)"),
    0xB007: (Verdict.STORED, "stored; the data set does not match the SOP class, says the destination (0xB007)"),
    0x0111: (Verdict.STORED, "the destination has an object of this UID already (0x0111): "
                             "whether it is ours, only the destination's `commitment` can tell"),
    0x0110: (Verdict.UNCLEAR, "processing failure at the destination (0x0110): see its log"),
    0x0122: (Verdict.PERMANENT, "the destination does not support this SOP class (0x0122): allow it there, "
                                "or leave this kind out of the destination's `kinds`"),
    0x0124: (Verdict.PERMANENT, "the destination does not authorise this node (0x0124): register our AE title there"),
}  # fmt: skip

_RANGES = (
    (0xA700, 0xA7FF, Verdict.PASSING, "the destination is out of resources"),
    (0xA900, 0xA9FF, Verdict.PERMANENT, "the destination says that the data set does not match its SOP class"),
    (0xC000, 0xCFFF, Verdict.UNCLEAR, "the destination could not process the object: see its log"),
)


def classify(status_code: int) -> Reply:
    """The meaning of a DIMSE status of C-STORE."""
    if status_code in _SINGLE:
        verdict, sentence = _SINGLE[status_code]
        return Reply(verdict, sentence, status_code)
    for first, last, verdict, sentence in _RANGES:
        if first <= status_code <= last:
            return Reply(verdict, f"{sentence} (0x{status_code:04X})", status_code)
    return Reply(Verdict.UNCLEAR, f"the destination answered an unknown status (0x{status_code:04X})", status_code)
