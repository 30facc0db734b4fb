"""The evaluating process: one study at a time, because the networks use all cores."""

from __future__ import annotations

import os
import signal
import sys

import structlog

from inference.runtime import ModelError
from node.answering import film_pipeline, pipeline_models
from node.ledger import Database
from node.queue import EVALUATE, run_worker
from node.settings import Settings
from node.workflow import Workflow

log = structlog.get_logger(__name__)


def run(settings: Settings, dsn: str) -> None:
    """Answer studies until told to stop; without its networks it ends at once, and is started again."""
    try:
        models, films = pipeline_models(settings), film_pipeline(settings)
    except ModelError as error:  # replaced or damaged while the node runs: studies wait until the file is right again
        log.error("the networks cannot be loaded; no study is analysed", reason=str(error))
        sys.exit(1)
    with Database(dsn) as database:
        workflow = Workflow(settings, database, models, films, out_of_memory=_begin_again)
        run_worker(
            dsn,
            {EVALUATE: workflow.evaluate_study},
            concurrency=1,
            stalled_after_s=settings.work.stalled_after_s,
            drain_s=settings.work.drain_s,
            name="evaluate",
        )


def _begin_again() -> None:
    """End after this study; the supervisor starts the next process, which holds none of this one's memory."""
    log.warning("memory did not suffice: the process ends, and its successor begins with all of it")
    os.kill(os.getpid(), signal.SIGTERM)
