"""Whatever a header says, the gate answers: a volume, or a refusal with a sentence. It never raises."""

from __future__ import annotations

import functools
import io
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.findings import Quality
from inference.refusal import Outcome, RefusalCode
from node.gate import GatePolicy, InstanceHeader, LoadedSeries, Unevaluable, choose, load_volume, read_headers
from node.gate.eligibility import NOT_ELIGIBLE
from node.gate.geometry import Grid, arrange
from node.gate.headers import instance_header
from node.gate.pixels import stored_values
from node.gate.values import permissive, tidy
from tests.gate.conftest import POLICY, Ct, raw, save

FUZZ = settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


@functools.cache
def originals() -> tuple[tuple[Path, bytes], ...]:
    """Twelve good instances: where they lie, and their bytes."""
    folder = Path(tempfile.mkdtemp(prefix="gate-hostile-"))
    return tuple((path, path.read_bytes()) for path in Ct().write(folder))


@functools.cache
def unchanged() -> tuple[InstanceHeader, ...]:
    """The headers of the good instances."""
    return tuple(read_headers(path for path, _ in originals()).headers)


TEXT = [
    b"",
    b" ",
    b"nan",
    b"NaN\\nan",
    b"inf\\-inf\\1e400",
    b"1e308\\1e308\\1e308",
    b"-1e-320",
    b"0",
    b"0\\0",
    b"0\\0\\0",
    b"0\\0\\0\\0\\0\\0",
    b"-3\\-3",
    b"1\\2\\3\\4\\5\\6\\7\\8",
    b"1\\0\\0\\1\\0\\0",
    b"1\\0\\0\\0\\0\\-1",
    b"0.5",
    b"abc",
    b"1,5\\2,5",
    b"\\\\\\",
    b"\xff\xfe\x80 ",
    b"9" * 400,
    b"1\\" * 3000 + b"1",
    b"DERIVED\\SECONDARY",
    b"..",
    b"1.2.3",
]
BINARY = [b"", b"\0\0", b"\xff\xff", b"\1\0", b"\0\x80", b"\x07\0\x07\0", b"\0\0\0\0\0\0\xf8\x7f", b"\xff" * 8, b"\5"]
KEYWORDS = {
    "ImagePositionPatient": "DS",
    "ImageOrientationPatient": "DS",
    "PixelSpacing": "DS",
    "RescaleSlope": "DS",
    "RescaleIntercept": "DS",
    "RescaleType": "LO",
    "GantryDetectorTilt": "DS",
    "Rows": "US",
    "Columns": "US",
    "BitsAllocated": "US",
    "BitsStored": "US",
    "HighBit": "US",
    "PixelRepresentation": "US",
    "SamplesPerPixel": "US",
    "PixelPaddingValue": "US",
    "PixelPaddingRangeLimit": "SS",
    "NumberOfFrames": "IS",
    "ImageType": "CS",
    "Modality": "CS",
    "SOPClassUID": "UI",
    "SOPInstanceUID": "UI",
    "SeriesInstanceUID": "UI",
    "StudyInstanceUID": "UI",
    "FrameOfReferenceUID": "UI",
    "PatientID": "LO",
    "PatientAge": "AS",
    "PatientBirthDate": "DA",
    "StudyDate": "DA",
    "ConvolutionKernel": "SH",
    "Manufacturer": "LO",
    "SeriesDescription": "LO",
    "BodyPartExamined": "CS",
    "AcquisitionNumber": "IS",
    "TemporalPositionIdentifier": "IS",
    "LossyImageCompression": "CS",
    "PhotometricInterpretation": "CS",
    "SharedFunctionalGroupsSequence": "SQ",
    "PerFrameFunctionalGroupsSequence": "SQ",
    "ContributingEquipmentSequence": "SQ",
    "AnatomicRegionSequence": "SQ",
    "ModalityLUTSequence": "SQ",
}
VRS = ["DS", "IS", "US", "SS", "FD", "LO", "UI", "UN", "CS", "OB", "SQ", "PN", "AT"]

