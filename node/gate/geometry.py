"""Images to one regular grid: sorted along their normal, split where they do not belong together, checked for gaps.

The order is always that of the positions along the normal; Instance Number and Slice Location are never looked at
(PS3.3 C.7.6.2.1.1). A series is split by frame of reference, orientation, matrix and pixel spacing, by phase where
several images lie at one position, and at every change of the step from slice to slice. The longest block that is
left is the series' volume, if it is long enough to hold a spine; else the refusal says what stood in the way.

A gantry tilt needs no resampling here: slices that are stacked along another direction than their normal make a
sheared, but regular, grid, and the affine of :class:`inference.geometry.Volume` says so exactly.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference.findings import Quality
from inference.refusal import Refusal, RefusalCode
from node.gate.headers import ImageHeader, InstanceHeader
from node.gate.policy import GatePolicy
from node.gate.values import number

MAX_COORDINATE_MM = 1e5
PIXEL_SPACING_MM = (0.02, 20.0)

PHASES = (
    "stack",
    "acquisition number",
    "temporal position",
    "cardiac phase",
    "echo time",
    "tube voltage",
    "kernel",
    "image type",
    "contrast agent",
    "acquisition date and time",
)
"""What may tell apart several images at one position, in the order in which it is tried."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One image of an instance, with the place that its header gives it."""

    header: InstanceHeader
    image: ImageHeader

    @property
    def name(self) -> tuple[str, int]:
        """Stable name for ties: SOP instance UID and frame number."""
        return (self.header.sop_instance_uid, self.image.frame or 0)


@dataclass(frozen=True, eq=False)
class Grid:
    """Slices on a regular grid.

    Attributes
    ----------
    slices
        Sorted along the normal (the cross product of the direction cosines of a row and of a column).
    affine
        4 x 4 float64: index (slice, row, column, 1), counted from 0 at voxel centres, to LPS mm.
    spacing_along_normal_mm
        Distance between neighbouring planes, measured perpendicularly.
    tilt_deg
        Angle between the normal and the way the slices are stacked.
    quality
        SPLIT_SERIES, TILT_CORRECTED.
    """

    slices: tuple[Slice, ...]
    affine: NDArray[np.float64]
    spacing_along_normal_mm: float
    tilt_deg: float
    quality: tuple[Quality, ...] = ()

    @property
    def coverage_mm(self) -> float:
        """Distance from the first plane to the last."""
        return self.spacing_along_normal_mm * (len(self.slices) - 1)


def arrange(slices: Sequence[Slice], policy: GatePolicy) -> Grid | Refusal:
    """The longest regular block of a series' images, or why there is none.

    TOO_FEW_IMAGES and NOT_AXIAL mean that the series is not eligible; every other refusal means not evaluable.
    """
    if len(slices) < policy.min_images:
        return _too_few(len(slices))
    refusal = next((r for r in (_plane_refusal(part, policy) for part in slices) if r is not None), None)
    if refusal is not None:
        return refusal
    groups = _same_plane(slices, policy)
    stack = _stack(groups, policy)
    grid = stack if isinstance(stack, Refusal) else _longest_block(stack, policy)
    if isinstance(stack, Refusal) or isinstance(grid, Refusal):
        return grid
    if len(grid.slices) < len(slices):
        lost = _too_much_lost(grid, stack, groups, policy)
        if lost is not None:
            return lost
        grid = replace(grid, quality=(*grid.quality, Quality.SPLIT_SERIES))
    return _within_limits(grid, policy)


def _stack(groups: Sequence[list[Slice]], policy: GatePolicy) -> list[Slice] | Refusal:
    """The longest axial group, if it can hold a vertebra."""
    axial = [g for g in groups if _is_axial(g[0], policy)]
    if not axial:
        return Refusal(RefusalCode.NOT_AXIAL)
    stack = max(axial, key=lambda g: (round(_extent(g), 3), len(g), _reverse_name(g)))
    if _distinct(stack, policy) >= policy.min_images and _extent(stack) >= policy.min_coverage_mm:
        return stack
    whole = _extent([part for group in axial for part in group])
    why = _difference(groups) if whole >= policy.min_block_mm else None
    return why or _too_few(_distinct(stack, policy), _extent(stack))


