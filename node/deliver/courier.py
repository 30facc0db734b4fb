"""Brings an answer to a destination: what is outstanding, in order, until the destination has it or a person must act.

Whose study it is there is asked before; `node.deliver.prover` turns *stored* into *confirmed* after.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from node.deliver.association import UnreachableError
from node.deliver.patient import patient_objection
from node.deliver.peer import Peer
from node.deliver.prover import Prover
from node.deliver.sender import send
from node.deliver.status import Reply, Verdict
from node.ledger import Database, answers, deliveries, outdated, proofs
from node.metrics.tally import DELIVERIES, TALLY
from node.queue import AWAY, Queue
from node.settings import Destination, Settings

log = structlog.get_logger(__name__)

NEEDS = {"report": "reformat"}
"""A report without the image that its lines lie on shows nothing in a viewer: it is not sent alone."""
REJECTION = "rejection"
"""Kind of the note that takes back other results."""


class Courier:
    """What a worker does with an answer and a destination."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._queue = Queue(database.dsn)
        self._destinations = {destination.name: destination for destination in settings.destinations}
        self._prover = Prover(settings, database)

    def deliver(self, answer_id: int, destination: str) -> None:
        """Send what a destination does not have yet of an answer, and have it prove what it has.

        What failed is tried again later.
        """
        target = self._destinations.get(destination)
        with self._database.transaction() as connection:
            outstanding = deliveries.pending(connection, answer_id, destination, due_only=target is not None)
        if target is None:
            reason = f"the configuration has no destination {destination!r}"
            for row in outstanding:
                self._note(row, Reply(Verdict.PERMANENT, reason))
            with self._database.transaction() as connection:
                proofs.ask_no_more(connection, answer_id, destination, f"never confirmed: {reason}")
            return
        try:
            sendable = self._of_the_same_patient([row for row in outstanding if self._intact(row)], target)
            if sendable:
                self._send(sendable, answer_id, target)
        except AWAY:
            raise
        except Exception as error:  # ours, or what a peer's bytes did to a library: it must not be tried for ever
            log.exception("sending failed")
            self._not_sent(answer_id, destination, error)
        self._prover.prove(answer_id, target)
        self.wake_again(answer_id, destination)

    def wake_again(self, answer_id: int, destination: str, pause_s: float = 0.0) -> None:
        """Have the next job do what is left over when it is due, not before ``pause_s``."""
        with self._database.transaction() as connection:
            waiting = [row["wait_s"] for row in deliveries.waits(connection, answer_id, destination)]
            if waiting:
                self._queue.wake_delivery(connection, answer_id, destination, max(min(waiting), pause_s))

    def give_up(self, answer_id: int, destination: str, reason: str) -> None:
        """Park what is left to send of an answer or, where everything was sent, what is left to prove."""
        with self._database.transaction() as connection:
            left = deliveries.pending(connection, answer_id, destination, due_only=False)
        for row in left:
            self._note(row, Reply(Verdict.PERMANENT, reason))
        if not left:
            with self._database.transaction() as connection:
                for row in proofs.unproven(connection, answer_id, destination):
                    sentence = f"stored, and nobody could be asked for a proof: {reason}"
                    if proofs.park(connection, row["id"], sentence):
                        detail = {"reason": sentence, "kind": row["kind"]}
                        outdated.record_parked(connection, row["sop_instance_uid"], detail)

    def _not_sent(self, answer_id: int, destination: str, error: Exception) -> None:
        """Note what is left over. The machine's troubles (disk, memory) pass; of an error of the code nobody knows."""
        verdict = Verdict.PASSING if isinstance(error, OSError | MemoryError) else Verdict.UNCLEAR
        reply = Reply(verdict, f"sending failed in this node ({type(error).__name__}): see its log")
        with self._database.transaction() as connection:
            left = deliveries.pending(connection, answer_id, destination)
        for row in left:
            self._note(row, reply)

    def park_unconfigured(self) -> None:
        """Park what waits for destinations that left the configuration: nobody works on their queues."""
        with self._database.transaction() as connection:
            rows = connection.execute(
                """
                SELECT DISTINCT r.answer_id, d.destination FROM delivery d JOIN result r ON r.id = d.result_id
                 WHERE (d.state = 'pending' OR d.state = 'stored' AND d.proof_due_at IS NOT NULL)
                   AND d.destination <> ALL(%s)
                """,
                (list(self._destinations),),
            ).fetchall()
        for row in rows:
            self.deliver(row["answer_id"], row["destination"])

    def _of_the_same_patient(self, rows: list[dict[str, Any]], target: Destination) -> list[dict[str, Any]]:
        """What may be sent as far as the destination can be asked whose study it is; why the rest may not is noted.

        A rejection note is sent in any case: it takes back what bears the wrong name.
        """
        asked_for = [row for row in rows if row["kind"] != REJECTION]
        if not target.patient_check or not asked_for:
            return rows
        first = asked_for[0]
        objection = patient_objection(Peer.of(target, self._settings), first["study_uid"], self._path(first))
        if objection is None:
            return rows
        for row in asked_for:
            self._note(row, objection)
        return [row for row in rows if row["kind"] == REJECTION]

    def _send(self, rows: list[dict[str, Any]], answer_id: int, target: Destination) -> None:
        """Images first, then what refers to them; each reply is noted as soon as it is there."""
        unanswered = {row["id"]: row for row in rows}

        def note(row: dict[str, Any], reply: Reply) -> None:
            del unanswered[row["id"]]
            self._note(row, reply)

        try:
            for group in _by_need(rows):
                with self._database.transaction() as connection:
                    begun = deliveries.begin_try(connection, [row["id"] for row in group])
                for row in group:
                    if row["id"] not in begun:  # not wanted any more since it was listed
                        del unanswered[row["id"]]
                wanted = [row for row in group if row["id"] in begun]
                sendable = [row for row in wanted if self._has_what_it_needs(row, answer_id, target, note)]
                if sendable:
                    self._send_group(sendable, target, note)
        except UnreachableError as error:
            for row in list(unanswered.values()):
                note(row, Reply(Verdict.PASSING, str(error)))

    def _send_group(
        self, rows: list[dict[str, Any]], target: Destination, note: Callable[[dict[str, Any], Reply], None]
    ) -> None:
        send(
            [self._path(row) for row in rows],
            target.host,
            target.port,
            called_ae=target.ae_title,
            calling_ae=target.calling_ae_title or self._settings.receive.ae_title,
            timeout_s=target.timeout_s,
            tls=target.tls,
            replied=lambda index, reply: note(rows[index], reply),
        )

    def _has_what_it_needs(
        self,
        row: dict[str, Any],
        answer_id: int,
        target: Destination,
        note: Callable[[dict[str, Any], Reply], None],
    ) -> bool:
        needed = NEEDS.get(row["kind"])
        if needed is None:
            return True
        with self._database.transaction() as connection:
            state = deliveries.state_of(connection, answer_id, target.name, needed)
            has_it = any(result["kind"] == needed for result in answers.results_of(connection, answer_id))
        if state in ("stored", "confirmed") or not has_it:
            return True
        if state == "pending":
            note(row, Reply(Verdict.PASSING, f"waits for the {needed} that its lines lie on"))
        else:
            note(row, Reply(Verdict.PERMANENT, f"not sent: the destination does not have its {needed}"))
        return False

    def _intact(self, row: dict[str, Any]) -> bool:
        path = self._path(row)
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() == row["sha256"]:
            return True
        self._note(row, Reply(Verdict.PERMANENT, f"{row['outbox_name']} of the outbox is gone or altered"))
        return False

    def _path(self, row: dict[str, Any]) -> Path:
        return self._settings.outbox_dir / str(row["outbox_name"])

    def _note(self, row: dict[str, Any], reply: Reply) -> None:
        """Enter a reply; decide whether, and when, the object is tried again."""
        retry_in_s = self._retry_in_s(row, reply)
        outcome = "stored" if reply.verdict is Verdict.STORED else "retry" if retry_in_s is not None else "parked"
        TALLY.count(DELIVERIES, row["destination"], outcome)
        with self._database.transaction() as connection:
            if reply.verdict is Verdict.STORED:
                prove = self._destinations[row["destination"]].commitment != "none"
                deliveries.mark_stored(connection, row["id"], reply.status_code or 0, reply.sentence, prove=prove)
                return
            parked = deliveries.mark_failed(
                connection,
                row["id"],
                status_code=reply.status_code,
                reason=reply.sentence or "",
                unclear=reply.verdict is Verdict.UNCLEAR,
                retry_in_s=retry_in_s,
            )
            if parked:
                detail = {"reason": reply.sentence, "kind": row["kind"]}
                outdated.record_parked(connection, row["sop_instance_uid"], detail)
        log.warning("not delivered", kind=row["kind"], reason=reply.sentence, retry_in_s=retry_in_s)

    def _retry_in_s(self, row: dict[str, Any], reply: Reply) -> float | None:
        rules = self._settings.deliver
        if reply.verdict is Verdict.PERMANENT:
            return None
        if reply.verdict is Verdict.UNCLEAR and row["unclear_failures"] + 1 >= rules.tries_of_unclear_failures:
            return None
        if row["trying_s"] > rules.give_up_after_s:
            return None
        attempts: int = row["attempts"]
        return rules.backoff_s[min(attempts, len(rules.backoff_s) - 1)]


def _by_need(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Runs of rows in order of sending, cut before each kind that needs another."""
    groups: list[list[dict[str, Any]]] = [[]]
    for row in rows:
        if row["kind"] in NEEDS and groups[-1]:
            groups.append([])
        groups[-1].append(row)
    return [group for group in groups if group]
