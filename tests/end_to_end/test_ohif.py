"""The results of a phantom CT in OHIF, as a reader would open them: capture, reformat, lines, details, masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from inference.runtime import load_models
from node.analyze import analyze
from node.settings import load_settings
from tests.end_to_end.ohif import DICOM_WEB, Viewer, drawn_lines, heard_of, measurement_groups, ohif_files
from tests.orthanc import orthanc

pytestmark = [pytest.mark.xdist_group("viewer"), pytest.mark.debian]

OPENED = {9001: "capture", 9002: "reformat", 9003: "report", 9004: "details", 9005: "segmentation", 9006: "bodies"}


@pytest.fixture(scope="module")
def reports(
    tmp_path_factory: pytest.TempPathFactory,
    phantom_series: Path,
    program: Callable[[str], str],
    shipped_models: Path,
) -> Iterator[tuple[Path, dict[Any, dict[str, Any]]]]:
    """Folder of the results, and what the probe says of each by series number (``"start"``: of the study)."""
    files = ohif_files()
    chromium, server = program("chromium"), program("Orthanc")
    folder = tmp_path_factory.mktemp("viewer")
    source = widened(phantom_series, folder / "in")
    (answered,) = analyze(source, folder / "out", load_models(shipped_models, "cpu"), load_settings())
    assert answered.folder is not None
    with (
        orthanc(folder / "orthanc", server, [DICOM_WEB]) as pacs,
        Viewer(files, pacs.url, OPENED) as viewer,
    ):
        for path in (*source.iterdir(), *answered.folder.glob("*.dcm")):
            pacs.store(path)
        heard = heard_of(viewer, chromium, answered.decision.study_uid, len(OPENED), folder / "chromium")
    yield answered.folder, heard


def widened(series: Path, folder: Path) -> Path:
    """The series with columns added until their number divides by 8.

    Orthanc 1.10 cannot cut frames of one bit per pixel out of an object whose columns do not ("Bad number of columns
    for a black-and-white image"); scanners' matrices do.
    """
    folder.mkdir()
    for path in series.glob("*.dcm"):
        image = pydicom.dcmread(path)
        pixels = np.pad(image.pixel_array, ((0, 0), (0, -image.Columns % 8)), mode="edge")
        image.Columns = pixels.shape[1]
        image.PixelData = pixels.tobytes()
        image.save_as(folder / path.name)
    return folder


Reports = tuple[Path, dict[Any, dict[str, Any]]]


def test_every_result_is_listed_and_shown(reports: Reports) -> None:
    _, heard = reports
    assert {9001, 9002, 9003, 9004, 9005, 9006} <= set(heard["start"]["series"])
    assert {number: heard[number]["shown"] for number in range(9001, 9007)} == dict.fromkeys(range(9001, 9007), True)


def test_every_height_of_the_report_is_read_with_our_words(reports: Reports) -> None:
    folder, heard = reports
    groups = measurement_groups(pydicom.dcmread(folder / "report.dcm"))
    assert len(groups) >= 5
    assert {height.unit for _, heights in groups for height in heights} == {"mm"}
    assert [one["labels"] for one in heard[9003]["measurements"]] == [
        [[comment, ""], *(height.label for height in heights)] for comment, heights in groups
    ]
    assert all(one["loaded"] for one in heard[9003]["measurements"])


def test_every_line_is_drawn_where_the_report_says(reports: Reports) -> None:
    """One scale and one shift take the end points of all lines in the SR to those on the screen, within a pixel."""
    folder, heard = reports
    groups = measurement_groups(pydicom.dcmread(folder / "report.dcm"))
    said = np.array([height.line for _, heights in groups for height in heights])
    drawn = drawn_lines(heard[9003], len(groups), len(said))
    assert misplaced(said, drawn) < 1.0
    wrong = said.copy()
    wrong[4, 3] += 1.0
    assert misplaced(wrong, drawn) > 1.0, "the comparison would not notice a line that is a pixel too long"


def test_the_details_are_a_readable_tree(reports: Reports) -> None:
    _, heard = reports
    for words in ("Vertebral Screening Details", "Anterior vertebral height", "Height ratio G"):
        assert words in heard[9004]["text"]


def test_every_segment_has_its_label(reports: Reports) -> None:
    folder, heard = reports
    whole, bodies = (
        [item.SegmentLabel for item in pydicom.dcmread(folder / name, stop_before_pixels=True).SegmentSequence]
        for name in ("segmentation.dcm", "bodies.dcm")
    )
    assert heard[9005]["segments"] == whole
    assert [label for label in heard[9006]["segments"] if label not in whole] == bodies


def misplaced(said: np.ndarray, drawn: np.ndarray) -> float:
    """Most pixels of the screen by which an end point, scaled and shifted like all others, misses the line drawn there.

    Lines (n, 4) are (column, row, column, row); of the drawn ones the order is not known.
    """
    points, on_screen = said.reshape(-1, 2), drawn.reshape(-1, 2)
    scale = np.ptp(on_screen[:, 1]) / np.ptp(points[:, 1])
    placed = ((points - points.min(axis=0)) * scale + on_screen.min(axis=0)).reshape(-1, 4)
    return float(np.abs(placed[:, None] - drawn[None]).max(axis=-1).min(axis=1).max())