def _too_much_lost(
    grid: Grid, stack: Sequence[Slice], groups: Sequence[Sequence[Slice]], policy: GatePolicy
) -> Refusal | None:
    """Why a block that leaves images out may not stand for its series; ``None`` where it may."""
    if grid.coverage_mm >= policy.min_block_mm:
        return None
    # a phase that lies between the slices of another ends up to one step before it
    if grid.coverage_mm < _extent(stack) - grid.spacing_along_normal_mm - policy.position_tolerance_mm:
        return _broken(stack, grid, policy)
    return _difference(groups) if 2 * len(stack) < sum(map(len, groups)) else None


def _too_few(positions: int, extent_mm: float | None = None) -> Refusal:
    over = "" if extent_mm is None else f" over {extent_mm:.0f} mm"
    return Refusal(RefusalCode.TOO_FEW_IMAGES, f"({positions} {'position' if positions == 1 else 'positions'}{over}.)")


def _plane_refusal(part: Slice, policy: GatePolicy) -> Refusal | None:
    """Whether an image says where it lies, in numbers that can be true."""
    image = part.image
    refusal: Refusal | None = None
    if image.position is None or image.orientation is None or image.pixel_spacing is None:
        refusal = Refusal(RefusalCode.MISSING_GEOMETRY)
    elif image.rows is None or image.columns is None or min(image.rows, image.columns) < 1:
        refusal = Refusal(RefusalCode.MISSING_GEOMETRY, "(Rows or Columns.)")
    elif max(image.rows, image.columns) > policy.max_matrix:
        refusal = Refusal(RefusalCode.PIXELS_UNREADABLE, f"(Declared as {image.rows} x {image.columns} pixels.)")
    elif not all(PIXEL_SPACING_MM[0] <= s <= PIXEL_SPACING_MM[1] for s in image.pixel_spacing):
        refusal = Refusal(RefusalCode.MISSING_GEOMETRY, "(The pixel spacing is not plausible.)")
    elif any(abs(v) > MAX_COORDINATE_MM for v in image.position):
        refusal = Refusal(RefusalCode.MISSING_GEOMETRY, "(The position is not plausible.)")
    elif not _is_orthonormal(image.orientation, policy):
        refusal = Refusal(RefusalCode.INVALID_ORIENTATION)
    elif not part.header.frame_of_reference_uid:
        refusal = Refusal(RefusalCode.NO_FRAME_OF_REFERENCE)
    return refusal


def _is_orthonormal(orientation: Sequence[float], policy: GatePolicy) -> bool:
    if any(abs(v) > 2 for v in orientation):
        return False
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    errors = (np.linalg.norm(row) - 1, np.linalg.norm(column) - 1, row @ column)
    return max(abs(float(e)) for e in errors) <= policy.orthonormal_tolerance


def _orientation(part: Slice) -> NDArray[np.float64]:
    """(2, 3): unit vectors along a row and along a column."""
    assert part.image.orientation is not None
    vectors = np.array(part.image.orientation, np.float64).reshape(2, 3)
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _normal(part: Slice) -> NDArray[np.float64]:
    row, column = _orientation(part)
    normal = np.cross(row, column)
    return np.asarray(normal / np.linalg.norm(normal), np.float64)


def _positions(parts: Sequence[Slice]) -> NDArray[np.float64]:
    """(images, 3) LPS mm."""
    return np.array([p.image.position for p in parts], np.float64).reshape(-1, 3)


def _extent(parts: Sequence[Slice]) -> float:
    """Length of a stack along the normal of its first image, mm."""
    along = _positions(parts) @ _normal(parts[0])
    return float(np.ptp(along))


def _distinct(parts: Sequence[Slice], policy: GatePolicy) -> int:
    """Number of different positions along the normal."""
    along = np.sort(_positions(parts) @ _normal(parts[0]))
    return 1 + int(np.count_nonzero(np.diff(along) > policy.duplicate_tolerance_mm))


def _reverse_name(parts: Sequence[Slice]) -> tuple[int, ...]:
    """Sorts the group that holds the lowest SOP instance UID last, so that ``max`` takes it."""
    return tuple(-ord(c) for c in min(p.name for p in parts)[0])


def _is_axial(part: Slice, policy: GatePolicy) -> bool:
    return abs(float(_normal(part)[2])) >= math.cos(math.radians(policy.max_axial_angle_deg)) - 1e-9


def _same_plane(parts: Sequence[Slice], policy: GatePolicy) -> list[list[Slice]]:
    """Groups of images that share frame of reference, matrix, pixel spacing and orientation."""
    exact: dict[tuple[object, ...], list[list[Slice]]] = defaultdict(list)
    for part in sorted(parts, key=lambda p: p.name):
        image = part.image
        assert image.pixel_spacing is not None
        key = (
            part.header.frame_of_reference_uid,
            image.rows,
            image.columns,
            *(round(s, 4) for s in image.pixel_spacing),
        )
        for group in exact[key]:
            if np.abs(_orientation(group[0]) - _orientation(part)).max() <= policy.orientation_tolerance:
                group.append(part)
                break
        else:
            exact[key].append([part])
    return [group for groups in exact.values() for group in groups]


