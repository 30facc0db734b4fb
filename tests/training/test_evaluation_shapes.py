"""The table on real shapes: what is rendered, its figures on records made by hand, and that cards do not lose it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from onnx_models.training import evaluate
from onnx_models.training.evaluation_shape_cards import shape_lines
from onnx_models.training.evaluation_shapes import LOSSES, SPINES, plans, shape_figures, shape_records
from onnx_models.training.real_rendering import KINDS

pytestmark = pytest.mark.training


def true_vertebra(z: float, loss: float = 0.0) -> dict:
    """20, 17, 20 mm that have lost part of the anterior height."""
    heights = [20.0 * (1 - loss), 17.0, 20.0]
    return {
        "level": "L3",
        "view": "whole",
        "centre": [0.0, 0.0, z],
        "middle": [0.0, 0.0, z],
        "points": [[0.0, 0.0, z]] * 6,
        "heights": heights,
        "loss": [loss, 0.0, 0.0],
        "G": min(heights) / max(heights),
        "deformity": "wedge" if loss else "none",
        "metal": False,
    }


def found_vertebra(z: float, loss: float, grade: str, quality: tuple[str, ...] = ()) -> dict:
    """A finding 1 mm off."""
    heights = [20.0 * (1 - loss), 17.0, 20.0]
    return {
        "centre": [0.0, 1.0, z],
        "points": [[0.0, 1.0, z]] * 6,
        "heights": heights,
        "loss": [loss, 0.0, 0.0],
        "G": min(heights) / max(heights),
        "grade": grade,
        "quality": list(quality),
    }


def record(spine: str, index: int, truth: list[dict], found: list[dict], flag: bool) -> dict:
    """One image."""
    answer = {"refusal": None, "flag": flag, "found": found, "line_mm": [2.0] * len(truth), "line_refusal": None}
    return {"kind": "patient", "spine": spine, "index": index, "spacing_mm": 1.0, "vertebrae": truth, "answer": answer}


def records() -> list[dict]:
    """An undeformed image with a false finding; one with a wedge of .45 read as .3, and one vertebra missed."""
    whole = [true_vertebra(0.0), true_vertebra(-30.0)]
    said = [found_vertebra(0.0, 0.0, "normal"), found_vertebra(-30.0, 0.0, "normal", ("LOW_CONFIDENCE",))]
    broken = [true_vertebra(0.0, 0.45), true_vertebra(-30.0)]
    return [
        record("label map", 0, whole, [*said, found_vertebra(-90.0, 0.0, "normal")], flag=False),
        record("mean surface", 3, broken, [found_vertebra(0.0, 0.3, "moderate")], flag=True),
    ]


def test_every_kind_and_loss_is_rendered_on_each_spine() -> None:
    for name, (_, levels, together) in SPINES.items():
        mine = [p for p in plans() if p.spine == name]
        each = Counter((d.kind, d.loss) for p in mine for d in p.deformities.values())
        assert set(each) == {(kind, loss) for kind in KINDS for loss in LOSSES}
        assert len(set(each.values())) == 1
        assert all(set(p.deformities) <= set(levels) for p in mine)
        assert all(len(p.deformities) in (0, together) for p in mine)
    assert len({tuple(p.seed) for p in plans()}) == len(plans()), "no two images look the same"


def test_figures() -> None:
    told = shape_figures(records())
    assert set(told) == {"label map", "mean surface", "all"}
    every = told["all"]
    assert (every["found"], every["missed"], every["false"]) == (3, 1, 1)
    assert every["centre_mm"] == pytest.approx(1.0)
    assert every["height_intact_mm"] == 0 and every["height_hurt_mm"] == pytest.approx(1.0)
    assert every["loss_error"] == pytest.approx(0.15)
    assert (every["same_grade"], every["within_one"], every["graded"]) == (0, 1, 1), "moderate instead of severe"
    assert (every["doubtful_intact"], every["intact"]) == (1, 2)
    assert (every["undeformed_flagged"], every["undeformed"]) == (0, 1)
    assert (every["deformed_flagged"], every["deformed"]) == (1, 1)
    assert every["slope"] is None, "of one vertebra there is no slope"


def test_lines_of_both_cards() -> None:
    told = {"shapes": shape_figures(records())}
    whole = "\n".join(shape_lines(told, localizer=False))
    assert "| found, missed, false | 2, 0, 1 | 1, 1, 0 | 3, 1, 1 |" in whole
    assert "two persons and one mean shape" in whole
    line = "\n".join(shape_lines(told, localizer=True))
    assert "| error at the vertebra centres, mean (mm) | 2.00 | 2.00 | 2.00 |" in line
    assert "not measured" in shape_lines({}, localizer=True)[0]


def test_absent_shapes_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPINE_NODE_REAL_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="SPINE_NODE_REAL_DATA"):
        shape_records(None)  # type: ignore[arg-type]


def test_cards_are_left_alone_where_real_data_are_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPINE_NODE_REAL_DATA", str(tmp_path))
    monkeypatch.setattr(evaluate, "RESULT", tmp_path / "evaluation.json")
    monkeypatch.setattr(evaluate, "judged", lambda *_: [])
    monkeypatch.setattr(evaluate, "write_cards", lambda *_: pytest.fail("a card was written"))
    assert evaluate.main([]) == 0
    assert "the cards are left alone" in capsys.readouterr().out
