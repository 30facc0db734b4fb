"""Patients on purpose: the demo's, strongly curved ones, and ones without any spine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from inference.geometry import Volume
from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.acquire import acquire
from onnx_models.training.phantom.bones import Bone, sample_bone
from onnx_models.training.phantom.fields import Grid, canonical_grid
from onnx_models.training.phantom.patient import Patient, sample_patient
from onnx_models.training.phantom.ranges import TRAINING, Ranges
from onnx_models.training.phantom.scene import Scene, noise_field
from onnx_models.training.phantom.spine import Plan

NEGATIVES = ("arm", "head", "legs", "cylinder", "nothing")

DEMO = replace(
    TRAINING,
    trabecular_hu=(95.0, 125.0),
    cortical_hu=(480.0, 560.0),
    shell_mm=(0.7, 0.9),
    contrast_hu=(150.0, 210.0),
    contrast=1.0,
    clutter=(0, 0),
    metal=0.0,
    cement=0.0,
    arms_down=0.0,
    osteophytes=0.2,
    soft_hu_shift=(-3.0, 3.0),
    noise_hu=(14.0, 16.0),
    blur_mm=(0.5, 0.6),
    slice_blur_mm=(0.4, 0.5),
    sharp_kernel=0.0,
    hu_offset=(0.0, 0.0),
    bias=0.0,
    round_fov=0.0,
)
"""An ordinary contrast-enhanced chest-abdomen CT with a soft kernel."""

DEMO_DEFORMITIES = {"T8": ("wedge", 0.33), "L1": ("crush", 0.52)}


def demo_patient(seed: int = 1) -> Patient:
    """The demo's patient: a severe crush of L1 and a moderate wedge of T8, ordinary bone and curves otherwise."""
    plan = Plan(
        deformities=dict(DEMO_DEFORMITIES),
        cobb_deg=6.0,
        tilt_t1_deg=-24.0,
        tilt_l1_deg=11.0,
        standard_levels=True,
        scale=1.0,
    )
    return sample_patient(np.random.default_rng([2026, seed]), DEMO, plan)


def demo_grid(patient: Patient, spacing_mm: float = 1.25, pixel_mm: float = 1.2) -> Grid:
    """Chest and abdomen from above T4 to below S1: more than 200 slices."""
    level = {v.level: v for v in patient.vertebrae}
    z1 = float(level["T4"].centroid_lps_mm[2]) + 22.0
    z0 = float(level["S1"].centroid_lps_mm[2]) - 30.0
    y = float(np.mean([v.centroid_lps_mm[1] for v in patient.vertebrae if v.level[0] in "TL"]))
    half = 0.5 * 320 * pixel_mm
    return canonical_grid(
        np.array([-half, y + 105 - 2 * half, z0]), np.array([half, y + 105, z1]), (spacing_mm, pixel_mm, pixel_mm)
    )


def demo_volume(seed: int = 1) -> tuple[Patient, Volume]:
    """The demo's patient and CT."""
    patient = demo_patient(seed)
    return patient, acquire(patient, demo_grid(patient), np.random.default_rng([2027, seed]), DEMO)


def kyphotic_patient(seed: int, ranges: Ranges = DEMO) -> Patient:
    """60 degrees of kyphosis between T3 and T12, no deformed vertebra."""
    plan = Plan({}, cobb_deg=3.0, tilt_t1_deg=-41.0, tilt_l1_deg=34.0, standard_levels=True)
    return sample_patient(np.random.default_rng([60, seed]), replace(ranges, tilt_noise_deg=0.0), plan)


def gibbus_patient(seed: int, ranges: Ranges = DEMO, level: str = "T12") -> Patient:
    """A gibbus of 30 degrees: a sharp angle at one wedged vertebra."""
    plan = Plan(
        {level: ("wedge", 0.6)},
        cobb_deg=3.0,
        tilt_t1_deg=-18.0,
        tilt_l1_deg=9.0,
        gibbus_deg=26.0,  # beside the few degrees that the curve has there anyway
        gibbus_level=level,
        standard_levels=True,
    )
    return sample_patient(np.random.default_rng([30, seed]), replace(ranges, tilt_noise_deg=0.0), plan)


def scoliotic_patient(seed: int, ranges: Ranges = DEMO, cobb_deg: float = 40.0) -> Patient:
    """Scoliosis of the given Cobb angle, no deformed vertebra."""
    plan = Plan({}, cobb_deg=cobb_deg, tilt_t1_deg=-20.0, tilt_l1_deg=9.0, standard_levels=True)
    return sample_patient(np.random.default_rng([40, seed]), replace(ranges, tilt_noise_deg=0.0), plan)


def sample_negative(rng: np.random.Generator, ranges: Ranges = TRAINING, kind: str | None = None) -> Patient:
    """A patient, or an object, without a spine: "arm", "head", "legs", "cylinder" (a test object) or "nothing".

    Chests and abdomens whose field of view misses the spine come from ``sample_grid`` with region "off-spine".
    """
    kind = kind or str(rng.choice(NEGATIVES, p=[0.3, 0.25, 0.2, 0.15, 0.1]))
    make = {"arm": _limbs, "legs": _limbs, "head": _head, "cylinder": _cylinder, "nothing": _couch}.get(kind)
    if make is None:
        raise ValueError(f"negatives are {', '.join(NEGATIVES)}, not {kind!r}")
    scene = Scene()
    bone = sample_bone(rng, ranges)
    s = float(rng.uniform(*ranges.size))
    half = make(rng, scene, bone, ranges, s, kind)
    g = np.zeros(ker.G_COLUMNS, np.float32)
    table = np.zeros((1, ker.T_COLUMNS), np.float32)
    packed = scene.pack(np.zeros((1, ker.B_COLUMNS)), noise_field(rng), table, 0.0, g)
    return Patient([], packed, None, s, (0.0, 0.0), (-half, half))


