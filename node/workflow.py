"""The protocol, top to bottom: quiet? → gate → infer → encode → outbox; ``node.deliver.courier`` takes over from there.

Every step is idempotent and can be killed at any point: the ledger says what is outstanding, and the same step begun
again gives the same UIDs and dates.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import structlog
from procrastinate.exceptions import ConnectorException
from psycopg_pool import PoolTimeout

from inference.findings import Findings
from inference.refusal import Outcome, Refusal, RefusalCode
from inference.runtime import Models
from node import __version__, gate
from node.answering import BuiltAnswer, FilmPipeline, Identity, Loaded, answer, gate_policy, load
from node.gate import InstanceHeader, LoadedFilm, SeriesDecision
from node.ledger import Database, answers, deliveries, intake, outdated
from node.ledger.answers import Answer, Evaluation, ResultRow, SupersededError
from node.ledger.retractions import withdraw_superseded
from node.metrics.tally import EVALUATIONS, SERIES, TALLY
from node.queue import Queue
from node.receive.backlog import Backlog
from node.receive.intact import ALTERED, SpoolDamagedError, SpoolUnreadableError, check_intact
from node.receive.spool import Spool
from node.results import DocumentReference
from node.settings import Settings
from node.turns import ClosedError, Turns

log = structlog.get_logger(__name__)

UNREGISTERED_RECHECK_S = 1.0
REGISTERED_WITHIN_S = 5.0
"""The registrar enters what it is told of within a second; a file that is older and unknown is worth waiting for."""
POSTPONED_S = 30.0
FEWEST_DEATHS = 2
"""Before a study is parked for its worker's deaths, or for want of memory, whatever the configuration says: the first
time it was perhaps not alone, and a neighbour's fault. After that it is alone (`node.turns`)."""
MOST_IMAGES = 20_000
"""Of a study: each takes 28 kB while its header is looked at, and a quality control that reuses its study UID for years
must not take the machine's memory. A perfusion CT has a few thousand."""
QUIETER_S = 60.0
"""After an analysis that found too little memory: what took it may be over by then."""
LONGEST_POSTPONED_S = 900.0
AT_FAULT_S = 6 * 3600.0
"""A study of which an image cannot be read, or which the ledger refuses, is tried again for so long, then parked: a
volume that was away is back by then, a broken file never will be."""
WHOSE = "images of another patient came under this study: see whose these results are, then `spine-node jobs retry`"
PASSING = (OSError, psycopg.Error, PoolTimeout, ConnectorException)
"""Errors of the machine, not of the study: a full outbox disk, a file system that hiccups, a database restart. They are
waited for for ever, but for those that come again with the same study (`_is_the_study_s`)."""