def _difference(groups: Sequence[Sequence[Slice]]) -> Refusal | None:
    """What keeps the groups of a series apart, as a refusal; ``None`` for a single group."""
    if len(groups) == 1:
        return None
    firsts = [g[0] for g in groups]
    if len({p.header.frame_of_reference_uid for p in firsts}) > 1:
        return Refusal(RefusalCode.SEVERAL_FRAMES_OF_REFERENCE)
    if len({(p.image.rows, p.image.columns, p.image.pixel_spacing) for p in firsts}) > 1:
        return Refusal(RefusalCode.MIXED_GEOMETRY)
    return Refusal(RefusalCode.MIXED_ORIENTATION)


def _longest_block(stack: Sequence[Slice], policy: GatePolicy) -> Grid | Refusal:
    """The longest regular block of a stack; of its phases, where it holds several."""
    enough = 0.5 * _extent(stack)
    whole = _best_grid(stack, policy)
    if isinstance(whole, Grid) and whole.coverage_mm >= enough and not _interleaved(whole.slices):
        return whole
    for phases in _phases(stack):
        grids = [g for g in (_best_grid(p, policy) for p in phases) if isinstance(g, Grid)]
        best = max(grids, key=lambda g: round(g.coverage_mm, 3), default=None)
        if best is not None and best.coverage_mm >= enough and not _interleaved(best.slices):
            return best
    return whole


def _interleaved(parts: Sequence[Slice]) -> bool:
    """Whether two phases lie between each other, so that together they look like one finer grid.

    Each must span more than half of the stack and hold a quarter of its images; a value that only the first and the
    last image share is no phase.
    """
    half = 0.5 * _extent(parts)
    return any(sum(4 * len(p) >= len(parts) and _extent(p) > half for p in phases) > 1 for phases in _phases(parts))


def _phases(stack: Sequence[Slice]) -> Iterator[list[list[Slice]]]:
    """Every way to split a stack by one of :data:`PHASES`, the largest part first (then the lowest value)."""
    for phase in PHASES:
        parts: dict[str, list[Slice]] = defaultdict(list)
        for part in stack:
            parts[part.image.phase.get(phase, "")].append(part)
        if len(parts) > 1:
            yield [parts[value] for value in sorted(parts, key=lambda v: (-len(parts[v]), len(v), v))]


def _best_grid(stack: Sequence[Slice], policy: GatePolicy) -> Grid | Refusal:
    """The longest run of equal steps in a stack of one phase."""
    normal = _normal(stack[0])
    along = _positions(stack) @ normal
    ordered = [stack[i] for i in np.lexsort((np.array([p.name[0] for p in stack]), along))]
    if len(ordered) < 2:
        return Refusal(RefusalCode.TOO_FEW_IMAGES)
    positions = _positions(ordered)
    along = positions @ normal
    gaps = np.diff(along)
    same_place = int(np.count_nonzero(gaps <= policy.duplicate_tolerance_mm))
    if same_place:
        return Refusal(RefusalCode.DUPLICATE_POSITIONS, f"({same_place} of {len(ordered)} images.)")
    runs = _runs(np.diff(positions, axis=0), policy)
    # a gap is a run of a single step, and may be longer than any block: blocks have enough images first
    start, stop = max(
        runs, key=lambda r: (r[1] - r[0] + 1 >= policy.min_images, round(float(along[r[1]] - along[r[0]]), 3), -r[0])
    )
    return _grid(ordered[start : stop + 1], policy)


def _runs(steps: NDArray[np.float64], policy: GatePolicy) -> list[tuple[int, int]]:
    """Runs of equal steps, as (first slice, last slice) of each; neighbouring runs share a slice.

    Two neighbouring slices may each be off by the tolerance, so a step by twice as much.
    """
    runs = []
    start, total = 0, steps[0].copy()
    for k in range(1, len(steps)):
        mean = total / (k - start)
        tolerance = 2 * _tolerance(float(np.linalg.norm(mean)), policy)
        if float(np.abs(steps[k] - mean).max()) <= tolerance:
            total += steps[k]
        else:
            runs.append((start, k))
            start, total = k, steps[k].copy()
    runs.append((start, len(steps)))
    return runs


