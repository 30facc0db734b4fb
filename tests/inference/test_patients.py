"""Two people in one series are told from one with arms."""

from __future__ import annotations

import numpy as np
import pytest
from toy_spine import FINE, axial_affine, blocks_along, models, render, screen

from inference.geometry import Volume
from inference.patients import several_people
from inference.refusal import RefusalCode
from inference.surface import CentreLine

SPACING = (5.0, 3.0, 3.0)
SHAPE = (40, 100, 240)
LINE = CentreLine(np.column_stack([np.zeros(21), np.zeros(21), np.linspace(80, -80, 21)]), np.ones(21))


def trunks(*sections: tuple[float, float, float], above_mm: float = -1e3) -> Volume:
    """Ellipses of soft tissue in air: (x of the centre, half width, half depth) in mm, in slices above a z."""
    volume = Volume(np.full(SHAPE, -1000, np.int16), axial_affine(SHAPE, SPACING))
    points = volume.to_lps(np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1))
    for x, width, depth in sections:
        inside = ((points[..., 0] - x) / width) ** 2 + (points[..., 1] / depth) ** 2 <= 1
        volume.hu[inside & (points[..., 2] > above_mm)] = 40
    return volume


TRUNK, OTHER = (-130.0, 120.0, 90.0), (150.0, 110.0, 80.0)
ARM = (60.0, 35.0, 35.0)


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (trunks(TRUNK), False),
        (trunks(TRUNK, ARM), False),
        (trunks(TRUNK, OTHER), True),
        (trunks(TRUNK, OTHER, above_mm=30.0), False),
        (trunks(), False),
    ],
)
def test_people_are_counted(volume: Volume, expected: bool) -> None:
    assert several_people(volume, LINE) is expected


def test_the_grid_may_lie_any_way() -> None:
    volume = trunks(TRUNK, OTHER)
    turned = Volume(np.ascontiguousarray(volume.hu.transpose(2, 0, 1)), volume.affine[:, [2, 0, 1, 3]])
    assert several_people(turned, LINE) is True


def test_two_people_side_by_side_are_refused() -> None:
    shape = (120, 100, 200)
    blocks = [
        *blocks_along(lambda z: -90.0, lambda z: 0.0, [24.0] * 4, top=60.0),
        *blocks_along(lambda z: 90.0, lambda z: 0.0, [24.0] * 4, top=60.0),
    ]
    volume = render(blocks, axial_affine(shape, (2.0, 2.0, 2.0)), shape)
    points = volume.to_lps(np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1))
    volume.hu[np.abs(points[..., 0]) < 10] = -1000
    answer = screen(volume, models(volume, blocks[:4]), FINE)
    assert answer.findings.refusal is not None and answer.findings.refusal.code is RefusalCode.SEVERAL_PEOPLE
    assert answer.findings.vertebrae == ()
