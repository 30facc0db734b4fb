"""The demo's last scene: what it prints of what came back, and when it fails."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films_synthetic import film_case, film_context
from results_synthetic import Case, context
from rich.console import Console
from test_film import refusal, without_side

from inference.film_ratios import compression_ratios
from inference.findings import Heights
from node.deliver.sender import send
from node.demo import show
from node.demo.film import TrueBody, true_compression_percent
from node.demo.pacs import AE_TITLE, SmallPacs
from node.demo.reading import read_details, read_film_details
from node.results import Result, encode, encode_film
from node.results.film_lines import height_ends

STUDIES: list[dict[str, Any]] = [
    {"study_uid": "1.2.3", "state": "evaluated", "parked": None, "deliveries": {"stored": 9}, "answers": 1}
]


@dataclass
class True1:
    """A vertebra of the CT of which everything is known."""

    level: str = "L1"
    centroid_lps_mm: tuple[float, ...] = (0.0, 0.0, 5000.0)
    heights_mm: tuple[float, ...] = (12.0, 12.0, 24.0)
    loss: tuple[float, ...] = (0.5, 0.5, 0.0)
    deformity: str = "wedge"


@pytest.fixture(scope="module")
def ct(small: Case) -> list[Result]:
    return encode(small.source, small, context())


@pytest.fixture(scope="module")
def film() -> list[Result]:
    case = film_case({2: 0.55})
    return encode_film(case.source, case.answer, film_context())


@pytest.fixture(scope="module")
def refused_film() -> list[Result]:
    return encode_film(film_case().source, refusal(), film_context())


@pytest.fixture(scope="module")
def film_truth() -> list[TrueBody]:
    vertebrae = film_case({2: 0.55}).findings.vertebrae
    return [
        TrueBody(f"L{v.ordinal}", "wedge" if v.ordinal == 2 else "none", height_ends(v), v.heights_mm.as_tuple())
        for v in vertebrae
        if v.heights_mm is not None
    ]


def shown(
    folder: Path,
    came_back: Sequence[Result],
    truth: Sequence[True1],
    film_truth: Sequence[TrueBody],
    studies: Sequence[dict[str, Any]] = STUDIES,
) -> tuple[int, str]:
    """The exit code after a PACS was sent these objects, and what was printed."""
    files = []
    for n, result in enumerate(came_back):
        files.append(folder / f"{n}.dcm")
        files[-1].write_bytes(result.encoded())
    told = io.StringIO()
    console = Console(file=told, width=200)
    with SmallPacs(folder / "pacs") as pacs:
        if files:
            send(files, "127.0.0.1", pacs.port, called_ae=AE_TITLE, calling_ae="TEST", replied=lambda *_: None)
        code = show._show(list(studies), [], pacs, truth, film_truth, folder, console)
    return code, told.getvalue()


def test_the_true_compression_of_a_film_is_weighted_as_the_told_one_is() -> None:
    """Beside a fracture, T12 with T11 and L2: the next one counts twice as much as the one after the fracture."""
    heights = {"T11": 18.0, "T12": 23.0, "L1": 12.0, "L2": 27.0, "L3": 28.0}
    bodies = [
        TrueBody(level, "wedge" if level == "L1" else "none", np.zeros((3, 2, 2)), (height, height, 25.0))
        for level, height in heights.items()
    ]
    told = [true_compression_percent(bodies, n) for n in range(5)]
    assert told[0] is None and told[4] is None
    assert told[1] == pytest.approx(100 * (1 - 23 / 21))
    assert told[2] == pytest.approx(100 * (1 - 12 / 25)), "the mean of its neighbours"
    measured = [Heights(*body.heights_mm) for body in bodies]
    healthy = [body.deformity == "none" for body in bodies]
    said = compression_ratios(measured, list(range(5)), healthy)
    assert told == [pytest.approx(c.percent) if c is not None else None for c in said]


def test_both_answered_is_a_success(
    tmp_path: Path, ct: list[Result], film: list[Result], film_truth: list[TrueBody]
) -> None:
    code, said = shown(tmp_path, [*ct, *film], [True1()], film_truth)
    assert code == 0, said
    assert "Radiograph: FLAG" in said and "L2 wedge" in said
    assert "not answered" not in said


def test_a_radiograph_or_a_ct_without_findings_is_a_failure(
    tmp_path: Path, ct: list[Result], film: list[Result], refused_film: list[Result], film_truth: list[TrueBody]
) -> None:
    for n, (came_back, what) in enumerate(
        (([*ct, *refused_film], "radiograph"), (ct, "radiograph"), (film, "CT"), (refused_film, "CT"))
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        code, said = shown(folder, came_back, [True1()], film_truth)
        assert code == 1
        assert "not answered:" in said and f"no findings on the {what}" in said


def test_of_own_images_only_those_that_were_sent_count(
    tmp_path: Path, film: list[Result], refused_film: list[Result]
) -> None:
    for name, came_back in (("film", film), ("refused", refused_film)):
        (tmp_path / name).mkdir()
        code, said = shown(tmp_path / name, came_back, (), ())
        assert code == 0, said
    (tmp_path / "nothing").mkdir()
    unanswered = [{**STUDIES[0], "answers": 0}]
    code, said = shown(tmp_path / "nothing", (), (), (), unanswered)
    assert code == 1 and "not answered: study 1.2.3" in said


def test_a_film_whose_front_is_not_known_is_a_film(tmp_path: Path) -> None:
    """Its details tell no anterior height: they are not those of a CT without vertebrae."""
    case = without_side(film_case({2: 0.55}, calibrated=False))
    results = {r.kind: r for r in encode_film(case.source, case.answer, film_context())}
    path = tmp_path / "details.dcm"
    path.write_bytes(results["details"].encoded())
    assert read_film_details(path).flag is True
    with pytest.raises(ValueError, match="of a film"):
        read_details(path)
    code, said = shown(tmp_path, list(results.values()), (), ())
    assert code == 0 and "no anterior or posterior height; the capture says why" in said