def _tolerance(spacing_mm: float, policy: GatePolicy) -> float:
    return max(policy.position_tolerance_mm, policy.position_tolerance_fraction * spacing_mm)


def _grid(parts: Sequence[Slice], policy: GatePolicy) -> Grid | Refusal:
    """Least squares fit of a regular grid to a run of slices; refused where a slice lies off it."""
    positions = _positions(parts)
    index = np.arange(len(parts), dtype=np.float64)
    centred = index - index.mean()
    step = np.round(centred @ (positions - positions.mean(axis=0)) / (centred @ centred), 9)
    origin = positions.mean(axis=0) - index.mean() * step
    normal = _normal(parts[0])
    spacing = float(step @ normal)
    off = float(np.abs(positions - (origin + index[:, None] * step)).max())
    if off > _tolerance(spacing, policy):
        detail = f"(A slice lies {off:.2f} mm off a regular grid of {spacing:.2f} mm.)"
        return Refusal(RefusalCode.UNEVEN_SPACING, detail)
    if off < 1e-6:
        origin = positions[0]
    row, column = _orientation(parts[0])
    assert parts[0].image.pixel_spacing is not None
    between_rows, between_columns = parts[0].image.pixel_spacing
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = column * between_rows
    affine[:3, 2] = row * between_columns
    affine[:3, 3] = origin
    cosine = min(1.0, spacing / float(np.linalg.norm(step)))
    return Grid(tuple(parts), affine, spacing, math.degrees(math.acos(cosine)))


def _broken(stack: Sequence[Slice], grid: Grid, policy: GatePolicy) -> Refusal:
    """Why a stack fell into pieces that are too short: a gap (slices are missing) or uneven spacing."""
    along = np.sort(_positions(stack) @ _normal(stack[0]))
    gaps = np.diff(along)
    gaps = gaps[gaps > policy.duplicate_tolerance_mm]
    usual = float(np.median(gaps))
    odd = gaps[np.abs(gaps - usual) > 2 * _tolerance(usual, policy)]
    missing = odd[odd > 1.5 * usual]
    longest = f"the longest regular block is {grid.coverage_mm:.0f} mm long"
    if len(odd) and 2 * len(missing) >= len(odd):
        where = f"{len(missing)} gap{'s' if len(missing) > 1 else ''} of up to {missing.max():.1f} mm"
        return Refusal(RefusalCode.GAP_IN_SERIES, f"({where} where {usual:.1f} mm is usual; {longest}.)")
    return Refusal(RefusalCode.UNEVEN_SPACING, f"({gaps.min():.2f} to {gaps.max():.2f} mm; {longest}.)")


def _within_limits(grid: Grid, policy: GatePolicy) -> Grid | Refusal:
    """Tilt and spacing: what may still be measured on this grid."""
    if grid.tilt_deg > policy.max_tilt_deg:
        return Refusal(RefusalCode.GANTRY_TILT, f"({grid.tilt_deg:.0f} degrees.)")
    if grid.tilt_deg > policy.tilt_threshold_deg:
        grid = replace(grid, quality=(*grid.quality, Quality.TILT_CORRECTED))
    elif _contradicts_gantry(grid, policy):
        detail = "(The gantry is said to be tilted, the image orientation is not.)"
        return Refusal(RefusalCode.GANTRY_TILT, detail)
    if grid.spacing_along_normal_mm > policy.max_spacing_mm + policy.spacing_slack_mm:
        detail = f"({grid.spacing_along_normal_mm:.2f} mm; up to {policy.max_spacing_mm:g} mm can be measured.)"
        return Refusal(RefusalCode.SLICES_TOO_THICK, detail)
    voxels = len(grid.slices) * (grid.slices[0].image.rows or 0) * (grid.slices[0].image.columns or 0)
    if voxels > policy.max_voxels:
        return Refusal(RefusalCode.PIXELS_UNREADABLE, f"({voxels} voxels are more than this node takes.)")
    return grid


def _contradicts_gantry(grid: Grid, policy: GatePolicy) -> bool:
    """A tilted gantry whose images claim to be upright: either the tilt or the orientation is wrong."""
    tilt = number(grid.slices[0].header.dataset, "GantryDetectorTilt")
    upright = abs(float(_normal(grid.slices[0])[2])) > math.cos(math.radians(policy.tilt_threshold_deg))
    return tilt is not None and 2 * policy.tilt_threshold_deg < abs(tilt) <= 90 and upright
