"""A phantom series, made once and kept between runs, and a node with a small PACS."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

CACHE = REPOSITORY / "build" / "tests"


@pytest.fixture(scope="session")
def phantom_series() -> Path:
    """Folder with a small phantom CT of lumbar vertebrae, 2.5 mm: enough for an answer, quick to send."""
    from onnx_models.training.phantom import acquire, canonical_grid, demo_patient
    from onnx_models.training.phantom.dicom import write_dicom_series

    folder = CACHE / "phantom-2.5mm-v1"
    if not (folder / "complete").is_file():
        import numpy as np

        patient = demo_patient()
        levels = {vertebra.level: np.asarray(vertebra.centroid_lps_mm) for vertebra in patient.vertebrae}
        centre_y = float(np.mean([levels[name][1] for name in ("T11", "L2", "L5")]))
        low = np.array([-110.0, centre_y - 110.0, float(levels["S1"][2]) - 20.0])
        high = np.array([110.0, centre_y + 110.0, float(levels["T10"][2]) + 18.0])
        volume = acquire(patient, canonical_grid(low, high, (2.5, 1.2, 1.2)), np.random.default_rng(5))
        scratch = folder.with_name(f"{folder.name}.{os.getpid()}")
        write_dicom_series(volume, scratch, order="shuffled")
        (scratch / "complete").touch()
        try:
            scratch.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(scratch)
    return folder
