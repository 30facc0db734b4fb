"""Reconstruction kernels: how sharp is a vendor's name for one?

Convolution Kernel (0018,1210) is free text. The tables say what the vendors' manuals call soft tissue kernels (0),
kernels in between (1) and lung, bone or edge kernels (2). An unknown name counts as in between: it is then preferred
to a kernel known to be sharp, and gives way to one known to be soft.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

SOFT, BETWEEN, SHARP = 0, 1, 2


@dataclass(frozen=True)
class KernelRule:
    """One row: regular expressions of the manufacturer (searched) and of a whole kernel name, and its rank."""

    manufacturer: str
    kernel: str
    rank: int


KERNEL_RULES: tuple[KernelRule, ...] = (
    # letters, then a number that grows with sharpness, then speed or version letters: B31f, Br38f, I26f, Hr40, Qr44
    KernelRule("siemens", r"bl\d{2}[a-z]*", SHARP),
    KernelRule("siemens", r"[a-z]{1,2}([0-3]\d|4[0-4])[a-z]*", SOFT),
    KernelRule("siemens", r"[a-z]{1,2}4[5-9][a-z]*", BETWEEN),
    KernelRule("siemens", r"[a-z]{1,2}[5-9]\d[a-z]*", SHARP),
    KernelRule(r"\bge\b", r"(hd ?)?(soft|standard|stnd)(plus)?", SOFT),
    KernelRule(r"\bge\b", r"(hd ?)?(detail|chest)", BETWEEN),
    KernelRule(r"\bge\b", r"(hd ?)?(lung|bone ?(plus|pl)?|edge|ultra)", SHARP),
    # FC01 to FC29 body and head, FC30 to FC39 and FC80s bone, FC50s lung; FL for low dose
    KernelRule("toshiba|canon", r"f[cl][0124]\d", SOFT),
    KernelRule("toshiba|canon", r"f[cl][35-9]\d", SHARP),
    # a letter that grows with sharpness, with a prefix for the reconstruction: A, B, UB, YA, IB
    KernelRule("philips", r"[a-z]?[ab]", SOFT),
    KernelRule("philips", r"[a-z]?c", BETWEEN),
    KernelRule("philips", r"[a-z]?[defl]", SHARP),
    # words, whoever writes them: B_SHARP_C, LUNG, Body Soft
    KernelRule("", r".*(sharp|bone|lung|edge|hi-?res|hoch).*", SHARP),
    KernelRule("", r".*(soft|smooth|stand|weich).*", SOFT),
)


def known_sharpness(kernel: Iterable[str], manufacturer: str, rules: Iterable[KernelRule] = KERNEL_RULES) -> int | None:
    """Rank of a kernel: 0 soft, 1 between, 2 sharp; ``None`` where no rule knows it.

    Parameters
    ----------
    kernel
        Values of Convolution Kernel; some vendors add a strength as a second value (``Br38f\\3``). The first value
        that a rule knows decides.
    manufacturer
        Manufacturer (0008,0070) of the scanner.
    """
    table = [
        (re.compile(rule.kernel, re.IGNORECASE), rule.rank)
        for rule in rules
        if re.search(rule.manufacturer, manufacturer, re.IGNORECASE)
    ]
    for value in kernel:
        for pattern, rank in table:
            if pattern.fullmatch(value.strip()):
                return rank
    return None


def sharpness(kernel: Iterable[str], manufacturer: str, rules: Iterable[KernelRule] = KERNEL_RULES) -> int:
    """As `known_sharpness`, but an unknown kernel counts as in between."""
    rank = known_sharpness(kernel, manufacturer, rules)
    return BETWEEN if rank is None else rank
