"""The trunk around the spine: skin, fat, muscle, cavity and lungs as a table per z; organs, vessels, bowel, table.

The trunk follows the spine (a fixed cylinder would let a kyphotic spine leave the skin).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_models.training.phantom import kernels as K
from onnx_models.training.phantom.ranges import Ranges
from onnx_models.training.phantom.scene import F32, Scene
from onnx_models.training.phantom.spine import Column, curve_of

F64 = NDArray[np.float64]

# distance along the trunk as a part of S1 to T1 (0 at S1, 1 at T1), and there: half width, half depth of the skeleton's
# envelope (mm, average adult), distance of the spine's centre from the back of that envelope
_AT = np.array([-0.75, -0.35, -0.12, 0.05, 0.2, 0.38, 0.6, 0.8, 0.93, 1.0, 1.06, 1.15, 1.5])
_WIDE = np.array([172, 172, 165, 148, 134, 138, 146, 142, 138, 128, 100, 62, 58.0])
_DEEP = np.array([92, 100, 104, 100, 95, 101, 110, 102, 88, 76, 66, 58, 56.0])
_BACK = np.array([66, 72, 72, 66, 62, 62, 64, 68, 66, 62, 56, 52, 52.0])


def sample_trunk(rng: np.random.Generator, ranges: Ranges, column: Column) -> tuple[F32, float, F32, dict[str, F64]]:
    """(table per mm of z, z of its first row, globals, inner chest wall) of ``kernels`` for this column."""
    s = column.scale
    z_s1 = float(column.table[column.levels.index("S1"), 2])
    z_t1 = float(column.table[column.levels.index("T1"), 2])
    length = z_t1 - z_s1
    low, high = z_s1 - 300 * s, z_t1 + 330 * s
    z = np.arange(low, high, 1.0) + 0.5
    curve = curve_of(column)
    ends = curve(np.clip(z, column.curve_z[0], column.curve_z[-1]))
    sx, sy = ends[:, 0], ends[:, 1].copy()
    s_bottom = curve(column.curve_z[0])
    below = z < column.curve_z[0]
    sy[below] = s_bottom[1] - 0.25 * (column.curve_z[0] - z[below]).clip(0, 60)
    part = (z - z_s1) / length
    fat_thickness = float(np.exp(rng.uniform(np.log(5), np.log(38))))
    muscle = rng.uniform(9, 20)
    girth = rng.uniform(0.92, 1.12)
    wide = np.interp(part, _AT, _WIDE) * s * girth * rng.normal(1, 0.04)
    deep = np.interp(part, _AT, _DEEP) * s * girth * rng.normal(1, 0.05)
    back = np.interp(part, _AT, _BACK) * s
    belly = rng.uniform(0, 45) * np.exp(-0.5 * ((part - 0.22) / 0.2) ** 2)
    deep = deep + belly / 2
    # smooth the path of the spine for the trunk
    kernel = np.hanning(61)
    kernel /= kernel.sum()
    cx = np.convolve(np.pad(sx, 30, mode="edge"), kernel, "valid") * 0.6
    smooth_y = np.convolve(np.pad(sy, 30, mode="edge"), kernel, "valid")
    rear = smooth_y + back
    cy = rear - deep
    table = np.zeros((len(z), K.T_COLUMNS), np.float32)
    fat = fat_thickness * np.interp(part, [-0.3, 0.1, 0.4, 0.9, 1.1], [1.3, 1.0, 0.8, 0.6, 0.4])
    table[:, K.T_CX], table[:, K.T_CY] = cx, cy
    table[:, K.T_A], table[:, K.T_B] = wide + fat, deep + fat
    table[:, K.T_FAT] = fat
    wall = muscle * np.interp(part, [-0.2, 0.0, 0.35, 0.5, 1.0, 1.1], [3.0, 1.6, 1.0, 1.1, 1.3, 3.0])
    table[:, K.T_MUSCLE] = wall
    table[:, K.T_SX], table[:, K.T_SY] = sx, sy
    at = np.array([c[2] for c in column.table])[::-1]
    table[:, K.T_DEPTH] = np.interp(z, at, column.table[::-1, K.B_D]) * 0.5 + 7.0
    table[:, K.T_PARASPINAL] = 12.0 * s
    table[:, K.T_SLOPE] = np.interp(part, [0.0, 0.3, 0.5, 1.0], [0.25, 0.45, 1.3, 1.5])
    g = np.zeros(K.G_COLUMNS, np.float32)
    g[K.G_SHIFT] = rng.uniform(*ranges.soft_hu_shift)
    g[K.G_FAT] = rng.uniform(-115, -85)
    g[K.G_MUSCLE] = rng.uniform(40, 70)
    g[K.G_VISCERAL] = rng.uniform(-110, -30)
    g[K.G_LUNG] = rng.uniform(-920, -700)
    t = {name: place[2] for name, place in _places(column).items()}
    g[K.G_APEX] = t["T1"] + rng.uniform(-5, 15)
    dome = t["T10"] + rng.uniform(-15, 40)
    g[K.G_DOME_R], g[K.G_DOME_L] = dome + 6, dome - 6
    g[K.G_DOME_DROP] = rng.uniform(60, 110) * s
    g[K.G_MED_X] = 4.0
    g[K.G_MED_FRONT] = rng.uniform(30, 50) * s
    g[K.G_MED_BACK] = rng.uniform(14, 22) * s
    g[K.G_FRONT_FAT] = rng.uniform(-0.4, 0.6)
    g[K.G_INFILTRATION] = rng.uniform(0, 0.9)
    g[K.G_HAS_TRUNK] = 1.0
    g[K.G_HEART_Z] = t["T8"] + 8
    g[K.G_SKIN] = rng.uniform(-20, 60)
    inner = {"z": z, "cx": cx, "cy": cy, "rib_a": wide - 0.45 * wall, "rib_b": deep - 0.45 * wall, "sy": smooth_y,
             "sx": sx, "a": wide, "b": deep}  # fmt: skip
    return table, float(low), g, inner


def organs(
    rng: np.random.Generator, scene: Scene, column: Column, ranges: Ranges, trunk: dict[str, F64], shift: float
) -> None:
    """Liver, spleen, kidneys, stomach, bowel, psoas, heart, vessels, bladder, and random bright ellipsoids."""
    s = column.scale
    contrast = rng.random() < ranges.contrast
    t = _places(column)
    lumbar = [name for name in column.levels if name.startswith("L")]

    def blood(low: float = 0.0) -> float:
        return rng.uniform(*ranges.contrast_hu) if contrast and rng.random() > low else rng.uniform(28, 60) + shift

    def front(z: float) -> tuple[float, float, float, float]:
        """(x of the spine, y of its front, half width and front of the cavity) at z."""
        sx, sy = float(np.interp(z, trunk["z"], trunk["sx"])), float(np.interp(z, trunk["z"], trunk["sy"]))
        cx, cy = float(np.interp(z, trunk["z"], trunk["cx"])), float(np.interp(z, trunk["z"], trunk["cy"]))
        a, b = float(np.interp(z, trunk["z"], trunk["rib_a"])), float(np.interp(z, trunk["z"], trunk["rib_b"]))
        del cx
        return sx, sy - 17 * s, a, cy - b

    # bowel first: organs paint over it
    z_top, z_bottom = t["L1"][2], t["S2"][2] - 10
    for _ in range(int(rng.integers(14, 34))):
        z = rng.uniform(z_bottom, z_top + 10)
        x0, y0, a, y1 = front(z)
        kind = rng.choice(4, p=[0.35, 0.25, 0.2, 0.2])
        hu = (rng.uniform(5, 60), rng.uniform(-1000, -850), rng.uniform(-200, 120), rng.uniform(90, 400))[kind]
        g = scene.group(hu, rng.uniform(30, 70) + shift, rng.uniform(1, 3), (8, 5, 120, 20)[kind], 5.0, clip=2)
        centre = [x0 + rng.uniform(-0.75, 0.75) * a, rng.uniform(y1 + 12, max(y0 - 14, y1 + 20)), z]
        axes = rng.uniform(9, 26, 3) * s
        scene.ellipsoid(g, centre, axes, _turn(rng))
    # psoas
    g = scene.group(rng.uniform(40, 68) + shift, texture=8.0)
    for side in (-1.0, 1.0):
        points, radius = [], []
        for name in lumbar:
            i = column.levels.index(name)
            q = column.position[i] - 12
            points.append(column.at(i, side * (column.table[i, K.B_W] / 2 + (6 + 2.5 * q) * s), (2 - 1.5 * q) * s, 0))
            radius.append((8 + 3.2 * q) * s)
        points.append(t["S1"] + np.array([side * 62, -46, -18]) * s)
        points.append(t["S1"] + np.array([side * 86, -62, -80]) * s)
        radius += [18 * s, 14 * s]
        scene.chain(g, np.array(points), np.array(radius))
    # organs
    x0, y0, a, y1 = front(t["T12"][2])
    mid_y = 0.5 * (y0 + y1)
    liver = scene.group(rng.uniform(45, 70) + shift + (rng.uniform(0, 60) if contrast else 0), texture=7, clip=2)
    scene.ellipsoid(liver, [x0 - 0.52 * a, mid_y + 6, t["T11"][2] + 5], [0.58 * a, 0.75 * (y0 - y1) + 10, 85 * s])
    scene.ellipsoid(liver, [x0 - 0.05 * a, y1 + 45, t["T11"][2] + 15], [0.5 * a, 36 * s, 42 * s])
    stomach = scene.group(
        rng.choice([rng.uniform(0, 60), -980.0, rng.uniform(100, 300)]), 45 + shift, 4.0, 10.0, 6.0, clip=2
    )
    scene.ellipsoid(stomach, [x0 + 0.4 * a, y1 + 55, t["T12"][2] + 8], np.array([42, 36, 58]) * s, _turn(rng))
    spleen = scene.group(rng.uniform(45, 60) + shift + (60 if contrast else 0), texture=6, clip=2)
    scene.ellipsoid(spleen, [x0 + 0.8 * a, y0 + 8, t["T11"][2] + 8], np.array([24, 42, 52]) * s)
    for side in (-1.0, 1.0):
        z = t["L1"][2] + (-18 if side < 0 else 2) * s
        x0, y0, a, _ = front(z)
        centre = np.array([x0 + side * 62 * s, y0 + 14 * s, z])
        capsule = scene.group(rng.uniform(-110, -90), clip=2)
        scene.ellipsoid(capsule, centre, np.array([40, 40, 72]) * s)
        kidney = scene.group(rng.uniform(30, 45) + shift if not contrast else rng.uniform(90, 260), texture=8, clip=2)
        scene.ellipsoid(kidney, centre, np.array([26, 28, 54]) * s)
        sinus = scene.group(rng.choice([-80.0, 10.0, rng.uniform(*ranges.contrast_hu)]), clip=2)
        scene.ellipsoid(sinus, centre - [side * 10 * s, 4, 0], np.array([12, 9, 22]) * s)
    bladder = scene.group(rng.uniform(0, 20) if rng.random() < 0.8 else rng.uniform(100, 500), 40 + shift, 3.0)
    scene.ellipsoid(bladder, t["S2"] + np.array([0, -85, -95]) * s, rng.uniform(24, 46, 3) * s)
    # heart and great vessels
    x0, y0, a, y1 = front(t["T8"][2])
    heart = scene.group(45 + shift, texture=6)
    centre = np.array([x0 + 22 * s, 0.42 * y0 + 0.58 * y1 + 6, t["T8"][2] + 8])
    scene.ellipsoid(heart, centre, np.array([54, 44, 52]) * s, _turn(rng, 0.4))
    for _ in range(4):
        chamber = scene.group(blood(0.2))
        scene.ellipsoid(chamber, centre + rng.uniform(-1, 1, 3) * [24, 18, 24], rng.uniform(14, 26, 3) * s, _turn(rng))
    if rng.random() < 0.2:
        calcified = scene.group(rng.uniform(400, 1500))
        for _ in range(5):
            scene.ellipsoid(calcified, centre + rng.uniform(-1, 1, 3) * [40, 35, 35], rng.uniform(1.5, 5, 3))
    trachea = scene.group(-990.0, 60.0, 1.5)
    path = []
    for z in np.linspace(t["T5"][2], t["C3"][2], 8):
        x0, y0, _, _ = front(float(z))
        path.append([x0, y0 - 15 * s, z])
    scene.chain(trachea, np.array(path), 9.5 * s)
    _aorta(rng, scene, column, blood(), shift, s)
    cava = scene.group(blood(0.3), texture=5)
    points = [column.at(column.levels.index(name), -19 * s, -column.table[column.levels.index(name), K.B_D] / 2 - 9 * s, 0)
              for name in ("T9", "T10", *lumbar)]  # fmt: skip
    scene.chain(cava, np.array(points), rng.uniform(7, 12) * s)
    # bright ellipsoids anywhere in front of the spine: whatever a scanner may have filled with contrast
    for _ in range(int(rng.integers(ranges.clutter[0], ranges.clutter[1] + 1))):
        z = rng.uniform(t["S1"][2], t["T1"][2])
        x0, y0, a, y1 = front(z)
        g = scene.group(rng.uniform(*ranges.contrast_hu), texture=10.0)
        axes = np.array([rng.uniform(5, 26), rng.uniform(5, 26), rng.uniform(8, 60)]) * s
        y = rng.uniform(min(y1 + 15, y0 - 20), y0 - axes[1] * 0.6)
        scene.ellipsoid(g, [x0 + rng.uniform(-0.6, 0.6) * a, y, z], axes, _turn(rng, 0.5))


def _places(column: Column) -> dict[str, F64]:
    """Centre of the body nearest to each standard level's position: variants have organs as well."""
    names = [f"C{i}" for i in range(3, 8)] + [f"T{i}" for i in range(1, 13)] + [f"L{i}" for i in range(1, 6)]
    at = {name: float(k - 5) for k, name in enumerate([*names, "S1", "S2"])}
    return {name: column.table[int(np.argmin(np.abs(column.position - p))), :3] for name, p in at.items()}


