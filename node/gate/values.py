"""Values of a dataset, read permissively: a value that is absent, empty, malformed or not finite is simply not there.

Headers come from strangers. ``float("nan")`` is a legal decimal string, Pixel Spacing may have three values, Rows may
be text. Every reader here returns a clean Python value or ``None`` (or an empty string), and never raises.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

UID_PATTERN = re.compile(r"[0-9]+(\.[0-9]+)*")


_silent: ContextVar[bool] = ContextVar("_silent", default=False)


class _NoQuotations(logging.Filter):
    """Drops what pydicom logs inside :func:`permissive`; everything else of its loggers passes."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _silent.get()


for _name in ("pydicom", "pydicom.pixels.decoders.base"):
    logging.getLogger(_name).addFilter(_NoQuotations())


@contextmanager
def permissive() -> Iterator[None]:
    """Silences pydicom about malformed values: they are expected here, and what it logs and warns quotes them.

    Warnings are silenced for the whole process, from the first thread that enters to the last that leaves.
    """
    token = _silent.set(True)
    _quiet.enter()
    try:
        yield
    finally:
        _quiet.leave()
        _silent.reset(token)


class _Quiet:
    """`warnings.catch_warnings`, which knows nothing of threads, for several of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._former = warnings.catch_warnings()

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._former = warnings.catch_warnings()
                self._former.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._former.__exit__(None, None, None)


_quiet = _Quiet()


def tidy(dataset: Dataset, tags: Iterable[BaseTag] | None = None) -> None:
    """Convert every raw element of a dataset now, or those with these tags; drop those that cannot be converted.

    Later readers of the same dataset then meet neither an exception nor a warning that quotes a value.
    """
    for tag in list(dataset.keys() if tags is None else tags):
        try:
            element = dataset[tag]
            if element.VR == "SQ":
                for item in element.value:
                    tidy(item)
        except Exception:  # whatever a malformed value makes pydicom raise, the element is unusable
            del dataset[tag]


@cache
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


def _value(dataset: Dataset, keyword: str) -> Any:
    """As ``dataset.get(keyword)``, in a third of its time."""
    element = dataset.get(_tag(keyword))
    return None if element is None else element.value


def _values(dataset: Dataset, keyword: str) -> list[Any]:
    value = _value(dataset, keyword)
    if value is None:
        return []
    return list(value) if isinstance(value, (MultiValue, list, tuple)) else [value]


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """All values as stripped text; an absent or empty element gives ()."""
    found = tuple(str(v).strip(" \0\t\r\n") for v in _values(dataset, keyword))
    return found if any(found) else ()


def text(dataset: Dataset, keyword: str) -> str:
    """The element as one stripped line of text, several values joined by a backslash; empty where absent."""
    return "\\".join(texts(dataset, keyword))


def plain(words: str) -> str:
    """Lower case, with one space for whatever stands between words."""
    return re.sub(r"[\s_/\\.,;:+()\[\]^-]+", " ", words).lower()


def uid(dataset: Dataset, keyword: str) -> str:
    """The element if it is a well-formed UID (PS3.5 section 9.1; leading zeros are forgiven), else an empty string.

    What this returns is safe as part of a file name.
    """
    value = text(dataset, keyword)
    return value if is_uid(value) else ""


def is_uid(value: str) -> bool:
    """Whether a text has the form of a UID: digits and dots, at most 64 characters."""
    return len(value) <= 64 and UID_PATTERN.fullmatch(value) is not None


def _finite(value: object) -> float | None:
    if isinstance(value, (bytes, bool)):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]  # anything at all may stand here; that is the point
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def number(dataset: Dataset, keyword: str) -> float | None:
    """The element's only value as a finite number."""
    values = _values(dataset, keyword)
    return _finite(values[0]) if len(values) == 1 else None


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly ``count`` finite numbers, or ``None``."""
    values = [_finite(v) for v in _values(dataset, keyword)]
    clean = tuple(v for v in values if v is not None)
    return clean if len(values) == len(clean) == count else None


def first_number(dataset: Dataset, keyword: str) -> float | None:
    """The element's first value as a finite number, for elements that offer alternatives."""
    values = _values(dataset, keyword)
    return _finite(values[0]) if values else None


def integer(dataset: Dataset, keyword: str) -> int | None:
    """The element's only value as a whole number."""
    value = number(dataset, keyword)
    return int(value) if value is not None and value == int(value) else None


def items(dataset: Dataset | None, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence, or () where it is absent, empty or no sequence."""
    value = _value(dataset, keyword) if dataset is not None else None
    if value is None or isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return ()
    return tuple(item for item in value if isinstance(item, Dataset))


def item(dataset: Dataset | None, keyword: str) -> Dataset:
    """The first item of a sequence, or an empty dataset."""
    found = items(dataset, keyword)
    return found[0] if found else Dataset()
