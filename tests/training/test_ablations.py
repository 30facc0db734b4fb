"""The table of single changes claims nothing within the spread of the seeds."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from onnx_models.training import ablations
from onnx_models.training.ablations import RUNS, UNCHANGED, Run, table
from onnx_models.training.segmenter_task import SegmenterTask

pytestmark = pytest.mark.training


def run(change: str, seed: int) -> Run:
    return Run("segmenter", change, seed, SegmenterTask)


def test_only_what_lies_beyond_the_spread_of_the_seeds_is_bold() -> None:
    lines = table(
        "segmenter",
        [
            (run(UNCHANGED, 1), {"Dice": 0.900}),
            (run(UNCHANGED, 2), {"Dice": 0.904}),
            (run("within", 1), {"Dice": 0.897}),
            (run("beyond", 1), {"Dice": 0.890}),
        ],
    )
    assert "| within | 1 | 0.897 |" in lines
    assert "| beyond | 1 | **0.890** |" in lines
    assert "| unchanged | 2 | 0.904 |" in lines


def test_every_changed_run_has_unchanged_ones_of_several_seeds_beside_it() -> None:
    changed = [r for r in RUNS if r.change != UNCHANGED]
    assert 0 < len(changed) <= 6
    for network in {r.network for r in changed}:
        seeds = {r.seed for r in RUNS if r.network == network and r.change == UNCHANGED}
        assert len(seeds) >= 2
        assert network in ablations.STEPS


def test_runs_do_not_share_a_folder() -> None:
    assert len({r.folder for r in RUNS}) == len(RUNS)
