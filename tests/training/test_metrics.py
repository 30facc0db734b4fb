"""Figures of an evaluation on cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_models.training.metrics import (
    Estimate,
    agreement,
    area_under_curve,
    bootstrapped,
    fraction,
    matched,
    slope,
)


def test_nearest_pairs_first_and_each_once() -> None:
    truth = np.array([[0.0, 0, 0], [0, 0, 20], [0, 0, 40]])
    found = np.array([[0.0, 0, 6], [0, 0, 1], [0, 0, 41], [0, 0, 80]])
    assert matched(found, truth, 10.0) == [None, 0, 2, None]
    assert matched(found[:0], truth, 10.0) == []
    assert matched(found, truth[:0], 10.0) == [None] * 4


def test_area_under_curve() -> None:
    positive = np.array([False, False, True, True])
    assert area_under_curve(np.array([1.0, 2, 3, 4]), positive) == 1.0
    assert area_under_curve(np.array([4.0, 3, 2, 1]), positive) == 0.0
    assert area_under_curve(np.ones(4), positive) == 0.5
    assert area_under_curve(np.array([1.0, 3, 2, 4]), positive) == 0.75
    assert np.isnan(area_under_curve(np.ones(4), np.ones(4, bool)))


def test_slope_and_agreement() -> None:
    true = np.array([0.0, 0.2, 0.4, 0.6])
    assert slope(true, 0.9 * true + 0.05) == pytest.approx(0.9)
    assert np.isnan(slope(np.ones(4), true))
    a = agreement(true, true + np.array([0.1, -0.1, 0.1, -0.1]))
    assert a.bias == pytest.approx(0.0)
    assert a.high == pytest.approx(1.96 * np.std([0.1, -0.1, 0.1, -0.1], ddof=1))
    assert a.low == pytest.approx(-a.high)
    assert a.correlation == pytest.approx(0.894, abs=0.001)
    assert agreement(true[:2], true[:2]).text() == "not measured"


def test_errors_do_not_cancel_in_the_limits() -> None:
    true = np.linspace(10, 30, 50)
    wrong = agreement(true, true + np.where(np.arange(50) % 2, 5.0, -5.0))
    assert abs(wrong.bias) < 1e-9
    assert wrong.high > 9


def test_bootstrap_draws_whole_patients() -> None:
    patients = [[True] * 10 for _ in range(18)] + [[False] * 10 for _ in range(2)]

    def recall(drawn: list[list[bool]]) -> float:
        return fraction([hit for patient in drawn for hit in patient])

    estimate = bootstrapped(patients, recall, lambda drawn: sum(map(len, drawn)))
    assert estimate.value == pytest.approx(0.9)
    assert estimate.count == 200
    assert estimate.low <= 0.8, "two patients of twenty leave a wide interval, however many vertebrae they have"
    assert estimate.high == pytest.approx(1.0)
    assert bootstrapped(patients, recall) == bootstrapped(patients, recall), "the same figures every time"


def test_nothing_measured_is_said() -> None:
    assert bootstrapped([], fraction).text() == "not measured"
    assert Estimate(0.931, 0.9, 0.955, 150).text(1, percent=True) == "93.1 % (90.0 to 95.5), n 150"
