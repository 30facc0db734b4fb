"""Whatever the header of a radiograph says, the gate answers: a film with finite pixels, or a refusal."""

from __future__ import annotations

import functools
import io
import tempfile
from pathlib import Path

import numpy as np
import pydicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from inference.findings import Quality
from inference.refusal import Outcome
from node.gate import InstanceHeader, LoadedFilm, Unevaluable, choose, load_film
from node.gate.eligibility import NOT_ELIGIBLE
from node.gate.headers import instance_header
from node.gate.radiograph import DESCRIBING, is_film
from node.gate.values import permissive, tidy
from tests.films import Film
from tests.gate.conftest import POLICY, raw
from tests.gate.test_hostile import BINARY, TEXT, VRS

FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)
OTHERS = {
    "Rows": "US",
    "Columns": "US",
    "BitsAllocated": "US",
    "BitsStored": "US",
    "HighBit": "US",
    "PixelRepresentation": "US",
    "SamplesPerPixel": "US",
    "NumberOfFrames": "IS",
    "SOPClassUID": "UI",
    "SOPInstanceUID": "UI",
    "PatientID": "LO",
    "PatientAge": "AS",
    "SeriesDescription": "LO",
    "ConversionType": "CS",
    "VOILUTSequence": "SQ",
    "ModalityLUTSequence": "SQ",
    "ViewCodeSequence": "SQ",
    "SourceImageSequence": "SQ",
    "AnatomicRegionSequence": "SQ",
}
changes = st.lists(
    st.tuples(
        st.sampled_from(sorted({*DESCRIBING, *OTHERS})),
        st.sampled_from(VRS),
        st.one_of(st.sampled_from(TEXT), st.sampled_from(BINARY), st.binary(max_size=24)),
    ),
    min_size=1,
    max_size=5,
)
tables = st.tuples(
    st.lists(st.integers(0, 65535), min_size=1, max_size=5),
    st.one_of(st.binary(max_size=40), st.lists(st.integers(0, 65535), max_size=20)),
)


def complete(ds: FileDataset) -> None:
    """A film whose header says everything that may be spoilt."""
    ds.WindowCenter, ds.WindowWidth, ds.PixelPaddingValue = 2000, 3000, 0
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    ds.ImagerPixelSpacing, ds.EstimatedRadiographicMagnificationFactor = [0.14, 0.14], 1.2
    ds.PatientOrientation = ["A", "F"]


@functools.cache
def original() -> tuple[Path, bytes]:
    path = Film(edit=complete, sop_uid="1.2.3").write(Path(tempfile.mkdtemp(prefix="gate-film-")) / "film.dcm")
    return path, path.read_bytes()


def spoilt(edits: list[tuple[str, str, bytes]], luts: dict[str, Dataset] | None = None) -> list[InstanceHeader]:
    path, content = original()
    with permissive():
        ds = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
        for keyword, vr, value in edits:
            raw(ds, keyword, vr, value)
        for keyword, item in (luts or {}).items():
            setattr(ds, keyword, Sequence([item]))
        tidy(ds)
        tidy(ds.file_meta)
        header = instance_header(path, ds)
    return [header] if isinstance(header, InstanceHeader) else []


def check(headers: list[InstanceHeader]) -> None:
    for decision in choose(headers, POLICY):
        if not is_film(headers[0]):
            continue
        found = load_film(headers, POLICY)
        if isinstance(found, LoadedFilm):
            assert decision.outcome is Outcome.ANSWERED or decision.refusal is not None
            assert np.isfinite(found.film.pixels).all()
            assert 0 <= found.film.pixels.min() <= found.film.pixels.max() <= 1
            assert found.film.spacing_source
            assert set(found.quality) <= set(Quality)
        else:
            assert isinstance(found, Unevaluable)
            assert found.refusal.sentence
            if decision.outcome is Outcome.NOT_ELIGIBLE and decision.refusal is not None:
                assert decision.refusal.code in NOT_ELIGIBLE


@FUZZ
@given(changes)
def test_hostile_values_of_a_film_never_raise(edits: list[tuple[str, str, bytes]]) -> None:
    check(spoilt(edits))


@FUZZ
@given(tables, tables)
def test_hostile_tables_never_raise(
    voi: tuple[list[int], bytes | list[int]], modality: tuple[list[int], bytes | list[int]]
) -> None:
    items = {}
    for keyword, (descriptor, data) in (("VOILUTSequence", voi), ("ModalityLUTSequence", modality)):
        item = Dataset()
        item.add_new("LUTDescriptor", "US", descriptor)
        item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
        items[keyword] = item
    check(spoilt([], items))
