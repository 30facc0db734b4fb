"""Bone beside the vertebrae: sacrum, pelvis, hips, ribs, sternum, shoulders, neck and skull."""
# ruff: noqa: RUF005 - points are arrays: they are added, not joined

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.bones import SIDES, Bone
from onnx_models.training.phantom.scene import Scene
from onnx_models.training.phantom.spine import Column

F64 = NDArray[np.float64]


def sacrum(rng: np.random.Generator, scene: Scene, column: Column, bone: Bone) -> None:
    """What belongs to the bodies S1 and S2: the rest running backward, alae, and the wall behind the canal."""
    s = column.scale
    s1, s2 = column.levels.index("S1"), column.levels.index("S2")
    g = bone.group(scene, shell=1.0)
    frame = column.frame(s1)
    # S3 to S5 and coccyx: the sacrum curves backward, then forward
    tail = [column.at(s2, 0, 2, -8 * s)]
    angle = np.arctan2(column.frame(s2)[2][1], column.frame(s2)[2][2]) - np.radians(8)
    for k, step in enumerate((20, 18, 16, 12, 10)):
        down = -np.array([0.0, np.sin(angle), np.cos(angle)])
        tail.append(tail[-1] + down * step * s)
        angle += np.radians(rng.uniform(16, 26) * (0.6 + 0.3 * k))
    scene.chain(g, np.array(tail), np.array([9.5, 8.0, 6.5, 5.5, 4.5, 3.5]) * s, normal=frame[1], squeeze=1.15)
    for side in SIDES:
        # ala: a thick plate from the bodies to the joint, sloping backward and downward
        for level, out, r in ((s1, 50, 12), (s2, 44, 9.5)):
            a = column.at(level, side * 14 * s, 0, 0)
            b = column.at(level, side * out * s, 16 * s, (-6 if level == s1 else -2) * s)
            scene.capsule(g, a, b, r * s, 10 * s)
        a = column.at(s2, side * 36 * s, 14 * s, 0)
        scene.capsule(g, a, column.at(s2, side * 14 * s, 6 * s, -44 * s), 8.5 * s, 5 * s)
        if column.sacralised:  # broad transverse processes that have grown together with the ala
            root, tip = column.at(s1 - 1, side * 22 * s, 14 * s, 0), column.at(s1 - 1, side * 40 * s, 18 * s, -6 * s)
            scene.capsule(g, root, tip, 9 * s, 12 * s)
            scene.capsule(g, tip, column.at(s1, side * 46 * s, 16 * s, 2 * s), 11 * s, 12 * s)
        # posterior wall of the sacral canal
        scene.capsule(g, column.at(s1, side * 24 * s, 28 * s, -2), column.at(s2, side * 15 * s, 26 * s, -24 * s), 5 * s)
        scene.capsule(
            g, column.at(s1, side * 20 * s, 25 * s, 6 * s), column.at(s1, side * 21 * s, 16 * s, 20 * s), 5 * s
        )
    scene.chain(
        g, np.array([column.at(s1, 0, 34 * s, -4 * s), column.at(s2, 0, 32 * s, 0), column.at(s2, 0, 24 * s, -26 * s)]),
        5.0 * s, normal=frame[0], squeeze=1.6,
    )  # fmt: skip


def pelvis(rng: np.random.Generator, scene: Scene, column: Column, bone: Bone) -> dict[str, F64]:
    """Iliac plates with the crest at L4/5, ischium, pubis, femora; returns the centres of the hip joints by side."""
    s = column.scale
    origin = column.table[column.levels.index("S1"), :3]
    crest_z = float(rng.normal(34, 7)) * s
    hips = {}
    for side in SIDES:
        h = bone.group(scene, shell=1.5)

        def at(x: float, y: float, z: float, side: float = side) -> F64:
            return np.asarray(origin + np.array([side * x, y, z]) * s)

        joint = at(52, 34, -24)
        crest_back, crest_mid = at(58, 42, 4), origin + np.array([side * 112 * s, 4 * s, crest_z])
        spine_front = at(122, -42, -4)
        body = at(78, -12, -62)
        normal = np.cross(crest_mid - joint, spine_front - joint)
        for a, b, r in (
            (joint, crest_back, 13), (crest_back, crest_mid, 12), (joint, crest_mid, 24), (body, joint, 22),
            (body, crest_mid, 28), (body, spine_front, 22), (crest_mid, spine_front, 17),
        ):  # fmt: skip
            scene.capsule(h, a, b, r * s, None, normal, r / rng.uniform(3.6, 5.0))
        hip = at(90, -22, -92)
        hips["left" if side > 0 else "right"] = hip
        scene.ellipsoid(h, hip + [side * -8 * s, 0, 4 * s], np.array([24, 27, 28]) * s)
        ischium = at(66, 8, -135)
        scene.capsule(h, hip + [side * -6 * s, 14 * s, -10 * s], ischium, 15 * s, 14 * s)
        pubis = at(12, -62, -112)
        scene.capsule(h, hip + [side * -14 * s, -12 * s, 0], pubis, 9 * s, 9 * s)
        scene.capsule(h, pubis, ischium, 7 * s, 8 * s)
        joint_space = scene.group(60.0)
        scene.ellipsoid(joint_space, hip, np.array([25.5, 25.5, 25.5]) * s)
        femur = bone.group(scene, shell=1.8, spongy=1.4)
        scene.ellipsoid(femur, hip, np.array([23.5, 23.5, 23.5]) * s)
        trochanter = hip + np.array([side * 58, 12, -26]) * s
        scene.capsule(femur, hip, trochanter, 15 * s, 17 * s)
        shaft = bone.group(scene, shell=5.0, spongy=0.2)
        scene.capsule(shaft, trochanter + [0, 0, -4], trochanter + np.array([side * -12, 0, -220]) * s, 16 * s, 13 * s)
    return hips


