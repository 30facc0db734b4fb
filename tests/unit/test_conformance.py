"""The conformance statement says what the code does."""

from __future__ import annotations

import re

from pydicom import uid
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.sop_class import StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind, Verification

from node.receive.association import TRANSFER_SYNTAXES
from node.settings import Receive
from tests.conftest import REPOSITORY

STATEMENT = (REPOSITORY / "deploy" / "CONFORMANCE.md").read_text(encoding="utf-8")
_UID = re.compile(r"\b1\.2\.840\.10008\.[0-9.]*[0-9]\b")


def section(title: str) -> str:
    return STATEMENT.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_transfer_syntaxes_stand_in_the_order_of_acceptance() -> None:
    told = [
        found
        for found in _UID.findall(section("Association acceptance"))
        if found.startswith(uid.ImplicitVRLittleEndian)
    ]
    assert told == [str(syntax) for syntax in TRANSFER_SYNTAXES]


def test_services_are_those_that_are_offered_and_used() -> None:
    told = set(_UID.findall(section("Networking model")))
    assert told == {Verification, StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind}


def test_created_objects_are_of_classes_that_we_would_take_back() -> None:
    told = set(_UID.findall(section("Created objects")))
    assert told == {
        uid.SegmentationStorage,
        uid.Comprehensive3DSRStorage,
        uid.BasicTextSRStorage,
        uid.SecondaryCaptureImageStorage,
        uid.KeyObjectSelectionDocumentStorage,
    }
    assert told <= {context.abstract_syntax for context in AllStoragePresentationContexts}


def test_limits_are_the_defaults() -> None:
    limits = section("Association acceptance")
    assert f"{Receive().max_pdu_bytes:,} bytes" in limits
    assert f"At most {Receive().max_associations}\n" in limits
