"""A real CT by storescu into the node, results into Orthanc, validated by strangers' tools."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from node.demo.stage import stage
from node.demo.validation import errors_of
from node.ledger import overview
from node.service import ledger_of
from tests.conftest import wait_until
from tests.orthanc import free_port, orthanc

pytestmark = [pytest.mark.xdist_group("node"), pytest.mark.debian]


def test_a_real_ct_comes_back_as_valid_objects_in_the_same_study(
    tmp_path: Path, real_data: Path, program: Callable[[str], str], shipped_models: Path
) -> None:
    storescu, dsrdump, tid1500reader = program("storescu"), program("dsrdump"), program("tid1500reader")
    dciodvfy = Path(program("dciodvfy"))
    source = real_data / "totalsegmentator" / "example_ct_series"
    files = sorted(str(path) for path in source.iterdir() if path.suffix == ".dcm")
    study_uid = dcmread(files[0], stop_before_pixels=True).StudyInstanceUID
    ear = free_port()
    with orthanc(tmp_path / "orthanc", program("Orthanc"), modalities={"node": ("SPINENODE", ear)}) as pacs:
        destination = {"name": "orthanc", "host": "127.0.0.1", "port": pacs.dicom_port, "ae_title": "ORTHANC"}
        destination |= {"commitment": "storage_commitment", "patient_check": True}
        sections: dict[str, Any] = {"study": {"quiet_s": 1.0}, "receive": {"port": ear}, "destinations": [destination]}
        with stage(site="test", **sections) as node:
            for port, title in ((pacs.dicom_port, "ORTHANC"), (node.port, "SPINENODE")):
                command = [storescu, "-aec", title, "127.0.0.1", str(port), *files]
                subprocess.run(command, check=True, capture_output=True, timeout=120)

            def delivered() -> bool:
                with ledger_of(node.settings) as database, database.transaction() as connection:
                    counts = overview.counts(connection)
                return counts["results"] > 0 and counts["deliveries_confirmed"] == counts["results"]

            wait_until(delivered, 240, f"Orthanc to vouch for all results: {node.tail()}")
        studies = pacs.get("/studies?expand")
        assert [study["MainDicomTags"]["StudyInstanceUID"] for study in studies] == [study_uid]
        results = []
        for series in pacs.get("/series?expand"):
            if str(series["MainDicomTags"].get("SeriesDescription", "")).startswith("AI spine"):
                results += series["Instances"]
        assert len(results) == 6
        documents = 0
        for instance in results:
            path = tmp_path / f"{instance}.dcm"
            path.write_bytes(pacs.file(instance))
            assert errors_of(path, dciodvfy) == []
            if "Comprehensive 3D SR" in dcmread(path, stop_before_pixels=True).SOPClassUID.name:
                documents += 1
                subprocess.run([dsrdump, str(path)], check=True, capture_output=True, timeout=60)
                out = tmp_path / f"{instance}.json"
                command = [tid1500reader, "--inputDICOM", str(path), "--outputMetadata", str(out)]
                if "report" in dcmread(path, stop_before_pixels=True).SeriesDescription:
                    subprocess.run(command, check=True, capture_output=True, timeout=60)
                    assert json.loads(out.read_text())["Measurements"]
        assert documents == 2
