"""The bench notices a ratio that became worse."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks import history
from tests.benchmarks.rows import Row


def test_a_ratio_that_is_worse_by_more_than_a_fifth_is_told_whichever_way_it_counts(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for ratio in (1.0, 1.1, 0.9):
        rate = Row("receive", 100.0, "instances/s", "storescp", 100.0, ratio)
        cost = Row("send", 1.0, "s", "storescu", 1.0, ratio)
        history.remember([rate, cost, Row("idle", 0.1, "%")], 2, path)
    now = [
        Row("receive", 75.0, "instances/s", "storescp", 100.0, 0.75),
        Row("receive", 75.0, "instances/s", "Orthanc", 100.0, 0.1),  # never measured before
        Row("send", 0.5, "s", "storescu", 1.0, 0.5),
        Row("idle", 90.0, "%"),
    ]
    told = history.slow_downs(now, history.runs(path), 2)
    assert [(one.name, one.peer, one.before) for one in told] == [("receive", "storescp", 1.0)]
    slow = [Row("send", 1.3, "s", "storescu", 1.0, 1.3), Row("receive", 9.0, "instances/s", "storescp", 9.0, 0.9)]
    assert [one.name for one in history.slow_downs(slow, history.runs(path), 2)] == ["send"]
    assert history.slow_downs(slow, history.runs(path), 64) == []  # another machine


def test_the_first_run_of_all_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    assert history.runs(tmp_path / "none.jsonl") == []
