"""Which films are taken of a phantom: lateral and frontal ones of the spine and of the chest, and of other things."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_models.training.film_data import VIEWS, StoredFilm
from onnx_models.training.film_geometry import FRONTAL, LATERAL, ConeBeam, cone_beam
from onnx_models.training.film_rendering import LineIntegrals, render_film
from onnx_models.training.film_truth import film_truth, no_truth
from onnx_models.training.phantom import EVALUATION, TRAINING, Patient, Plan, Ranges, sample_negative, sample_patient
from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.bones import sample_bone
from onnx_models.training.phantom.scene import Scene, noise_field

F64 = NDArray[np.float64]
FILM = replace(TRAINING, contrast=0.1, clutter=(0, 3), metal=0.08, cement=0.07, arms_down=0.1)
"""Films are seldom taken with contrast medium in the vessels, or with the arms beside the trunk."""
FILM_EVALUATION = replace(EVALUATION, contrast=0.1, clutter=(0, 3), metal=0.06, cement=0.04, arms_down=0.06)
FINEST_MM = 0.6
LATERAL_SPINE, AP_SPINE, LATERAL_CHEST, CHEST, OTHER, BLANK = VIEWS
REGIONS = ("lumbar", "thoracolumbar", "thoracic", "whole")
"""Of the spine; "whole" is the spine on one long film."""
OTHERS = ("hand", "arm", "legs", "head", "cylinder", "hip", "shoulder")
_HEIGHT = {"lumbar": (250, 400), "thoracolumbar": (300, 430), "thoracic": (320, 430), "whole": (560, 820)}
_WIDTH = {"lumbar": (170, 330), "thoracolumbar": (170, 320), "thoracic": (160, 250), "whole": (230, 380)}
_LEVELS = {"lumbar": ("L1", "L4"), "thoracolumbar": ("T11", "L2"), "thoracic": ("T5", "T9"), "whole": ("T9", "T12")}


def make_film(
    rng: np.random.Generator,
    view: str,
    ranges: Ranges = FILM,
    region: str | None = None,
    long_side: int = 512,
    plan: Plan | None = None,
) -> StoredFilm:
    """Draw a patient (or an object) and take a film of it; the same state of ``rng`` gives the same film.

    ``region`` is one of `REGIONS` or, of other things, one of `OTHERS`; ``plan`` prescribes deformities.

    Raises
    ------
    ValueError
        For a view that is none of ``VIEWS``; a blank film needs no patient (`blank`).
    """
    if view == BLANK:
        return blank(rng, long_side)
    if view == OTHER:
        return _other(rng, ranges, long_side, region or str(rng.choice(OTHERS)))
    if view not in VIEWS:
        raise ValueError(f"views are {', '.join(VIEWS)}, not {view!r}")
    patient = sample_patient(rng, ranges, plan)
    return film_of(rng, patient, view, region, long_side)


def film_of(
    rng: np.random.Generator, patient: Patient, view: str, region: str | None = None, long_side: int = 512
) -> StoredFilm:
    """Take a film of a patient who is there already; as `make_film`."""
    beam, facts = sample_beam(rng, patient, view, region, long_side)
    return _taken(rng, patient, beam, view, facts)


def _taken(rng: np.random.Generator, patient: Patient, beam: ConeBeam, view: str, facts: dict[str, Any]) -> StoredFilm:
    couch = bool(rng.random() < 0.1)
    integrals = render_film(patient, beam, couch=couch, finest_mm=FINEST_MM)
    if patient.column is not None:
        facts = {**facts, "cobb_deg": round(patient.column.cobb_deg, 1), "scale": round(patient.scale, 3)}
    return StoredFilm(integrals, film_truth(patient, beam), view, beam.pitch_mm, facts)


def sample_beam(
    rng: np.random.Generator, patient: Patient, view: str, region: str | None = None, long_side: int = 512
) -> tuple[ConeBeam, dict[str, Any]]:
    """(beam, what was drawn) for a patient with a spine. ``region`` is one of `REGIONS`, or ``None`` for any."""
    s = patient.scale
    region = region or str(rng.choice(REGIONS, p=[0.42, 0.2, 0.25, 0.13]))
    chest = view in (CHEST, LATERAL_CHEST)
    lateral = view in (LATERAL_SPINE, LATERAL_CHEST)
    height, width = (float(rng.uniform(*span[region])) * s for span in (_HEIGHT, _WIDTH))
    target = _between(patient, *_LEVELS[region], part=float(rng.random()))
    if lateral:
        target = target + np.array([0, rng.uniform(-45, 20) * s, 0])
    if chest:
        region = "chest"
        height, width = float(rng.uniform(330, 430)) * s, float(rng.uniform(310, 430)) * s
        target = _between(patient, "T6", "T9", part=float(rng.random()))
        target = target + np.array([0, rng.uniform(-80, -45) * s, 0])
    elif not lateral:
        target = target + np.array([rng.normal(0, 8), 0, 0])
    far = rng.uniform(1400, 1900) if chest or region == "whole" else rng.uniform(1000, 1600)
    drawn = {
        "source_detector_mm": float(far),
        "object_detector_mm": float(rng.uniform(150, 350)),
        "rotation_deg": float(np.clip(rng.normal(0, 4.5), -12, 12)),
        "tilt_deg": float(np.clip(rng.normal(0, 3), -8, 8)),
        "roll_deg": float(rng.normal(0, 3)),
    }
    off = (float(rng.normal(0, 25)), float(rng.normal(0, 20)))
    # the middle of the film stays on the target: the central ray moves
    target = target + np.array([0, -off[1], off[0]] if lateral else [-off[1], 0, off[0]])
    beam = cone_beam(
        target, height, width, view=LATERAL if lateral else FRONTAL, reverse=bool(rng.random() < 0.5),
        off_centre_mm=off, long_side=long_side, **drawn,
    )  # fmt: skip
    return beam, {"region": region, **{k: round(v, 2) for k, v in drawn.items()}}


def _between(patient: Patient, upper: str, lower: str, part: float) -> F64:
    """A point of the way between the centroids of two levels (the next ones there are, in patients with fewer)."""
    level = {v.level: v.centroid_lps_mm for v in patient.vertebrae}
    a, b = (level.get(name, level["T10"]) for name in (upper, lower))
    return np.asarray(a + part * (b - a))


def blank(rng: np.random.Generator, long_side: int = 512) -> StoredFilm:
    """A film of nothing, or of a plate of even or of slanting thickness."""
    shape = (long_side, int(long_side * rng.uniform(0.5, 1.0)))
    shape = shape if rng.random() < 0.5 else shape[::-1]
    row = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    column = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    slope = rng.normal(0, 2.0, 2) if rng.random() < 0.5 else np.zeros(2)
    soft = np.float32(rng.uniform(0, 25)) + np.float32(slope[0]) * row + np.float32(slope[1]) * column
    nothing = np.zeros(shape, np.float32)
    integrals = LineIntegrals(np.maximum(soft, 0).astype(np.float32), nothing, nothing.copy())
    return StoredFilm(integrals, no_truth(), BLANK, 0.8)


def _other(rng: np.random.Generator, ranges: Ranges, long_side: int, kind: str) -> StoredFilm:
    """Hands, limbs, heads, test objects; hips and shoulders from the front."""
    frontal = bool(rng.random() < 0.6) or kind in ("hand", "hip", "shoulder")
    if kind in ("hip", "shoulder"):
        patient = sample_patient(rng, ranges)
        level = {v.level: v.centroid_lps_mm for v in patient.vertebrae}
        side = rng.choice([-1.0, 1.0])
        if kind == "hip":
            aside, at = rng.choice([0.0, 90.0]), level["S1"] + np.array([0, 0, -75.0])
        else:
            aside, at = 140.0, level["T2"]
        target = at + np.array([side * aside, 0, 0]) * patient.scale
        size = rng.uniform(210, 320, 2) * (1.2 if aside == 0 else 1.0)
    else:
        patient = _hand(rng, ranges) if kind == "hand" else sample_negative(rng, ranges, kind)
        target = np.array([0, 0, rng.uniform(-60, 60) if kind in ("arm", "legs") else 0.0])
        low, high = patient.extent_mm
        size = np.clip(rng.uniform(0.5, 0.9, 2) * (high - low), 150, 400)
    beam = cone_beam(
        target, float(size[0]), float(size[1]), view=FRONTAL if frontal else LATERAL,
        rotation_deg=float(rng.normal(0, 8)), roll_deg=float(rng.normal(0, 6)), long_side=long_side,
        object_detector_mm=float(rng.uniform(40, 150)) if kind == "hand" else 200.0,
    )  # fmt: skip
    film = _taken(rng, patient, beam, OTHER, {"kind": kind})
    return replace(film, truth=no_truth())


def _hand(rng: np.random.Generator, ranges: Ranges) -> Patient:
    """A hand, flat in the frontal plane, with a wrist below."""
    scene, bone, s = Scene(), sample_bone(rng, ranges), float(rng.uniform(*ranges.size))
    flesh = scene.group(rng.uniform(40, 65), -60.0, 2.0, 6.0)
    fingers = []
    for n, (angle, length) in enumerate(((-50, 55), (-18, 90), (-4, 100), (8, 92), (20, 72))):
        a = np.radians(angle + rng.normal(0, 4))
        knuckle = np.array([(n - 2) * 19.0, 0, 12.0 - 6 * abs(n - 2) - 30 * (n == 0)])
        fingers.append((knuckle, knuckle + length * np.array([np.sin(a), 0, np.cos(a)])))
        scene.capsule(flesh, fingers[-1][0] * s, fingers[-1][1] * s, 10 * s, 7 * s)
    scene.ellipsoid(flesh, np.array([0, 0, -25]) * s, np.array([45, 15, 52]) * s)
    scene.capsule(flesh, np.array([0, 0, -50]) * s, np.array([0, 0, -200]) * s, 28 * s)
    bones = bone.group(scene, shell=1.6)
    wrist = np.array([0, 0, -60.0])
    for knuckle, tip in fingers:
        parts = [wrist + 0.3 * (knuckle - wrist), knuckle, *(knuckle + p * (tip - knuckle) for p in (0.48, 0.8, 1.0))]
        for a, b in itertools.pairwise(parts):
            scene.capsule(bones, (a + 0.1 * (b - a)) * s, (a + 0.9 * (b - a)) * s, 4.2 * s, 3.4 * s)
    for _ in range(8):
        carpal = wrist + rng.uniform(-1, 1, 3) * [20, 3, 10]
        scene.ellipsoid(bones, carpal * s, rng.uniform(5, 8, 3) * s)
    for side in (-1.0, 1.0):
        scene.capsule(bones, np.array([side * 13, 0, -80]) * s, np.array([side * 11, 0, -200]) * s, 9 * s, 6 * s)
    g = np.zeros(ker.G_COLUMNS, np.float32)
    table = np.zeros((1, ker.T_COLUMNS), np.float32)
    packed = scene.pack(np.zeros((1, ker.B_COLUMNS)), noise_field(rng), table, 0.0, g)
    return Patient([], packed, None, s, (0.0, 0.0), (-160.0 * s, 130.0 * s))
