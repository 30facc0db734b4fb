"""What is drawn at random when line integrals become a radiograph: tube, detector, processing, and what is drawn on it.

The ranges are far wider than those of any department: without that, films of the real CT were not recognised at all.
Lengths are in pixels of the film unless the name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

SHUTTERS = ("none", "open", "black", "white")
CURVES = ("log", "root", "linear")


@dataclass(frozen=True)
class Look:
    """One acquisition and its processing; ``sample_look`` draws them.

    Attributes
    ----------
    water_per_cm, bone_gain, metal_gain
        Attenuation of water, and by how much more bone and metal attenuate than their density says.
    hardening
        An attenuation p is seen as p / (1 + hardening p): soft photons are gone behind thick parts.
    trabeculae, clutter_cm
        Relative amplitude of a fine texture of bone; amplitude of smooth fields of tissue.
    hollow
        Part of the broad attenuation of bone that is missing, so that bodies are dark between plates and walls: thin
        trabeculae, or a CT from which only dense bone was taken.
    bone_blur
        Standard deviation, in pixels, by which bone alone is spread: thick voxels, motion.
    gas, blobs, lines
        Numbers of pockets of gas, of denser blobs, and of thin dense lines (calcified vessels, tubes, folds).
    scatter, scatter_width
        Scattered over primary radiation, and its spread as a part of the film.
    heel
        Loss of exposure from one edge to the other along a direction ``heel_deg``.
    blur
        Standard deviation of the point spread of focal spot and detector.
    counts
        Quanta per pixel behind the middle of the patient.
    grid, grid_frequency
        Amplitude of grid lines and cycles a pixel.
    curve
        "log", "root" or "linear": what the detector's values are proportional to.
    sharpen, sharpen_width
        Gain and width of an unsharp mask; ``flatten`` is the share of a local normalisation over ``flatten_width``.
    low, high, window_part
        Percentages of the exposed pixels that end black and white; of the middle ``window_part`` of the film only.
    gamma, sigmoid
        Grey scale: v ** gamma, or a sigmoid of that slope where it is not 0.
    shutter
        "none": no collimation; "open": seen as it is; "black", "white": painted over.
    collimator_deg, collimator
        Rotation of the exposed rectangle, and its margins (top, bottom, left, right) as parts of the film.
    inverted
        Bone is dark.
    """

    water_per_cm: float = 0.2
    bone_gain: float = 1.5
    metal_gain: float = 3.0
    hardening: float = 0.0
    trabeculae: float = 0.0
    hollow: float = 0.0
    bone_blur: float = 0.0
    clutter_cm: float = 0.0
    gas: int = 0
    blobs: int = 0
    lines: int = 0
    scatter: float = 0.0
    scatter_width: float = 0.1
    heel: float = 0.0
    heel_deg: float = 0.0
    blur: float = 0.0
    counts: float = 6000.0
    noise_grain: float = 0.0
    grid: float = 0.0
    grid_frequency: float = 0.3
    grid_deg: float = 0.0
    curve: str = "log"
    sharpen: float = 0.0
    sharpen_width: float = 4.0
    flatten: float = 0.0
    flatten_width: float = 40.0
    low: float = 1.0
    high: float = 0.5
    window_part: float = 1.0
    gamma: float = 1.0
    sigmoid: float = 0.0
    shutter: str = "none"
    collimator_deg: float = 0.0
    collimator: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    edge: float = 1.0
    markers: int = 0
    text_lines: int = 0
    inverted: bool = False


def sample_look(rng: np.random.Generator, tightest: float = 0.2) -> Look:
    """Draw a look; the collimator takes at most ``tightest`` of the film from each side."""
    shutter = str(rng.choice(SHUTTERS, p=[0.3, 0.2, 0.42, 0.08]))
    margins = tightest * rng.random(4) ** 2.0 if shutter != "none" else np.zeros(4)
    gentle = rng.random() < 0.3  # some makers do little
    return Look(
        water_per_cm=float(rng.uniform(0.16, 0.24)),
        bone_gain=float(rng.uniform(0.9, 2.2)),
        metal_gain=float(rng.uniform(1.5, 5.0)),
        hardening=float(rng.uniform(0.0, 0.05)) if rng.random() < 0.6 else 0.0,
        trabeculae=float(rng.uniform(0.0, 0.14)),
        clutter_cm=float(rng.uniform(0.0, 1.6)),
        gas=int(rng.integers(0, 6)),
        blobs=int(rng.integers(0, 4)),
        lines=int(rng.integers(0, 4)),
        scatter=float(1.4 * rng.random() ** 1.5),
        scatter_width=float(rng.uniform(0.05, 0.2)),
        heel=float(rng.uniform(0.0, 0.45)),
        heel_deg=float(rng.choice([0, 90, 180, 270]) + rng.normal(0, 5)),
        blur=float(rng.uniform(0.0, 1.3)),
        counts=float(np.exp(rng.uniform(np.log(120), np.log(6000)))),
        noise_grain=float(rng.uniform(0.0, 0.8)),
        grid=float(rng.uniform(0.002, 0.03)) if rng.random() < 0.2 else 0.0,
        grid_frequency=float(rng.uniform(0.08, 0.48)),
        grid_deg=float(rng.choice([0, 90]) + rng.normal(0, 2)),
        curve=str(rng.choice(CURVES, p=[0.7, 0.25, 0.05])),
        sharpen=0.0 if gentle else float(rng.uniform(0.0, 2.5)),
        sharpen_width=float(np.exp(rng.uniform(np.log(1.5), np.log(40)))),
        flatten=float(rng.uniform(0.2, 1.0)) if rng.random() < 0.6 else 0.0,
        flatten_width=float(rng.uniform(18, 80)),
        low=float(rng.uniform(0.1, 6.0)),
        high=float(rng.uniform(0.05, 4.0)),
        window_part=float(rng.uniform(0.35, 1.0)),
        gamma=float(np.exp(rng.uniform(np.log(0.55), np.log(1.8)))),
        sigmoid=float(rng.uniform(3, 9)) if rng.random() < 0.4 else 0.0,
        shutter=shutter,
        collimator_deg=float(rng.normal(0, 2.5)) if rng.random() < 0.7 else 0.0,
        collimator=tuple(float(m) for m in margins),  # type: ignore[arg-type]
        edge=float(rng.uniform(0.3, 3.0)),
        markers=int(rng.integers(0, 3)),
        text_lines=int(rng.choice([0, 0, 0, 1, 2, 4])),
        inverted=bool(rng.random() < 0.02),
    )


def unlike_the_phantom(look: Look, rng: np.random.Generator) -> Look:
    """The look with bone that is often hollow and broad: the phantom's plates are thin lines around even bodies.

    For trainings alone: the films of an evaluation set are formed with the looks that they were defined with.
    """
    hollow = float(rng.uniform(0.2, 1.0)) if rng.random() < 0.5 else 0.0
    spread = float(rng.uniform(0.3, 2.8)) if rng.random() < 0.4 else 0.0
    stronger = 1 + float(rng.uniform(0.0, 1.5)) * (
        spread + hollow
    )  # what is spread or hollow would else hardly be seen
    return replace(look, hollow=hollow, bone_blur=spread, bone_gain=look.bone_gain * stronger)


def clinical_look(rng: np.random.Generator, tightest: float = 0.05) -> Look:
    """A look that a department would pass: anti-scatter grid, enough quanta, a logarithmic detector, some processing.

    For evaluation where a film is to be readable as far as the patient allows it; training draws ``sample_look``.
    """
    return replace(
        sample_look(rng, tightest),
        scatter=float(rng.uniform(0.05, 0.5)),
        counts=float(np.exp(rng.uniform(np.log(800), np.log(6000)))),
        blur=float(rng.uniform(0.2, 0.8)),
        clutter_cm=0.0,
        gas=0,
        blobs=0,
        lines=0,
        curve="log",
        sharpen=float(rng.uniform(0.3, 1.5)),
        flatten=float(rng.uniform(0.3, 0.9)),
        low=float(rng.uniform(0.5, 3.0)),
        high=float(rng.uniform(0.1, 1.0)),
        window_part=float(rng.uniform(0.6, 0.9)),
        gamma=float(rng.uniform(0.8, 1.3)),
        inverted=False,
    )
