"""What all three SR documents share: header, observer, evidence, and containers whose items stay separate.

Content trees are built from highdicom's content items and templates; the document around them is written here, so
that dates, UIDs and the patient come from one place only (`common.stamp`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypedDict

import highdicom as hd
from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentSequence,
    NumContentItem,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes as dicom_codes

from inference.findings import Findings, VertebraFinding
from node.results import codes
from node.results.common import MANUFACTURER, new_file, stamp
from node.results.context import DocumentReference, ResultContext
from node.results.identity import Identity
from node.results.segmentation import WHOLE, Kind, tracking_identifier
from node.results.wording import ascii_text

CONTAINS = RelationshipTypeValues.CONTAINS
HAS_CONCEPT_MOD = RelationshipTypeValues.HAS_CONCEPT_MOD


def text(name: CodedConcept, value: str, relationship: RelationshipTypeValues = CONTAINS) -> TextContentItem:
    """A TEXT item; the value is made ASCII, and a missing one is said to be missing."""
    return TextContentItem(name=name, value=ascii_text(value) or "none", relationship_type=relationship)


def code(name: CodedConcept, value: CodedConcept, relationship: RelationshipTypeValues = CONTAINS) -> CodeContentItem:
    """A CODE item."""
    return CodeContentItem(name=name, value=value, relationship_type=relationship)


def number(name: CodedConcept, value: float, unit: CodedConcept, digits: int) -> NumContentItem:
    """A NUM item rounded to ``digits`` decimals."""
    return NumContentItem(name=name, value=round(float(value), digits), unit=unit, relationship_type=CONTAINS)


def container(name: CodedConcept, items: Iterable[hd.sr.ContentItem]) -> ContainerContentItem:
    """A CONTAINER below another one."""
    item = ContainerContentItem(name=name, relationship_type=CONTAINS)
    item.ContentSequence = ContentSequence(list(items))
    return item


def observation_context(ctx: ResultContext) -> hd.sr.ObservationContext:
    """This node as device observer (TID 1004)."""
    return hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(
            observer_type=dicom_codes.DCM.Device,
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                uid=ctx.device_uid,
                name=MANUFACTURER,
                manufacturer_name=MANUFACTURER,
                model_name=f"spine-node {ctx.pipeline}",
                serial_number=ascii_text(ctx.device_serial),
            ),
        )
    )


class GroupHead(TypedDict):
    """What every group of a vertebra begins with, whichever template it follows."""

    tracking_identifier: hd.sr.TrackingIdentifier
    finding_type: CodedConcept
    finding_sites: list[hd.sr.FindingSite] | None


def group_head(vertebra: VertebraFinding, identity: Identity, kind: Kind = WHOLE) -> GroupHead:
    """Tracking UID and identifier, "vertebra" or "vertebral body" and, where the level is known, its code."""
    return GroupHead(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=kind.tracking_uid(identity, vertebra.ordinal), identifier=tracking_identifier(vertebra, kind)
        ),
        finding_type=kind.finding,
        finding_sites=[hd.sr.FindingSite(kind.code(vertebra.level))] if vertebra.level is not None else None,
    )


def algorithm(findings: Findings, ctx: ResultContext) -> hd.sr.AlgorithmIdentification:
    """The pipeline and its models with their SHA-256 (TID 4019)."""
    return hd.sr.AlgorithmIdentification(
        name=f"spine-node {ctx.pipeline}",
        version=findings.pipeline_version,
        parameters=[
            f"rule={findings.patient.rule}",
            f"flag_loss={findings.patient.flag_loss:g}",
            *(f"model={m.name} {m.version} sha256={m.sha256}" for m in findings.models),
        ],
        family=codes.ARTIFICIAL_INTELLIGENCE,
        manufacturer=MANUFACTURER,
    )


def document(
    kind: str,
    sop_class_uid: str,
    content: Dataset,
    evidence: Sequence[Dataset],
    source: Sequence[Dataset],
    findings: Findings,
    identity: Identity,
    ctx: ResultContext,
    predecessors: Sequence[DocumentReference | None],
) -> FileDataset:
    """An SR document around a content tree (PS3.3 A.35): complete, final, unverified.

    Parameters
    ----------
    content
        Root container.
    evidence
        Every object that the tree refers to and what else the findings rest on; all of the same study.
    """
    file = new_file(sop_class_uid, identity.instance_uid(kind))
    stamp(file, kind, source, findings, identity, ctx)
    file.Modality = "SR"
    file.InstanceNumber = 1
    file.CodingSchemeIdentificationSequence = [codes.scheme_identification()]
    file.CompletionFlag = "COMPLETE"
    file.VerificationFlag = "UNVERIFIED"
    file.PreliminaryFlag = "FINAL"
    file.PerformedProcedureCodeSequence = []
    file.ReferencedPerformedProcedureStepSequence = []
    file.CurrentRequestedProcedureEvidenceSequence = [_evidence(evidence)]
    superseded = [_predecessor(reference) for reference in predecessors if reference is not None]
    if superseded:
        file.PredecessorDocumentsSequence = superseded
    for element in content:
        file[element.tag] = element
    if "RelationshipType" in file:
        del file.RelationshipType
    _separate(file)
    return file


def _evidence(objects: Sequence[Dataset]) -> Dataset:
    """One item of the evidence sequence: the study, its series, their instances (C.17.2)."""
    study = Dataset()
    study.StudyInstanceUID = objects[0].StudyInstanceUID
    by_series: dict[str, list[Dataset]] = {}
    for referenced in objects:
        item = Dataset()
        item.ReferencedSOPClassUID = referenced.SOPClassUID
        item.ReferencedSOPInstanceUID = referenced.SOPInstanceUID
        by_series.setdefault(referenced.SeriesInstanceUID, []).append(item)
    study.ReferencedSeriesSequence = []
    for uid, items in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = uid
        series.ReferencedSOPSequence = items
        study.ReferencedSeriesSequence.append(series)
    return study


def _predecessor(reference: DocumentReference) -> Dataset:
    instance = Dataset()
    instance.ReferencedSOPClassUID = reference.sop_class_uid
    instance.ReferencedSOPInstanceUID = reference.sop_instance_uid
    series = Dataset()
    series.SeriesInstanceUID = reference.series_instance_uid
    series.ReferencedSOPSequence = [instance]
    study = Dataset()
    study.StudyInstanceUID = reference.study_instance_uid
    study.ReferencedSeriesSequence = [series]
    return study


def _separate(item: Dataset) -> None:
    """ContinuityOfContent SEPARATE everywhere: CONTINUOUS makes viewers drop the labels of text items."""
    if item.get("ValueType") == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    for child in item.get("ContentSequence", []):
        _separate(child)