def _aorta(rng: np.random.Generator, scene: Scene, column: Column, hu: float, shift: float, s: float) -> None:
    """Arch, descending and abdominal aorta with its fork; the wall may be calcified, stented, or hold a thrombus."""
    names = [name for name in column.levels if name[0] in "TL" and column.position[column.levels.index(name)] >= 4]
    radius = rng.uniform(8.5, 14) * s
    dilated = rng.uniform(0, 14) * s if rng.random() < 0.15 else 0.0
    where = rng.uniform(6, 15)
    points, radii = [], []
    for name in names:
        i = column.levels.index(name)
        p = column.position[i]
        if p > 15.2:
            continue
        r = radius * float(np.interp(p, [4, 15], [1.1, 0.8])) + dilated * float(np.exp(-0.5 * ((p - where) / 1.5) ** 2))
        side = float(np.interp(p, [4, 9, 12, 15], [0.75, 0.5, 0.15, 0.1])) * column.table[i, K.B_W] / 2
        ahead = float(np.interp(p, [4, 9, 12, 15], [0.55, 0.8, 1.0, 1.0]))
        points.append(
            column.at(i, side + 3 * s + (0 if ahead > 0.9 else r * 0.6), -ahead * column.table[i, K.B_D] / 2 - r - 2, 0)
        )
        radii.append(r)
    path, rad = np.array(points), np.array(radii)
    top = path[0]
    arch = [top + np.array([-45, -50, -40]) * s, top + np.array([-48, -48, 5]) * s, top + np.array([-30, -38, 32]) * s,
            top + np.array([-8, -14, 28]) * s]  # fmt: skip
    path = np.concatenate([arch, path])
    rad = np.concatenate([[radius * 1.35, radius * 1.3, radius * 1.2, radius * 1.15], rad])
    style = rng.choice(["plain", "calcified", "stented", "thrombus"], p=[0.5, 0.28, 0.1, 0.12])
    if style == "stented":
        wall = scene.group(hu, rng.uniform(600, 2500), rng.uniform(0.6, 1.5))
    elif style == "thrombus":
        wall = scene.group(rng.uniform(30, 60) + shift)
        scene.chain(wall, path, rad + rng.uniform(3, 9))
        wall = scene.group(hu, texture=6)
    else:
        wall = scene.group(hu, hu if hu > 100 else 45 + shift, 1.2, 6)
    scene.chain(wall, path, rad)
    fork = path[-1]
    i = column.levels.index("S1")
    for side in (-1.0, 1.0):
        end = column.table[i, :3] + np.array([side * 62, -40, -35]) * s
        scene.chain(wall, np.array([fork, 0.5 * (fork + end) + [0, 4, 0], end]), rad[-1] * np.array([0.65, 0.6, 0.5]))
    if style == "calcified":
        g = scene.group(rng.uniform(300, 1300))
        for _ in range(int(rng.integers(8, 40))):
            k = int(rng.integers(4, len(path)))
            angle = rng.uniform(0, 2 * np.pi)
            at = path[k] + rad[k] * np.array([np.cos(angle), np.sin(angle), 0]) + [0, 0, rng.uniform(-12, 12)]
            scene.ellipsoid(g, at, rng.uniform(0.8, 3.5, 3))


