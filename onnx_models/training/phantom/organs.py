"""What lies in the trunk: bowel, psoas, solid organs, heart, vessels, and bright ellipsoids that stand for anything."""
# ruff: noqa: RUF005 - points are arrays: they are added, not joined

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.ranges import Ranges
from onnx_models.training.phantom.scene import Scene
from onnx_models.training.phantom.spine import Column, places

F64 = NDArray[np.float64]
SIDES = (-1.0, 1.0)


@dataclass(frozen=True)
class Inside:
    """One patient's trunk as the organs see it."""

    rng: np.random.Generator
    scene: Scene
    column: Column
    ranges: Ranges
    trunk: dict[str, F64]
    shift: float
    """HU added to soft tissue."""
    contrast: bool
    at: dict[str, F64]
    """Centres of the standard levels."""

    @property
    def scale(self) -> float:
        """Size of the skeleton."""
        return self.column.scale

    def front(self, z: float) -> tuple[float, float, float, float]:
        """(x of the spine, y of its front, half width of the cavity, y of the cavity's front) at z."""
        sx, sy, cy, a, b = (
            float(np.interp(z, self.trunk["z"], self.trunk[k])) for k in ("sx", "sy", "cy", "rib_a", "rib_b")
        )
        return sx, sy - 17 * self.scale, a, cy - b

    def blood(self, plain: float = 0.0) -> float:
        """HU of a vessel; with contrast medium in this patient except with probability ``plain``."""
        if self.contrast and self.rng.random() > plain:
            return float(self.rng.uniform(*self.ranges.contrast_hu))
        return float(self.rng.uniform(28, 60) + self.shift)


def organs(
    rng: np.random.Generator, scene: Scene, column: Column, ranges: Ranges, trunk: dict[str, F64], shift: float
) -> None:
    """Fill the trunk, from the bowel (painted first) to the random bright ellipsoids."""
    inside = Inside(rng, scene, column, ranges, trunk, shift, bool(rng.random() < ranges.contrast), places(column))
    upper = (_solid_organs, _kidneys, _pelvis, _heart, _airway)
    parts: tuple[Callable[[Inside], None], ...] = (_small_bowel, _colon, _psoas, *upper, _aorta, _vena_cava, _clutter)
    for part in parts:
        part(inside)


def _filling(i: Inside) -> tuple[float, float, float]:
    """(HU, texture in HU, its size in mm) of what a loop of bowel holds."""
    kind = i.rng.choice(4, p=[0.45, 0.2, 0.2, 0.15])
    if kind == 0:
        return i.rng.uniform(5, 60) + i.shift, 8.0, 5.0
    if kind == 1:
        return i.rng.uniform(-1000, -900), 5.0, 5.0
    if kind == 2:
        return i.rng.uniform(-250, 60), i.rng.uniform(80, 300), i.rng.uniform(2.5, 5.0)
    return i.rng.uniform(90, 400), 25.0, 5.0


def _small_bowel(i: Inside) -> None:
    rng, s = i.rng, i.scale
    z_low, z_high = i.at["S2"][2] - 20, i.at["L1"][2]
    for _ in range(int(rng.integers(3, 11))):
        z = rng.uniform(z_low, z_high)
        x0, y0, a, y1 = i.front(z)
        p = np.array([x0 + rng.uniform(-0.6, 0.6) * a, rng.uniform(y1 + 14, max(y0 - 22, y1 + 20)), z])
        step = rng.standard_normal(3)
        path = [p]
        for _ in range(int(rng.integers(3, 9))):
            step = step / np.linalg.norm(step) + 0.9 * rng.standard_normal(3) * np.array([1, 1, 0.6])
            p = p + step / np.linalg.norm(step) * 22 * s
            x0, y0, a, y1 = i.front(float(p[2]))
            p = np.clip(p, [x0 - 0.8 * a, y1 + 10, z_low], [x0 + 0.8 * a, max(y0 - 16, y1 + 14), z_high])
            path.append(p)
        hu, texture, size = _filling(i)
        wall = rng.uniform(35, 70) + i.shift + (rng.uniform(0, 50) if i.contrast else 0.0)
        g = i.scene.group(hu, wall, rng.uniform(1.0, 3.0), texture, size, clip=2)
        i.scene.chain(g, np.array(path), rng.uniform(8, 14) * s)


