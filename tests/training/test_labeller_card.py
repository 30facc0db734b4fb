"""The labeller's own figures in its card."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from onnx_models.training.labeller_card import BEGIN, END, written

pytestmark = pytest.mark.training


def test_views_that_are_silent_and_views_with_a_wrong_name_are_counted() -> None:
    one = {"views": 20, "abstained": 0.25, "views_any_wrong": 0.05, "identified": [0.7, 0.6, 0.8]}
    silent = {"views": 1, "abstained": 1.0, "views_any_wrong": 0.0, "identified": None}
    told = {
        "models": [{"name": "labeller", "sha256": "cd" * 32}],
        "groups": {"real, last rib in view": one, "real, cardiac crop": silent},
    }
    card = written(f"{BEGIN}\nold\n{END}\nafter", told, "the command")
    assert "`the command`; model `cdcdcdcdcdcd`" in card and "old" not in card and card.endswith("after")
    assert "| last rib in view, no sacrum | 20 | 5 | 1 | 70.0 % (60.0 to 80.0) |" in card
    assert "| cardiac crop, T12 cut off (silence wanted) | 1 | 1 | 0 | none in view |" in card
