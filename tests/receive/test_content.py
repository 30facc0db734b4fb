"""What the ledger takes from a file: always what pydicom would have found, and the digest of what was sent."""

from __future__ import annotations

import hashlib
import random
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from node.receive import content
from node.receive.content import KEYS, ContentReader, plain_keys
from node.receive.spool import ReceivedObject, Spool
from tests.dicom import SERIES, STUDY, ct_slice

PLAIN = {"Modality": "CT", "PatientID": "P-1", "StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES}


def referring(undefined: bool) -> Dataset:
    """A slice with sequences in front of its keys, one inside another."""
    code, outer, inner = Dataset(), Dataset(), Dataset()
    code.CodeValue = "CT"
    inner.StudyInstanceUID = "9.9.9"  # of another level: not the instance's
    inner.PurposeOfReferenceCodeSequence = Sequence([code, Dataset()])
    outer.ReferencedSOPInstanceUID = "1.2.3"
    outer.ReferencedSeriesSequence = Sequence([inner])
    data_set = ct_slice(0)
    data_set.ReferencedStudySequence = Sequence([outer, Dataset(), inner])
    data_set.ProcedureCodeSequence = Sequence([])
    for sequence in (
        data_set["ReferencedStudySequence"],
        data_set["ProcedureCodeSequence"],
        outer["ReferencedSeriesSequence"],
    ):
        sequence.is_undefined_length = undefined
    for item in (code, outer, inner):
        item.is_undefined_length_sequence_item = undefined
    return data_set


def encoded(data_set: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    write_dataset(buffer, data_set)
    return buffer.getvalue()


def by_pydicom(raw: bytes, syntax: str) -> dict[str, str]:
    meta = b"\x02\x00\x10\x00UI" + len(syntax).to_bytes(2, "little") + syntax.encode()
    header = dcmread(BytesIO(b"\0" * 128 + b"DICM" + meta + raw), stop_before_pixels=True, specific_tags=list(KEYS))
    return {key: str(header.get(key, "") or "").strip() for key in KEYS}


@pytest.mark.parametrize("undefined", [False, True], ids=["defined lengths", "undefined lengths"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless])
def test_keys_behind_sequences_are_those_of_the_instance(syntax: str, undefined: bool) -> None:
    raw = encoded(referring(undefined), syntax)
    assert plain_keys(memoryview(raw), syntax) == PLAIN


@pytest.mark.parametrize(
    ("patient_id", "modality"),
    [("Müller", "CT"), ("a\\b", "CT"), ("~1", "CT"), ("", "CT\\MR"), ("  P 2 ", " CT "), ("", "")],
)
def test_odd_values_are_those_that_pydicom_finds(tmp_path: Path, patient_id: str, modality: str) -> None:
    data_set = ct_slice(0)
    data_set.SpecificCharacterSet = "ISO_IR 100"
    data_set.PatientID, data_set.Modality = patient_id, modality
    raw = encoded(data_set)
    assert read(tmp_path, raw).keys == by_pydicom(raw, ExplicitVRLittleEndian)


def test_what_is_missing_or_out_of_order_is_left_to_pydicom() -> None:
    data_set = ct_slice(0)
    del data_set.PatientID
    assert plain_keys(memoryview(encoded(data_set)), ExplicitVRLittleEndian) is None
    first = Dataset()
    first.StudyInstanceUID = "9.9.9"
    assert plain_keys(memoryview(encoded(first) + encoded(ct_slice(0))), ExplicitVRLittleEndian) is None
    assert plain_keys(memoryview(encoded(ct_slice(0))), DeflatedExplicitVRLittleEndian) is None
    nested = b"\x08\0\x10\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 5000
    assert plain_keys(memoryview(nested), ExplicitVRLittleEndian) is None


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.filterwarnings("ignore")  # pydicom's, about what it reads
def test_altered_bytes_never_give_other_keys_than_pydicom_finds(syntax: str) -> None:
    chance = random.Random(7)
    whole = encoded(referring(True), syntax)
    end = whole.index(SERIES.encode(), whole.index(b"\x20\0\x0e\0")) + len(SERIES)
    compared = 0
    for _ in range(600):
        raw = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            raw[chance.randrange(end)] = chance.choice([0, 1, 8, 0x20, 0x41, 0x5C, 0xFE, 0xFF, chance.randrange(256)])
        keys = plain_keys(memoryview(bytes(raw)), syntax)
        if keys is not None:
            assert keys == by_pydicom(bytes(raw), syntax)
            compared += 1
    assert compared > 100


@pytest.mark.parametrize("size", [0, 1, 100, content.CHUNK - 400, content.CHUNK, 3 * content.CHUNK + 1])
def test_the_digest_is_that_of_the_data_set(tmp_path: Path, size: int) -> None:
    raw = encoded(ct_slice(0)) + b"\xe1\x7f\x10\0OB\0\0" + size.to_bytes(4, "little") + random.Random(1).randbytes(size)
    found = read(tmp_path, raw)
    assert found.sha256 == hashlib.sha256(raw).hexdigest()
    assert found.keys == PLAIN
    assert found.bytes == sum(path.stat().st_size for path in tmp_path.glob("*/*.dcm"))


def test_a_file_that_is_none_of_ours_has_a_size_and_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "foreign.dcm"
    for raw in (b"", b"x" * 141, b"\xff" * 1000):
        path.write_bytes(raw)
        found = ContentReader().read(path, ExplicitVRLittleEndian)
        skipped = 144 + int.from_bytes(raw[140:144], "little")
        assert (found.bytes, found.sha256) == (len(raw), hashlib.sha256(raw[skipped:]).hexdigest())
        assert found.keys == {}


def read(folder: Path, raw: bytes) -> content.Content:
    spool = Spool(folder)
    at = datetime.now(UTC)
    stored = spool.store(ReceivedObject("1.2", "1.2.3", ExplicitVRLittleEndian, "A", "B", at, raw))
    return ContentReader().read(spool.path(stored.spool_name), ExplicitVRLittleEndian)