changes = st.lists(
    st.tuples(
        st.sampled_from(sorted(KEYWORDS)),
        st.one_of(st.none(), st.sampled_from(VRS)),
        st.one_of(st.sampled_from(TEXT), st.sampled_from(BINARY), st.binary(max_size=24)),
        st.one_of(st.none(), st.integers(0, 11)),
    ),
    min_size=1,
    max_size=4,
)


def changed(edits: list[tuple[str, str | None, bytes, int | None]]) -> list[InstanceHeader]:
    """The good headers with some raw elements replaced, in one instance or (index ``None``) in all."""
    headers = []
    for index, (path, content) in enumerate(originals()):
        if not any(only in (None, index) for *_, only in edits):
            headers.append(unchanged()[index])
            continue
        with permissive():
            ds = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
            for keyword, vr, value, only in edits:
                if only in (None, index):
                    raw(ds, keyword, vr or KEYWORDS[keyword], value)
            tidy(ds)
            tidy(ds.file_meta)
            header = instance_header(path, ds)
        if isinstance(header, InstanceHeader):
            headers.append(header)
    return headers


def check(headers: list[InstanceHeader]) -> None:
    """Choose and load: every outcome must be complete and consistent."""
    for decision in choose(headers, POLICY):
        mine = [h for h in headers if (h.study_uid, h.series_uid) == (decision.study_uid, decision.series_uid)]
        result = load_volume(mine, POLICY)
        if decision.outcome is Outcome.ANSWERED and isinstance(result, LoadedSeries):
            assert decision.refusal is None
            assert np.isfinite(result.volume.affine).all()
            assert np.isfinite(result.volume.hu).all()
            assert len(result.references) == result.volume.hu.shape[0]
            assert set(result.quality) <= set(Quality)
        elif isinstance(result, Unevaluable):
            assert result.refusal.sentence
            assert len(result.input_sha256) == 64
            assert result.datasets
            if decision.outcome is Outcome.NOT_ELIGIBLE and decision.refusal is not None:
                assert decision.refusal.code in NOT_ELIGIBLE
        else:
            assert decision.outcome is not Outcome.ANSWERED


@FUZZ
@given(changes)
def test_hostile_values_never_raise(edits: list[tuple[str, str | None, bytes, int | None]]) -> None:
    check(changed(edits))


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 2000))
def test_flipped_bytes_and_cut_files_never_raise(flips: list[tuple[int, int]], cut: int) -> None:
    files = originals()
    content = bytearray(files[3][1])
    for place, value in flips:
        content[place % len(content)] = value
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / "broken.dcm"
        broken.write_bytes(bytes(content[: len(content) - cut if cut > 1000 else None]))
        headers, unreadable = read_headers([broken])
        assert len(headers) + len(unreadable) == 1
        check([*headers, *unchanged()[:3], *unchanged()[4:]])


@FUZZ
@given(
    st.lists(
        st.tuples(*[st.floats(-1e4, 1e4, allow_nan=False) | st.sampled_from([0.0, 3.0, 6.0, 1e300])] * 3),
        min_size=12,
        max_size=12,
    )
)
def test_any_positions_give_a_regular_grid_or_a_refusal(positions: list[tuple[float, float, float]]) -> None:
    edits = [
        ("ImagePositionPatient", "DS", "\\".join(f"{v:.9g}" for v in place).encode(), index)
        for index, place in enumerate(positions)
    ]
    check(changed(list(edits)))


@FUZZ
@given(st.permutations(range(12)), st.floats(0.7, 3.0), st.floats(-0.04, 0.04))
def test_any_order_of_a_regular_series_gives_the_same_grid(order: list[int], spacing: float, jitter: float) -> None:
    edits = [
        ("ImagePositionPatient", "DS", f"1\\2\\{index * max(spacing, 2.8) + jitter * (index % 2):.9f}".encode(), index)
        for index in range(12)
    ]
    headers = changed(list(edits))
    expected = load_volume(headers, POLICY)
    shuffled = load_volume([headers[i] for i in order], POLICY)
    assert isinstance(expected, LoadedSeries)
    assert isinstance(shuffled, LoadedSeries)
    assert np.array_equal(expected.volume.affine, shuffled.volume.affine)
    assert expected.input_sha256 == shuffled.input_sha256