def _colon(i: Inside) -> None:
    rng, s = i.rng, i.scale
    for side in (*SIDES, 0.0):
        if rng.random() < 0.15:
            continue
        path, radii = [], []
        for share in np.linspace(0, 1, 7):
            z = (
                i.at["S1"][2] + share * (i.at["L1"][2] - i.at["S1"][2])
                if side
                else i.at["L2"][2] + rng.uniform(-25, 25)
            )
            x0, y0, a, y1 = i.front(z)
            if side:
                p = [x0 + side * (0.78 + rng.normal(0, 0.04)) * a, 0.7 * y0 + 0.3 * y1 + rng.normal(0, 6), z]
            else:
                p = [x0 + (1.5 * share - 0.75) * a, y1 + rng.uniform(20, 34), z]
            path.append(p)
            radii.append(rng.uniform(11, 25) * s)
        hu, texture, size = _filling(i)
        g = i.scene.group(hu, 45 + i.shift, rng.uniform(1.5, 3.0), texture, size, clip=2)
        i.scene.chain(g, np.array(path), np.array(radii))


def _psoas(i: Inside) -> None:
    s, column = i.scale, i.column
    g = i.scene.group(i.rng.uniform(40, 68) + i.shift, texture=8.0)
    bulk = i.rng.uniform(0.7, 1.15)
    for side in SIDES:
        points, radius = [], []
        for n, name in enumerate(column.levels):
            if name.startswith("L"):
                q = float(column.position[n]) - 12
                points.append(
                    column.at(n, side * (column.table[n, ker.B_W] / 2 + (6 + 2.5 * q) * s), (2 - 1.5 * q) * s, 0)
                )
                radius.append((8 + 3.2 * q) * s * bulk)
        points.append(i.at["S1"] + np.array([side * 62, -46, -18]) * s)
        points.append(i.at["S1"] + np.array([side * 86, -62, -80]) * s)
        i.scene.chain(g, np.array(points), np.array([*radius, 18 * s * bulk, 14 * s * bulk]))


def _solid_organs(i: Inside) -> None:
    rng, s, scene, shift = i.rng, i.scale, i.scene, i.shift
    more = rng.uniform(0, 60) if i.contrast else 0.0
    x0, y0, a, y1 = i.front(float(i.at["T12"][2]))
    mid_y = 0.5 * (y0 + y1)
    z = i.at["T11"][2]
    liver = scene.group(rng.uniform(40, 70) + shift + more, texture=7, clip=2)
    scene.ellipsoid(
        liver, [x0 - 0.52 * a, mid_y + 6, z + 5], [0.58 * a, 0.75 * (y0 - y1) + 10, rng.uniform(70, 95) * s]
    )
    scene.ellipsoid(liver, [x0 - 0.05 * a, y1 + 45, z + 15], [0.5 * a, 36 * s, 42 * s])
    gall = scene.group(rng.uniform(0, 25) + shift, clip=2)
    scene.ellipsoid(gall, [x0 - 0.45 * a, y1 + 50, i.at["L1"][2]], np.array([14, 16, 28]) * s, turn(rng, 0.6))
    hold = rng.choice(3)
    hu = (rng.uniform(0, 60) + shift, -980.0, rng.uniform(100, 300))[hold]
    stomach = scene.group(hu, 45 + shift, 4.0, 10.0, 6.0, clip=2)
    centre = np.array([x0 + 0.4 * a, y1 + 55, i.at["T12"][2] + 8])
    scene.ellipsoid(stomach, centre, np.array([42, 36, 58]) * s * rng.uniform(0.7, 1.1), turn(rng, 0.6))
    spleen = scene.group(rng.uniform(45, 60) + shift + more, texture=6, clip=2)
    scene.ellipsoid(spleen, [x0 + 0.8 * a, y0 + 8, z + 8], np.array([24, 42, 52]) * s)
    pancreas = scene.group(rng.uniform(20, 50) + shift + more, texture=12, clip=2)
    x0, y0, a, y1 = i.front(float(i.at["L1"][2]))
    path = [[x0 - 45 * s, y0 - 40, i.at["L2"][2]], [x0, y0 - 38, i.at["L1"][2]], [x0 + 55 * s, y0 - 22, i.at["T12"][2]]]
    scene.chain(pancreas, np.array(path), np.array([14, 10, 9]) * s)


