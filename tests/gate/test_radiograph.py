"""Which radiographs are looked at, which are answered, and why the others are not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from inference.findings import Quality
from inference.refusal import Outcome, RefusalCode
from node.gate import GatePolicy, InstanceHeader, SeriesDecision, Unevaluable, choose, load_film
from tests.films import CR, DX, DX_FOR_PROCESSING, RF, Film, shades
from tests.gate.conftest import POLICY, Ct, FilmsOf, HeadersOf, film_of

CHEST = GatePolicy(lateral_chest=True)
RAW_TOO = GatePolicy(for_processing=True)


def sets(**values: object) -> Callable[[FileDataset], None]:
    def edit(ds: FileDataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return edit


def decided(headers: list[InstanceHeader], policy: GatePolicy = POLICY) -> SeriesDecision:
    (decision,) = choose(headers, policy)
    return decision


def refusal_of(headers: list[InstanceHeader], policy: GatePolicy = POLICY) -> RefusalCode:
    """Code of the one image, which must not be eligible."""
    decision = decided(headers, policy)
    assert decision.outcome is Outcome.NOT_ELIGIBLE
    assert decision.pipeline is None
    assert decision.refusal is not None
    return decision.refusal.code


@pytest.mark.parametrize(("sop_class", "modality"), [(CR, "CR"), (DX, "DX"), (RF, "RF"), (CR, "RG"), ("", "CR")])
def test_lateral_spine_images_are_answered(films_of: FilmsOf, sop_class: str, modality: str) -> None:
    headers = films_of(Film(sop_class=sop_class or CR, modality=modality, sop_uid="1.2.3"))
    decision = decided(headers)
    assert (decision.outcome, decision.refusal, decision.pipeline) == (Outcome.ANSWERED, None, "radiograph")
    assert (decision.sop_instance_uid, decision.instances, decision.spine_expected) == ("1.2.3", 1, True)
    assert film_of(headers).film.lateral is True


def test_without_a_word_of_view_and_region_the_pixels_decide(films_of: FilmsOf) -> None:
    headers = films_of(Film(description="", body_part=""))
    decision = decided(headers)
    assert (decision.outcome, decision.spine_expected) == (Outcome.ANSWERED, False)
    assert film_of(headers).film.lateral is None


def test_frontal_views_are_not_eligible(films_of: FilmsOf) -> None:
    assert refusal_of(films_of(Film(description="LWS a.p."))) is RefusalCode.NOT_A_LATERAL_SPINE
    assert refusal_of(films_of(Film(description="", edit=sets(ViewPosition="AP")))) is RefusalCode.NOT_A_LATERAL_SPINE


def test_other_regions_are_not_eligible(films_of: FilmsOf) -> None:
    found = decided(films_of(Film(description="lat", body_part="HAND")))
    assert found.refusal is not None
    assert found.refusal.code is RefusalCode.NOT_A_LATERAL_SPINE
    assert "body part HAND" in found.refusal.sentence


def test_a_neck_is_not_eligible(films_of: FilmsOf) -> None:
    assert refusal_of(films_of(Film(description="HWS seitl", body_part=""))) is RefusalCode.NOT_A_LATERAL_SPINE


def test_a_lateral_chest_is_refused_and_has_a_switch_of_its_own(films_of: FilmsOf) -> None:
    headers = films_of(Film(description="Thorax seitl.", body_part="CHEST"))
    assert refusal_of(headers) is RefusalCode.CHEST_FILM
    decision = decided(headers, CHEST)
    assert (decision.outcome, decision.spine_expected) == (Outcome.ANSWERED, False)


def test_the_switch_does_not_let_frontal_chests_in(films_of: FilmsOf) -> None:
    assert refusal_of(films_of(Film(description="Thorax p.a.", body_part="CHEST")), CHEST) is RefusalCode.CHEST_FILM


def test_colour_is_not_eligible(films_of: FilmsOf) -> None:
    headers = films_of(Film(edit=sets(PhotometricInterpretation="RGB", SamplesPerPixel=3)))
    assert refusal_of(headers) is RefusalCode.COLOUR_IMAGE


def test_a_secondary_image_is_not_eligible_and_a_derived_one_for_presentation_is(films_of: FilmsOf) -> None:
    secondary = films_of(Film(edit=sets(ImageType=["DERIVED", "SECONDARY"])))
    assert refusal_of(secondary) is RefusalCode.SECONDARY_IMAGE
    assert decided(films_of(Film(edit=sets(ImageType=["DERIVED", "PRIMARY"])))).outcome is Outcome.ANSWERED


def test_a_secondary_capture_of_a_screen_is_not_eligible(films_of: FilmsOf) -> None:
    capture = Film(sop_class="1.2.840.10008.5.1.4.1.1.7", modality="CR")
    assert refusal_of(films_of(capture)) is RefusalCode.SCREEN_CAPTURE


@pytest.mark.parametrize("edit", [sets(ImageType=["DERIVED", "PRIMARY", "SCREEN SAVE"]), sets(ConversionType="WSD")])
def test_a_screen_in_the_clothes_of_a_radiograph_is_not_eligible(
    films_of: FilmsOf, edit: Callable[[FileDataset], None]
) -> None:
    assert refusal_of(films_of(Film(edit=edit))) is RefusalCode.SCREEN_CAPTURE


def test_burned_in_markers_are_no_reason(films_of: FilmsOf) -> None:
    assert decided(films_of(Film(edit=sets(BurnedInAnnotation="YES")))).outcome is Outcome.ANSWERED


def test_several_frames_are_not_eligible_and_one_frame_is(films_of: FilmsOf) -> None:
    def three(ds: FileDataset) -> None:
        ds.NumberOfFrames, ds.PixelData = 3, ds.PixelData * 3

    assert refusal_of(films_of(Film(sop_class=RF, modality="RF", edit=three))) is RefusalCode.SEVERAL_FRAMES
    one = films_of(Film(sop_class=RF, modality="RF", edit=sets(NumberOfFrames=1)))
    assert film_of(one).film.pixels.shape == (96, 64)


def test_own_results_are_never_looked_at_again(films_of: FilmsOf) -> None:
    assert refusal_of(films_of(Film(edit=sets(Manufacturer="spine-node")))) is RefusalCode.OWN_RESULT
    described = Film(description="AI spine: no flag film (research)")
    assert refusal_of(films_of(described)) is RefusalCode.OWN_RESULT


def test_an_angiogram_is_not_eligible(films_of: FilmsOf) -> None:
    headers = films_of(Film(sop_class="1.2.840.10008.5.1.4.1.1.12.1", modality="XA"))
    assert refusal_of(headers) is RefusalCode.UNSUPPORTED_MODALITY


def test_an_image_without_a_valid_uid_is_not_eligible(films_of: FilmsOf) -> None:
    def spoil(ds: FileDataset) -> None:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = ""

    assert refusal_of(films_of(Film(edit=spoil))) is RefusalCode.MISSING_IDENTIFIERS


def test_an_image_without_rows_is_no_image(films_of: FilmsOf) -> None:
    def spoil(ds: FileDataset) -> None:
        del ds.Rows, ds.PixelData

    assert refusal_of(films_of(Film(edit=spoil))) is RefusalCode.NOT_AN_IMAGE


def test_where_no_network_for_films_is_installed_they_are_not_eligible_and_say_so(films_of: FilmsOf) -> None:
    nothing = GatePolicy(films=False)
    assert refusal_of(films_of(Film()), nothing) is RefusalCode.NOT_INSTALLED
    assert refusal_of(films_of(Film(description="LWS ap")), nothing) is RefusalCode.NOT_A_LATERAL_SPINE


# images for processing


def raw_film(**changes: object) -> Film:
    made = Film(sop_class=DX_FOR_PROCESSING, sop_uid="1.2.7", edit=sets(PresentationIntentType="FOR PROCESSING"))
    return replace(made, **changes)  # type: ignore[arg-type]


def test_an_image_for_processing_alone_is_refused_and_has_a_switch_of_its_own(films_of: FilmsOf) -> None:
    headers = films_of(raw_film())
    assert refusal_of(headers) is RefusalCode.FOR_PROCESSING_ONLY
    assert decided(headers, RAW_TOO).outcome is Outcome.ANSWERED
    assert Quality.FOR_PROCESSING in film_of(headers, RAW_TOO).quality


def referring(ds: FileDataset) -> None:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = DX_FOR_PROCESSING, "1.2.7"
    ds.SourceImageSequence = Sequence([item])


def same_time(ds: FileDataset) -> None:
    ds.AcquisitionDate, ds.AcquisitionTime = "20260301", "101011"


def same_irradiation(ds: FileDataset) -> None:
    ds.IrradiationEventUID = "1.2.9"


@pytest.mark.parametrize("policy", [POLICY, RAW_TOO], ids=["default", "switched on"])
@pytest.mark.parametrize("shared", [referring, same_time, same_irradiation, lambda _: None])
def test_an_image_for_processing_gives_way_to_its_twin(
    films_of: FilmsOf, shared: Callable[[FileDataset], None], policy: GatePolicy
) -> None:
    def raw_edit(ds: FileDataset) -> None:
        ds.PresentationIntentType = "FOR PROCESSING"
        if shared is not referring:
            shared(ds)

    headers = films_of(raw_film(edit=raw_edit), Film(sop_uid="1.2.8", edit=shared))
    by_uid = {d.sop_instance_uid: d for d in choose(headers, policy)}
    assert by_uid["1.2.8"].outcome is Outcome.ANSWERED
    assert by_uid["1.2.8"].replaces == "1.2.7"
    assert by_uid["1.2.7"].outcome is Outcome.NOT_ELIGIBLE
    assert by_uid["1.2.7"].refusal is not None
    assert by_uid["1.2.7"].refusal.code is RefusalCode.FOR_PROCESSING_TWIN


def test_a_processed_image_of_another_exposure_is_no_twin(films_of: FilmsOf) -> None:
    def later(ds: FileDataset) -> None:
        ds.AcquisitionDate, ds.AcquisitionTime = "20260301", "102200"

    def earlier(ds: FileDataset) -> None:
        same_time(ds)
        ds.PresentationIntentType = "FOR PROCESSING"

    headers = films_of(raw_film(edit=earlier), Film(edit=later))
    assert [(d.outcome, d.replaces) for d in choose(headers, RAW_TOO)] == [(Outcome.ANSWERED, "")] * 2


def test_a_frontal_processed_image_is_no_twin(films_of: FilmsOf) -> None:
    headers = films_of(raw_film(), Film(sop_uid="1.2.8", description="LWS ap"))
    outcomes = {d.sop_instance_uid: d.outcome for d in choose(headers, RAW_TOO)}
    assert outcomes == {"1.2.7": Outcome.ANSWERED, "1.2.8": Outcome.NOT_ELIGIBLE}


# several images, several series


def test_every_lateral_image_of_a_series_is_answered_and_the_frontal_one_is_not(films_of: FilmsOf) -> None:
    films = [
        Film(sop_uid="1.1", description="", edit=sets(ViewPosition="AP")),
        Film(sop_uid="1.2", description="", edit=sets(ViewPosition="LL")),
        Film(sop_uid="1.3", description="", edit=sets(ViewPosition="RL")),
    ]
    headers = films_of(*films)
    expected = {"1.1": Outcome.NOT_ELIGIBLE, "1.2": Outcome.ANSWERED, "1.3": Outcome.ANSWERED}
    for seed in range(3):
        random.Random(seed).shuffle(headers)
        assert {d.sop_instance_uid: d.outcome for d in choose(headers, POLICY)} == expected
    (second,) = [d for d in choose(headers, POLICY) if d.sop_instance_uid == "1.2"]
    assert [h.sop_instance_uid for h in headers if second.is_about(h)] == ["1.2"]


def test_a_study_with_ct_and_films_answers_both(headers_of: HeadersOf, films_of: FilmsOf) -> None:
    def same_patient(_: int, ds: FileDataset) -> None:
        ds.StudyInstanceUID = Film().study_uid

    headers = [*headers_of(Ct(count=12, edit=same_patient, series_uid="1.5")), *films_of(Film(sop_uid="1.2"))]
    decisions = choose(headers, POLICY)
    assert [(d.pipeline, d.sop_instance_uid) for d in decisions] == [("ct", ""), ("radiograph", "1.2")]
    assert sum(decisions[0].is_about(h) for h in headers) == 12


def test_a_ct_and_a_film_in_one_series_do_not_disturb_each_other(headers_of: HeadersOf, films_of: FilmsOf) -> None:
    def same_study(_: int, ds: FileDataset) -> None:
        ds.StudyInstanceUID = Film().study_uid

    headers = [
        *headers_of(Ct(count=12, edit=same_study, series_uid=Film().series_uid)),
        *films_of(Film(sop_uid="1.2")),
    ]
    assert [(d.outcome, d.instances) for d in choose(headers, POLICY)] == [
        (Outcome.ANSWERED, 12),
        (Outcome.ANSWERED, 1),
    ]


# patients


def test_two_patients_in_one_study_are_not_answered(films_of: FilmsOf) -> None:
    headers = films_of(Film(), Film(edit=sets(PatientID="P2")))
    decisions = choose(headers, POLICY)
    assert [d.refusal.code for d in decisions if d.refusal] == [RefusalCode.PATIENT_MISMATCH] * 2
    assert {d.outcome for d in decisions} == {Outcome.NOT_ELIGIBLE}


def test_no_patient_id(films_of: FilmsOf) -> None:
    assert refusal_of(films_of(Film(edit=sets(PatientID="")))) is RefusalCode.NO_PATIENT_ID


def test_a_child_is_not_evaluable(films_of: FilmsOf) -> None:
    headers = films_of(Film(edit=sets(PatientBirthDate="20120505")))
    decision = decided(headers)
    assert decision.outcome is Outcome.ANSWERED
    found = load_film(headers, POLICY)
    assert isinstance(found, Unevaluable)
    assert found.refusal.code is RefusalCode.AGE_BELOW_18
    assert found.spine_expected
    assert found.age_years == pytest.approx(13.8, abs=0.1)


# loading


def loaded_refusal(headers: list[InstanceHeader]) -> RefusalCode:
    found = load_film(headers, POLICY)
    assert isinstance(found, Unevaluable)
    return found.refusal.code


def test_truncated_pixels_are_not_evaluable(films_of: FilmsOf) -> None:
    def cut(ds: FileDataset) -> None:
        ds.PixelData = ds.PixelData[:100]

    assert loaded_refusal(films_of(Film(edit=cut))) is RefusalCode.PIXELS_UNREADABLE


def test_a_declared_size_beyond_all_films_is_not_evaluable(films_of: FilmsOf) -> None:
    headers = films_of(Film(edit=sets(Rows=60000, Columns=60000)))
    assert decided(headers).outcome is Outcome.ANSWERED
    assert loaded_refusal(headers) is RefusalCode.IMAGE_TOO_LARGE


@pytest.mark.parametrize(
    "values",
    [{"PixelSpacing": [0.3, 0.1]}, {"ImagerPixelSpacing": [0.1, 0.3]}, {"PixelAspectRatio": [5, 2]}],
    ids=lambda values: next(iter(values)),
)
def test_pixels_far_from_square_are_not_evaluable(films_of: FilmsOf, values: dict[str, object]) -> None:
    assert loaded_refusal(films_of(Film(edit=sets(**values)))) is RefusalCode.PIXEL_ASPECT


def test_32_bits_are_not_evaluable(films_of: FilmsOf) -> None:
    headers = films_of(Film(allocated=32, bits=32))
    assert loaded_refusal(headers) is RefusalCode.PIXELS_UNREADABLE


def test_two_images_under_one_uid_are_not_evaluable_and_one_sent_twice_is(films_of: FilmsOf) -> None:
    twice = films_of(Film(sop_uid="1.2"), Film(sop_uid="1.2"))
    assert film_of(twice).corrected == 0
    assert len(choose(twice, POLICY)) == 1
    other = films_of(Film(sop_uid="1.2"), Film(sop_uid="1.2", stored=np.flipud(shades())))
    assert loaded_refusal(other) is RefusalCode.DUPLICATE_POSITIONS


def test_of_a_film_sent_again_with_a_corrected_header_the_last_reception_counts(films_of: FilmsOf) -> None:
    headers = films_of(
        Film(sop_uid="1.2", description="Hand dorsal lat", body_part="HAND"),
        Film(sop_uid="1.2", edit=sets(WindowCenter=1000, WindowWidth=900)),
        Film(sop_uid="1.2", edit=sets(PixelSpacing=[0.1, 0.1], PixelSpacingCalibrationType="FIDUCIAL")),
    )
    (decision,) = choose(headers, POLICY)
    assert (decision.outcome, decision.spine_expected) == (Outcome.ANSWERED, True)
    found = film_of(headers)
    assert found.film.spacing_mm == (0.1, 0.1)
    assert found.corrected == 2
    assert found.input_sha256 == film_of(headers[2:]).input_sha256
    back = film_of([headers[2], headers[1]])
    assert (back.film.spacing_mm, back.corrected) == (None, 1)
    assert refusal_of([headers[1], headers[0]]) is RefusalCode.NOT_A_LATERAL_SPINE


def test_a_film_sent_again_because_its_first_transfer_was_broken_is_answered(films_of: FilmsOf) -> None:
    def cut(ds: FileDataset) -> None:
        ds.PixelData = ds.PixelData[:100]

    found = film_of(films_of(Film(sop_uid="1.2", edit=cut), Film(sop_uid="1.2")))
    assert found.corrected == 1


def test_lossy_and_uncalibrated_are_said(films_of: FilmsOf) -> None:
    assert film_of(films_of(Film())).quality == (Quality.UNCALIBRATED,)
    lossy = films_of(
        Film(edit=sets(LossyImageCompression="01", PixelSpacing=[0.1, 0.1], ImagerPixelSpacing=[0.14, 0.14]))
    )
    found = film_of(lossy)
    assert found.quality == (Quality.LOSSY_SOURCE,)
    assert found.film.spacing_mm == (0.1, 0.1)
    assert found.pixel_size.spacing_mm == (0.1, 0.1)


def test_orientation_and_aspect_go_to_the_pipeline(films_of: FilmsOf) -> None:
    film = film_of(films_of(Film(edit=sets(PatientOrientation=["P", "F"], PixelAspectRatio=[2, 1])))).film
    assert film.orientation == ("P", "F")
    assert film.pixel_mm == (2.0, 1.0)


# identity of the input


def identity(films_of: FilmsOf, **values: object) -> str:
    return film_of(films_of(Film(sop_uid="1.2.3", edit=sets(**values)))).input_sha256


def test_the_same_film_is_the_same_input_however_its_numbers_are_written(films_of: FilmsOf) -> None:
    plain = identity(films_of, ImagerPixelSpacing=[0.143, 0.143])
    assert identity(films_of, ImagerPixelSpacing=["1.43E-1", "0.1430"]) == plain
    assert identity(films_of, ImagerPixelSpacing=[0.143, 0.143], StationName="ROOM2") == plain


@pytest.mark.parametrize(
    "change",
    [
        {"PatientName": "Roe^Jane"},
        {"WindowCenter": 1000, "WindowWidth": 500},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"EstimatedRadiographicMagnificationFactor": 1.2},
        {"PatientOrientation": ["A", "F"]},
        {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [48, 32], "RadiusOfCircularShutter": 30},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [5, 9, 5, 60, 90, 60, 90, 9]},
        {"PixelData": b"\1\2" * 96 * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_an_answer_depends_on_makes_another_input(films_of: FilmsOf, change: dict[str, object]) -> None:
    assert identity(films_of, **change) != identity(films_of)


def test_each_corner_of_a_shutter_counts(films_of: FilmsOf) -> None:
    one, other = (
        identity(films_of, ShutterShape="POLYGONAL", VerticesOfThePolygonalShutter=[5, 9, 5, 60, last, 60])
        for last in (90, 91)
    )
    assert one != other
