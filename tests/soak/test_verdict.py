"""The soak's judge: it finds a leak, forgives an allocator's wandering, and draws what it saw."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.soak.plot import draw
from tests.soak.sampling import Sample, flat


def day(memory_mb_per_h: float = 0.0, handles_per_h: float = 0.0, slower_s: float = 0.0) -> list[Sample]:
    """Half an hour of a process, with some noise and one spike."""
    rng = np.random.default_rng(1)
    samples = []
    for number in range(181):
        at = 10.0 * number
        memory = 100 + memory_mb_per_h * at / 3600 + float(rng.normal(0, 0.3)) + (30 if number == 150 else 0)
        latency = 5.0 + (slower_s if at > 900 else 0.0)
        sample = Sample(at, {"receive": (memory, round(8 + handles_per_h * at / 3600), 8)})
        sample.latency_s, sample.queue = {"p50": latency, "p95": 2 * latency}, {"waiting": number % 3}
        samples.append(sample)
    return samples


def test_a_process_that_stays_as_it_is_passes() -> None:
    assert [finding.sentence for finding in flat(day(), ["receive"]) if not finding.ok] == []


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (day(memory_mb_per_h=40.0), "receive: memory"),
        (day(handles_per_h=30.0), "receive: handles"),
        (day(slower_s=8.0), "latency: median 5.0 s, then 13.0 s"),
    ],
)
def test_what_grows_is_named(samples: list[Sample], says: str) -> None:
    (bad,) = [finding.sentence for finding in flat(samples, ["receive"]) if not finding.ok]
    assert bad.startswith(says)


def test_a_process_that_is_gone_is_not_passed_over() -> None:
    assert [finding.ok for finding in flat(day(), ["deliver"])] == [False, True]


def test_the_plot_has_a_curve_for_each_thing(tmp_path: Path) -> None:
    draw(day(), [(60.0, "kill <& all>")], tmp_path / "soak.svg")
    drawn = ElementTree.parse(tmp_path / "soak.svg")
    assert len(drawn.findall(".//{*}polyline")) == 3 + 1 + 2
    assert [title.text for title in drawn.findall(".//{*}title")] == ["kill <& all>"] * 5
