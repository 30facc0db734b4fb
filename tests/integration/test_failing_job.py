"""A job that fails is told of in the log, without whose it is, and leaves nothing behind in the queue."""

from __future__ import annotations

import subprocess
import sys

from node.ledger import Database
from node.queue import Queue, forget_ended
from tests.conftest import REPOSITORY
from tests.dicom import STUDY

WORKER = """
import os, signal, sys
from node.logs import configure_logs
from node.queue import EVALUATE, run_worker

def fail(study_uid):
    os.kill(os.getpid(), signal.SIGTERM)
    raise KeyError(study_uid)

configure_logs()
run_worker(sys.argv[1], {EVALUATE: fail}, concurrency=1, stalled_after_s=30, drain_s=30, name="evaluate")
"""


def jobs(database: Database) -> list[str]:
    """The state of each job of the queue."""
    with database.transaction() as connection:
        return [row["status"] for row in connection.execute("SELECT status FROM procrastinate_jobs ORDER BY id")]


def test_the_log_says_that_a_job_failed_and_of_which_task_and_names_no_study(database: Database) -> None:
    with database.transaction() as connection:
        Queue(database.dsn).wake_evaluation(connection, STUDY, 0.0)
    done = subprocess.run(
        [sys.executable, "-c", WORKER, database.dsn],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    assert "ERROR procrastinate.worker job_error: task evaluate, job 1" in done.stderr
    assert "KeyError" in done.stderr
    assert STUDY not in done.stderr + done.stdout
    assert jobs(database) == [], "the ledger wakes the study again"


def test_jobs_that_a_former_program_left_behind_go_a_portion_at_a_time(database: Database) -> None:
    queue = Queue(database.dsn)
    with database.transaction() as connection:
        for number, status in enumerate(("failed", "aborted", "succeeded", "doing", "todo")):
            queue.wake_evaluation(connection, f"1.2.{number}", 0.0)
            key = f"study:1.2.{number}"
            connection.execute("UPDATE procrastinate_jobs SET status = %s WHERE lock = %s", (status, key))
        assert forget_ended(connection, 2) == 2
        assert forget_ended(connection, 2) == 1
    assert jobs(database) == ["doing", "todo"]