def ribs(rng: np.random.Generator, scene: Scene, column: Column, bone: Bone, trunk: dict[str, F64]) -> None:
    """Ribs along the wall of the chest; the last one of random length. ``trunk`` gives the ellipse at each z."""
    thoracic = [i for i, name in enumerate(column.levels) if name.startswith("T")]
    last = thoracic[-1]
    last_part = float(rng.uniform(0.08, 0.42))
    sternum = []
    for i in thoracic:
        p = float(column.position[i])
        half, h = column.table[i, ker.B_D] / 2, float(column.table[i, ker.B_S0] - column.table[i, ker.B_I0])
        w = column.table[i, ker.B_W] / 2
        s = column.scale
        part = (
            last_part if i == last else float(np.interp(p, [0, 1, 6, 9.5, 10, 11], [0.75, 0.95, 1.0, 0.8, 0.55, 0.4]))
        )
        fall = float(np.interp(p, [0, 3, 8, 11], [30, 55, 80, 60])) * s
        for side in SIDES:
            g = bone.group(scene, shell=1.2)
            head = column.at(i, side * w * 0.93, half * 0.55, 0.42 * h)
            neck = column.at(i, side * (w + 13 * s), half + 15 * s, 0.28 * h)
            points = [head, neck]
            # from behind (angle 0.78 pi) round to the front
            start, end = 0.80 * np.pi, 0.10 * np.pi
            stop = start + (end - start) * part
            count = max(2, int(9 * part) + 1)
            for k, angle in enumerate(np.linspace(start, stop, count)):
                share = (start - angle) / (start - end)
                z = neck[2] - fall * share * (1.0 if share < 0.75 else 1.5 - share / 1.5) - 6 * s * (k > 0)
                ellipse = ellipse_at(trunk, z)
                cx, cy, a, b = ellipse
                # angle 0 is anterior, pi posterior
                x = cx + side * a * np.sin(angle) ** 0.8
                y = cy - b * np.sign(np.cos(angle)) * abs(np.cos(angle)) ** 0.8
                points.append(np.array([x, y, z]))
            scene.chain(g, np.array(points), 4.0 * s * rng.normal(1, 0.05), normal=[0, 0, 1], squeeze=0.75)
            if part > 0.7 and i != last:
                sternum.append(points[-1])
                c = scene.group(rng.uniform(70, 160), texture=20)
                ellipse = ellipse_at(trunk, points[-1][2] + 8)
                mid = np.array([ellipse[0] + side * 14, ellipse[1] - ellipse[3], points[-1][2] + 10 * s])
                if p < 7:
                    scene.capsule(c, points[-1], mid, 4.0 * s)
    if sternum:
        q = np.array(sternum)
        top, bottom = q[:, 2].max() + 15, q[:, 2].min() + 45
        g = bone.group(scene)
        path = []
        for z in np.linspace(top, min(bottom, top - 100), 5):
            cx, cy, _, b = ellipse_at(trunk, float(z))
            path.append([cx, cy - b, z])
        scene.chain(g, np.array(path), 14.0 * column.scale, normal=[0, 1, 0], squeeze=2.4)


def ellipse_at(trunk: dict[str, F64], z: float) -> tuple[float, float, float, float]:
    """(cx, cy, a, b) of the inner chest wall at z."""
    cx, cy, a, b = (float(np.interp(z, trunk["z"], trunk[k])) for k in ("cx", "cy", "rib_a", "rib_b"))
    return cx, cy, a, b


