"""Bone of the vertebrae: posterior elements, canal, discs, bodies with their osteophytes and veins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.ranges import Ranges
from onnx_models.training.phantom.scene import Scene
from onnx_models.training.phantom.spine import Column

F64 = NDArray[np.float64]
SIDES = (-1.0, 1.0)


@dataclass(frozen=True)
class Bone:
    """Attenuation of a patient's bone: HU of spongy and cortical bone, shell in mm, amplitude of the texture in HU."""

    spongy_hu: float
    cortical_hu: float
    shell_mm: float
    texture_hu: float
    wall: float
    """Thickness of a body's walls against its end plates."""

    def group(
        self, scene: Scene, shell: float = 1.0, spongy: float = 1.0, wall: float = 1.0, plate: float = 0.0
    ) -> int:
        """A new bone in the scene."""
        return scene.group(self.spongy_hu * spongy, self.cortical_hu, self.shell_mm * shell, self.texture_hu, scale=2.2)


def sample_bone(rng: np.random.Generator, ranges: Ranges) -> Bone:
    """One patient's bone; osteoporosis is a low draw of the spongy HU."""
    spongy = rng.uniform(*ranges.trabecular_hu)
    cortical = max(rng.uniform(*ranges.cortical_hu), spongy + 120.0)
    return Bone(spongy, cortical, rng.uniform(*ranges.shell_mm), rng.uniform(5, 45), rng.uniform(0.35, 1.1))


def posterior_elements(rng: np.random.Generator, scene: Scene, column: Column, i: int, group: int) -> None:
    """Pedicles, articular pillars, laminae, transverse and spinous processes of body i."""
    p = float(column.position[i])
    row = column.table[i]
    half, w = row[ker.B_D] / 2, row[ker.B_W] / 2
    h = float(row[ker.B_S0] - row[ker.B_I0])
    s = column.scale * rng.normal(1, 0.04)
    up = column.frame(i)[2]
    lumbar = p > 11.5
    cervical = p < -0.5
    mid = float(np.interp(p, [0, 2, 9, 11], [0.3, 1, 1, 0.2])) if not (lumbar or cervical) else 0.0
    canal = (15.5 if lumbar else 14.0) * s
    px = w * (0.58 if lumbar else 0.62 if not cervical else 0.85)
    back = half + canal
    for side in SIDES:
        a = column.at(i, side * px * 0.95, half - 4, 0.16 * h)
        b = column.at(i, side * px, half + 0.55 * canal, 0.17 * h)
        scene.capsule(group, a, b, (4.3 if lumbar else 3.0) * s, None, up, 0.62)
        top = column.at(i, side * px * 1.05, half + 0.62 * canal, 0.62 * h)
        bottom = column.at(i, side * px * (0.85 if lumbar else 0.95), half + 0.85 * canal, -0.78 * h)
        scene.capsule(group, top, bottom, (5.0 if lumbar else 4.2) * s, (5.6 if lumbar else 4.0) * s)
        c = column.at(i, side * px * 0.8, half + 0.9 * canal, -0.15 * h)
        d = column.at(i, 0.0, back + 4.0 * s, -0.32 * h)
        scene.capsule(group, c, d, 2.9 * s, 3.1 * s, up, 0.36)
        if cervical:
            tip = column.at(i, side * (w + 9 * s), half * 0.1, -0.1 * h)
            scene.capsule(group, b, tip, 3.2 * s, 2.6 * s)
        elif lumbar:
            reach = float(np.interp(p, [11.5, 14, 16], [22, 30, 27])) * s
            tip = column.at(i, side * (px + reach), half + 0.85 * canal, 0.18 * h)
            scene.capsule(group, b, tip, 4.2 * s, (3.0 if p < 15.5 else 5.0) * s, up, 0.75)
        else:
            reach = float(np.interp(p, [0, 2, 9, 11], [24, 19, 16, 9])) * s
            tip = column.at(i, side * (px + reach), back + 6 * s, 0.2 * h)
            scene.capsule(group, b, tip, 4.4 * s, 4.2 * s)
    drop = mid * rng.uniform(18, 32) * s + (2.0 if lumbar else 7.0) * s
    length = (27 if lumbar else 26 if not cervical else float(np.interp(p, [-5, -1], [14, 30]))) * s
    a = column.at(i, 0.0, back + 2 * s, -0.34 * h)
    b = column.at(i, float(rng.normal(0, 1.5)), back + length, -0.34 * h - drop)
    tall = 0.44 if lumbar else 0.62
    scene.capsule(group, a, b, 3.0 * s, (4.0 if lumbar else 3.2) * s, up, tall)


def spine_bones(
    rng: np.random.Generator, scene: Scene, column: Column, ranges: Ranges, bone: Bone, shift: float
) -> None:
    """Canal, discs, then every vertebra as one bone."""
    n = len(column.levels)
    wide = [7.2 * column.scale * (0.7 if name == "S2" else 1.0) for name in column.levels]
    canal = scene.group(18 + shift, -60 + shift, 1.3, 6.0)
    at = [column.at(i, 0, column.table[i, ker.B_D] / 2 + 8.2 * column.scale, 0) for i in range(n)]
    scene.chain(canal, np.array(at), wide)
    _discs(rng, scene, column, shift)
    if rng.random() < 0.75:
        _grown_together(rng, scene, column, bone)
    ligament = rng.random() < 0.1
    for i in range(n):
        _vertebra(rng, scene, column, i, bone, ranges, shift)
        if ligament and rng.random() < 0.6 and i < n - 2:
            front = scene.group(rng.uniform(150, 500))
            a, b = (column.at(k, 3, -column.table[k, ker.B_D] / 2 - 1.5, 0) for k in (i, i + 1))
            scene.capsule(front, a, b, rng.uniform(1.0, 3.0))