def _kidneys(i: Inside) -> None:
    rng, s, scene = i.rng, i.scale, i.scene
    hu = rng.uniform(90, 260) if i.contrast else rng.uniform(25, 45) + i.shift
    for side in SIDES:
        if rng.random() < 0.04:
            continue
        z = i.at["L1"][2] + (-18 if side < 0 else 2) * s + rng.normal(0, 8)
        x0, y0, _, _ = i.front(float(z))
        centre = np.array([x0 + side * 62 * s, y0 + 14 * s, z])
        lean = turn(rng, 0.3)
        fat = scene.group(rng.uniform(-110, -90), clip=2)
        scene.ellipsoid(fat, centre, np.array([40, 40, 70]) * s, lean)
        size = rng.uniform(0.75, 1.1) * s
        kidney = scene.group(hu, texture=8, clip=2)
        scene.ellipsoid(kidney, centre, np.array([26, 29, 54]) * size, lean)
        held = rng.choice(3)
        sinus = scene.group((-80.0, 10.0, rng.uniform(*i.ranges.contrast_hu))[held], clip=2)
        scene.ellipsoid(sinus, centre - np.array([side * 12 * s, 4, 0]), np.array([13, 10, 24]) * size, lean)
        if rng.random() < 0.25:
            cyst = scene.group(rng.uniform(0, 20), clip=2)
            scene.ellipsoid(cyst, centre + rng.uniform(-1, 1, 3) * [20, 20, 45], np.full(3, rng.uniform(5, 22)))
        if rng.random() < 0.1:
            stone = scene.group(rng.uniform(400, 1400))
            scene.ellipsoid(stone, centre + rng.uniform(-1, 1, 3) * [8, 8, 25], rng.uniform(1.5, 6, 3))


def _pelvis(i: Inside) -> None:
    rng, s, scene = i.rng, i.scale, i.scene
    floor = i.at["S2"] + np.array([0, -95, -150]) * s
    mixed = scene.group(rng.uniform(-60, 30) + i.shift, texture=12.0)
    scene.ellipsoid(mixed, floor + [0, 25, 10], np.array([52, 55, 40]) * s)
    bladder = scene.group(rng.uniform(0, 20) if rng.random() < 0.8 else rng.uniform(100, 500), 40 + i.shift, 3.0)
    scene.ellipsoid(bladder, i.at["S2"] + np.array([0, -88, -92]) * s, rng.uniform(22, 48, 3) * s)
    middle = scene.group(rng.uniform(35, 80) + i.shift, texture=8.0)
    scene.ellipsoid(middle, i.at["S2"] + np.array([0, -52, -100]) * s, rng.uniform(16, 34, 3) * s)
    hu, texture, size = _filling(i)
    rectum = scene.group(hu, 45 + i.shift, 4.0, texture, size)
    path = i.at["S2"] + np.array([[18, -34, -6], [4, -14, -45], [0, -8, -85], [0, -30, -130]]) * s
    scene.chain(rectum, path, np.array([16, 18, 20, 13]) * s * rng.uniform(0.7, 1.1))
    muscle = scene.group(rng.uniform(40, 65) + i.shift, texture=12.0, scale=8.0)
    for side in SIDES:
        at = i.at["S2"] + np.array([side * 78, 38, -55]) * s
        scene.ellipsoid(muscle, at, np.array([58, 26, 75]) * s, turn(rng, 0.15))
        scene.ellipsoid(muscle, i.at["S2"] + np.array([side * 66, -35, -70]) * s, np.array([24, 28, 50]) * s)


