"""Patient and study verbatim, our own words in ASCII, one clock."""

from __future__ import annotations

import io
from collections.abc import Callable

import pydicom
import pytest
from pydicom.dataset import Dataset
from results_synthetic import Case, context, from_disk, refused

from node.results import Result, encode
from node.results.common import source_text, source_zone

PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)
COPIED_TEXT = {"PatientName", "ReferringPhysicianName", "StudyDescription", "PatientComments"}


def _read(result: Result) -> Dataset:
    return pydicom.dcmread(io.BytesIO(result.encoded()))


def _all(source: tuple[Dataset, ...] | list[Dataset], case: Case) -> list[Result]:
    return [*encode(source, case, context()), *encode(source, refused(), context())]


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 144", "Люкceмбypг"),
    ],
)
def test_patient_and_study_are_copied_byte_for_byte(charset: object, name: str, small: Case) -> None:
    source = []
    for header in small.source:
        changed = from_disk(header)
        changed.SpecificCharacterSet = charset
        changed.PatientName = name
        changed.ReferringPhysicianName = name.split("=", maxsplit=1)[0]
        changed.StudyDescription = "CT"
        source.append(from_disk(changed))
    first = from_disk(source[0])  # not yet decoded: get_item gives the bytes
    for result in _all(source, small):
        read = _read(result)
        for keyword in PATIENT_AND_STUDY:
            assert read.get_item(keyword).value == first.get_item(keyword).value, keyword
        assert read.PatientName == name
        assert read.SpecificCharacterSet == charset


def test_our_own_words_are_ascii(flagged: Case) -> None:
    for result in _all(flagged.source, flagged):
        for element in _read(result).iterall():
            if element.VR in ("LO", "SH", "ST", "LT", "UT", "UC", "CS", "PN") and element.keyword not in COPIED_TEXT:
                values = (
                    element.value if isinstance(element.value, (list, pydicom.multival.MultiValue)) else [element.value]
                )
                for value in values:
                    assert str(value).isascii(), f"{element.keyword}: {value}"


def test_what_the_source_lacks_is_empty_and_not_invented(small: Case) -> None:
    source = [from_disk(h) for h in small.source]
    for header in source:
        del header.StudyID, header.StudyDate, header.PatientSex, header.TimezoneOffsetFromUTC
        del header.StudyDescription, header.PatientAge
    for result in _all(source, small):
        read = _read(result)
        assert (read.StudyID, read.StudyDate, read.PatientSex) == ("", "", "")
        for absent in ("TimezoneOffsetFromUTC", "StudyDescription", "PatientAge", "InstitutionName"):
            assert absent not in read


@pytest.mark.parametrize(
    ("offset", "date", "time"),
    [("+0100", "20261120", "233005"), ("+0900", "20261121", "073005"), ("-0330", "20261120", "190005")],
)
def test_all_dates_are_the_start_of_the_analysis_on_the_source_s_clock(
    offset: str, date: str, time: str, small: Case
) -> None:
    source = [from_disk(h) for h in small.source]
    for header in source:
        header.TimezoneOffsetFromUTC = offset
    for result in _all(source, small):
        read = _read(result)
        assert read.TimezoneOffsetFromUTC == offset
        for event in ("InstanceCreation", "Content", "Series"):
            assert (read[f"{event}Date"].value, read[f"{event}Time"].value) == (date, time)
        for element in read.iterall():
            if (
                element.VR in ("DA", "DT")
                and element.value
                and element.keyword not in ("StudyDate", "PatientBirthDate")
            ):
                assert str(element.value).startswith(date), element.keyword


@pytest.mark.parametrize("written", ["MEZ", "", "+2500", "0100", "+01:00"])
def test_a_senseless_time_zone_is_none(written: str) -> None:
    header = Dataset()
    header.TimezoneOffsetFromUTC = written
    assert source_zone(header) is None


def test_every_object_says_who_made_it_and_that_it_is_research(flagged: Case) -> None:
    for result in _all(flagged.source, flagged):
        read = _read(result)
        assert read.ContentQualification == "RESEARCH"
        assert "(research)" in read.SeriesDescription
        assert read.Manufacturer == "spine-node"
        assert read.SoftwareVersions[0] == "0.1.0"
        assert (read.InstanceCreatorUID, read.DeviceUID) == ("2.25.1234567890",) * 2
        (equipment,) = read.ContributingEquipmentSequence
        assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert equipment.DeviceUID.startswith("2.25.")
        assert equipment.DeviceUID != read.InstanceCreatorUID
        assert read.SeriesInstanceUID != flagged.source[0].SeriesInstanceUID


def test_loss_of_the_source_is_propagated(small: Case) -> None:
    source = [from_disk(h) for h in small.source]
    source[-1].LossyImageCompression = "01"
    source[-1].LossyImageCompressionRatio = [8.5]
    source[-1].LossyImageCompressionMethod = "ISO_15444_1"
    for result in encode(source, small, context())[:3]:
        read = _read(result)
        assert read.LossyImageCompression == "01"
        assert read.LossyImageCompressionRatio == 8.5
        assert read.LossyImageCompressionMethod == "ISO_15444_1"
    for result in encode(small.source, small, context())[:3]:
        assert _read(result).LossyImageCompression == "00"
        assert "LossyImageCompressionRatio" not in _read(result)


def test_the_source_is_named_in_ascii() -> None:
    header = Dataset()
    assert source_text(header) == "series without a number"
    header.SeriesNumber = 4
    header.SeriesDescription = "Wirbelsäule ≤ 1 mm"
    assert source_text(header) == "series 4, Wirbelsa?ule <= 1 mm"


def test_a_site_s_name_is_made_ascii_and_short_enough(small: Case) -> None:
    for result in encode(small.source, small, context(device_serial="Städtisches Klinikum " * 5, site="Städtisch")):
        assert result.dataset.DeviceSerialNumber.isascii()
        assert len(result.dataset.DeviceSerialNumber) <= 64


def test_names_without_a_character_set_keep_their_bytes_and_are_declared_latin_1(
    small: Case, validation_errors: Callable[[Result], list[str]]
) -> None:
    source = []
    for header in small.source:
        changed = from_disk(header)
        changed.SpecificCharacterSet = "ISO_IR 100"
        changed = from_disk(changed)
        del changed.SpecificCharacterSet  # the bytes stay Latin-1, as many old scanners write them
        source.append(from_disk(changed))
    bytes_before = from_disk(source[0]).get_item("PatientName").value
    assert not bytes_before.isascii()
    for result in _all(source, small):
        read = _read(result)
        assert read.get_item("PatientName").value == bytes_before
        assert read.SpecificCharacterSet == "ISO_IR 100"
        assert validation_errors(result) == []


def test_an_unknown_character_set_becomes_utf_8(small: Case, validation_errors: Callable[[Result], list[str]]) -> None:
    source = [from_disk(header) for header in small.source]
    for header in source:
        assert header.PatientName == "Müller^Jürgen"
        header.SpecificCharacterSet = "ISO_IR 999"
    for result in _all(source, small):
        assert _read(result).SpecificCharacterSet == "ISO_IR 192"
        assert _read(result).PatientName == "Müller^Jürgen"
        assert validation_errors(result) == []


def test_ascii_names_without_a_character_set_need_none(small: Case) -> None:
    source = [from_disk(header) for header in small.source]
    for header in source:
        header.PatientName, header.ReferringPhysicianName = "Miller^John", ""
        del header.SpecificCharacterSet
    for result in _all(source, small):
        assert "SpecificCharacterSet" not in _read(result)