@pytest.mark.parametrize(
    ("keyword", "vr", "value", "code"),
    [
        ("ImagePositionPatient", "DS", b"nan\\0\\0", RefusalCode.MISSING_GEOMETRY),
        ("ImagePositionPatient", "DS", b"0\\inf\\0", RefusalCode.MISSING_GEOMETRY),
        ("ImagePositionPatient", "DS", b"0\\0", RefusalCode.MISSING_GEOMETRY),
        ("ImagePositionPatient", "DS", b"0\\0\\1e30", RefusalCode.MISSING_GEOMETRY),
        ("ImageOrientationPatient", "DS", b"1\\0\\0\\0\\1", RefusalCode.MISSING_GEOMETRY),
        ("ImageOrientationPatient", "DS", b"1e300\\0\\0\\0\\1\\0", RefusalCode.INVALID_ORIENTATION),
        ("PixelSpacing", "DS", b"0\\0", RefusalCode.MISSING_GEOMETRY),
        ("PixelSpacing", "DS", b"0.7", RefusalCode.MISSING_GEOMETRY),
        ("PixelSpacing", "DS", b"0.7\\0.7\\0.7", RefusalCode.MISSING_GEOMETRY),
        ("PixelSpacing", "DS", b"-0.7\\0.7", RefusalCode.MISSING_GEOMETRY),
        ("PixelSpacing", "DS", b"nan\\nan", RefusalCode.MISSING_GEOMETRY),
        ("Rows", "US", b"\xff\xff", RefusalCode.PIXELS_UNREADABLE),
        ("Rows", "US", b"\0\0", RefusalCode.MISSING_GEOMETRY),
        ("Columns", "US", b"\x10\0\x10\0", RefusalCode.NOT_AN_IMAGE),
        ("RescaleSlope", "DS", b"nan", RefusalCode.NOT_HOUNSFIELD),
        ("RescaleSlope", "DS", b"0", RefusalCode.NOT_HOUNSFIELD),
        ("RescaleSlope", "DS", b"1\\2", RefusalCode.NOT_HOUNSFIELD),
        ("RescaleIntercept", "DS", b"1e200", RefusalCode.NOT_HOUNSFIELD),
    ],
)
def test_each_hostile_value_has_its_refusal(keyword: str, vr: str, value: bytes, code: RefusalCode) -> None:
    result = load_volume(changed([(keyword, vr, value, None)]), POLICY)
    assert isinstance(result, Unevaluable)
    assert result.refusal.code is code


def test_a_volume_beyond_the_limit_is_refused_before_it_is_allocated() -> None:
    result = load_volume(changed([]), GatePolicy(max_voxels=12 * 80 - 1))
    assert isinstance(result, Unevaluable)
    assert result.refusal.code is RefusalCode.PIXELS_UNREADABLE
    assert "960 voxels" in result.refusal.sentence


def test_refusals_quote_no_patient_data(tmp_path: Path) -> None:
    ds = Ct().dataset(0)
    ds.PatientName, ds.PatientID, ds.Modality = "Secret^Person", "SECRET1", "US"
    save(ds, tmp_path / "one.dcm")
    (decision,) = choose(read_headers([tmp_path / "one.dcm"]).headers, POLICY)
    assert decision.refusal is not None
    assert "ecret" not in decision.refusal.sentence.lower()


def test_a_generator_of_pixels_may_be_abandoned() -> None:
    """Reading stops at the first bad slice; what is left behind must not leave pydicom silenced."""
    headers = changed([])
    values = stored_values(headers[0], [None])
    assert next(values).shape == (10, 8)
    values.close()
    with pytest.warns(UserWarning, match="Invalid value"):
        pydicom.Dataset().PatientBirthDate = "not a date"


def test_a_grid_of_no_images_is_refused() -> None:
    assert not isinstance(arrange([], POLICY), Grid)
