"""Line integrals in numba, single-threaded: through the implicit bones by signed distance, and through voxels.

A line integral is of density against water, ``integral of (1 + HU / 1000)``, in cm: what a beam of one energy would
see. Coordinates are LPS mm.
"""
# ruff: noqa: PLR0912, PLR0915 - one long inlined function per ray is what makes it fast

from __future__ import annotations

import math

import numba as nb
import numpy as np

from onnx_models.training.phantom.kernels import (
    _OPTIONS,
    BODY,
    FAR,
    P_INNER,
    P_PLATE,
    P_SCALE,
    P_SHELL,
    P_TEXTURE,
    P_THICK,
    P_WALL,
    _cover,
    _noise,
    _primitive_distance,
    body_distance,
)

FINEST_MM = np.float32(0.5)
"""Step near a surface."""
WIDEST_MM = np.float32(2.0)
"""Longest step within bone (its texture has cells of 2 mm)."""
WIDEST_OUTSIDE_MM = np.float32(5.0)
"""Longest step beside bone: distances to flat shapes are too large far from them."""


@nb.njit(inline="always", **_OPTIONS)
def _look_up(volume, x, y, z, low, spacing):
    """Trilinear value of ``volume`` (k, j, i) with cell centres at ``low + spacing * index``; -1000 HU outside."""
    one = np.float32(1.0)
    fx = (x - low[0]) / spacing
    fy = (y - low[1]) / spacing
    fz = (z - low[2]) / spacing
    i = math.floor(fx)
    j = math.floor(fy)
    k = math.floor(fz)
    if i < 0 or j < 0 or k < 0 or i + 1 >= volume.shape[2] or j + 1 >= volume.shape[1] or k + 1 >= volume.shape[0]:
        return np.float32(-1000.0)
    tx = np.float32(fx - i)
    ty = np.float32(fy - j)
    tz = np.float32(fz - k)
    c0 = (volume[k, j, i] * (one - tx) + volume[k, j, i + 1] * tx) * (one - ty) + (
        volume[k, j + 1, i] * (one - tx) + volume[k, j + 1, i + 1] * tx
    ) * ty
    c1 = (volume[k + 1, j, i] * (one - tx) + volume[k + 1, j, i + 1] * tx) * (one - ty) + (
        volume[k + 1, j + 1, i] * (one - tx) + volume[k + 1, j + 1, i + 1] * tx
    ) * ty
    return c0 * (one - tz) + c1 * tz


@nb.njit(inline="always", **_OPTIONS)
def _entry(origin, ux, uy, uz, low, high):
    """Distances at which a ray enters and leaves a box (the second is the smaller where it misses)."""
    t0 = np.float32(0.0)
    t1 = np.float32(1e9)
    for axis in range(3):
        u = ux if axis == 0 else (uy if axis == 1 else uz)
        if abs(u) < np.float32(1e-9):
            if origin[axis] < low[axis] or origin[axis] > high[axis]:
                t1 = np.float32(-1.0)
        else:
            a = (low[axis] - origin[axis]) / u
            b = (high[axis] - origin[axis]) / u
            t0 = max(t0, min(a, b))
            t1 = min(t1, max(a, b))
    return t0, t1


@nb.njit(**_OPTIONS)
def soft_integrals(volume, low, spacing, source, corner, row, column, shape, step):
    """(rows, columns) cm of water through ``volume`` (HU at points ``low + spacing * (i, j, k)``), midpoint rule."""
    out = np.zeros((shape[0], shape[1]), np.float32)
    high = np.empty(3, np.float32)
    high[0] = low[0] + spacing * (volume.shape[2] - 1)
    high[1] = low[1] + spacing * (volume.shape[1] - 1)
    high[2] = low[2] + spacing * (volume.shape[0] - 1)
    for r in range(shape[0]):
        for c in range(shape[1]):
            ux = corner[0] + r * row[0] + c * column[0] - source[0]
            uy = corner[1] + r * row[1] + c * column[1] - source[1]
            uz = corner[2] + r * row[2] + c * column[2] - source[2]
            length = np.float32(math.sqrt(ux * ux + uy * uy + uz * uz))
            ux /= length
            uy /= length
            uz /= length
            t0, t1 = _entry(source, ux, uy, uz, low, high)
            t1 = min(t1, length)
            if t1 <= t0:
                continue
            count = math.ceil((t1 - t0) / step)
            h = (t1 - t0) / np.float32(count)
            total = np.float32(0.0)
            for n in range(count):
                t = t0 + (np.float32(n) + np.float32(0.5)) * h
                hu = _look_up(volume, source[0] + t * ux, source[1] + t * uy, source[2] + t * uz, low, spacing)
                total += max(np.float32(0.0), np.float32(1.0) + hu * np.float32(0.001))
            out[r, c] = total * h * np.float32(0.1)
    return out


