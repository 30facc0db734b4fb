"""Who a result is: the same input gives the same bytes, any change another UID."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID
from results_synthetic import Case, context, from_disk, make_case, refused

from inference.findings import ModelIdentity
from node.results import DocumentReference, Identity, Result, ResultError, capture_png, derived_uid, encode


def _uids(dataset: Dataset) -> set[str]:
    found: set[str] = set()
    for element in dataset.iterall():
        if element.VR == "UI":
            values = [element.value] if isinstance(element.value, str) else list(element.value or [])
            found.update(str(v) for v in values)
    return found


def test_two_runs_give_the_same_bytes(flagged: Case) -> None:
    again = make_case({4: (0.55, 0.5, 0.8), 6: (0.68, 0.9, 1.0)}, unmeasured=(8,))
    first = [r.encoded() for r in encode(flagged.source, flagged, context())]
    second = [r.encoded() for r in encode([from_disk(h) for h in again.source], again, context())]
    assert first == second
    assert capture_png(flagged.source, flagged, context()) == capture_png(again.source, again, context())


def test_two_refusals_give_the_same_bytes(flagged: Case) -> None:
    first, second = (encode(flagged.source, refused(), context()) for _ in range(2))
    assert [r.sha256() for r in first] == [r.sha256() for r in second]


def test_encoding_leaves_the_source_as_it_was(normal: Case) -> None:
    before = [str(h) for h in normal.source]
    encode(normal.source, normal, context())
    assert [str(h) for h in normal.source] == before


def test_every_uid_is_legal_and_no_two_things_share_one(flagged_results: dict[str, Result]) -> None:
    for result in flagged_results.values():
        for uid in _uids(result.dataset):
            assert UID(uid).is_valid, uid
            assert len(uid) <= 64
    own = [r.dataset.SOPInstanceUID for r in flagged_results.values()]
    own += [r.dataset.SeriesInstanceUID for r in flagged_results.values()]
    assert len(set(own)) == 12
    assert all(uid.startswith("2.25.") and len(uid) <= 44 for uid in own)


@pytest.mark.parametrize(
    "change",
    [
        {"site": "another hospital"},
        {"input_sha256": "e" * 64},
        {"configuration_sha256": "e" * 64},
        {"software_version": "0.1.1"},
        {"revision": 2},
        {"dated_at": datetime(2026, 11, 20, 23, 30, 6, tzinfo=timezone(timedelta(hours=1)))},
        {"dated_at": datetime(2026, 11, 20, 22, 30, 5, tzinfo=UTC)},
        {"predecessor_report": DocumentReference("1.2", "1.2.3", "1.2.4", "1.2.5")},
        {"predecessor_details": DocumentReference("1.2", "1.2.3", "1.2.4", "1.2.6")},
    ],
)
def test_whatever_the_answer_depends_on_changes_every_uid(normal: Case, change: dict[str, object]) -> None:
    one, other = (Identity.of(normal.findings, c) for c in (context(), context(**change)))
    for kind in ("reformat", "report"):
        assert one.instance_uid(kind) != other.instance_uid(kind)
        assert one.series_uid(kind) != other.series_uid(kind)
    assert one.tracking_uid(1) != other.tracking_uid(1)


def test_model_provider_and_pipeline_version_change_the_uids(normal: Case) -> None:
    plain = Identity.of(normal.findings, context())
    for findings in (
        replace(normal.findings, provider="CUDAExecutionProvider"),
        replace(normal.findings, pipeline_version="1.0.1"),
        replace(normal.findings, models=(ModelIdentity("localizer", "1.0.0", "f" * 64),)),
    ):
        assert Identity.of(findings, context()).instance_uid("report") != plain.instance_uid("report")


def test_the_algorithm_s_device_uid_changes_with_a_model_and_with_nothing_else(normal: Case) -> None:
    plain = Identity.of(normal.findings, context()).algorithm_uid()
    assert Identity.of(normal.findings, context(input_sha256="e" * 64, revision=2)).algorithm_uid() == plain
    retrained = replace(normal.findings, models=(ModelIdentity("localizer", "1.0.0", "f" * 64),))
    assert Identity.of(retrained, context()).algorithm_uid() != plain


def test_a_separator_in_a_name_cannot_make_two_answers_one(normal: Case) -> None:
    one = Identity.of(normal.findings, context(site="a|b", input_sha256="c"))
    other = Identity.of(normal.findings, context(site="a", input_sha256="b|c"))
    assert one.instance_uid("report") != other.instance_uid("report")


def test_derived_uids_never_change() -> None:
    """Archives hold objects under these names: a new namespace or rule would send every answer twice."""
    assert derived_uid("a name") == "2.25.192446387672756700183939179089574558116"


def test_series_numbers_and_descriptions(flagged_results: dict[str, Result]) -> None:
    numbers = {kind: int(r.dataset.SeriesNumber) for kind, r in flagged_results.items()}
    assert numbers == {
        **{"capture": 9001, "reformat": 9002, "report": 9003, "details": 9004},
        **{"segmentation": 9005, "bodies": 9006},
    }
    assert flagged_results["capture"].dataset.SeriesDescription == "AI spine: FLAG (research)"
    assert flagged_results["report"].dataset.SeriesDescription == "AI spine: FLAG report (research)"


def test_a_revision_has_other_numbers_and_says_so(normal: Case) -> None:
    for result in encode(normal.source, normal, context(revision=3, series_number_base=500)):
        assert 700 < int(result.dataset.SeriesNumber) < 710
        assert " r3 (research)" in result.dataset.SeriesDescription


def test_the_verdict_stands_within_twenty_characters(flagged: Case, normal: Case) -> None:
    for findings, words in (
        (flagged.findings, "AI spine: FLAG"),
        (normal.findings, "AI spine: no flag"),
        (refused(), "AI spine: not evalua"),
    ):
        identity = Identity.of(findings, context(revision=12))
        for kind in ("capture", "reformat", "report", "details", "segmentation", "bodies"):
            description = identity.series_description(kind)
            assert description[:20].startswith(words)
            assert len(description) <= 64
            assert description.isascii()


def test_the_context_refuses_what_cannot_be_stated() -> None:
    with pytest.raises(ValueError, match="time zone"):
        context(dated_at=datetime(2026, 11, 20, tzinfo=UTC).replace(tzinfo=None))
    with pytest.raises(ValueError, match="counted from 1"):
        context(revision=0)
    with pytest.raises(ValueError, match="negative"):
        context(series_number_base=-1)


def test_a_source_that_cannot_be_named_is_an_error(small: Case) -> None:
    with pytest.raises(ResultError, match="no source header"):
        encode([], small, context())
    header = from_disk(small.source[0])
    header.StudyInstanceUID = ""
    with pytest.raises(ResultError, match="has no StudyInstanceUID"):
        encode([header], refused(), context())
