"""The implicit description evaluated: HU and signed distances at any point, in numba, single-threaded, float32.

A patient is a list of primitives (vertebral body, capsule, ellipsoid, box, disc) in paint order, gathered in groups;
the union of a group is one tissue with a shell. A coarse grid of cells lists the primitives near each point. The trunk
(skin, fat, muscle, cavity, lungs) is a background given per z. Partial volume is analytic: a surface at signed
distance d covers ``clip(1/2 - d / w, 0, 1)`` of a sample of footprint w. Coordinates are LPS mm throughout.
"""
# ruff: noqa: PLR0912, PLR0915 - one long inlined function per sample is what makes it fast

from __future__ import annotations

import math

import numba as nb
import numpy as np

# kinds of primitive
BODY, CAPSULE, ELLIPSOID, BOX, DISC = 0, 1, 2, 3, 4

# one row per vertebral body: columns
(
    B_C,  # centre x, y, z
    B_R,  # rows left, back, up (9)
    B_D,
    B_W,
    B_NORM,  # share of the 4-norm in the outline
    B_EXTRA,  # how far the ellipse reaches behind the wall
    B_KPOST,  # curvature of the posterior wall in the axial plane
    B_WAIST_A,
    B_WAIST_P,
    B_WAIST_L,
    B_S0,
    B_S1,
    B_SC,  # depth of the superior concavity
    B_I0,
    B_I1,
    B_IC,
    B_SHIFT_S,
    B_SHIFT_I,
    B_FA_S,  # anterior loss, superior plate
    B_FA_I,
    B_PA,  # exponent of the wedge
    B_FM_S,  # middle loss
    B_FM_I,
    B_FC_S,  # uniform loss
    B_FC_I,
    B_STEP,
    B_STEP_U,
    B_LAT,  # lateral wedge
    B_NOISE,
) = (0, 3, *range(12, 39))
B_COLUMNS = 39

# trunk table: columns
T_CX, T_CY, T_A, T_B, T_FAT, T_MUSCLE, T_SX, T_SY, T_DEPTH, T_PARASPINAL, T_SLOPE, T_BACKFAT = range(12)
T_COLUMNS = 12

# trunk globals
(
    G_SHIFT,
    G_FAT,
    G_MUSCLE,
    G_VISCERAL,
    G_LUNG,
    G_APEX,
    G_DOME_R,
    G_DOME_L,
    G_DOME_DROP,
    G_MED_X,
    G_MED_FRONT,
    G_MED_BACK,
    G_FRONT_FAT,
    G_INFILTRATION,
    G_HAS_TRUNK,
    G_HILUM_Z,
    G_HEART_Z,
    G_SKIN,
) = range(18)
G_COLUMNS = 18

# group properties: columns
P_INNER, P_SHELL, P_THICK, P_TEXTURE, P_SCALE, P_CLIP, P_WALL, P_PLATE = range(8)
P_COLUMNS = 8

FAR = np.float32(1e6)
_OPTIONS = {"cache": True, "fastmath": True, "nogil": True, "error_model": "numpy"}


@nb.njit(inline="always", **_OPTIONS)
def _noise(field, x, y, z, scale):
    """Trilinear look-up in a periodic 32^3 field of unit variance; ``scale`` in mm per cell."""
    fx = x / scale
    fy = y / scale
    fz = z / scale
    ix = math.floor(fx)
    iy = math.floor(fy)
    iz = math.floor(fz)
    tx = np.float32(fx - ix)
    ty = np.float32(fy - iy)
    tz = np.float32(fz - iz)
    i0 = int(ix) & 31
    j0 = int(iy) & 31
    k0 = int(iz) & 31
    i1 = (i0 + 1) & 31
    j1 = (j0 + 1) & 31
    k1 = (k0 + 1) & 31
    one = np.float32(1.0)
    c0 = (field[k0, j0, i0] * (one - tx) + field[k0, j0, i1] * tx) * (one - ty) + (
        field[k0, j1, i0] * (one - tx) + field[k0, j1, i1] * tx
    ) * ty
    c1 = (field[k1, j0, i0] * (one - tx) + field[k1, j0, i1] * tx) * (one - ty) + (
        field[k1, j1, i0] * (one - tx) + field[k1, j1, i1] * tx
    ) * ty
    return c0 * (one - tz) + c1 * tz


