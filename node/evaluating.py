"""The evaluating process: a few studies at once, of which one at a time is analysed (`node.turns`)."""

from __future__ import annotations

import os
import signal
import sys
import warnings

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
    # pydicom's quote what is malformed, and libraries that catch warnings turn them on again for other threads
    warnings.filterwarnings("ignore", category=UserWarning)
    try:
        models, films = pipeline_models(settings), film_pipeline(settings)
    except ModelError as error:  # replaced or damaged while the node runs: studies wait until the file is right again
        log.error("the networks cannot be loaded; no study is analysed", reason=str(error))
        sys.exit(1)
    with Database(dsn, connections=settings.work.studies_at_once + 3) as database:
        workflow = Workflow(settings, database, models, films, out_of_memory=_begin_again)
        run_worker(
            dsn,
            {EVALUATE: workflow.evaluate_study},
            concurrency=settings.work.studies_at_once,
            stalled_after_s=settings.work.stalled_after_s,
            drain_s=settings.work.drain_s,
            name="evaluate",
            give_up=workflow.give_up,
        )


def _begin_again() -> None:
    """End after this study; the supervisor starts the next process, which holds none of this one's memory."""
    log.warning("memory did not suffice: the process ends, and its successor begins with all of it")
    os.kill(os.getpid(), signal.SIGTERM)
