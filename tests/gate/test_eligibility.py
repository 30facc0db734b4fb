"""What is not looked at, or not evaluated, because of what it is: object, thickness, derivation, patient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from inference.findings import Quality
from inference.refusal import Outcome, RefusalCode
from node.gate import GatePolicy, choose
from tests.gate.conftest import POLICY, Ct, HeadersOf, assert_field, loaded, refused


def test_multi_echo_or_other_modalities_are_not_eligible_yet(headers_of: HeadersOf) -> None:
    def magnetic(_: int, ds: FileDataset) -> None:
        ds.Modality, ds.SOPClassUID = "MR", "1.2.840.10008.5.1.4.1.1.4"

    (decision,) = choose(headers_of(Ct(edit=magnetic)), POLICY)
    assert decision.outcome is Outcome.NOT_ELIGIBLE
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.UNSUPPORTED_MODALITY


@pytest.mark.parametrize(
    ("sop_class", "modality"),
    [
        ("1.2.840.10008.5.1.4.1.1.12.1", "XA"),
        ("1.2.840.10008.5.1.4.1.1.1.2", "MG"),
        ("1.2.840.10008.5.1.4.1.1.128", "PT"),
    ],
)
def test_angiograms_mammograms_and_pet_are_not_eligible(headers_of: HeadersOf, sop_class: str, modality: str) -> None:
    def change(_: int, ds: FileDataset) -> None:
        ds.Modality, ds.SOPClassUID = modality, sop_class

    (decision,) = choose(headers_of(Ct(count=9, edit=change)), POLICY)
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.UNSUPPORTED_MODALITY
    assert modality in decision.refusal.sentence


@pytest.mark.parametrize("spacing", [5.2, 7.5])
def test_too_thick_to_evaluate_is_not_evaluable(headers_of: HeadersOf, spacing: float) -> None:
    found = refused(headers_of(Ct(spacing=spacing)))
    assert found.refusal.code is RefusalCode.SLICES_TOO_THICK
    assert f"{spacing:.2f} mm" in found.refusal.sentence


def test_too_short_is_not_eligible(headers_of: HeadersOf) -> None:
    (decision,) = choose(headers_of(Ct(count=10)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.TOO_FEW_IMAGES)  # type: ignore[union-attr]


def test_bolus_tracking_at_one_position_is_not_eligible(headers_of: HeadersOf) -> None:
    (decision,) = choose(headers_of(Ct(positions=[(0.0, 0.0, 5.0)] * 12)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.TOO_FEW_IMAGES)  # type: ignore[union-attr]


@pytest.mark.parametrize("photometric", ["RGB", "PALETTE COLOR", "YBR_FULL"])
def test_colour_images_are_not_eligible(headers_of: HeadersOf, photometric: str) -> None:
    def colour(_: int, ds: FileDataset) -> None:
        ds.PhotometricInterpretation = photometric

    (decision,) = choose(headers_of(Ct(edit=colour)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.COLOUR_IMAGE)  # type: ignore[union-attr]


def eight_bits(_: int, ds: FileDataset) -> None:
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelData = np.arange(80, dtype=np.uint8).tobytes()


def burned_in(_: int, ds: FileDataset) -> None:
    ds.BurnedInAnnotation = "YES"


@pytest.mark.parametrize("edit", [eight_bits, burned_in])
def test_pictures_of_a_screen_are_not_eligible(headers_of: HeadersOf, edit: Callable[[int, FileDataset], None]) -> None:
    (decision,) = choose(headers_of(Ct(edit=edit)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.SCREEN_CAPTURE)  # type: ignore[union-attr]


def test_monochrome1_changes_nothing_about_hounsfield_units(headers_of: HeadersOf) -> None:
    def inverse(_: int, ds: FileDataset) -> None:
        ds.PhotometricInterpretation = "MONOCHROME1"

    assert_field(loaded(headers_of(Ct(edit=inverse))))


def test_lossy_source_is_accepted_with_a_flag(headers_of: HeadersOf) -> None:
    def lossy(index: int, ds: FileDataset) -> None:
        if index == 3:
            ds.LossyImageCompression = "01"

    assert loaded(headers_of(Ct(edit=lossy))).quality == (Quality.LOSSY_SOURCE,)


@pytest.mark.parametrize(
    ("image_type", "code"),
    [
        (["DERIVED", "PRIMARY", "AXIAL"], RefusalCode.DERIVED_IMAGE),
        (["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"], RefusalCode.REFORMATTED),
        (["ORIGINAL", "PRIMARY", "AXIAL", "CSA MPR"], RefusalCode.REFORMATTED),
        (["DERIVED", "SECONDARY", "MIP"], RefusalCode.REFORMATTED),
        (["DERIVED", "SECONDARY", "SCREEN SAVE"], RefusalCode.SCREEN_CAPTURE),
        (["ORIGINAL", "PRIMARY", "LOCALIZER"], RefusalCode.LOCALIZER),
        (["ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"], RefusalCode.LOCALIZER),
    ],
)
def test_derived_and_reformatted_images_are_not_eligible(
    headers_of: HeadersOf, image_type: list[str], code: RefusalCode
) -> None:
    def change(_: int, ds: FileDataset) -> None:
        ds.ImageType = image_type

    (decision,) = choose(headers_of(Ct(edit=change)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, code)  # type: ignore[union-attr]


def test_projections_that_call_themselves_primary_are_known_by_their_description(headers_of: HeadersOf) -> None:
    (decision,) = choose(headers_of(Ct(description="AX MIP 10x3")), POLICY)
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.REFORMATTED


def own_manufacturer(_: int, ds: FileDataset) -> None:
    ds.Manufacturer = "spine-node"


def own_equipment(_: int, ds: FileDataset) -> None:
    item = Dataset()
    item.Manufacturer = "spine-node"
    ds.ContributingEquipmentSequence = Sequence([item])


def own_description(_: int, ds: FileDataset) -> None:
    ds.SeriesDescription = "AI spine: no flag (research)"


@pytest.mark.parametrize("mark", [own_manufacturer, own_equipment, own_description])
def test_own_results_are_known_also_after_an_archive_coerced_their_uids(
    headers_of: HeadersOf, mark: Callable[[int, FileDataset], None]
) -> None:
    def ours(index: int, ds: FileDataset) -> None:
        ds.SOPInstanceUID = generate_uid()
        mark(index, ds)

    (decision,) = choose(headers_of(Ct(edit=ours)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.OWN_RESULT)  # type: ignore[union-attr]


def test_own_results_are_known_by_their_creator(headers_of: HeadersOf) -> None:
    def ours(_: int, ds: FileDataset) -> None:
        ds.InstanceCreatorUID = "1.2.3.4"

    headers = headers_of(Ct(edit=ours))
    (decision,) = choose(headers, GatePolicy(own_creator_uids=("1.2.3.4",)))
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.OWN_RESULT


def test_two_patients_in_one_study_are_never_answered(headers_of: HeadersOf) -> None:
    series = Ct()

    def other_patient(_: int, ds: FileDataset) -> None:
        ds.PatientID = "P2"

    other = Ct(study_uid=series.study_uid, edit=other_patient)
    for decision in choose(headers_of(series, other), POLICY):
        assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.PATIENT_MISMATCH)  # type: ignore[union-attr]


def test_own_results_with_an_older_patient_id_do_not_block_the_study(headers_of: HeadersOf) -> None:
    series = Ct()

    def ours(index: int, ds: FileDataset) -> None:
        own_manufacturer(index, ds)
        ds.PatientID = "P-before-correction"

    outcomes = [
        d.outcome for d in choose(headers_of(series, Ct(study_uid=series.study_uid, count=1, edit=ours)), POLICY)
    ]
    assert sorted(outcomes) == [Outcome.ANSWERED, Outcome.NOT_ELIGIBLE]


@pytest.mark.parametrize("patient_id", ["", "   ", None])
def test_an_empty_patient_id_is_never_answered(headers_of: HeadersOf, patient_id: str | None) -> None:
    def forget(_: int, ds: FileDataset) -> None:
        ds.PatientID = patient_id

    (decision,) = choose(headers_of(Ct(edit=forget)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.NO_PATIENT_ID)  # type: ignore[union-attr]
