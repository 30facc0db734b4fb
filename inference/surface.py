"""The surface x = f(z) through the spine, and its unrolling without stretching.

f is the smoothed coronal projection of the centre line. The surface holds every point (f(z), y, z) for all y: a sheet
that is bent in one direction only, so it unrolls on to a plane with every length kept. Coordinates on the unrolled
plane are ``(arc, y)``: the arc length of f in mm, counted from the surface's upper end towards the feet, and y in mm
(LPS, towards the back). Kyphosis and wedges stay as they are; only the coronal bend is taken out.

Both the picture that a reader checks with a ruler (`inference.reformat`) and the network's input
(`inference.straightening`) are made on this surface, so a height found on one is the same height on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, median_filter

STEP_MM = 0.5
"""Distance of the nodes of every tabulated curve."""
MAX_END_SLOPE = 1.0
"""Beyond its ends a curve goes on straight, never flatter than 45 degrees to the z axis."""

Floats = NDArray[np.float64]
AnyFloats = NDArray[np.floating[Any]]


def interpolate(at: AnyFloats, nodes: Floats, values: Floats) -> Floats:
    """Linear interpolation that goes on straight beyond both ends.

    ``nodes`` (n,) increasing, ``values`` (n,), ``at`` any shape; returns the shape of ``at``.
    """
    x = np.asarray(at, np.float64)
    inside = np.interp(x, nodes, values)
    first = (values[1] - values[0]) / (nodes[1] - nodes[0])
    last = (values[-1] - values[-2]) / (nodes[-1] - nodes[-2])
    before = values[0] + (x - nodes[0]) * first
    after = values[-1] + (x - nodes[-1]) * last
    return np.asarray(np.where(x < nodes[0], before, np.where(x > nodes[-1], after, inside)), np.float64)


def smooth(values: Floats, sigma_nodes: float) -> Floats:
    """Gaussian smoothing that keeps a straight line straight up to its ends (ends mirrored through the end point)."""
    if sigma_nodes <= 0 or len(values) < 3:
        return values
    pad = min(len(values) - 1, int(4 * sigma_nodes) + 1)
    head = 2 * values[0] - values[pad:0:-1]
    tail = 2 * values[-1] - values[-2 : -pad - 2 : -1]
    return np.asarray(gaussian_filter1d(np.concatenate([head, values, tail]), sigma_nodes)[pad:-pad], np.float64)


@dataclass(frozen=True)
class CentreLine:
    """The curve through the middles of the vertebral bodies.

    Attributes
    ----------
    points_lps_mm
        (n, 3) from head to feet: z strictly decreasing.
    confidence
        (n,) in 0 to 1: how sure the localizer was of each point.
    """

    points_lps_mm: Floats
    confidence: Floats

    def __post_init__(self) -> None:
        if self.points_lps_mm.ndim != 2 or self.points_lps_mm.shape[1] != 3 or len(self.points_lps_mm) < 2:
            raise ValueError(f"a centre line has at least two points (n, 3), this is {self.points_lps_mm.shape}")
        if self.confidence.shape != (len(self.points_lps_mm),):
            raise ValueError("a centre line has one confidence per point")
        if not np.all(np.diff(self.points_lps_mm[:, 2]) < 0):
            raise ValueError("a centre line runs from head to feet: z must decrease strictly")

    @property
    def top_mm(self) -> float:
        """z of the upper end."""
        return float(self.points_lps_mm[0, 2])

    @property
    def bottom_mm(self) -> float:
        """z of the lower end."""
        return float(self.points_lps_mm[-1, 2])

    @property
    def length_mm(self) -> float:
        """Arc length in space."""
        return float(np.linalg.norm(np.diff(self.points_lps_mm, axis=0), axis=1).sum())

    def at(self, z_mm: AnyFloats) -> tuple[Floats, Floats, Floats]:
        """(x, y, confidence) at heights z; straight beyond the ends, where the confidence is 0."""
        z = np.asarray(z_mm, np.float64)
        depth, nodes = -z, -self.points_lps_mm[:, 2]
        x = interpolate(depth, nodes, self.points_lps_mm[:, 0])
        y = interpolate(depth, nodes, self.points_lps_mm[:, 1])
        sure = np.interp(depth, nodes, self.confidence, left=0.0, right=0.0)
        return x, y, sure

    def extended(self, above_mm: float, below_mm: float, fit_mm: float = 30.0) -> CentreLine:
        """Straight ends added, along the mean direction of the last ``fit_mm``, with confidence 0."""
        points, sure = self.points_lps_mm, self.confidence
        if above_mm > 0:
            tip = points[0] + _end_direction(points, fit_mm) * above_mm
            points, sure = np.vstack([tip, points]), np.concatenate([[0.0], sure])
        if below_mm > 0:
            direction = _end_direction(points[::-1] * [1, 1, -1], fit_mm) * [1, 1, -1]
            tip = points[-1] + direction * below_mm
            points, sure = np.vstack([points, tip]), np.concatenate([sure, [0.0]])
        return CentreLine(points, sure)


def _end_direction(points: Floats, fit_mm: float) -> Floats:
    """Direction per mm of z that leads out of the first point (towards larger z), from a line through the end."""
    near = points[points[0, 2] - points[:, 2] <= fit_mm]
    if len(near) < 2:
        near = points[:2]
    depth = points[0, 2] - near[:, 2]
    centred = depth - depth.mean()
    slope = (centred[:, None] * (near[:, :2] - near[:, :2].mean(axis=0))).sum(axis=0) / (centred**2).sum()
    slope = np.clip(slope, -MAX_END_SLOPE, MAX_END_SLOPE)
    return np.array([-slope[0], -slope[1], 1.0])


def smooth_centre_line(line: CentreLine, sigma_mm: float = 6.0, median_points: int = 5) -> CentreLine:
    """Outliers out (running median), then a Gaussian along z; the result has a node every `STEP_MM`.

    A ``median_points`` below 3 leaves out the median, a ``sigma_mm`` of 0 the Gaussian.
    """
    points = line.points_lps_mm
    if 3 <= median_points <= len(points):
        filtered = np.stack([median_filter(points[:, i], median_points, mode="nearest") for i in (0, 1)], axis=1)
        half = median_points // 2
        # the median flattens the ends of a slope; there the measured points are kept
        filtered[:half], filtered[-half:] = points[:half, :2], points[-half:, :2]
        points = np.column_stack([filtered, points[:, 2]])
    count = max(int(np.ceil((line.top_mm - line.bottom_mm) / STEP_MM)) + 1, 3)
    z = np.linspace(line.top_mm, line.bottom_mm, count)
    nodes = -points[:, 2]
    step = (line.top_mm - line.bottom_mm) / (count - 1)
    x = smooth(np.interp(-z, nodes, points[:, 0]), sigma_mm / step)
    y = smooth(np.interp(-z, nodes, points[:, 1]), sigma_mm / step)
    return CentreLine(np.column_stack([x, y, z]), np.interp(-z, nodes, line.confidence))


@dataclass(frozen=True)
class CurvedSurface:
    """The surface x = f(z), tabulated from head to feet.

    Attributes
    ----------
    z_mm, x_mm
        (n,) nodes of f; z strictly decreasing. Beyond the ends f goes on straight.
    arc_mm
        (n,) arc length of f from the first node.
    """

    z_mm: Floats
    x_mm: Floats
    arc_mm: Floats

    @classmethod
    def through(cls, line: CentreLine, sigma_mm: float = 12.0) -> CurvedSurface:
        """f is the coronal projection of ``line``, smoothed by a Gaussian of ``sigma_mm`` along z."""
        count = max(int(np.ceil((line.top_mm - line.bottom_mm) / STEP_MM)) + 1, 3)
        z = np.linspace(line.top_mm, line.bottom_mm, count)
        x, _, _ = line.at(z)
        return cls.from_function(z, smooth(x, sigma_mm / ((z[0] - z[-1]) / (count - 1))))

    @classmethod
    def from_function(cls, z_mm: Floats, x_mm: Floats) -> CurvedSurface:
        """From nodes of f as they are."""
        step = np.hypot(np.diff(x_mm), np.diff(z_mm))
        return cls(np.asarray(z_mm), np.asarray(x_mm), np.concatenate([[0.0], np.cumsum(step)]))

    def unroll(self, points_lps_mm: AnyFloats) -> Floats:
        """Points (..., 3) in LPS mm to (..., 2) as (arc, y) in mm; points off the surface move along x on to it."""
        points = np.asarray(points_lps_mm, np.float64)
        return np.stack([interpolate(-points[..., 2], -self.z_mm, self.arc_mm), points[..., 1]], axis=-1)

    def roll(self, unrolled_mm: AnyFloats, lateral_mm: AnyFloats | float = 0.0) -> Floats:
        """(..., 2) as (arc, y) to points (..., 3) in LPS mm, ``lateral_mm`` off the surface towards the left."""
        flat = np.asarray(unrolled_mm, np.float64)
        arc = flat[..., 0]
        z = interpolate(arc, self.arc_mm, self.z_mm)
        x = interpolate(arc, self.arc_mm, self.x_mm)
        # the unit normal of the surface at this arc length, pointing to the left (+x)
        dz, dx = self._direction(arc)
        lateral = np.asarray(lateral_mm, np.float64)
        return np.stack([x - lateral * dz, flat[..., 1] + 0.0 * lateral, z + lateral * dx], axis=-1)

    def lateral(self, points_lps_mm: AnyFloats) -> Floats:
        """Signed distance (...) of points (..., 3) from the surface in mm, positive to the left (to first order)."""
        points = np.asarray(points_lps_mm, np.float64)
        arc = interpolate(-points[..., 2], -self.z_mm, self.arc_mm)
        dz, _ = self._direction(arc)
        return np.asarray((points[..., 0] - interpolate(arc, self.arc_mm, self.x_mm)) * -dz)

    def _direction(self, arc: Floats) -> tuple[Floats, Floats]:
        """Components (z, x) of the unit tangent of f towards the feet; the z component is negative."""
        dz = np.gradient(self.z_mm, self.arc_mm)
        dx = np.gradient(self.x_mm, self.arc_mm)
        z, x = np.interp(arc, self.arc_mm, dz), np.interp(arc, self.arc_mm, dx)
        norm = np.hypot(z, x)
        return z / norm, x / norm
