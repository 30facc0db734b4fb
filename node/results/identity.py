"""Who a result is: UIDs derived from what it was made of, series numbers, descriptions.

The same findings of the same input under the same software, models and configuration always get the same UIDs, so
that a retry never makes a second object in the archive; and whatever else stands in the bytes (the date, the documents
that are superseded) is part of the name, so that no UID ever has two contents. UIDs are ``2.25.`` and a name-based UUID
(PS3.5 B.2).
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from urllib.parse import quote

from inference.findings import Findings
from node.results.context import RADIOGRAPH, ResultContext
from node.results.wording import NO_FLAG, verdict

NAMESPACE = uuid.UUID("5b0f2c1e-6f0a-5d0c-9a35-3f6b2a7d41c8")
"""Namespace of every derived UID of this project. Never changes."""

SERIES_OFFSETS = {
    "capture": 1,
    "reformat": 2,
    "report": 3,
    "details": 4,
    "segmentation": 5,
    "bodies": 6,
    "expected": 7,
    "film_segmentation": 5,
}
"""Added to the series number base: the capture's series comes first."""


def derived_uid(name: str) -> str:
    """A UID of at most 44 characters that depends on the name alone."""
    return f"2.25.{uuid.uuid5(NAMESPACE, name).int}"


@dataclass(frozen=True)
class Identity:
    """Derives every UID, number and description of one answer.

    ``stem`` holds site, input hash, pipeline with all versions, configuration hash, provider, date and predecessors;
    object kind, ordinal and revision complete the name of a UID.
    """

    stem: str
    software: str
    revision: int
    number_base: int
    verdict: str
    of_film: bool
    graded: str = ""

    @classmethod
    def of(cls, findings: Findings, context: ResultContext) -> Identity:
        """The identity of the answer that these findings are under this context."""
        models = hashlib.sha256("\n".join(f"{m.name} {m.version} {m.sha256}" for m in findings.models).encode())
        software = (
            f"{context.pipeline} {findings.pipeline_version} {context.software_version} {models.hexdigest()[:32]}"
        )
        predecessors = (context.predecessor_report, context.predecessor_details)
        fields = (
            context.site,
            context.input_sha256,
            software,
            context.configuration_sha256,
            findings.provider or "none",
            context.dated_at.isoformat(),
            *(former.sop_instance_uid for former in predecessors if former is not None),
        )
        return cls(
            stem="|".join(quote(field, safe=" ") for field in fields),
            software=software,
            revision=context.revision,
            number_base=context.series_number_base,
            verdict=verdict(findings),
            of_film=context.pipeline == RADIOGRAPH,
            graded=f"{sum(v.grade is not None for v in findings.vertebrae)}/{len(findings.vertebrae)} graded",
        )

    def uid(self, kind: str, ordinal: int = 1) -> str:
        """UID of one thing of this answer; ``kind`` is free text, unique per sort of thing."""
        return derived_uid(f"{self.stem}|{kind}|{ordinal}|{self.revision}")

    def instance_uid(self, kind: str, ordinal: int = 1) -> str:
        """SOP Instance UID of the object of that kind."""
        return self.uid(kind, ordinal)

    def series_uid(self, kind: str) -> str:
        """Series Instance UID: one series per kind."""
        return self.uid(f"{kind}:series")

    def tracking_uid(self, ordinal: int) -> str:
        """Tracking UID of a vertebra, the same in segmentation, report and details."""
        return self.uid("tracking", ordinal)

    def body_tracking_uid(self, ordinal: int) -> str:
        """Tracking UID of the body of a vertebra, the same in the segmentation of the bodies and in the details."""
        return self.uid("tracking body", ordinal)

    def expected_tracking_uid(self, ordinal: int) -> str:
        """Tracking UID of the body that is expected of a vertebra."""
        return self.uid("tracking expected", ordinal)

    def algorithm_uid(self) -> str:
        """Device UID of the algorithm; another one as soon as a version or a model's hash changes."""
        return derived_uid(f"algorithm|{self.software}")

    def series_number(self, kind: str) -> int:
        """9001 for the first capture by default, 9101 for that of revision 2."""
        return self.number_base + SERIES_OFFSETS[kind] + 100 * (self.revision - 1)

    def series_description(self, kind: str) -> str:
        """ASCII, at most 64 characters, the verdict first: "AI spine: FLAG report r2 (research)".

        Of a radiograph the word film follows the verdict, and "no flag" says of how many of the vertebrae it speaks, on
        what a reader opens: on most films most are not seen surely enough to be graded.
        """
        revised = f" r{self.revision}" if self.revision > 1 else ""
        words = "" if kind == "capture" else f" {kind.removeprefix('film_')}"
        counted = f" {self.graded}" if self.verdict == NO_FLAG and kind in ("capture", "report") else ""
        words = f" film{counted}{words}" if self.of_film else words
        return f"AI spine: {self.verdict}{words}{revised} (research)"