def _limbs(rng: np.random.Generator, scene: Scene, bone: Bone, ranges: Ranges, s: float, kind: str) -> float:
    """One arm with two bones below the elbow, or two legs; all of these return half of their length in mm."""
    shift = rng.uniform(*ranges.soft_hu_shift)
    z = 250.0
    for x in (0.0,) if kind == "arm" else (-95.0 * s, 95.0 * s):
        r = (rng.uniform(38, 60) if kind == "arm" else rng.uniform(65, 95)) * s
        lean = rng.normal(0, 25, 2)
        a, b = np.array([x + lean[0], lean[1], z]), np.array([x - lean[0], -lean[1], -z])
        limb = scene.group(rng.uniform(40, 65) + shift, -100.0, rng.uniform(4, 22), 8.0)
        scene.capsule(limb, a, b, r, r * rng.uniform(0.6, 1.0))
        for _ in range(6):
            vessel = scene.group(rng.uniform(*ranges.contrast_hu) if rng.random() < 0.5 else 45.0 + shift)
            off = np.append(rng.uniform(-0.6, 0.6, 2) * r, 0)
            scene.capsule(vessel, a + off, b + off, rng.uniform(1.5, 5))
        shaft = bone.group(scene, shell=4.0, spongy=0.3)
        joint = np.array([x, 0.0, rng.uniform(-80, 80)])
        w = r * rng.uniform(0.2, 0.3)
        up = np.array([0.0, 0.0, 1.0])
        scene.capsule(shaft, a, joint + 30 * up, w)
        for q in (-0.35, 0.35) if kind == "arm" else (0.0,):
            side = np.array([q * r, 0.0, 0.0])
            scene.capsule(shaft, joint + side - 30 * up, b + side, w * 0.8)
        end = bone.group(scene, shell=1.5)
        scene.ellipsoid(end, joint + 22 * up, [1.9 * w, 1.4 * w, 24])
        scene.ellipsoid(end, joint - 24 * up, [1.8 * w, 1.3 * w, 22])
    return z


def _head(rng: np.random.Generator, scene: Scene, bone: Bone, ranges: Ranges, s: float, kind: str) -> float:
    """A skull above the first vertebra."""
    shift = rng.uniform(*ranges.soft_hu_shift)
    scalp = scene.group(40 + shift, -80, 3.0)
    scene.ellipsoid(scalp, [0, 0, 0], np.array([80, 100, 95]) * s)
    skull = scene.group(rng.uniform(28, 42) + shift, bone.cortical_hu, rng.uniform(4, 8) * s, 4.0)
    scene.ellipsoid(skull, [0, 0, 0], np.array([74, 94, 88]) * s)
    for side in (-1, 1):
        ventricle = scene.group(5.0 + shift)
        scene.ellipsoid(ventricle, np.array([side * 14, 5, 8]) * s, np.array([7, 32, 12]) * s)
        eye = scene.group(10.0 + shift)
        scene.ellipsoid(eye, np.array([side * 32, -84, -32]) * s, np.array([13, 13, 13]) * s)
        petrous = scene.group(bone.cortical_hu * 0.8, texture=150.0)
        scene.capsule(petrous, np.array([side * 20, -5, -50]) * s, np.array([side * 62, 18, -48]) * s, 11 * s)
    nose = scene.group(-950.0)
    scene.ellipsoid(nose, np.array([0, -70, -50]) * s, np.array([20, 24, 22]) * s)
    base = bone.group(scene, shell=1.5)
    scene.capsule(base, np.array([0, -30, -48]) * s, np.array([0, 12, -66]) * s, 9 * s)
    return 105.0 * s


def _cylinder(rng: np.random.Generator, scene: Scene, bone: Bone, ranges: Ranges, s: float, kind: str) -> float:
    """A water cylinder with inserts, as for quality control."""
    r = rng.uniform(70, 150)
    case = scene.group(rng.uniform(60, 130))
    scene.capsule(case, [0, 0, 400], [0, 0, -400], r)
    water = scene.group(0.0)
    scene.capsule(water, [0, 0, 400], [0, 0, -400], r - 8)
    for k in range(int(rng.integers(3, 9))):
        insert = scene.group(rng.uniform(-1000, 1200))
        x, y = 0.6 * r * np.cos(np.pi * k / 4), 0.6 * r * np.sin(np.pi * k / 4)
        scene.capsule(insert, [x, y, 200], [x, y, -200], rng.uniform(5, 16))
    return 250.0


def _couch(rng: np.random.Generator, scene: Scene, bone: Bone, ranges: Ranges, s: float, kind: str) -> float:
    """An empty couch."""
    couch = scene.group(rng.uniform(-950, -200))
    scene.box(couch, [0, 120, 0], [200, rng.uniform(5, 20), 260])
    return 250.0
