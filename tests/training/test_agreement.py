"""The limit of agreement and the decomposition of the slope, on readings and records made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_models.training.agreement import Reading, by_disagreement, development_set, limits, readings, slopes
from onnx_models.training.evaluation_set import load_set

pytestmark = pytest.mark.training


def some_readings() -> list[Reading]:
    """1,000 undeformed with disagreements from 0 to 1 mm, and ten badly read ones at 3 mm."""
    sound = [Reading(float(d), 0.5, 0.8, deformed=False) for d in np.linspace(0, 1, 1000)]
    return sound + [Reading(3.0, 4.0, 0.8, deformed=True) for _ in range(10)]


def test_limits_are_quantiles_of_the_undeformed() -> None:
    ninety, last = limits(some_readings(), (90.0, 99.5))
    assert ninety.limit_mm == pytest.approx(0.9, abs=0.002)
    assert ninety.undeformed == pytest.approx(0.1, abs=0.002)
    assert last.badly_read == 1.0 and last.deformed == 1.0
    assert last.well_read == pytest.approx(0.005, abs=0.001)
    assert last.separation > ninety.separation


def test_error_by_disagreement() -> None:
    rows = by_disagreement(some_readings(), (0, 0.5, 2, 99))
    assert [r["count"] for r in rows] == [500, 500, 10]
    assert [r["badly_read"] for r in rows] == [0, 0, 1]
    assert rows[2]["p95_error_mm"] == 4.0


def test_development_patients_are_not_the_evaluation() -> None:
    assert development_set().seed != load_set().seed
    assert development_set().ranges == load_set().ranges
    assert development_set().sha256 != load_set().sha256


def record(scale: float) -> dict:
    """Seven vertebrae of 20 mm, some wedged; the network reads a loss as `scale` times what it is."""
    truth, found = [], []
    for i, loss in enumerate([0.0, 0.0, 0.5, 0.0, 0.3, 0.0, 0.0]):
        centre = [0.0, 0.0, -30.0 * i]
        true = [20.0 * (1 - loss), 20.0, 20.0]
        read = [20.0 * (1 - scale * loss), 20.0, 20.0]
        truth.append(
            {
                "level": "L1",
                "view": "whole",
                "centre": centre,
                "heights": true,
                "loss": [loss, 0.0, 0.0],
                "G": 1 - loss,
                "deformity": "wedge" if loss else "none",
                "metal": False,
            }
        )
        found.append({"centre": centre, "heights": read, "place_mm": 30.0 * i, "disagreement_mm": 0.1, "quality": []})
    return {"kind": "patient", "spacing_mm": 1.0, "vertebrae": truth, "answer": {"refusal": None, "found": found}}


def test_slope_is_told_apart() -> None:
    told = slopes([record(0.8)])
    assert told["true heights of all in view"][0] == pytest.approx(1.0)
    assert told["true heights of the found ones"][0] == pytest.approx(1.0)
    assert told["network's heights (as shipped)"][0] == pytest.approx(0.8)
    assert told["network's own height against the twin's (no rule)"][0] == pytest.approx(0.8)
    assert told["true own height, expected from the network's"][0] == pytest.approx(1.0)


def test_readings_carry_the_largest_error() -> None:
    read = readings([record(0.8)])
    assert len(read) == 7
    assert max(r.error_mm for r in read) == pytest.approx(2.0)
    assert sum(r.deformed for r in read) == 2
    assert sum(r.badly_read for r in read) == 1
