"""Answers in a ledger, as the tests of everything that happens after the analysis need them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from node.ledger import answers
from tests.dicom import SERIES, STUDY

ONE_RESULT = answers.ResultRow("capture", "1.2", "1.2.3", "1.2.4", "x.dcm", 1, "aa")


def claim(connection: psycopg.Connection[dict[str, Any]], input_sha256: str = "in") -> answers.Answer | None:
    """The answer of the test study to an input; ``None`` where it has its answer."""
    return answers.claim_answer(connection, STUDY, "ct", SERIES, input_sha256, "conf", "0", per_series=False)


def finish(
    connection: psycopg.Connection[dict[str, Any]],
    claimed: answers.Answer | None,
    rows: Sequence[answers.ResultRow] = (ONE_RESULT,),
) -> list[int]:
    """End a claimed answer as evaluated, sent, without a flag; the ids of its results."""
    assert claimed is not None
    return answers.finish_answer(
        connection,
        claimed,
        rows,
        status="evaluated",
        sent=True,
        flag=False,
        provider="CPUExecutionProvider",
        reason_code=None,
        timings_s={},
    )
