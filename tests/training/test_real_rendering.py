"""Real shapes as CT: known deformities of a box, and an image that shows what the truth says."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_models.training.real_rendering import Body, Deformity, Look, cast, render
from onnx_models.training.real_shapes import RealSpine, RealVertebra, of_surface

pytestmark = pytest.mark.training

HALF_MM = np.array([20.0, 15.0, 12.0])
LOOK = Look((1.0, 0.9, 0.9), 150.0, 700.0, 1.0, 50.0, -100.0, 0.3, 200.0, 0.4, 5.0, 0.0)


def vertebra(level: str = "L3", z: float = 0.0) -> RealVertebra:
    """A box of 30 mm depth and 24 mm height."""
    corners = np.array([[x, y, up] for x in (-1, 1) for y in (-1, 1) for up in (-1, 1)]) * HALF_MM + [0, 0, z]
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    grid = of_surface(corners, np.array([t for a, b, c, d in sides for t in ((a, b, c), (a, c, d))]))
    points = np.array([[0, y, z + up] for y in (-15.0, 0.0, 15.0) for up in (12.0, -12.0)])
    return RealVertebra(level, np.eye(3), points, grid, grid, separated=True)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [("wedge", (0.4, 0.2, 0.0)), ("biconcave", (0.0, 0.4, 0.0)), ("crush", (0.4, 0.4, 0.4))],
)
def test_true_loss_of_each_kind(kind: str, loss: tuple[float, ...]) -> None:
    body = Body(vertebra(), Deformity(kind, 0.4))
    assert body.loss == pytest.approx(loss, abs=1e-9)


def test_the_surface_moves_with_the_points() -> None:
    body = Body(vertebra(), Deformity("wedge", 0.5))
    assert np.abs(body.distance(body.points_lps_mm[2:])).max() < 0.3
    inside = body.points_lps_mm.mean(axis=0)
    assert body.distance(inside) < -4
    gone = np.array([0.0, -14.0, 10.0])
    assert body.shape.vertebra_distance(gone) < 0 < body.distance(gone), "the front has lost its upper part"


def test_an_undeformed_body_is_its_shape() -> None:
    body = Body(vertebra())
    assert body.loss == pytest.approx(0)
    assert body.points_lps_mm == pytest.approx(body.shape.keypoints_lps_mm)


def test_unknown_kinds_and_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="wedge, biconcave, crush"):
        Deformity("pancake", 0.3).along(np.zeros(1))
    with pytest.raises(ValueError, match="no T1"):
        cast(RealSpine("box", "nobody", (vertebra(),)), {"T1": Deformity("crush", 0.3)})


def test_image_shows_bone_where_the_truth_says() -> None:
    spine = RealSpine("boxes", "nobody", (vertebra("L2", 18.0), vertebra("L3", -18.0), vertebra("S1", -50.0)))
    bodies = cast(spine, {"L3": Deformity("crush", 0.5)})
    assert [b.shape.level for b in bodies] == ["L2", "L3"], "S1 alone would be taken for a vertebra"
    volume = render(bodies, LOOK, np.random.default_rng(1))
    again = render(bodies, LOOK, np.random.default_rng(1))
    assert np.array_equal(volume.hu, again.hu)

    def at(x: float, y: float, z: float) -> float:
        k, j, i = np.rint(volume.to_index(np.array([x, y, z]))).astype(int)
        return float(volume.hu[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2].mean())

    assert 80 < at(0, 0, 18) < 260, "spongy bone"
    k, j, i = np.rint(volume.to_index(np.array([0.0, 0.0, 29.5]))).astype(int)
    assert volume.hu[k - 2 : k + 3, j, i].max() > 330, "an end plate"
    assert at(0, 0, -9) < 110, "where L3 was before it sank"
    assert at(0, 0, -22) > 80
    assert volume.hu.min() < -900, "air around"