def _heart(i: Inside) -> None:
    rng, s, scene = i.rng, i.scale, i.scene
    x0, y0, _, y1 = i.front(float(i.at["T8"][2]))
    heart = scene.group(45 + i.shift, texture=6)
    centre = np.array([x0 + 22 * s, 0.42 * y0 + 0.58 * y1 + 6, i.at["T8"][2] + 8])
    scene.ellipsoid(heart, centre, np.array([54, 44, 52]) * s * rng.uniform(0.85, 1.2), turn(rng, 0.4))
    for _ in range(4):
        chamber = scene.group(i.blood(0.2))
        at = centre + rng.uniform(-1, 1, 3) * [24, 18, 24]
        scene.ellipsoid(chamber, at, rng.uniform(14, 28, 3) * s, turn(rng))
    pulmonary = scene.group(i.blood(0.2))
    hilum = np.array([x0, y0 - 28 * s, i.at["T6"][2]])
    for side in SIDES:
        path = hilum + np.array([[6, -25, -18], [side * 18, -8, 0], [side * 48, 2, -8], [side * 70, 5, -40]]) * s
        scene.chain(pulmonary, path, np.array([13, 11, 8, 3]) * s)
    if rng.random() < 0.2:
        calcified = scene.group(rng.uniform(400, 1500))
        for _ in range(5):
            scene.ellipsoid(calcified, centre + rng.uniform(-1, 1, 3) * [40, 35, 35], rng.uniform(1.5, 5, 3))
    if rng.random() < 0.08:
        lead = scene.group(rng.uniform(2500, 6000))
        path = [
            centre + [20, -10, -20],
            centre + [-25, 0, 30],
            centre + np.array([-30, -20, 110]),
            centre + np.array([70, -55, 130]),
        ]
        scene.chain(lead, np.array(path), 1.2)


def _airway(i: Inside) -> None:
    s = i.scale
    trachea = i.scene.group(-990.0, 60.0, 1.5)
    path = []
    for z in np.linspace(i.at["T5"][2], i.at["C3"][2], 8):
        x0, y0, _, _ = i.front(float(z))
        path.append([x0, y0 - 15 * s, z])
    i.scene.chain(trachea, np.array(path), 8.5 * s)
    for side in SIDES:
        end = np.array(path[0]) + np.array([side * 38, -2, -38]) * s
        i.scene.capsule(trachea, path[0], end, 7 * s, 4.5 * s)
    gullet = i.scene.group(i.rng.choice([40.0 + i.shift, -700.0]), 45.0 + i.shift, 3.5)
    line = []
    for name in ("C5", "T2", "T5", "T8", "T10"):
        x0, y0, _, _ = i.front(float(i.at[name][2]))
        line.append([x0 + 5, y0 - 5 * s, i.at[name][2]])
    i.scene.chain(gullet, np.array(line), 7 * s)