class Workflow:
    """What a worker does with a study and with an answer.

    ``out_of_memory`` is called after an analysis for which the memory did not suffice: a worker then ends, and the one
    after it begins with all the memory that this one held.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        models: Models,
        films: FilmPipeline | None = None,
        out_of_memory: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._models = models
        self._films = films
        self._out_of_memory = out_of_memory
        self._policy = gate_policy(settings, films)
        self._spool = Spool(settings.spool_dir)
        self._backlog = Backlog(self._spool)
        self._all_registered_until = 0.0
        self._queue = Queue(database.dsn)
        self._turns = Turns()
        self._under_way: dict[str, Evaluation] = {}

    def evaluate_study(self, study_uid: str) -> None:
        """Answer a study once it is complete; look again later when it is not, or when something went wrong.

        What passes by itself is no attempt, and the study says what it waits for. Everything else is one, too little
        memory included, and after so many the study is parked: an answer would be final, but a parked study is
        analysed on a larger machine with one command.
        """
        with self._database.transaction() as connection:
            alone = answers.has_been_tried(connection, study_uid)
        try:
            with self._turns.place(alone=alone):
                self._evaluate_when_complete(study_uid)
        except ClosedError:  # the process ends: the keeper wakes the study again
            return

    def _evaluate_when_complete(self, study_uid: str) -> None:
        evaluation = self._begin_when_complete(study_uid)
        if evaluation is None:
            return
        self._under_way[study_uid] = evaluation
        try:
            self._evaluate_and_tell(evaluation)
        finally:
            del self._under_way[study_uid]

    def give_up(self) -> None:
        """The process ends in mid-work: what it has begun was no attempt."""
        with self._database.transaction() as connection:
            connection.execute("SET LOCAL lock_timeout = '2s'")  # a study in use by what is given up
            for evaluation in list(self._under_way.values()):
                answers.postpone_evaluation(connection, evaluation)

    def _evaluate_and_tell(self, evaluation: Evaluation) -> None:
        study_uid = evaluation.study_uid
        try:
            self._evaluate(study_uid)
        except SpoolDamagedError as error:
            self._mend_or_park(evaluation, error)
            return
        except PASSING as error:
            self._postpone(evaluation, error)
            return
        except SupersededError:
            log.warning("another worker has taken the study over", study=_short(study_uid))
            return
        except MemoryError as error:
            self._failed(evaluation, error, "the machine has too little memory for this study", QUIETER_S)
            self._turns.close()
            self._out_of_memory()
            return
        except Exception as error:
            self._failed(evaluation, error, f"the analysis failed ({type(error).__name__})", POSTPONED_S)
            return
        with self._database.transaction() as connection:
            answers.end_evaluation(connection, evaluation)
        TALLY.count(EVALUATIONS, "done")

    def _postpone(self, evaluation: Evaluation, error: Exception) -> None:
        """Look again later: for ever where the machine is at fault, for some hours where the study is."""
        study_uid = evaluation.study_uid
        reason = _words(error)
        detail: dict[str, Any] = {"reason": reason}
        if not isinstance(error, OSError):
            detail["where"] = _where(error)
        parked = False
        with self._database.transaction() as connection:
            at_fault = _is_the_study_s(error)
            postponed = answers.postpone_evaluation(connection, evaluation, reason, at_fault=at_fault)
            if postponed.first:
                intake.record_event(connection, "evaluation_postponed", study_uid, detail)
            if parked := postponed.at_fault_s >= AT_FAULT_S:
                mend = (
                    "mend the file or its disk, or delete it and send the study again"
                    if isinstance(error, SpoolUnreadableError)
                    else "the log has the place; report it to the developers"
                )
                sentence = (
                    f"{reason}, for {postponed.at_fault_s / 3600:.0f} hours: {mend}, then `spine-node jobs retry`"
                )
                answers.park(connection, study_uid, sentence)
                intake.record_event(connection, "study_parked", study_uid, detail)
            else:
                wait_s = min(max(POSTPONED_S, postponed.at_fault_s / 4), LONGEST_POSTPONED_S)
                self._queue.wake_evaluation(connection, study_uid, wait_s)
        log.warning("evaluation postponed", study=_short(study_uid), parked=parked, **detail)
        TALLY.count(EVALUATIONS, "parked" if parked else "postponed")

    def _failed(self, evaluation: Evaluation, error: Exception, reason: str, wait_s: float) -> None:
        """Look again later, or park the study. The log has the place of the error, not its words, which may quote."""
        detail = {
            "attempt": evaluation.attempt,
            "reason": reason,
            "error": type(error).__name__,
            "where": _where(error),
        }
        log.error("evaluation failed", study=_short(evaluation.study_uid), **detail)
        most = max(self._settings.work.max_attempts, FEWEST_DEATHS if isinstance(error, MemoryError) else 1)
        sentence = f"{reason}; the log has the details, `spine-node jobs retry` tries again"
        with self._database.transaction() as connection:
            parked = answers.fail_evaluation(connection, evaluation, sentence, most)
            intake.record_event(connection, "evaluation_failed", evaluation.study_uid, detail)
            if parked:
                intake.record_event(connection, "study_parked", evaluation.study_uid, {"reason": reason})
            else:
                self._queue.wake_evaluation(connection, evaluation.study_uid, wait_s)
        TALLY.count(EVALUATIONS, "parked" if parked else "failed")

    def _evaluate(self, study_uid: str) -> None:
        with self._database.transaction() as connection:
            rows = intake.instances_of(connection, study_uid)
            fragments = intake.fragments(connection, study_uid)
            if len(rows) > MOST_IMAGES:
                refusal = Refusal(RefusalCode.TOO_MANY_IMAGES, f"({len(rows)} images, at most {MOST_IMAGES}.)")
                answers.record_unread(connection, study_uid, str(refusal.code), refusal.sentence)
                log.warning("a study has too many images", study=_short(study_uid), images=len(rows))
                return
        check_intact(self._spool, rows)
        arrived: dict[Path, datetime] = {self._spool.path(row["spool_name"]): row["arrived_at"] for row in rows}
        headers, unreadable = gate.read_headers(arrived)
        for file in unreadable:
            if file.errno is not None:
                raise self._unreadable(OSError(file.errno, os.strerror(file.errno), str(file.path)))
        headers = gate.latest(headers)
        decisions = [
            _deleted(decision) if decision.series_uid in fragments and not decision.sop_instance_uid else decision
            for decision in gate.choose(headers, self._policy)
        ]
        self._record_outcomes(study_uid, decisions, len(unreadable))
        for decision in decisions:
            if decision.outcome is Outcome.ANSWERED:
                mine = [header for header in headers if decision.is_about(header)]
                dated_at = max(arrived[header.path] for header in mine).replace(microsecond=0)
                self._answer(study_uid, decision, mine, dated_at, max(row["id"] for row in rows))
        log.info("study evaluated", study=_short(study_uid), series=len(decisions), unreadable=len(unreadable))

    def _unreadable(self, error: OSError) -> OSError:
        """What it is that an image could not be read; the error itself where it is about anything else."""
        if error.filename is None:  # of a read, which does not say of what
            return SpoolUnreadableError.of(error, "an image")
        path = Path(os.fsdecode(error.filename))
        if not path.is_relative_to(self._spool.folder):
            return error
        return SpoolUnreadableError.of(error, str(path.relative_to(self._spool.folder)))

    def _mend_or_park(self, evaluation: Evaluation, damage: SpoolDamagedError) -> None:
        """Go on with images that came twice; without a second one, say so and wait for a person."""
        study_uid = evaluation.study_uid
        kinds = list(damage.found.values())
        detail = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
        with self._database.transaction() as connection:
            names = {row["id"]: row["spool_name"] for row in intake.instances_of(connection, study_uid)}
            found = [row_id for row_id in damage.found if row_id in names]  # others went by retention meanwhile
            lost = set(found) - intake.replace_lost(connection, found)
            intake.record_event(connection, "spool_damaged", study_uid, {**detail, "without_a_second": len(lost)})
            if lost:
                answers.park(connection, study_uid, str(damage))
            else:  # no fault of the study: no attempt
                answers.postpone_evaluation(connection, evaluation)
                self._queue.wake_evaluation(connection, study_uid, 0.0)
        for row_id, state in damage.found.items():
            if state == ALTERED and row_id in names:
                with contextlib.suppress(FileNotFoundError):  # its row is erased by now: a keeper was first
                    self._spool.quarantine(names[row_id])
        TALLY.count(EVALUATIONS, "parked" if lost else "postponed")
        log.error("images of the spool are damaged", study=_short(study_uid), parked=bool(lost), **detail)

    def _begin_when_complete(self, study_uid: str) -> Evaluation | None:
        """Claim the study when its quiet time is over and the ledger knows every file; else look again later."""
        with self._database.transaction() as connection:
            wait_s = answers.seconds_until_quiet(connection, study_uid, self._settings.study.quiet_s)
            if wait_s == 0 and self._unregistered_files(connection):
                wait_s = UNREGISTERED_RECHECK_S
            if wait_s:
                self._queue.wake_evaluation(connection, study_uid, wait_s)
            if wait_s is None or wait_s > 0:
                return None
            evaluation = answers.begin_evaluation(connection, study_uid)
            if evaluation is None:  # somebody cancelled or erased it since it was asked whether it is quiet
                return None
            most = max(self._settings.work.max_attempts, FEWEST_DEATHS)
            if not answers.park_after_deaths(connection, evaluation, most):
                return evaluation
            reason = "its worker died in each attempt"
            intake.record_event(connection, "study_parked", study_uid, {"reason": reason})
        log.error("study parked", study=_short(study_uid))
        TALLY.count(EVALUATIONS, "parked")
        return None

    def _unregistered_files(self, connection: psycopg.Connection[dict[str, Any]]) -> bool:
        """Whether acknowledged files wait for the registrar; younger ones are late images like any other.

        While images arrive, each look reads this hour's directory, ever longer: that there are none holds for ten times
        as long as the look took, so that very many studies do not make it the worker's main work.
        """
        begun = time.monotonic()
        if begun < self._all_registered_until:
            return False
        names = self._backlog.names(connection, REGISTERED_WITHIN_S)
        if any(not self._spool.is_being_written(name) for name in names):
            return True
        looked = time.monotonic()
        self._all_registered_until = looked + min(10 * (looked - begun), REGISTERED_WITHIN_S)
        return False

    def _record_outcomes(self, study_uid: str, decisions: Sequence[SeriesDecision], unreadable: int) -> None:
        with self._database.transaction() as connection:
            if unreadable:
                intake.record_event(connection, "unreadable_images", study_uid, {"instances": unreadable})
            by_image = {d.series_uid for d in decisions if d.sop_instance_uid}
            by_series = {d.series_uid for d in decisions if not d.sop_instance_uid}
            answers.forget_whole_series(connection, study_uid, by_image - by_series)
            for decision in decisions:
                answers.record_outcome(connection, study_uid, **decision.row())
            if any(d.refusal is not None and d.refusal.code is RefusalCode.PATIENT_MISMATCH for d in decisions):
                held = deliveries.hold(connection, study_uid, WHOSE)
                if held:
                    intake.record_event(connection, "delivery_parked", study_uid, {"reason": WHOSE, "results": held})
                    outdated.tell(connection, study_uid)
        for decision in decisions:
            row = decision.row()
            TALLY.count(SERIES, row["outcome"], row["reason_code"] or "")

    def _answer(
        self,
        study_uid: str,
        decision: SeriesDecision,
        headers: Iterable[InstanceHeader],
        dated_at: datetime,
        last_instance_id: int,
    ) -> None:
        """Gate to outbox for one series or radiograph; nothing is done for an input that has its answer.

        ``dated_at``, when its last image arrived, is the date of the results, not the present: it can be told again
        from the spool, so that what is answered again after a restore has the same UIDs and the same bytes.
        """
        begun = time.perf_counter()
        step = partial(_log_step, study_uid)
        step("gate")
        try:
            series = load(decision, headers, self._policy)
        except OSError as error:
            raise self._unreadable(error) from error
        claimed = self._claim(study_uid, decision, series)
        if claimed is None:
            return
        identity = Identity(claimed.revision, dated_at, self._predecessors(study_uid, claimed))
        gate_s = time.perf_counter() - begun
        films = self._films if decision.sop_instance_uid else None
        built = answer(
            series,
            self._models,
            self._settings,
            identity,
            films=films,
            gate_s=gate_s,
            progress=step,
            turn=self._turns.analysis,
        )
        self._note_provenance(claimed, built.findings, last_instance_id)
        step("outbox")
        rows = self._write_outbox(claimed, built)
        self._finish(study_uid, claimed, built, rows, series.corrected if isinstance(series, LoadedFilm) else 0)
        log.info(
            "series answered",
            study=_short(study_uid),
            revision=claimed.revision,
            flag=built.findings.patient.flag,
            reason=str(built.findings.refusal.code) if built.findings.refusal else None,
            results=len(rows),
        )

    def _claim(self, study_uid: str, decision: SeriesDecision, series: Loaded) -> Answer | None:
        with self._database.transaction() as connection:
            return answers.claim_answer(
                connection,
                study_uid,
                decision.pipeline or "ct",
                decision.series_uid,
                series.input_sha256,
                self._settings.configuration_sha256,
                __version__,
                sop_instance_uid=decision.sop_instance_uid,
                replaces=decision.replaces,
                per_series=self._settings.study.all_series,
            )

    def _predecessors(self, study_uid: str, claimed: Answer) -> dict[str, DocumentReference]:
        if claimed.predecessor is None:
            return {}
        with self._database.transaction() as connection:
            return {
                row["kind"]: DocumentReference(
                    study_instance_uid=study_uid,
                    series_instance_uid=row["series_uid"],
                    sop_class_uid=row["sop_class_uid"],
                    sop_instance_uid=row["sop_instance_uid"],
                )
                for row in answers.results_of(connection, claimed.predecessor)
                if row["kind"] in ("report", "details")
            }

    def _note_provenance(self, claimed: Answer, findings: Findings, last_instance_id: int) -> None:
        provenance = {
            "pipeline_version": findings.pipeline_version,
            "models": [asdict(model) for model in findings.models],
            "rule": findings.patient.rule,
            "flag_loss": findings.patient.flag_loss,
            "last_instance_id": last_instance_id,
        }
        with self._database.transaction() as connection:
            answers.note_provenance(connection, claimed, provenance)

    def _write_outbox(self, claimed: Answer, built: BuiltAnswer) -> list[ResultRow]:
        """Write the objects before anything is sent; these same bytes are sent on every retry."""
        if not built.results:
            return []
        folder = Path(f"{claimed.id:08d}-{claimed.attempt}")
        outbox = self._settings.outbox_dir
        target = outbox / folder
        for former in range(1, claimed.attempt + 1):  # left by an attempt that was killed, or of a ledger since lost
            shutil.rmtree(outbox / f"{claimed.id:08d}-{former}", ignore_errors=True)
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        rows = []
        for position, result in enumerate(built.results):
            path = target / f"{position:02d}-{result.filename}"
            content = result.encoded()
            path.write_bytes(content)
            _sync(path)
            rows.append(
                ResultRow(
                    kind=result.kind,
                    sop_class_uid=str(result.dataset.SOPClassUID),
                    sop_instance_uid=str(result.dataset.SOPInstanceUID),
                    series_uid=str(result.dataset.SeriesInstanceUID),
                    outbox_name=str(folder / path.name),
                    bytes=len(content),
                    sha256=hashlib.sha256(content).hexdigest(),
                )
            )
        for directory in (target, outbox, outbox.parent):
            _sync(directory)
        return rows

    def _finish(
        self, study_uid: str, claimed: Answer, built: BuiltAnswer, rows: list[ResultRow], corrected: int
    ) -> None:
        """Results, their deliveries and the jobs that send them become true in one transaction.

        ``corrected``: earlier receptions of a radiograph whose header the one that was answered has corrected.
        """
        findings = built.findings
        with self._database.transaction() as connection:
            if rows:
                withdraw_superseded(connection, claimed.id)
            ids = answers.finish_answer(
                connection,
                claimed,
                rows,
                status="evaluated" if findings.evaluable else "not_evaluable",
                sent=built.sent,
                flag=findings.patient.flag,
                provider=findings.provider,
                reason_code=str(findings.refusal.code) if findings.refusal else None,
                timings_s=findings.timings_s,
            )
            if corrected:
                detail = {"answer": claimed.id, "earlier_receptions": corrected}
                intake.record_event(connection, "image_corrected", study_uid, detail)
            cancelled = answers.is_parked(connection, study_uid)
            destinations = self._settings.destinations if ids else ()
            for destination in destinations:
                for row_id, row in zip(ids, rows, strict=True):
                    if destination.takes(row.kind):
                        deliveries.plan(connection, row_id, destination.name, cancelled=cancelled)
            if cancelled:
                outdated.tell(connection, study_uid)
            for destination in destinations:
                self._queue.wake_delivery(connection, claimed.id, destination.name)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _deleted(decision: SeriesDecision) -> SeriesDecision:
    """A fragment of a series must not supersede the answer that the whole series had; a radiograph is whole."""
    refusal = Refusal(RefusalCode.IMAGES_DELETED)
    return replace(decision, outcome=Outcome.NOT_ELIGIBLE, refusal=refusal, better_series_uid=None)


def _log_step(study_uid: str, step: str) -> None:
    log.info("step", study=_short(study_uid), step=step)


def _is_the_study_s(error: BaseException) -> bool:
    """Whether a passing error comes again with the same study: an image, or what the ledger refuses to take of it.

    Of the database's errors those of operation pass: no connection, no room, a restart, a deadlock.
    """
    if isinstance(error, ConnectorException):  # the queue's, around one of the database's
        return error.__cause__ is not None and _is_the_study_s(error.__cause__)
    if isinstance(error, psycopg.OperationalError):
        return isinstance(error, psycopg.errors.ProgramLimitExceeded)
    return isinstance(error, SpoolUnreadableError | psycopg.DatabaseError)


def _where(error: Exception) -> list[str]:
    """Place of an error in the code, outermost first."""
    return [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]


def _words(error: Exception) -> str:
    """What is waited for, in words of our own and of the system's: those of an exception may quote."""
    if not isinstance(error, OSError) and _is_the_study_s(error):
        refused = error.__cause__ if isinstance(error, ConnectorException) else error
        diagnosis = getattr(refused, "diag", None)
        table = f", table {diagnosis.table_name}" if diagnosis is not None and diagnosis.table_name else ""
        return f"the ledger does not take what belongs to this study ({type(refused).__name__}{table})"
    said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
    if isinstance(error, SpoolUnreadableError):
        return f"{error.filename} of the spool cannot be read ({said})"
    return f"the machine could not go on ({said})"


def _short(uid: str) -> str:
    """Enough of a UID to find it in the ledger; UIDs of archives are no secret, but logs travel."""
    return hashlib.sha256(uid.encode()).hexdigest()[:12]