def _discs(rng: np.random.Generator, scene: Scene, column: Column, shift: float) -> None:
    """Plates between the bodies; they reach into the concave end plates, and the bodies are painted over them."""
    hu = rng.uniform(55, 115) + shift
    for i in range(len(column.levels) - 2):
        lower, upper = column.table[i + 1], column.table[i]
        top = column.at(i + 1, 0, 0, float(lower[ker.B_S0] - lower[ker.B_FC_S]))
        bottom = column.at(i, 0, 0, float(upper[ker.B_I0] + upper[ker.B_FC_I]))
        frame = _between(column.frame(i), column.frame(i + 1))
        g = scene.group(hu + rng.normal(0, 8), texture=7.0)
        half_d = 0.25 * (lower[ker.B_D] + upper[ker.B_D]) + rng.uniform(-0.5, 1.2)
        half_w = 0.25 * (lower[ker.B_W] + upper[ker.B_W]) + rng.uniform(-0.5, 1.2)
        sink = 0.12 * (upper[ker.B_S0] - upper[ker.B_I0])
        thick = max(1.0, 0.5 * abs(float((bottom - top) @ frame[2])) + sink)
        middle = 0.5 * (top + bottom)
        scene.disc(g, middle, [half_w, half_d, thick], frame)
        if rng.random() < 0.05:
            gas = scene.group(rng.uniform(-700, -100))
            scene.disc(gas, middle, [half_w * 0.6, half_d * 0.5, 1.2], frame)
        elif rng.random() < 0.03:
            chalk = scene.group(rng.uniform(150, 500))
            scene.disc(chalk, middle, [half_w * 0.5, half_d * 0.5, 1.5], frame)


def _grown_together(rng: np.random.Generator, scene: Scene, column: Column, bone: Bone) -> None:
    """The first two sacral bodies are one bone in most adults."""
    s1, s2 = column.truth[-2], column.truth[-1]
    fused = bone.group(scene, shell=0.5)
    join = 0.5 * (s1.keypoints_lps_mm[1::2].mean(0) + s2.keypoints_lps_mm[0::2].mean(0))
    half = 0.5 * np.array([s2.width_mm, s2.depth_mm]) * rng.uniform(0.55, 1.0)
    scene.disc(fused, join, [*half, 5.0], s2.frame)


def _vertebra(
    rng: np.random.Generator, scene: Scene, column: Column, i: int, bone: Bone, ranges: Ranges, shift: float
) -> None:
    """One bone: posterior elements and body; sclerosis where it is deformed; the vein behind."""
    truth, row = column.truth[i], column.table[i]
    loss = float(truth.loss.max())
    spongy, plate = rng.normal(1.0, 0.06), max(0.0, rng.normal(40, 50))
    if loss > 0.15:  # a fresh fracture is denser, an old one may be sclerosed as well
        spongy *= 1.0 + rng.uniform(-0.1, 1.2) * loss
        plate += rng.uniform(0, 250) * loss
    g = bone.group(scene, spongy=spongy, wall=bone.wall, plate=plate)
    sacral = truth.level in ("S1", "S2")
    if not sacral:
        posterior_elements(rng, scene, column, i, g)
    scene.body(g, i, row)
    if not sacral and rng.random() < ranges.osteophytes * 0.35:
        _osteophyte(rng, scene, column, i, g)
    if not sacral and rng.random() < 0.6:
        vein = scene.group(30.0 + shift)
        start = truth.keypoints_lps_mm[4:].mean(0) - truth.frame[1] * row[ker.B_WAIST_P]
        scene.capsule(vein, start, start - truth.frame[1] * row[ker.B_D] * rng.uniform(0.1, 0.35), 1.3, 0.5)


def _between(a: F64, b: F64) -> F64:
    up = a[2] + b[2]
    up /= np.linalg.norm(up)
    left = a[0] + b[0]
    left -= (left @ up) * up
    left /= np.linalg.norm(left)
    return np.stack([left, np.cross(up, left), up])


def _osteophyte(rng: np.random.Generator, scene: Scene, column: Column, i: int, group: int) -> None:
    """A beak at the rim, off the mid-sagittal plane or in front of it."""
    row = column.table[i]
    for _ in range(int(rng.integers(1, 4))):
        angle = rng.uniform(-1.2, 1.2)  # 0 is anterior
        u, v = -np.cos(angle), np.sin(angle)
        zs, zi = ker.plate_heights(np.float32(u), np.float32(v * 0.9), row.astype(np.float32))
        top = rng.random() < 0.5
        z = float(zs) - 1.5 if top else float(zi) + 1.5
        x, y = v * row[ker.B_W] / 2 * 0.97, u * row[ker.B_D] / 2 * 0.97
        r = rng.uniform(1.5, 3.5)
        grow = rng.uniform(0.0, 4.0)
        tip = column.at(
            i, x * (1 + 2 * grow / row[ker.B_W]), y * (1 + 2 * grow / row[ker.B_D]), z + (0.5 if top else -0.5) * grow
        )
        scene.capsule(group, column.at(i, x * 0.9, y * 0.9, z - (r if top else -r) * 0.6), tip, r, 0.8)