@nb.njit(inline="always", **_OPTIONS)
def _cover(d, w):
    """Part of a sample of footprint w covered by a half-space at signed distance d."""
    return min(np.float32(1.0), max(np.float32(0.0), np.float32(0.5) - d / w))


@nb.njit(**_OPTIONS)
def plate_heights(u, v, b):
    """(superior, inferior) z of the end plates at (u, v) in -1..1 (front to back, right to left); local mm."""
    one = np.float32(1.0)
    zero = np.float32(0.0)
    uu = one - u * u
    us = u - b[B_SHIFT_S] * uu
    ui = u - b[B_SHIFT_I] * uu
    rs = max(zero, one - us * us - v * v)
    ri = max(zero, one - ui * ui - v * v)
    rm = max(zero, one - u * u - v * v)
    zs = b[B_S0] + b[B_S1] * u - b[B_SC] * rs
    zi = b[B_I0] + b[B_I1] * u + b[B_IC] * ri
    if b[B_FA_S] != zero or b[B_FA_I] != zero:
        front = (np.float32(0.5) * (one - u)) ** b[B_PA]
        zs -= b[B_FA_S] * front
        zi += b[B_FA_I] * front
    zs -= b[B_FM_S] * rm + b[B_FC_S]
    zi += b[B_FM_I] * rm + b[B_FC_I]
    if b[B_STEP] != zero:
        s = min(one, max(zero, (b[B_STEP_U] + np.float32(0.1) - u) * np.float32(5.0)))
        zs -= b[B_STEP] * s * s * (np.float32(3.0) - np.float32(2.0) * s)
    lateral = b[B_LAT] * v
    return zs + lateral, zi - lateral


@nb.njit(**_OPTIONS)
def body_distance(x, y, z, b, field):
    """(signed distance, depth below the nearer end plate) of a vertebral body; inside, only the first is negative.

    Exact on its surface, first order beside it.
    """
    one = np.float32(1.0)
    dx = x - b[B_C]
    dy = y - b[B_C + 1]
    dz = z - b[B_C + 2]
    lx = b[B_R] * dx + b[B_R + 1] * dy + b[B_R + 2] * dz
    ly = b[B_R + 3] * dx + b[B_R + 4] * dy + b[B_R + 5] * dz
    lz = b[B_R + 6] * dx + b[B_R + 7] * dy + b[B_R + 8] * dz
    half_d = np.float32(0.5) * b[B_D]
    half_w = np.float32(0.5) * b[B_W]
    reach = max(half_d, half_w) + np.float32(12.0)
    if lx * lx + ly * ly + lz * lz > reach * reach:
        return FAR, FAR
    u = min(one, max(-one, ly / half_d))
    v = min(one, max(-one, lx / half_w))
    zs, zi = plate_heights(u, v, b)
    h = max(one, zs - zi)
    t = min(one, max(-one, (lz + lz - zs - zi) / h))
    waist = one - t * t
    a = half_w - b[B_WAIST_L] * waist
    front = half_d - b[B_WAIST_A] * waist
    # the ellipse runs from the anterior wall to EXTRA behind the posterior one
    bb = np.float32(0.5) * (front + half_d + b[B_EXTRA])
    yc = np.float32(0.5) * (half_d + b[B_EXTRA] - front)
    ex = lx / a
    ey = (ly - yc) / bb
    e2 = ex * ex
    f2 = ey * ey
    q = (one - b[B_NORM]) * math.sqrt(e2 + f2) + b[B_NORM] * math.sqrt(math.sqrt(e2 * e2 + f2 * f2))
    r = math.sqrt(lx * lx + (ly - yc) * (ly - yc))
    d = r * (one - one / max(q, np.float32(1e-3)))
    d = max(d, ly - half_d + b[B_WAIST_P] * waist - b[B_KPOST] * lx * lx)
    plate = min(zs - lz, lz - zi)
    d = max(d, -plate)
    if b[B_NOISE] > 0 and abs(d) < np.float32(6.0):
        d += b[B_NOISE] * _noise(field, x, y, z, np.float32(5.0))
    return d, plate


