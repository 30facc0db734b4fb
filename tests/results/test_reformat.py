"""reformat.dcm: attribute by attribute the recipe that viewers were measured with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from results_synthetic import Case, context, make_case

from inference.reformat import CurvedReformat
from node.results import Result, encode
from node.results.reformat import ds_number


def test_the_recipe(flagged: Case, flagged_results: dict[str, Result]) -> None:
    image = flagged_results["reformat"].dataset
    assert flagged.reformat is not None
    assert image.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert list(image.ImageType) == ["DERIVED", "SECONDARY"]
    assert (image.Modality, image.ConversionType) == ("CT", "WSD")
    assert list(image.PatientOrientation) == ["P", "F"]
    assert [float(s) for s in image.PixelSpacing] == [flagged.reformat.spacing_mm] * 2
    assert image.PixelSpacingCalibrationType == "GEOMETRY"
    assert image.PixelSpacingCalibrationDescription
    assert (image.PhotometricInterpretation, image.BitsAllocated, image.PixelRepresentation) == ("MONOCHROME2", 16, 0)
    assert (image.RescaleSlope, image.RescaleIntercept, image.RescaleType) == (1, -1024, "HU")
    assert (image.WindowCenter, image.WindowWidth) == (300, 1500)
    assert image.BurnedInAnnotation == "NO"
    assert image.LossyImageCompression == "00"
    assert "not acquired" in image.DerivationDescription
    assert image.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert len(image.SourceImageSequence) == len(flagged.source)
    assert image.ReferencedSeriesSequence[0].SeriesInstanceUID == flagged.source[0].SeriesInstanceUID
    for absent in ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient"):
        assert absent not in image


def test_the_pixels_are_the_attenuation(flagged: Case, flagged_results: dict[str, Result]) -> None:
    assert flagged.reformat is not None
    image = flagged_results["reformat"].dataset
    hu = image.pixel_array.astype(int) * int(image.RescaleSlope) + int(image.RescaleIntercept)
    assert np.array_equal(hu, np.maximum(flagged.reformat.hu, -1024))


def test_values_below_the_intercept_are_clipped_and_never_wrap_round() -> None:
    case = make_case(count=3)
    assert case.reformat is not None
    hu = case.reformat.hu.copy()
    hu[0, 0], hu[0, 1] = -2000, 32767
    changed = CurvedReformat(
        hu, case.reformat.spacing_mm, case.reformat.surface, case.reformat.arc_origin_mm, case.reformat.y_origin_mm
    )
    image = encode(case.source, _with(case, changed), context())[0].dataset
    assert (image.pixel_array[0, 0], image.pixel_array[0, 1]) == (0, 33791)


def _with(case: Case, reformat: CurvedReformat) -> Case:
    return replace(case, reformat=reformat)


@pytest.mark.parametrize("value", [0.7421875, 1 / 3, 0.9765625, 1e-5 / 3, 123.456789012345678])
def test_decimal_strings_fit_and_keep_their_value(value: float) -> None:
    text = ds_number(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=1e-9)