def neck_and_head(scene: Scene, column: Column, bone: Bone, shift: float) -> None:
    """C2 with its dens, the ring of C1, and a skull."""
    s = column.scale
    g = bone.group(scene)
    c3 = column.table[0]
    up = column.frame(0)[2]
    top = float(c3[ker.B_S0])
    low = column.at(0, 0, 0, top + 4 * s)
    scene.capsule(g, low + up * 5, low + up * 13 * s, 8.0 * s, 6.0 * s)
    scene.capsule(g, low + up * 13 * s, low + up * 32 * s, 5.5 * s, 4.5 * s)
    for side in SIDES:
        scene.capsule(
            g, column.at(0, side * 9 * s, 2, top + 10 * s), column.at(0, side * 17 * s, 8 * s, top + 14 * s), 5 * s
        )
        scene.capsule(g, column.at(0, side * 14 * s, 12 * s, top + 6 * s), column.at(0, 0, 34 * s, top), 4 * s)
    ring = bone.group(scene, shell=1.3)
    z = top + 31 * s
    for side in SIDES:
        scene.capsule(ring, column.at(0, side * 20 * s, 2 * s, z), column.at(0, side * 22 * s, 10 * s, z), 7 * s)
        scene.capsule(ring, column.at(0, side * 20 * s, 0, z), column.at(0, 0, -10 * s, z), 4 * s)
        scene.capsule(ring, column.at(0, side * 20 * s, 12 * s, z), column.at(0, 0, 34 * s, z - 2), 4 * s)
    centre = column.at(0, 0, -14 * s, z + 78 * s)
    scalp = scene.group(40 + shift, -80, 3.0)
    scene.ellipsoid(scalp, centre, np.array([82, 104, 84]) * s)
    face = scene.group(45 + shift, -90, 4.0, 15)
    scene.ellipsoid(face, centre + np.array([0, -42, -62]) * s, np.array([62, 58, 62]) * s)
    skull = scene.group(36 + shift, bone.cortical_hu, 6.0 * s, 4.0)
    scene.ellipsoid(skull, centre, np.array([75, 95, 76]) * s)
    mouth = scene.group(-950.0)
    scene.ellipsoid(mouth, centre + np.array([0, -50, -60]) * s, np.array([12, 30, 10]) * s)
    jaw = bone.group(scene, shell=1.6)
    for side in SIDES:
        a = centre + np.array([side * 48, -12, -50]) * s
        b = centre + np.array([side * 44, -26, -92]) * s
        scene.chain(jaw, np.array([a, b, centre + np.array([0, -88, -98]) * s]), 6.5 * s)


def shoulders(
    rng: np.random.Generator, scene: Scene, column: Column, bone: Bone, trunk: dict[str, F64], down: bool
) -> None:
    """Clavicles, shoulder blades and, when the arms lie beside the trunk, arms."""
    s = column.scale
    t1 = column.table[column.levels.index("T1"), :3]
    lift = 0.0 if down else 25.0
    for side in SIDES:
        g = bone.group(scene, shell=1.4)
        joint = t1 + np.array([side * 155, -8, 4 + lift]) * s
        cx, cy, _, b = ellipse_at(trunk, float(t1[2] - 45))
        scene.capsule(g, [cx + side * 18, cy - b - 4, t1[2] - 40 * s], joint + [0, -12, 12], 6.0 * s, 6.5 * s)
        blade = bone.group(scene, shell=1.2)
        i = column.levels.index("T7")
        tip = column.table[i, :3] + np.array([side * 92, 46, 0]) * s
        inner = column.table[column.levels.index("T3"), :3] + np.array([side * 68, 60, 0]) * s
        normal = np.array([side * -0.35, -1.0, 0.1])
        for a, c, r in (
            (inner, tip, 20),
            (joint + [side * -18, 22, -18], tip, 24),
            (joint + [side * -18, 22, -18], inner, 18),
        ):
            scene.capsule(blade, a, c, r * s, r * 0.8 * s, normal, r / 3.5)
        scene.capsule(blade, inner + [0, 6, 0], joint + [0, 18, 14], 6 * s, 7 * s)
        arm = scene.group(50.0, -95.0, rng.uniform(5, 14), 8.0)
        hand = joint + np.array([side * 34, 14, -330]) * s if down else joint + np.array([side * 30, -20, 330]) * s
        scene.capsule(arm, joint + np.array([side * 8, 2, -8]) * s, hand, 52 * s, 42 * s)
        humerus = bone.group(scene, shell=3.0, spongy=0.5)
        scene.ellipsoid(humerus, joint, np.array([24, 24, 24]) * s)
        scene.capsule(humerus, joint, hand, 13 * s, 11 * s)
