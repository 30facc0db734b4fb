"""A worker like the node's, with a toy for the networks that kills the whole process at one kind of radiograph.

``python -m tests.chaos.deadly_worker`` takes the same order over standard input as ``python -m node.role evaluate``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable

from inference.geometry import Radiograph
from inference.runtime import CPU, Models
from node.ledger import Database
from node.queue import EVALUATE, run_worker
from node.results import FilmAnswer
from node.settings import Settings
from node.workflow import Workflow
from tests.toy_film_pipeline import bodies_of, toy_film_pipeline

DEADLY_ROWS = 104


def main() -> None:
    """Work until SIGTERM."""
    order = json.loads(sys.stdin.readline())
    settings = Settings.model_validate(order["settings"])

    def deadly(film: Radiograph, age_years: float | None, progress: Callable[[str], None] | None) -> FilmAnswer:
        """What the machine does to a process that takes too much memory: where it can, beside a neighbour."""
        if film.pixels.shape[0] == DEADLY_ROWS:
            turns = workflow._turns
            with turns._changed:
                turns._changed.wait_for(lambda: turns._alone or turns._in_work == settings.work.studies_at_once, 30)
            while not turns._alone and _begun(database) < settings.work.studies_at_once:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
        return bodies_of(film, age_years, progress)

    with Database(order["dsn"]) as database:
        workflow = Workflow(settings, database, Models({}, (), CPU), toy_film_pipeline(deadly))
        run_worker(
            order["dsn"],
            {EVALUATE: workflow.evaluate_study},
            concurrency=settings.work.studies_at_once,
            stalled_after_s=settings.work.stalled_after_s,
            drain_s=settings.work.drain_s,
            name="evaluate",
        )


def _begun(database: Database) -> int:
    """Studies of which an evaluation has begun."""
    with database.transaction() as connection:
        row = connection.execute("SELECT count(*) AS n FROM study WHERE attempts > 0").fetchone()
    return 0 if row is None else int(row["n"])


if __name__ == "__main__":
    main()
