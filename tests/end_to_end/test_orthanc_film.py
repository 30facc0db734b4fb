"""A radiograph by storescu into the node, results into Orthanc, read back by strangers' tools and laid on the film."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from node.demo.film import TrueBody, nearest, phantom_film
from node.demo.reading import ReadBody, read_film_details
from node.demo.validation import errors_of
from node.results import codes
from tests.end_to_end.film_round import films_answered, results_in

pytestmark = [pytest.mark.xdist_group("node"), pytest.mark.debian, pytest.mark.usefixtures("shipped_models")]
OFF_PX = 3.0
"""Along the height, from any drawn end of a sure body to the end plate of the phantom: 1.7 mm at the spine. The network
that is shipped stays within 1.8 pixels on this film."""
OFF_MM = 2.0
"""Of a height of a sure body from that of the phantom in space, on a calibrated film; seen: 1.6 (T12, posterior).
Sure is a body whose heights are expected to be off by 6 % or less."""
OFF_RATIO = 0.08
"""Of a height over the own posterior one; seen: .05."""
LEAST_SURE = 7
"""Of the eight bodies that lie whole on the film."""
HEIGHTS = ("Ha", "Hm", "Hp")


@dataclass(frozen=True)
class Read:
    """A vertebra as dsrdump prints its group of the report: name to value, unit and (2, 2) ends of the line."""

    name: str
    numbers: dict[str, tuple[float, str, np.ndarray]]

    @property
    def lines_px(self) -> np.ndarray:
        """(3, 2, 2), as `TrueBody.points_px`."""
        told = HEIGHTS if "Ha" in self.numbers else [f"{height}/Hp" for height in HEIGHTS]
        return np.array([self.numbers[name][2] for name in told])


def test_radiographs_come_back_with_every_height_beside_the_truth(
    tmp_path: Path, program: Callable[[str], str]
) -> None:
    """One film without a known size of its pixels, and the same one as a detector sends it that knows it."""
    dciodvfy = Path(program("dciodvfy"))
    truth, bare = phantom_film(tmp_path / "film")
    films = {"bare": bare, "calibrated": _calibrated(bare, truth, tmp_path / "calibrated.dcm")}
    studies = {name: str(dcmread(path).StudyInstanceUID) for name, path in films.items()}
    results: dict[str, dict[str, Path]] = {name: {} for name in films}
    with films_answered([*films.values()], tmp_path, program) as pacs:
        filed = {study["MainDicomTags"]["StudyInstanceUID"] for study in pacs.get("/studies?expand")}
        assert filed == set(studies.values())
        for path, header in results_in(pacs, tmp_path):
            name = next(name for name, study in studies.items() if study == header.StudyInstanceUID)
            kind = header.SeriesDescription.removeprefix("AI spine: FLAG ").removesuffix(" (research)")
            results[name][kind] = path
    for name, film in films.items():
        assert set(results[name]) == {"film", "film segmentation", "film report", "film details"}
        assert all(errors_of(path, dciodvfy) == [] for path in results[name].values())
        sent, mask = dcmread(film), dcmread(results[name]["film segmentation"])
        assert (mask.Rows, mask.Columns) == (sent.Rows, sent.Columns)
        answer = read_film_details(results[name]["film details"])
        assert answer.flag is True
        report = _dumped(results[name]["film report"], program)
        details = _dumped(results[name]["film details"], program)
        assert codes.DETAILS_TITLE.meaning in details
        unsure = {_tracked(group) for group in _groups(details) if '="LOW_CONFIDENCE: ' in group}
        bodies = [body for body in map(_read, _groups(report)) if body.name not in unsure]
        assert len(bodies) >= LEAST_SURE
        places = [nearest(ReadBody(body.name, body.lines_px, None, None, None), truth) for body in bodies]
        assert None not in places and len(set(places)) == len(places), "each lies on a vertebra of its own"
        for body, place in zip(bodies, places, strict=True):
            assert place is not None
            _judge(body, truth[place], float(sent.ImagerPixelSpacing[0]) / _magnification(truth, sent))
        units = {unit for body in bodies for _, unit, _ in body.numbers.values()}
        assert units == {"{ratio}", "%"} | ({"mm"} if name == "calibrated" else set())
        in_details = {body.name.removeprefix("spine-node "): body.relative_heights for body in answer.bodies}
        for body in bodies:
            told = [body.numbers[ratio][0] for ratio in ("Ha/Hp", "Hm/Hp")]
            assert told == pytest.approx(in_details[body.name], abs=6e-4)


def _judge(body: Read, true: TrueBody, pixel_mm: float) -> None:
    """Every number and every drawn end of one vertebra against the phantom and against each other."""
    assert np.abs(_along(body.lines_px, true.points_px)).max() < OFF_PX, body.name
    lengths = np.linalg.norm(np.diff(body.lines_px, axis=1)[:, 0], axis=1)
    for n, (height, length) in enumerate(zip(HEIGHTS, lengths, strict=True)):
        if height in body.numbers:
            value, unit, _ = body.numbers[height]
            assert unit == "mm"
            assert value == pytest.approx(length * pixel_mm, rel=2e-3), "as long as its line"
            assert value == pytest.approx(true.heights_mm[n], abs=OFF_MM), (body.name, height)
        if f"{height}/Hp" in body.numbers:
            value, unit, line = body.numbers[f"{height}/Hp"]
            assert unit == "{ratio}"
            assert value == pytest.approx(lengths[n] / lengths[2], abs=2e-3)
            assert value == pytest.approx(true.heights_mm[n] / true.heights_mm[2], abs=OFF_RATIO), (body.name, height)
            np.testing.assert_allclose(line, body.lines_px[n])
    assert {"Ha/Hp", "Hm/Hp"} <= set(body.numbers)


def _calibrated(film: Path, truth: Sequence[TrueBody], path: Path) -> Path:
    """The film as another study, with the magnification at the spine in its header."""
    data_set = dcmread(film)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        data_set[keyword].value = generate_uid()
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    data_set.EstimatedRadiographicMagnificationFactor = f"{_magnification(truth, data_set):.6g}"
    data_set.save_as(path, enforce_file_format=True)
    return path


def _magnification(truth: Sequence[TrueBody], film: Dataset) -> float:
    """By how much the phantom's heights are larger on the detector than in space."""
    pixels = np.array([np.linalg.norm(np.diff(body.points_px, axis=1)[:, 0], axis=1) for body in truth])
    return float(np.median(pixels * float(film.ImagerPixelSpacing[0]) / [body.heights_mm for body in truth]))


def _dumped(path: Path, program: Callable[[str], str]) -> str:
    return subprocess.run([program("dsrdump"), "+Pl", str(path)], check=True, capture_output=True).stdout.decode()


def _groups(dumped: str) -> list[str]:
    """What dsrdump prints of each group."""
    return dumped.split('CONTAINER:(,,"Measurement Group")')[1:]


def _tracked(group: str) -> str:
    (name,) = re.findall(r'"Tracking Identifier"\)="spine-node ([^"]+)"', group)
    return str(name)


def _read(group: str) -> Read:
    """A group of the report, by what dsrdump prints."""
    number = r'NUM:\(,,"([^"]+)"\)="([-\d.]+)" \(([^,]+),.*\n.*POLYLINE,([-\d./,]+)\)'
    numbers = {
        what: (float(value), unit, np.array([pair.split("/") for pair in line.split(",")], float))
        for what, value, unit, line in re.findall(number, group)
    }
    assert len(numbers) == group.count(" NUM:(") >= 3, "every number has its line"
    return Read(_tracked(group), numbers)


def _along(lines: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(6,): how far each end lies above or below the true end plate, along the true height."""
    up = true[:, 0] - true[:, 1]
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    return ((lines - true) * up[:, None]).sum(axis=2).ravel()