@nb.njit(inline="always", **_OPTIONS)
def _primitive_distance(kind, p, x, y, z):
    one = np.float32(1.0)
    zero = np.float32(0.0)
    if kind == CAPSULE:
        ax = x - p[0]
        ay = y - p[1]
        az = z - p[2]
        m = (one - p[12]) * (ax * p[9] + ay * p[10] + az * p[11])
        ax -= m * p[9]
        ay -= m * p[10]
        az -= m * p[11]
        t = min(one, max(zero, (ax * p[3] + ay * p[4] + az * p[5]) * p[6]))
        ax -= t * p[3]
        ay -= t * p[4]
        az -= t * p[5]
        return np.float32(math.sqrt(ax * ax + ay * ay + az * az) - (p[7] + t * p[8]))
    ax = x - p[0]
    ay = y - p[1]
    az = z - p[2]
    bx = p[3] * ax + p[4] * ay + p[5] * az
    by = p[6] * ax + p[7] * ay + p[8] * az
    bz = p[9] * ax + p[10] * ay + p[11] * az
    if kind == ELLIPSOID:
        q = math.sqrt(bx * bx + by * by + bz * bz)
        r = math.sqrt(ax * ax + ay * ay + az * az)
        return np.float32(r * (one - one / max(q, np.float32(0.02))))
    if kind == BOX:
        return np.float32(max(abs(bx) - p[12], abs(by) - p[13], abs(bz) - p[14]))
    # DISC: an elliptical plate, half axes p[12] (left), p[13] (back), half thickness p[14]
    ex = bx / p[12]
    ey = by / p[13]
    q = math.sqrt(ex * ex + ey * ey)
    r = math.sqrt(bx * bx + by * by)
    return np.float32(max(r * (one - one / max(q, np.float32(0.02))), abs(bz) - p[14]))