@nb.njit(inline="always", **_OPTIONS)
def _added(x, y, z, w, c, metal, volume, low, spacing, kinds, prims, groups, props, start, items, bodies, field):
    """(bone, metal, gap) of cell ``c`` at a point: HU that they add to what ``volume`` says, and the distance to the
    nearest surface of any of them."""
    zero = np.float32(0.0)
    one = np.float32(1.0)
    first = start[c]
    last = start[c + 1]
    gap = FAR
    group = -1
    d = FAR
    plate = FAR
    base = zero
    hu = zero
    more = zero
    known = False
    for n in range(first, last + 1):
        i = items[n] if n < last else -1
        here = groups[i] if n < last else -2
        if here != group:
            if group >= 0:
                thick = props[group, P_THICK]
                if plate < FAR and plate > np.float32(0.6) - d:
                    thick *= props[group, P_WALL]
                gap = min(gap, abs(d))
                if d < zero and thick > zero:
                    gap = min(gap, abs(d + thick))
                if d < w:
                    if not known:
                        base = _look_up(volume, x, y, z, low, spacing)
                        hu = base
                        known = True
                    cover = _cover(d, w)
                    inner = props[group, P_INNER]
                    amplitude = props[group, P_TEXTURE]
                    if amplitude != zero:
                        inner += amplitude * _noise(field, x, y, z, props[group, P_SCALE])
                    if plate < FAR:
                        inside = plate if plate > zero else zero
                        inner += props[group, P_PLATE] / (one + inside * inside * np.float32(0.12))
                    value = inner
                    if thick > zero:
                        core = _cover(d + thick, w)
                        full = max(cover, np.float32(1e-4))
                        share = min(one, core / full)
                        value = props[group, P_SHELL] * (one - share) + inner * share
                    if metal[group]:
                        more += cover * (value - hu - more)
                    else:
                        hu += cover * (value - hu)
            group = here
            d = FAR
            plate = FAR
            if n == last:
                break
        if kinds[i] == BODY:
            e, depth = body_distance(x, y, z, bodies[int(prims[i, 0])], field)
            if e < d:
                d = e
                plate = depth
        else:
            e = _primitive_distance(kinds[i], prims[i], x, y, z)
            if e < d:
                d = e
                plate = FAR
    return hu - base, more, gap


@nb.njit(**_OPTIONS)
def bone_integrals(
    source, corner, row, column, shape, w, finest, widest, metal, volume, low, spacing,
    kinds, prims, groups, props, cell0, cell, dims, start, items, bodies, field,
):  # fmt: skip
    """(2, rows, columns) cm of water that bone and metal add to the soft tissue of ``volume``.

    Every ray is marched through the cells: an empty one in one step, elsewhere by seven tenths of the distance to the
    nearest surface, between ``finest`` and ``widest``; trapezoidal rule. ``w`` is the footprint of a sample.
    """
    out = np.zeros((2, shape[0], shape[1]), np.float32)
    high = np.empty(3, np.float32)
    for axis in range(3):
        high[axis] = cell0[axis] + cell * dims[axis]
    zero = np.float32(0.0)
    half = np.float32(0.5)
    for r in range(shape[0]):
        for c in range(shape[1]):
            ux = corner[0] + r * row[0] + c * column[0] - source[0]
            uy = corner[1] + r * row[1] + c * column[1] - source[1]
            uz = corner[2] + r * row[2] + c * column[2] - source[2]
            length = np.float32(math.sqrt(ux * ux + uy * uy + uz * uz))
            ux /= length
            uy /= length
            uz /= length
            t, end = _entry(source, ux, uy, uz, cell0, high)
            end = min(end, length)
            t += np.float32(1e-3)
            bone = zero
            metals = zero
            before_bone = zero
            before_metal = zero
            before = t
            while t < end:
                x = source[0] + t * ux
                y = source[1] + t * uy
                z = source[2] + t * uz
                ci = min(dims[0] - 1, max(0, int((x - cell0[0]) / cell)))
                cj = min(dims[1] - 1, max(0, int((y - cell0[1]) / cell)))
                ck = min(dims[2] - 1, max(0, int((z - cell0[2]) / cell)))
                out_of = np.float32(1e9)
                if ux > np.float32(1e-9):
                    out_of = min(out_of, (cell0[0] + cell * (ci + 1) - x) / ux)
                elif ux < np.float32(-1e-9):
                    out_of = min(out_of, (cell0[0] + cell * ci - x) / ux)
                if uy > np.float32(1e-9):
                    out_of = min(out_of, (cell0[1] + cell * (cj + 1) - y) / uy)
                elif uy < np.float32(-1e-9):
                    out_of = min(out_of, (cell0[1] + cell * cj - y) / uy)
                if uz > np.float32(1e-9):
                    out_of = min(out_of, (cell0[2] + cell * (ck + 1) - z) / uz)
                elif uz < np.float32(-1e-9):
                    out_of = min(out_of, (cell0[2] + cell * ck - z) / uz)
                out_of = max(out_of, zero) + np.float32(1e-3)
                k = (ck * dims[1] + cj) * dims[0] + ci
                now_bone = zero
                now_metal = zero
                step = out_of
                if start[k] < start[k + 1]:
                    now_bone, now_metal, gap = _added(
                        x, y, z, w, k, metal, volume, low, spacing,
                        kinds, prims, groups, props, start, items, bodies, field,
                    )  # fmt: skip
                    near = min(np.float32(0.7) * (gap - half * w), WIDEST_OUTSIDE_MM)
                    if now_bone != zero or now_metal != zero:
                        near = min(near, widest)
                    step = max(finest, min(out_of, near))
                span = half * (t - before)
                bone += span * (before_bone + now_bone)
                metals += span * (before_metal + now_metal)
                before_bone = now_bone
                before_metal = now_metal
                before = t
                t += step
            span = half * (min(t, end) - before)
            bone += span * before_bone
            metals += span * before_metal
            out[0, r, c] = bone * np.float32(1e-4)
            out[1, r, c] = metals * np.float32(1e-4)
    return out
