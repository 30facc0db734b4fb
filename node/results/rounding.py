"""How a number that is judged by a cut-off is printed: never as if it had crossed one that it did not cross.

Digits are cut off towards normal: a loss and a score down, a ratio G up. With cut-offs of no more digits than are
printed, what is printed then lies on the same side of each as the number itself: a G of .8004 is "0.81" and a loss of
.2499 is "24 %".
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal


def loss_cut(loss: float, digits: int) -> float:
    """A loss of height, or a score, cut off after ``digits`` decimals; rounded below zero, where no cut-off is."""
    return _cut(loss, digits, ROUND_FLOOR) if loss > 0 else round(float(loss), digits)


def ratio_cut(ratio: float, digits: int) -> float:
    """A ratio G rounded up to ``digits`` decimals."""
    return _cut(ratio, digits, ROUND_CEILING)


def _cut(value: float, digits: int, towards: str) -> float:
    """In decimal digits as they would be written: .29 is not .28999."""
    return float(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), rounding=towards))