@nb.njit(inline="always", **_OPTIONS)
def _background(x, y, z, w, table, z0, g, field):
    """(HU, cover of the cavity, cover of the lungs) of the trunk without organs."""
    one = np.float32(1.0)
    zero = np.float32(0.0)
    air = np.float32(-1000.0)
    if g[G_HAS_TRUNK] == zero:
        return air, zero, zero
    k = int(z - z0)
    if k < 0 or k >= table.shape[0]:
        return air, zero, zero
    a = table[k, T_A]
    b = table[k, T_B]
    px = x - table[k, T_CX]
    py = y - table[k, T_CY]
    ex = px / a
    ey = py / b
    if abs(ex) > np.float32(1.3) or abs(ey) > np.float32(1.3):
        return air, zero, zero
    e2 = ex * ex
    f2 = ey * ey
    q = np.float32(0.4) * math.sqrt(e2 + f2) + np.float32(0.6) * math.sqrt(math.sqrt(e2 * e2 + f2 * f2))
    r = math.sqrt(px * px + py * py)
    d = r * (one - one / max(q, np.float32(0.02)))
    if d > w:
        return air, zero, zero
    front = max(zero, -ey)
    fat = table[k, T_FAT] * (one + g[G_FRONT_FAT] * front * front)
    d_fat = d + fat
    d_cavity = d_fat + table[k, T_MUSCLE]
    shift = g[G_SHIFT]
    n_soft = _noise(field, x, y, z, np.float32(7.0))
    hu_fat = g[G_FAT] + np.float32(8.0) * n_soft
    hu = air
    cover = _cover(d, w)
    hu += cover * (g[G_SKIN] - hu)
    cover = _cover(d + np.float32(2.0), w)
    hu += cover * (hu_fat - hu)
    cover = _cover(d_fat, w)
    if cover > zero:
        strands = _noise(field, x + np.float32(31.0), y, np.float32(0.3) * z, np.float32(9.0))
        hu_muscle = g[G_MUSCLE] + shift + np.float32(9.0) * n_soft
        streak = min(one, max(zero, (strands - np.float32(1.6) + g[G_INFILTRATION]) * np.float32(1.2)))
        hu_muscle += np.float32(0.8) * streak * (hu_fat - hu_muscle)
        # behind the spine: two bellies of muscle in fat
        behind = table[k, T_BACKFAT]
        if behind > zero:
            bx = x - table[k, T_SX]
            by = y - table[k, T_SY] - table[k, T_DEPTH]
            if by > np.float32(-6.0) and abs(bx) < np.float32(110.0):
                ux = (abs(bx) - np.float32(29.0)) / np.float32(31.0)
                uy = (by - np.float32(17.0)) / np.float32(25.0)
                out = min(one, max(zero, (ux * ux + uy * uy - one) * np.float32(4.0)))
                hu_muscle += behind * out * (hu_fat - hu_muscle)
        hu += cover * (hu_muscle - hu)
    cavity = _cover(d_cavity, w)
    lung = zero
    sx = x - table[k, T_SX]
    sy = y - table[k, T_SY]
    if cavity > zero:
        # what surrounds the spine is muscle, not cavity
        half = table[k, T_DEPTH]
        qs = math.sqrt(sx * sx / (half * half * np.float32(1.9)) + (sy * sy) / (half * half))
        rs = math.sqrt(sx * sx + sy * sy)
        d_spine = rs * (one - one / max(qs, np.float32(0.05)))
        aside = max(zero, abs(sx) - np.float32(30.0))
        back = half * np.float32(0.2) + table[k, T_PARASPINAL] + table[k, T_SLOPE] * aside
        d_keep = min(d_spine, back - sy)
        if sy < zero:
            d_keep = d_spine
        cavity = cavity * _cover(-d_keep, w)
        visceral = g[G_VISCERAL] + np.float32(14.0) * n_soft
        hu += cavity * (visceral - hu)
        # lungs
        xm = px - g[G_MED_X]
        side = g[G_DOME_R] if xm < zero else g[G_DOME_L]
        lx = (abs(xm) - np.float32(0.5) * a) / a
        ly = ey + np.float32(0.15)
        dome = side - g[G_DOME_DROP] * (np.float32(2.2) * lx * lx + np.float32(0.9) * ly * ly)
        hz = (z - g[G_HEART_Z]) / np.float32(55.0)
        wide = max(zero, one - hz * hz)
        m = max(zero, -ey)
        medial = g[G_MED_BACK] + (g[G_MED_FRONT] * wide + np.float32(8.0)) * min(one, np.float32(1.6) * m)
        if xm > zero:
            medial += np.float32(18.0) * wide * m
        apex = g[G_APEX] - np.float32(60.0) * (np.float32(4.0) * lx * lx + ly * ly)
        d_lung = max(d_cavity + np.float32(3.0), medial - abs(xm), dome - z, z - apex, np.float32(4.0) - d_keep)
        lung = cavity * _cover(d_lung, w)
        if lung > zero:
            vessels = _noise(field, x, y + np.float32(17.0), z, np.float32(6.0))
            hu_lung = g[G_LUNG] + np.float32(25.0) * n_soft
            if vessels > np.float32(1.5):
                hu_lung += min(one, (vessels - np.float32(1.5)) * np.float32(2.5)) * (np.float32(40.0) - hu_lung)
            hu += lung * (hu_lung - hu)
    return hu, cavity, lung


