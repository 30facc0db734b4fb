"""What a destination's answer means."""

import pytest

from node.deliver.status import Verdict, classify


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (0x0000, Verdict.STORED),
        (0xB000, Verdict.STORED),
        (0xB006, Verdict.STORED),
        (0xB007, Verdict.STORED),
        (0x0111, Verdict.STORED),
        (0xA700, Verdict.PASSING),
        (0xA7FF, Verdict.PASSING),
        (0x0110, Verdict.UNCLEAR),
        (0xC000, Verdict.UNCLEAR),
        (0x4321, Verdict.UNCLEAR),
        (0x0122, Verdict.PERMANENT),
        (0x0124, Verdict.PERMANENT),
        (0xA900, Verdict.PERMANENT),
    ],
)
def test_every_status_has_its_verdict(code: int, verdict: Verdict) -> None:
    assert classify(code).verdict is verdict


@pytest.mark.parametrize("code", [0xA700, 0xC123, 0x0122, 0x4321])
def test_a_failure_says_its_code_to_a_person(code: int) -> None:
    assert f"0x{code:04X}" in (classify(code).sentence or "")