def table_and_covers(rng: np.random.Generator, scene: Scene, trunk: dict[str, F64]) -> None:
    """Mattress, table top and a blanket or cushion behind the patient."""
    z0, z1 = float(trunk["z"][0]), float(trunk["z"][-1])
    rear = float((trunk["cy"] + trunk["b"]).max()) + 40
    pad = scene.group(rng.uniform(-960, -880))
    scene.box(pad, [0, rear + 12, 0.5 * (z0 + z1)], [200, 12, 0.5 * (z1 - z0)])
    top = scene.group(rng.uniform(-920, -750), rng.uniform(-300, 250), rng.uniform(1, 3))
    scene.box(top, [0, rear + 42, 0.5 * (z0 + z1)], [215, 18, 0.5 * (z1 - z0)])
    if rng.random() < 0.4:
        rail = scene.group(rng.uniform(100, 900))
        for x in (-190.0, 190.0):
            scene.capsule(rail, [x, rear + 40, z0], [x, rear + 40, z1], rng.uniform(1.5, 5))


def _turn(rng: np.random.Generator, most: float = np.pi) -> F64:
    """A random rotation (rows), of at most ``most`` radians."""
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    t = rng.uniform(-most, most)
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.asarray(np.eye(3) + np.sin(t) * k + (1 - np.cos(t)) * (k @ k))
