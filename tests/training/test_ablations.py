"""The table of single changes."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from onnx_models.training import ablations
from onnx_models.training.ablations import RUNS, UNCHANGED, Run, table
from onnx_models.training.segmenter_task import SegmenterTask

pytestmark = pytest.mark.training


def run(change: str, seed: int) -> Run:
    return Run("segmenter", change, seed, SegmenterTask)


def test_every_run_is_a_row_beside_the_unchanged_seeds() -> None:
    found = [
        (run(UNCHANGED, 1), {"Dice": 0.900}),
        (run(UNCHANGED, 2), {"Dice": 0.904}),
        (run("changed", 1), {"Dice": 0.89}),
    ]
    lines = table("segmenter", found)
    assert "| unchanged | 2 | 0.904 |" in lines and "| changed | 1 | 0.890 |" in lines
    assert "Not run yet." in table("segmenter", [])


def test_every_changed_run_has_unchanged_ones_of_several_seeds_beside_it() -> None:
    changed = [r for r in RUNS if r.change != UNCHANGED]
    assert 0 < len(changed) <= 6
    for network in {r.network for r in changed}:
        seeds = {r.seed for r in RUNS if r.network == network and r.change == UNCHANGED}
        assert len(seeds) >= 2
        assert network in ablations.STEPS


def test_runs_do_not_share_a_folder() -> None:
    assert len({r.folder for r in RUNS}) == len(RUNS)