def _aorta(i: Inside) -> None:
    """Arch, descending and abdominal aorta with its fork; the wall may be calcified, stented, or hold a thrombus."""
    rng, s, scene, column = i.rng, i.scale, i.scene, i.column
    hu = i.blood()
    radius = rng.uniform(8.5, 14) * s
    dilated = rng.uniform(0, 14) * s if rng.random() < 0.15 else 0.0
    where = rng.uniform(6, 15)
    points, radii = [], []
    for n, p in enumerate(column.position):
        if not 4 <= p <= 15.2:
            continue
        r = radius * float(np.interp(p, [4, 15], [1.1, 0.8])) + dilated * float(np.exp(-0.5 * ((p - where) / 1.5) ** 2))
        side = float(np.interp(p, [4, 9, 12, 15], [0.75, 0.5, 0.15, 0.1])) * column.table[n, ker.B_W] / 2
        ahead = float(np.interp(p, [4, 9, 12, 15], [0.55, 0.8, 1.0, 1.0]))
        aside = side + 3 * s + (0 if ahead > 0.9 else r * 0.6)
        points.append(column.at(n, aside, -ahead * column.table[n, ker.B_D] / 2 - r - 2, 0))
        radii.append(r)
    top = points[0]
    arch = top + np.array([[-45, -50, -40], [-48, -48, 5], [-30, -38, 32], [-8, -14, 28]]) * s
    path = np.concatenate([arch, points])
    rad = np.concatenate([radius * np.array([1.35, 1.3, 1.2, 1.15]), radii])
    style = str(rng.choice(["plain", "calcified", "stented", "thrombus"], p=[0.5, 0.28, 0.1, 0.12]))
    if style == "stented":
        lumen = scene.group(hu, rng.uniform(600, 2500), rng.uniform(0.6, 1.5))
    elif style == "thrombus":
        clot = scene.group(rng.uniform(30, 60) + i.shift)
        scene.chain(clot, path, rad + rng.uniform(3, 9))
        lumen = scene.group(hu, texture=6)
    else:
        lumen = scene.group(hu, hu if hu > 100 else 45 + i.shift, 1.2, 6)
    scene.chain(lumen, path, rad)
    fork = path[-1]
    for side in SIDES:
        end = i.at["S1"] + np.array([side * 62, -40, -35]) * s
        line = np.array([fork, 0.5 * (fork + end) + [0, 4, 0], end, end + np.array([side * 18, -30, -60]) * s])
        scene.chain(lumen, line, rad[-1] * np.array([0.65, 0.6, 0.5, 0.45]))
    if style == "calcified":
        chalk = scene.group(rng.uniform(300, 1300))
        for _ in range(int(rng.integers(8, 40))):
            k = int(rng.integers(4, len(path)))
            angle = rng.uniform(0, 2 * np.pi)
            at = path[k] + rad[k] * np.array([np.cos(angle), np.sin(angle), 0]) + [0, 0, rng.uniform(-12, 12)]
            scene.ellipsoid(chalk, at, rng.uniform(0.8, 3.5, 3))


def _vena_cava(i: Inside) -> None:
    cava = i.scene.group(i.blood(0.3), texture=5)
    r = i.rng.uniform(7, 12) * i.scale
    points = [
        i.column.at(n, -19 * i.scale, -i.column.table[n, ker.B_D] / 2 - r - 1, 0)
        for n, p in enumerate(i.column.position)
        if 8.5 <= p <= 15.2
    ]
    i.scene.chain(cava, np.array(points), r)
    for side in SIDES:
        end = i.at["S1"] + np.array([side * 56, -28, -32]) * i.scale
        i.scene.chain(cava, np.array([points[-1], end]), [0.75 * r, 0.65 * r])


def _clutter(i: Inside) -> None:
    """Bright ellipsoids anywhere in front of the spine: whatever may hold contrast medium."""
    rng, s = i.rng, i.scale
    for _ in range(int(rng.integers(int(i.ranges.clutter[0]), int(i.ranges.clutter[1]) + 1))):
        z = rng.uniform(i.at["S1"][2], i.at["T1"][2])
        x0, y0, a, y1 = i.front(z)
        g = i.scene.group(rng.uniform(*i.ranges.contrast_hu), texture=10.0)
        axes = np.array([rng.uniform(5, 26), rng.uniform(5, 26), rng.uniform(8, 60)]) * s
        y = rng.uniform(min(y1 + 15, y0 - 20), y0 - axes[1] * 0.6)
        i.scene.ellipsoid(g, [x0 + rng.uniform(-0.6, 0.6) * a, y, z], axes, turn(rng, 0.5))


def turn(rng: np.random.Generator, most: float = np.pi) -> F64:
    """A random rotation (rows), of at most ``most`` radians."""
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    t = rng.uniform(-most, most)
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.asarray(np.eye(3) + np.sin(t) * k + (1 - np.cos(t)) * (k @ k))