@nb.njit(inline="always", **_OPTIONS)
def _hu_at(x, y, z, w, table, z0, g, kinds, prims, groups, props, cell0, cell, dims, start, items, bodies, field):
    one = np.float32(1.0)
    zero = np.float32(0.0)
    hu, cavity, lung = _background(x, y, z, w, table, z0, g, field)
    ci = int((x - cell0[0]) / cell)
    cj = int((y - cell0[1]) / cell)
    ck = int((z - cell0[2]) / cell)
    if x < cell0[0] or y < cell0[1] or z < cell0[2] or ci >= dims[0] or cj >= dims[1] or ck >= dims[2]:
        return hu
    c = (ck * dims[1] + cj) * dims[0] + ci
    first = start[c]
    last = start[c + 1]
    group = -1
    d = FAR
    plate = FAR
    for n in range(first, last + 1):
        i = items[n] if n < last else -1
        here = groups[i] if n < last else -2
        if here != group:
            if group >= 0 and d < w:
                cover = _cover(d, w)
                clip = props[group, P_CLIP]
                if clip > zero:
                    cover *= cavity
                    if clip > one:
                        cover *= one - lung
                if cover > zero:
                    inner = props[group, P_INNER]
                    amplitude = props[group, P_TEXTURE]
                    if amplitude != zero:
                        inner += amplitude * _noise(field, x, y, z, props[group, P_SCALE])
                    value = inner
                    thick = props[group, P_THICK]
                    if plate < FAR:
                        inside = plate if plate > zero else zero
                        inner += props[group, P_PLATE] / (one + inside * inside * np.float32(0.12))
                        value = inner
                        if plate > np.float32(0.6) - d:
                            thick *= props[group, P_WALL]
                    if thick > zero:
                        core = _cover(d + thick, w)
                        full = max(_cover(d, w), np.float32(1e-4))
                        share = min(one, core / full)
                        value = props[group, P_SHELL] * (one - share) + inner * share
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
    return hu


@nb.njit(**_OPTIONS)
def hu_points(points, w, table, z0, g, kinds, prims, groups, props, cell0, cell, dims, start, items, bodies, field):
    """HU at points (N, 3); ``w`` is the footprint of the samples in mm."""
    out = np.empty(points.shape[0], np.float32)
    for n in range(points.shape[0]):
        out[n] = _hu_at(
            points[n, 0], points[n, 1], points[n, 2], w,
            table, z0, g, kinds, prims, groups, props, cell0, cell, dims, start, items, bodies, field,
        )  # fmt: skip
    return out


@nb.njit(**_OPTIONS)
def hu_grid(
    affine, shape, w, table, z0, g, kinds, prims, groups, props, cell0, cell, dims, start, items, bodies, field
):
    """HU on a grid of ``shape``; ``affine`` (3, 4) float32 maps (slice, row, column, 1) to LPS mm."""
    out = np.empty((shape[0], shape[1], shape[2]), np.float32)
    for k in range(shape[0]):
        for j in range(shape[1]):
            for i in range(shape[2]):
                x = np.float32(affine[0, 0] * k + affine[0, 1] * j + affine[0, 2] * i + affine[0, 3])
                y = np.float32(affine[1, 0] * k + affine[1, 1] * j + affine[1, 2] * i + affine[1, 3])
                z = np.float32(affine[2, 0] * k + affine[2, 1] * j + affine[2, 2] * i + affine[2, 3])
                out[k, j, i] = _hu_at(
                    x, y, z, w,
                    table, z0, g, kinds, prims, groups, props, cell0, cell, dims, start, items, bodies, field,
                )  # fmt: skip
    return out


@nb.njit(**_OPTIONS)
def label_points(points, bodies, labels, field, distance):
    """Label (1-based row of ``bodies`` through ``labels``) of the body that holds each point, and its distance."""
    out = np.zeros(points.shape[0], np.uint8)
    for n in range(points.shape[0]):
        best = FAR
        for i in range(bodies.shape[0]):
            if labels[i] == 0:
                continue
            d = body_distance(points[n, 0], points[n, 1], points[n, 2], bodies[i], field)[0]
            if d < best:
                best = d
                if d <= 0:
                    out[n] = labels[i]
        distance[n] = best
    return out
