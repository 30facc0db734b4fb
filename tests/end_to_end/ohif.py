"""OHIF, the viewer itself, in a headless Chromium, with Orthanc's DICOMweb behind it; no browser library is needed.

A small server gives OHIF's files and Orthanc's DICOMweb one origin. The page that it serves carries `probe.js`, which
opens one display set after the other and posts what OHIF made of it. What several tests ask of the page is here, too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import ROUND_HALF_UP, Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.conftest import REPOSITORY

HERE = Path(__file__).parent
DICOM_WEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
}
CONFIGURATION = {
    "routerBasename": None,
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "disableConfirmationPrompts": True,
    "maxNumberOfWebWorkers": 2,
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": {
                "friendlyName": "Orthanc",
                "name": "orthanc",
                "wadoUriRoot": "/dicom-web",
                "qidoRoot": "/dicom-web",
                "wadoRoot": "/dicom-web",
                "qidoSupportsIncludeField": False,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "omitQuotationForMultipartRequest": True,
            },
        }
    ],
}
CHROMIUM = (
    "--headless=new",
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
    "--no-first-run",
    "--window-size=1400,1000",
)


def ohif_files() -> Path:
    """Folder of OHIF's files; skips the test where they, or Orthanc's DICOMweb, are absent."""
    files = Path(os.environ.get("SPINE_NODE_OHIF", REPOSITORY / "build" / "ohif" / "package" / "dist"))
    if not (files / "index.html").is_file() or not DICOM_WEB.is_file():
        pytest.skip("OHIF or Orthanc's DICOMweb is not installed: make viewer")
    return files


class Viewer:
    """OHIF's files and Orthanc's DICOMweb on one port of the loopback; reports of the probe arrive in ``reports``.

    ``opened`` maps the number of a series to its kind, in the order in which the probe opens them.
    """

    def __init__(self, files: Path, orthanc_url: str, opened: Mapping[int, str]) -> None:
        self.reports: Queue[dict[str, Any]] = Queue()
        viewer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path.startswith("/dicom-web"):
                    self._forward()
                elif path == "/app-config.js":
                    self._answer(f"window.config = {json.dumps(CONFIGURATION)};".encode(), TYPES[".js"])
                elif path == "/probe.js":
                    probe = f"const OPENED = {json.dumps(list(opened.items()))};\n".encode()
                    self._answer(probe + (HERE / "probe.js").read_bytes(), TYPES[".js"])
                else:
                    wanted = (files / path.lstrip("/")).resolve()
                    if wanted.is_relative_to(files.resolve()) and wanted.is_file():
                        self._answer(wanted.read_bytes(), TYPES.get(wanted.suffix, "application/octet-stream"))
                    elif "." in path.rpartition("/")[2]:
                        self._answer(b"", TYPES[".html"], 404)
                    else:
                        page = (files / "index.html").read_text(encoding="utf-8")
                        page = page.replace("</body>", '<script src="/probe.js"></script></body>')
                        self._answer(page.encode(), TYPES[".html"])

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                viewer.reports.put(json.loads(content))
                self._answer(b"", TYPES[".json"])

            def _forward(self) -> None:
                headers = {"Host": self.headers["Host"], "Accept": self.headers.get("Accept", "*/*")}
                request = urllib.request.Request(orthanc_url + self.path, headers=headers)
                try:
                    with urllib.request.urlopen(request, timeout=60) as answer:
                        self._answer(answer.read(), answer.headers["Content-Type"] or "application/octet-stream")
                except urllib.error.HTTPError as error:
                    with error:
                        self._answer(error.read(), TYPES[".json"], error.code)

            def _answer(self, content: bytes, kind: str, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nothing: the browser asks for hundreds of files."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Viewer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def report(self, patience_s: float) -> dict[str, Any]:
        """The next report of the probe; fails when none comes."""
        try:
            return self.reports.get(timeout=patience_s)
        except Empty:
            pytest.fail(f"the viewer said nothing within {patience_s:.0f} s")


@contextmanager
def browsing(chromium: str, url: str, folder: Path) -> Iterator[None]:
    """A headless Chromium on a page, with a profile of its own."""
    folder.mkdir()
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [chromium, *CHROMIUM, f"--user-data-dir={folder / 'profile'}", url], stdout=log, stderr=log
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            shutil.rmtree(folder / "profile", ignore_errors=True)


def heard_of(viewer: Viewer, chromium: str, study_uid: str, opened: int, folder: Path) -> dict[Any, dict[str, Any]]:
    """What the probe says of each of so many opened series by number, and of the study under ``"start"``."""
    with browsing(chromium, f"{viewer.url}/viewer?StudyInstanceUIDs={study_uid}", folder):
        heard: dict[Any, dict[str, Any]] = {"start": viewer.report(180)}
        assert heard["start"]["began"], "OHIF did not list all that is to be opened"
        for _ in range(opened):
            report = viewer.report(300)
            heard[report["number"]] = report
    return heard


class Number(NamedTuple):
    """A number of the report with its unit's code; ``line`` is (column, row, column, row)."""

    name: str
    value: float
    unit: str
    line: list[float]

    @property
    def label(self) -> list[str]:
        """As OHIF writes it: two decimals, half away from zero; and of a zero the unit alone."""
        rounded = Decimal(self.value).quantize(Decimal("0.01"), ROUND_HALF_UP) if self.value else ""
        return [self.name, f"{rounded} {self.unit}"]


def measurement_groups(report: Dataset) -> list[tuple[str, list[Number]]]:
    """(comment, numbers) of each group of the report, in its order."""
    (container,) = [
        item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    ]
    groups = []
    for group in container.ContentSequence:
        (comment,) = [
            item.TextValue
            for item in group.ContentSequence
            if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == "121106"
        ]
        numbers = [
            Number(
                item.ConceptNameCodeSequence[0].CodeMeaning,
                float(item.MeasuredValueSequence[0].NumericValue),
                item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue,
                [float(value) for value in item.ContentSequence[0].GraphicData],
            )
            for item in group.ContentSequence
            if item.ValueType == "NUM"
        ]
        groups.append((comment, numbers))
    return groups


def drawn_lines(report: dict[str, Any], groups: int, numbers: int) -> np.ndarray:
    """(numbers, 4): the lines of the numbers on the screen; what leads from them to the texts has other dashes."""
    dashes = Counter(line["dashes"] for line in report["lines"])
    assert sorted(dashes.values()) == [groups, numbers], "one line leads to each text, the others are heights"
    return np.array([line["ends"] for line in report["lines"] if dashes[line["dashes"]] == numbers])
