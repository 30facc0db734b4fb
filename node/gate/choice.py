"""What of a study is answered, decided from headers alone: one CT series, and every lateral radiograph of the spine.

A chest CT comes as four to ten series (thin, thick, kernels, phases): an answer to each would flood the archive.
Radiographs are decided one by one, because one series of them holds several views.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from inference.refusal import Outcome, Refusal, RefusalCode
from node.gate.assessment import Assessment, assess
from node.gate.eligibility import patient_refusal
from node.gate.headers import InstanceHeader
from node.gate.policy import GatePolicy
from node.gate.radiograph import FilmAssessment, assess_films, is_film
from node.gate.values import text

PIPELINE_CT = "ct"
PIPELINE_RADIOGRAPH = "radiograph"


class SeriesRow(TypedDict):
    """A decision in plain values, as the ledger and lists hold it; what does not apply is ``None``."""

    series_uid: str
    sop_instance_uid: str
    modality: str
    description: str
    instances: int
    outcome: str
    reason_code: str | None
    reason: str | None
    better_series_uid: str | None


@dataclass(frozen=True)
class SeriesDecision:
    """What becomes of one series, or of one radiograph of it.

    Attributes
    ----------
    sop_instance_uid
        The radiograph; empty where the series is meant.
    refusal
        The reason of *not eligible* and *not chosen*. With *answered* it is ``None``, or what the headers already say
        against evaluating (the answer will be "not evaluable").
    better_series_uid
        With *not chosen*: the series that is answered instead.
    instances
        Number of instances received, whatever they are.
    pipeline
        Name of the pipeline that answers; ``None`` where none does.
    replaces
        SOP instance UID of another image of the same exposure that this radiograph takes the place of: if that one was
        answered before, this answer is its revision.
    """

    series_uid: str
    outcome: Outcome
    refusal: Refusal | None
    better_series_uid: str | None
    modality: str
    description: str
    instances: int
    pipeline: str | None
    study_uid: str = ""
    sop_instance_uid: str = ""
    spine_expected: bool = False
    spacing_mm: float | None = None
    coverage_mm: float | None = None
    replaces: str = ""

    def is_about(self, header: InstanceHeader) -> bool:
        """Whether an instance belongs to what is decided here: to the series, or to the one radiograph."""
        if header.series_uid != self.series_uid:
            return False
        if self.sop_instance_uid:
            return header.sop_instance_uid == self.sop_instance_uid
        return not is_film(header)

    def row(self) -> SeriesRow:
        """The decision in plain values."""
        return SeriesRow(
            series_uid=self.series_uid,
            sop_instance_uid=self.sop_instance_uid,
            modality=self.modality,
            description=self.description,
            instances=self.instances,
            outcome=str(self.outcome),
            reason_code=str(self.refusal.code) if self.refusal else None,
            reason=self.refusal.sentence if self.refusal else None,
            better_series_uid=self.better_series_uid,
        )


def choose(headers: Iterable[InstanceHeader], policy: GatePolicy) -> list[SeriesDecision]:
    """Decide every series of one study (of several studies: each by itself), sorted by study and series UID.

    Radiographs follow, each by itself, whatever becomes of the series of a CT.

    The order of preference among series: a spine is expected; the headers allow an evaluation; primary images; spacing
    up to 1.5 mm before thicker; soft kernel before sharp; larger coverage; lowest series UID. Of those that cover less
    than one vertebra less than the largest one, the one with the finest slices counts as larger. The first two stand
    before the quality of the images so that a thin head CT never silences the chest of the same study, nor a broken
    series a whole one. The answer depends on the set of instances only, not on their order, but for receptions of one
    radiograph: of these the last one counts.
    """
    studies: dict[str, list[InstanceHeader]] = defaultdict(list)
    for header in headers:
        studies[header.study_uid].append(header)
    return [decision for uid in sorted(studies) for decision in _choose(studies[uid], policy)]


def _choose(headers: Sequence[InstanceHeader], policy: GatePolicy) -> list[SeriesDecision]:
    series: dict[str, list[InstanceHeader]] = defaultdict(list)
    films: list[InstanceHeader] = []
    for header in headers:
        (films if is_film(header) else series[header.series_uid]).append(header)
    patient = patient_refusal(headers, policy)
    assessments = {uid: assess(series[uid], policy) for uid in sorted(series)}
    eligible = [uid for uid, found in assessments.items() if found.eligible and patient is None]
    best = _best({uid: assessments[uid] for uid in eligible}, policy)
    decisions = []
    for uid, found in assessments.items():
        if not found.eligible:
            decisions.append(_decision(uid, found, Outcome.NOT_ELIGIBLE, found.refusal))
        elif patient is not None:
            decisions.append(_decision(uid, found, Outcome.NOT_ELIGIBLE, patient))
        elif uid == best or policy.all_series:
            decisions.append(_decision(uid, found, Outcome.ANSWERED, found.refusal))
        else:
            refusal = Refusal(RefusalCode.BETTER_SERIES)
            decisions.append(_decision(uid, found, Outcome.NOT_CHOSEN, refusal, better=best))
    return [*decisions, *(_film_decision(film, patient) for film in assess_films(films, policy))]


def _best(eligible: Mapping[str, Assessment], policy: GatePolicy) -> str | None:
    """The series that is answered, by its UID; ``None`` where there is none."""
    first = min((_preference(found, policy) for found in eligible.values()), default=None)
    equal = {uid: found for uid, found in eligible.items() if _preference(found, policy) == first}
    largest = max((_coverage_mm(found) for found in equal.values()), default=0.0)
    whole = [uid for uid, found in equal.items() if largest - _coverage_mm(found) < policy.vertebra_mm]
    return min(whole, key=lambda uid: (_spacing_mm(equal[uid]), -_coverage_mm(equal[uid]), uid), default=None)


def _coverage_mm(found: Assessment) -> float:
    return round(found.grid.coverage_mm, 1) if found.grid is not None else 0.0


def _spacing_mm(found: Assessment) -> float:
    return round(found.grid.spacing_along_normal_mm, 1) if found.grid is not None else float("inf")


def _preference(found: Assessment, policy: GatePolicy) -> tuple[float, ...]:
    """Smaller is better; what is equal is decided by coverage and spacing."""
    grid = found.grid
    thin = grid is not None and grid.spacing_along_normal_mm <= policy.thin_spacing_mm + policy.spacing_slack_mm
    return (
        not found.spine_expected,
        not found.evaluable,
        not found.primary,
        not thin,
        found.sharpness,
    )


def _decision(
    uid: str, found: Assessment, outcome: Outcome, refusal: Refusal | None, better: str | None = None
) -> SeriesDecision:
    first = min(found.headers, key=lambda h: (h.sop_instance_uid, str(h.path)))
    return SeriesDecision(
        series_uid=uid,
        outcome=outcome,
        refusal=refusal,
        better_series_uid=better,
        modality=first.modality,
        description=text(first.dataset, "SeriesDescription"),
        instances=len({h.sop_instance_uid or str(h.path) for h in found.headers}),
        pipeline=PIPELINE_CT if outcome is Outcome.ANSWERED else None,
        study_uid=first.study_uid,
        spine_expected=found.spine_expected,
        spacing_mm=found.grid.spacing_along_normal_mm if found.grid is not None else None,
        coverage_mm=found.grid.coverage_mm if found.grid is not None else None,
    )


def _film_decision(film: FilmAssessment, patient: Refusal | None) -> SeriesDecision:
    header = film.header
    answered = film.eligible and patient is None
    return SeriesDecision(
        series_uid=header.series_uid,
        outcome=Outcome.ANSWERED if answered else Outcome.NOT_ELIGIBLE,
        refusal=patient if film.eligible and patient is not None else film.refusal,
        better_series_uid=None,
        modality=header.modality,
        description=text(header.dataset, "SeriesDescription"),
        instances=1,
        pipeline=PIPELINE_RADIOGRAPH if answered else None,
        study_uid=header.study_uid,
        sop_instance_uid=header.sop_instance_uid,
        spine_expected=film.spine_expected,
        replaces=film.replaces if answered else "",
    )
