"""The evaluating process: a few studies at once, of which one at a time is analysed (`node.turns`)."""

from __future__ import annotations

import warnings

from node.answering import film_pipeline, pipeline_models
from node.ledger import Database
from node.queue import EVALUATE, run_worker
from node.settings import Settings
from node.workflow import Workflow


def run(settings: Settings, dsn: str) -> None:
    """Answer studies until told to stop."""
    # pydicom's quote what is malformed, and libraries that catch warnings turn them on again for other threads
    warnings.filterwarnings("ignore", category=UserWarning)
    models = pipeline_models(settings)
    with Database(dsn, connections=settings.work.studies_at_once + 3) as database:
        workflow = Workflow(settings, database, models, film_pipeline(settings))
        run_worker(
            dsn,
            {EVALUATE: workflow.evaluate_study},
            concurrency=settings.work.studies_at_once,
            stalled_after_s=settings.work.stalled_after_s,
            drain_s=settings.work.drain_s,
            name="evaluate",
        )
