"""Films by storescu into Orthanc and a running node, whose results go to the same Orthanc."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from node.demo.stage import stage
from node.ledger import overview
from node.service import ledger_of
from tests.conftest import wait_until
from tests.orthanc import Orthanc, free_port, orthanc

KINDS = ["capture", "film_segmentation", "report", "details"]


@contextmanager
def films_answered(
    films: Sequence[Path], folder: Path, program: Callable[[str], str], plugins: Sequence[Path] = ()
) -> Iterator[Orthanc]:
    """An Orthanc that holds the films, each of a study of its own, and the four results of each; the node is gone."""
    storescu, modalities = program("storescu"), {"node": ("SPINENODE", free_port())}
    with orthanc(folder / "orthanc", program("Orthanc"), plugins, modalities) as pacs:
        destination = {"name": "orthanc", "host": "127.0.0.1", "port": pacs.dicom_port, "ae_title": "ORTHANC"}
        sections: dict[str, Any] = {"study": {"quiet_s": 0.5}, "receive": {"port": 0}}
        with stage(site="test", destinations=[destination | {"kinds": KINDS}], **sections) as node:
            for port, title in ((pacs.dicom_port, "ORTHANC"), (node.port, "SPINENODE")):
                command = [storescu, "-aec", title, "127.0.0.1", str(port), *map(str, films)]
                subprocess.run(command, check=True, capture_output=True, timeout=60)

            def delivered() -> bool:
                with ledger_of(node.settings) as database, database.transaction() as connection:
                    counts = overview.counts(connection)
                results = len(KINDS) * len(films)
                return counts["answers"] == len(films) and counts["deliveries_stored"] == counts["results"] == results

            wait_until(delivered, 120, f"all results in Orthanc: {node.tail()}")
        yield pacs


def results_in(pacs: Orthanc, folder: Path) -> Iterator[tuple[Path, Dataset]]:
    """Every result in Orthanc as a file below ``folder``, with its header."""
    for instance in pacs.get("/instances"):
        path = folder / f"{instance}.dcm"
        path.write_bytes(pacs.file(instance))
        header = dcmread(path, stop_before_pixels=True)
        if header.SeriesDescription.startswith("AI spine"):
            yield path, header
