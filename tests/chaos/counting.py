"""Figures of the fault suite: one JSON line for each test, in the file that ``CHAOS_COUNTS`` names."""

from __future__ import annotations

import json
import os


def count(fault: str, **figures: object) -> None:
    """Append the figures of a test; they are also printed, for whoever runs it alone (``-s``)."""
    line = json.dumps({"fault": fault, **figures})
    print(line)
    if name := os.environ.get("CHAOS_COUNTS"):
        with open(name, "a", encoding="utf-8") as file:  # noqa: PTH123 (appended by several processes, a line each)
            file.write(line + "\n")
