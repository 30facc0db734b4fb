"""A corrected re-send replaces what came before; a plain repetition does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from inference.refusal import Outcome, RefusalCode
from node.gate import LoadedSeries, choose, latest, load_volume, read_headers
from node.gate.deflated import inflates_too_far
from tests.gate.conftest import POLICY, Ct, HeadersOf, save


def corrected(_: int, ds: FileDataset) -> None:
    ds.PatientID, ds.PatientName = "P2", "Roe^Jane"


def test_corrected_demographics_replace_the_first_reception(headers_of: HeadersOf) -> None:
    series = Ct()
    headers = headers_of(series, replace(series, edit=corrected))
    assert {d.refusal.code for d in choose(headers, POLICY) if d.refusal} == {RefusalCode.PATIENT_MISMATCH}
    now = latest(headers)
    assert now == headers[12:]
    (decision,) = choose(now, POLICY)
    assert decision.outcome is Outcome.ANSWERED
    result = load_volume(now, POLICY)
    assert isinstance(result, LoadedSeries)
    assert {d.PatientID for d in result.datasets} == {"P2"}


def test_half_a_correction_is_still_a_mismatch(headers_of: HeadersOf) -> None:
    series = Ct()
    now = latest(headers_of(series, replace(series, count=6, edit=corrected)))
    assert len(now) == 12
    (decision,) = choose(now, POLICY)
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.PATIENT_MISMATCH


def test_a_repetition_stays_for_the_comparison_of_pixels(headers_of: HeadersOf) -> None:
    series = Ct()
    headers = headers_of(series, series)
    assert latest(headers) == headers
    assert latest([]) == []


def test_a_deflated_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = Ct().dataset(0)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.private_block(0x0009, "filler", create=True).add_new(1, "OB", bytes(4_000_000))
    path = tmp_path / "bomb.dcm"
    save(ds, path)
    assert path.stat().st_size < 20_000
    assert inflates_too_far(path, limit=3_000_000)
    assert not inflates_too_far(path, limit=5_000_000)
    assert len(read_headers([path]).headers) == 1
    monkeypatch.setattr("node.gate.headers.inflates_too_far", lambda p: inflates_too_far(p, 3_000_000))
    headers, (unreadable,) = read_headers([path])
    assert headers == []
    assert unreadable.errno is None
