"""A radiograph by storescu into the node, results into Orthanc, read back by strangers' tools and laid on the film."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from node.demo.film import nearest, phantom_film
from node.demo.reading import read_film_details
from node.demo.stage import stage
from node.demo.validation import errors_of
from node.ledger import overview
from node.results import codes
from node.service import ledger_of
from tests.conftest import wait_until
from tests.orthanc import free_port, orthanc

pytestmark = [pytest.mark.xdist_group("node"), pytest.mark.debian, pytest.mark.usefixtures("shipped_models")]
KINDS = ["capture", "film_segmentation", "report", "details"]
OFF_PX = 3.0
"""Median distance, in pixels of .44 mm, between the drawn ends of heights and the end plates of the phantom."""


def test_a_radiograph_comes_back_with_lines_on_its_end_plates(tmp_path: Path, program: Callable[[str], str]) -> None:
    storescu, dsrdump, dciodvfy = program("storescu"), program("dsrdump"), Path(program("dciodvfy"))
    truth, film = phantom_film(tmp_path / "film")
    sent = dcmread(film)
    with orthanc(tmp_path / "orthanc", program("Orthanc"), modalities={"node": ("SPINENODE", free_port())}) as pacs:
        destination = {"name": "orthanc", "host": "127.0.0.1", "port": pacs.dicom_port, "ae_title": "ORTHANC"}
        sections: dict[str, Any] = {"study": {"quiet_s": 0.5}, "receive": {"port": 0}}
        with stage(site="test", destinations=[destination | {"kinds": KINDS}], **sections) as node:
            for port, title in ((pacs.dicom_port, "ORTHANC"), (node.port, "SPINENODE")):
                command = [storescu, "-aec", title, "127.0.0.1", str(port), str(film)]
                subprocess.run(command, check=True, capture_output=True, timeout=60)

            def delivered() -> bool:
                with ledger_of(node.settings) as database, database.transaction() as connection:
                    counts = overview.counts(connection)
                return counts["results"] > 0 and counts["deliveries_stored"] == counts["results"]

            wait_until(delivered, 120, f"all results in Orthanc: {node.tail()}")
        studies = pacs.get("/studies?expand")
        assert [study["MainDicomTags"]["StudyInstanceUID"] for study in studies] == [sent.StudyInstanceUID]
        results = {}
        for instance in pacs.get("/instances"):
            path = tmp_path / f"{instance}.dcm"
            path.write_bytes(pacs.file(instance))
            description = dcmread(path, stop_before_pixels=True).SeriesDescription
            if description.startswith("AI spine"):
                results[description.removeprefix("AI spine: FLAG ").removesuffix(" (research)")] = path
    assert set(results) == {"film", "film segmentation", "film report", "film details"}
    assert all(errors_of(path, dciodvfy) == [] for path in results.values())
    mask = dcmread(results["film segmentation"])
    assert (mask.Rows, mask.Columns) == (sent.Rows, sent.Columns)

    answer = read_film_details(results["film details"])
    assert answer.flag is True
    measured = [body for body in answer.bodies if body.lines_px is not None and nearest(body, truth) is not None]
    assert len(measured) >= 7
    off = np.concatenate([np.abs(_along(body.lines_px, truth[nearest(body, truth)].points_px)) for body in measured])
    assert float(np.median(off)) < OFF_PX

    text = subprocess.run([dsrdump, "+Pl", str(results["film details"])], check=True, capture_output=True).stdout
    told = re.findall(rb'NUM:\(,,"Anterior height over posterior height"\)="([\d.]+)".*\n.*POLYLINE,([\d./,]+)', text)
    heights = {body.name: body for body in answer.bodies if body.lines_px is not None}
    assert len(told) == len(heights)
    for (value, line), body in zip(told, heights.values(), strict=True):
        assert float(value) == pytest.approx(body.relative_heights[0], abs=6e-4)
        ends = np.array([pair.split(b"/") for pair in line.split(b",")], float)
        np.testing.assert_allclose(ends, body.lines_px[0], atol=1e-3)
        lengths = np.linalg.norm(np.diff(body.lines_px, axis=1)[:, 0], axis=1)
        assert lengths[0] / lengths[2] == pytest.approx(float(value), abs=2e-3)
    assert codes.DETAILS_TITLE.meaning.encode() in text


def _along(lines: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(6,): how far each end lies above or below the true end plate, along the true height."""
    up = true[:, 0] - true[:, 1]
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    return ((lines - true) * up[:, None]).sum(axis=2).ravel()
