"""Turns *stored* into *confirmed*: a destination accepted an object; here it has to prove that it keeps it.

::

    stored ─┬─ commitment: none ──────────────────────────────▶ stored, and never more
            ├─ storage_commitment ─ N-ACTION ─┬─ committed ───▶ confirmed
            │                                 ├─ not committed ▶ sent again, at most so often, then parked
            │                                 └─ no report ───▶ asked again after each pause, then by query
            └─ find ─ C-FIND ─┬─ there ───────────────────────▶ confirmed
                              └─ not there ▶ asked again after the first pause, then sent again, then parked
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from node.deliver import commitment, query
from node.deliver.association import NothingAcceptedError, UnreachableError
from node.deliver.commitment import RefusedError
from node.deliver.peer import Peer
from node.deliver.query import QueryRefusedError
from node.deliver.reports import ReportDesk
from node.ledger import Database, intake, outdated, proofs
from node.ledger.proofs import Next
from node.queue import AWAY
from node.settings import Destination, Settings

log = structlog.get_logger(__name__)

LOOKS_BEFORE_SENDING_AGAIN = 2
"""An archive may take a while from accepting an object to listing it."""
NO_SUCH_OBJECT = 0x0112
"""What a query that does not find an object is counted as (PS3.3 C.14.1.1)."""


class Prover:
    """Asks destinations for proofs that are due."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._desk = ReportDesk(settings.deliver, database)
        self._rules = proofs.Rules(settings.deliver.report_patience_s, settings.deliver.most_resent)

    def prove(self, answer_id: int, target: Destination) -> None:
        """Ask for the proofs that are due of an answer's results at a destination."""
        with self._database.transaction() as connection:
            if target.commitment == "none":  # it was another one when the object was stored
                proofs.ask_no_more(
                    connection, answer_id, target.name, "never confirmed: the destination proves nothing"
                )
                return
            rows = proofs.due(connection, answer_id, target.name)
        by_query = [row for row in rows if target.commitment == "find" or self._is_past_patience(row)]
        by_commitment = [row for row in rows if row not in by_query]
        if by_commitment:
            self._ask(by_commitment, lambda: self._ask_for_commitment(by_commitment, answer_id, target))
        if by_query:
            self._ask(by_query, lambda: self._ask_by_query(by_query, target))

    def _ask(self, rows: list[dict[str, Any]], ask: Callable[[], None]) -> None:
        """Ask; an error of ours, or of what the peer's bytes did to a library, counts as not asked."""
        try:
            ask()
        except AWAY:
            raise
        except Exception as error:
            log.exception("asking for a proof failed")
            self._not_asked(rows, f"asking failed in this node ({type(error).__name__}): see its log")

    def _is_past_patience(self, row: dict[str, Any]) -> bool:
        return int(row["proof_requests"]) >= len(self._rules.patience_s)

    def _patience_s(self, row: dict[str, Any]) -> float:
        patience = self._rules.patience_s
        return patience[min(int(row["proof_requests"]), len(patience) - 1)]

    def _ask_for_commitment(self, rows: list[dict[str, Any]], answer_id: int, target: Destination) -> None:
        ids = [row["id"] for row in rows]
        transaction_uid = commitment.new_transaction_uid()
        with self._database.transaction() as connection:
            patience_s = min(self._patience_s(row) for row in rows)
            proofs.request(connection, transaction_uid, answer_id, target.name, ids, patience_s)

        def accepted() -> None:
            with self._database.transaction() as connection:
                proofs.accepted(connection, transaction_uid)

        def settled() -> bool:
            with self._database.transaction() as connection:
                return proofs.is_settled(connection, transaction_uid)

        try:
            commitment.request(
                Peer.of(target, self._settings),
                transaction_uid,
                [(row["sop_class_uid"], row["sop_instance_uid"]) for row in rows],
                wait_s=self._settings.deliver.report_wait_s,
                accepted=accepted,
                on_report=self._desk.on_event_report,
                settled=settled,
            )
        except NothingAcceptedError:
            self._not_asked(
                rows,
                "the destination takes no requests for storage commitment: allow them there, "
                "or set its `commitment` to find or none",
            )
        except (UnreachableError, RefusedError) as error:
            self._not_asked(rows, str(error))

    def _ask_by_query(self, rows: list[dict[str, Any]], target: Destination) -> None:
        ids = [row["id"] for row in rows]
        with self._database.transaction() as connection:
            asked_at = proofs.asked(connection, ids, min(self._patience_s(row) for row in rows))
        objects = [(row["series_uid"], row["sop_instance_uid"]) for row in rows]
        try:
            there = query.present(Peer.of(target, self._settings), rows[0]["study_uid"], objects)
        except NothingAcceptedError:
            self._not_asked(
                rows, "the destination takes no queries: allow them there, or set its `commitment` to another way"
            )
            return
        except (UnreachableError, QueryRefusedError) as error:
            self._not_asked(rows, str(error))
            return
        looked = LOOKS_BEFORE_SENDING_AGAIN if target.commitment == "find" else 1
        with self._database.transaction() as connection:
            for row in rows:
                if row["sop_instance_uid"] in there:
                    proofs.confirm(connection, row["id"], "find")
                elif row["proof_requests"] + 1 >= looked:
                    step = Next.SEND_AGAIN
                    reason = proofs.not_kept(connection, row["id"], asked_at, NO_SUCH_OBJECT, step, self._rules)
                    if reason is not None:
                        outdated.record_parked(connection, row["sop_instance_uid"], _detail(row, reason))

    def _not_asked(self, rows: list[dict[str, Any]], reason: str) -> None:
        """Nobody could be asked: again later, for as long as a delivery is tried; then a person must look."""
        rules = self._settings.deliver
        log.warning("no proof could be asked for", reason=reason)
        with self._database.transaction() as connection:
            for row in rows:
                if row["stored_s"] > rules.give_up_after_s:
                    sentence = f"stored, and nobody could be asked for a proof: {reason}"
                    if proofs.park(connection, row["id"], sentence):
                        outdated.record_parked(connection, row["sop_instance_uid"], _detail(row, sentence))
                    continue
                if row["proof_failures"] == 0:
                    intake.record_event(connection, "proof_not_asked", row["sop_instance_uid"], _detail(row, reason))
                pause = rules.backoff_s[min(int(row["proof_failures"]), len(rules.backoff_s) - 1)]
                proofs.not_asked(connection, [row["id"]], reason, pause)


def _detail(row: dict[str, Any], reason: str) -> dict[str, Any]:
    return {"reason": reason, "kind": row["kind"]}
