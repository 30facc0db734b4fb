"""Radiographs of the phantom, second half: an image out of stored line integrals, in some fifty milliseconds.

Beer and Lambert, scatter, heel, point spread, grid, quanta, the detector's curve, a maker's processing, the collimator,
and what people put on films. Bone is bright; arrays are (row, column), pixel centres at whole numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from onnx_models.training.film_look import Look
from onnx_models.training.film_rendering import LineIntegrals
from onnx_models.training.phantom.scene import F32

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
AIR = 0.2
"""What attenuates less than so much of the middle of the film is air beside the patient."""
LEAK = 0.004
"""Part of the beam that passes the collimator's lead."""
WORDS = "ABCDEFGHIJKLMNOPRSTUVWXYZ0123456789/:-. "
BROAD = 7.0
"""Standard deviation, in pixels of the film, of what is broad in bone: wider than plates, narrower than bodies."""


def form(integrals: LineIntegrals, look: Look, rng: np.random.Generator) -> tuple[F32, Bools]:
    """(image 0 to 1 (rows, columns), exposed field of the same shape) of one acquisition.

    The same state of ``rng`` gives the same pixels.
    """
    shape = integrals.soft.shape
    attenuation = _attenuation(integrals, look, rng)
    attenuation /= 1 + np.float32(look.hardening) * attenuation
    field = exposed_field(shape, look)
    soft_field = np.maximum(field, np.float32(LEAK)) if look.shutter != "none" else field
    inside = soft_field > 0.5
    reference = float(np.median(attenuation[inside])) if inside.any() else float(np.median(attenuation))
    patient = attenuation > np.float32(AIR * reference)
    beam = np.exp(np.minimum(reference - attenuation, 6.0))
    beam *= _heel(shape, look) * soft_field
    if look.scatter > 0:
        beam += np.float32(look.scatter) * _wide_blur(beam, look.scatter_width * max(shape))
    if look.blur > 0.2:
        beam = ndimage.gaussian_filter(beam, look.blur, truncate=2.5)
    if look.grid > 0:
        beam *= 1 + np.float32(look.grid) * _wave(shape, look.grid_frequency, look.grid_deg)
    beam += _quanta(beam, look, rng)
    value = _curve(beam, look)
    if look.sharpen > 0:
        value += np.float32(look.sharpen) * (value - _wide_blur(value, look.sharpen_width))
    if look.flatten > 0:
        value = _flattened(value, look, inside & patient)
    image = _grey(value, inside & patient if (inside & patient).mean() > 0.1 else inside, look)
    if look.inverted:
        image = 1 - image
    if look.shutter in ("black", "white"):
        image += (1 - field) * (np.float32(look.shutter == "white") - image)
    _annotate(image, look, rng)
    return image, np.asarray(inside if look.shutter != "none" else np.ones(shape, bool))


def exposed_field(shape: tuple[int, ...], look: Look) -> F32:
    """1 within the collimator's rectangle, 0 beyond it, with a penumbra of ``look.edge`` pixels."""
    if look.shutter == "none":
        return np.ones(shape, np.float32)
    a = np.radians(look.collimator_deg)
    row = (np.arange(shape[0], dtype=np.float32) - 0.5 * (shape[0] - 1))[:, None]
    column = (np.arange(shape[1], dtype=np.float32) - 0.5 * (shape[1] - 1))[None, :]
    y = np.float32(np.cos(a)) * row - np.float32(np.sin(a)) * column
    x = np.float32(np.sin(a)) * row + np.float32(np.cos(a)) * column
    top, bottom, left, right = look.collimator
    inside = np.minimum(
        np.minimum(y + shape[0] * (0.5 - top), shape[0] * (0.5 - bottom) - y),
        np.minimum(x + shape[1] * (0.5 - left), shape[1] * (0.5 - right) - x),
    )
    return np.asarray(np.clip(0.5 + inside / max(look.edge, 1e-3), 0, 1), np.float32)


def _attenuation(integrals: LineIntegrals, look: Look, rng: np.random.Generator) -> F32:
    shape = integrals.soft.shape
    soft = integrals.soft.copy()
    if look.clutter_cm > 0:
        for width, share in ((0.04, 0.35), (0.15, 0.65)):
            soft += np.float32(share * look.clutter_cm) * smooth_field(shape, width * max(shape), rng)
    for _ in range(look.gas):
        _blob(soft, rng, -rng.uniform(0.3, 3.5), (0.01, 0.06))
    for _ in range(look.blobs):
        _blob(soft, rng, rng.uniform(0.2, 2.0), (0.01, 0.12))
    np.maximum(soft, 0, out=soft)
    bone = integrals.bone
    if look.hollow > 0:
        bone = np.maximum(bone - np.float32(look.hollow) * _wide_blur(bone, BROAD), 0)
    if look.bone_blur > 0:
        bone = ndimage.gaussian_filter(bone, look.bone_blur, truncate=2.5)
    if look.trabeculae > 0:
        bone = bone * (1 + np.float32(look.trabeculae) * smooth_field(shape, 1.3, rng))
    if look.lines:
        bone = bone + _lines(shape, look.lines, rng)
    dense = np.float32(look.bone_gain) * bone + np.float32(look.metal_gain) * integrals.metal
    return np.asarray(np.float32(look.water_per_cm) * np.maximum(soft + dense, 0), np.float32)


def smooth_field(shape: tuple[int, ...], width: float, rng: np.random.Generator) -> F32:
    """Random field of unit variance (rows, columns) with structures of ``width`` pixels (standard deviation)."""
    coarse = max(1.0, width / 1.5)
    small = [int(n / coarse) + 4 for n in shape]
    noise = ndimage.gaussian_filter(rng.standard_normal(small, dtype=np.float32), width / coarse, truncate=2.5)
    noise /= max(float(noise.std()), 1e-6)
    return _stretched(noise, shape)


def _stretched(small: F32, shape: tuple[int, ...]) -> F32:
    """A coarse image stretched bilinearly on to ``shape``; its edge pixels lie at the edges."""
    out = small
    for axis in (0, 1):
        at = np.linspace(0, out.shape[axis] - 1, shape[axis])
        low = np.minimum(at.astype(np.int64), out.shape[axis] - 2) if out.shape[axis] > 1 else np.zeros(len(at), int)
        t = (at - low).astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
        high = np.minimum(low + 1, out.shape[axis] - 1)
        out = np.take(out, low, axis) * (1 - t) + np.take(out, high, axis) * t
    return out


def _blob(image: F32, rng: np.random.Generator, height: float, size: tuple[float, float]) -> None:
    """Adds half an ellipsoid of ``height``, rotated, with a soft rim (in place)."""
    shape = np.array(image.shape)
    half = np.exp(rng.uniform(*np.log(size), 2)) * shape.max()
    centre, angle = rng.uniform(0, 1, 2) * shape, rng.uniform(0, np.pi)
    reach = int(half.max()) + 2
    low = np.maximum(0, (centre - reach).astype(int))
    high = np.minimum(shape, (centre + reach).astype(int) + 1)
    if (high <= low).any():
        return
    y = (np.arange(low[0], high[0]) - centre[0])[:, None]
    x = (np.arange(low[1], high[1]) - centre[1])[None, :]
    u = (np.cos(angle) * y + np.sin(angle) * x) / half[0]
    v = (np.cos(angle) * x - np.sin(angle) * y) / half[1]
    rest = 1 - u * u - v * v
    image[low[0] : high[0], low[1] : high[1]] += (height * np.sqrt(np.maximum(rest, 0))).astype(np.float32)


def _lines(shape: tuple[int, ...], count: int, rng: np.random.Generator) -> F32:
    """Thin curved lines, .1 to .8 cm dense, some of them broken."""
    canvas = Image.new("L", (shape[1], shape[0]))
    draw = ImageDraw.Draw(canvas)
    for _ in range(count):
        p = rng.uniform(0, 1, 2) * (shape[1], shape[0])
        heading, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.06)
        shade, width, whole = int(rng.uniform(30, 255)), int(rng.integers(1, 4)), rng.random() < 0.6
        for _ in range(int(rng.integers(10, 80))):
            q = p + 6.0 * np.array([np.cos(heading), np.sin(heading)])
            if whole or rng.random() < 0.5:
                draw.line([*p, *q], fill=shade, width=width)
            p, heading = q, heading + bend + rng.normal(0, 0.05)
    dense = np.asarray(canvas, np.float32) * np.float32(rng.uniform(0.2, 0.8) / 255)
    return ndimage.gaussian_filter(dense, 0.8, truncate=2.0)


def _heel(shape: tuple[int, ...], look: Look) -> F32:
    a = np.radians(look.heel_deg)
    row = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    column = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    along = np.float32(np.cos(a)) * row + np.float32(np.sin(a)) * column
    return np.asarray(1 - np.float32(0.5 * look.heel) * (along + 0.4 * along**2 + 0.6), np.float32)


def _wide_blur(image: F32, sigma: float) -> F32:
    """A Gaussian blur; wide ones are made on a coarser image."""
    factor = int(max(1, min(16, sigma / 2.5)))
    if factor == 1:
        return np.asarray(ndimage.gaussian_filter(image, sigma, truncate=2.5))
    rows, columns = (-(-n // factor) for n in image.shape)
    padded = np.pad(image, ((0, rows * factor - image.shape[0]), (0, columns * factor - image.shape[1])), "edge")
    small = padded.reshape(rows, factor, columns, factor).mean((1, 3))
    small = ndimage.gaussian_filter(small, sigma / factor, truncate=2.5)
    wide = ndimage.zoom(small, factor, order=1, grid_mode=True, mode="nearest")
    return np.asarray(wide[: image.shape[0], : image.shape[1]], np.float32)


def _wave(shape: tuple[int, ...], frequency: float, degrees: float) -> F32:
    a = np.radians(degrees)
    phase = np.cos(a) * np.arange(shape[0])[:, None] + np.sin(a) * np.arange(shape[1])[None, :]
    return np.asarray(np.sin(2 * np.pi * frequency * phase), np.float32)


def _quanta(beam: F32, look: Look, rng: np.random.Generator) -> F32:
    noise = rng.standard_normal(beam.shape, dtype=np.float32)
    if look.noise_grain > 0.2:
        noise = ndimage.gaussian_filter(noise, look.noise_grain, truncate=2.5)
        noise /= max(float(noise.std()), 1e-6)
    return np.asarray(noise * np.sqrt(np.maximum(beam, 1e-3) / np.float32(look.counts)), np.float32)


def _curve(beam: F32, look: Look) -> F32:
    light = np.maximum(beam, np.float32(1e-3))
    if look.curve == "log":
        return -np.log(light)
    return -np.sqrt(light) if look.curve == "root" else -light


def _flattened(value: F32, look: Look, patient: Bools) -> F32:
    if patient.any():  # air beside the patient would draw a bright rim along the skin
        value = np.clip(value, *np.percentile(value[patient][::7], [0.5, 99.5]).astype(np.float32))
    mean = _wide_blur(value, look.flatten_width)
    spread = np.sqrt(np.maximum(_wide_blur((value - mean) ** 2, look.flatten_width), 1e-6))
    typical = np.float32(np.median(spread))
    even = (value - mean) * typical / (0.3 * typical + 0.7 * spread)
    return np.asarray(value + np.float32(look.flatten) * (even - (value - mean) - 0.7 * mean), np.float32)


def _grey(value: F32, shown_in: Bools, look: Look) -> F32:
    middle = np.zeros_like(shown_in)
    edge = [int(0.5 * (1 - look.window_part) * n) for n in value.shape]
    middle[edge[0] : value.shape[0] - edge[0], edge[1] : value.shape[1] - edge[1]] = True
    shown = value[shown_in & middle][::7]
    shown = shown if len(shown) > 20 else value.ravel()
    low, high = np.percentile(shown, [look.low, 100 - look.high])
    image = np.clip((value - np.float32(low)) / np.float32(max(high - low, 1e-4)), 0, 1)
    image **= np.float32(look.gamma)
    if look.sigmoid > 0:
        s = np.float32(look.sigmoid)
        ends = 1 / (1 + np.exp(0.5 * s))
        image = np.clip((1 / (1 + np.exp(-s * (image - 0.5))) - ends) / (1 - 2 * ends), 0, 1)
    return np.asarray(image, np.float32)


def _annotate(image: F32, look: Look, rng: np.random.Generator) -> None:
    """Lead letters and lines of text (in place)."""
    if look.markers + look.text_lines == 0:
        return
    rows, columns = image.shape
    canvas = Image.new("L", (columns, rows))
    draw = ImageDraw.Draw(canvas)
    unit = max(rows, columns) / 512
    for _ in range(look.markers):
        size = max(6, int(rng.uniform(14, 34) * unit))
        at = _near_edge(rng, columns, rows)
        text = str(rng.choice(["L", "R", "RE", "LI", "L3", "ST"]))
        box = draw.textbbox(at, text, font=_font(size))
        if rng.random() < 0.3:
            draw.rectangle([box[0] - 3, box[1] - 3, box[2] + 3, box[3] + 3], outline=255, width=2)
        draw.text(at, text, fill=255, font=_font(size))
    if look.text_lines:
        size = max(5, int(rng.uniform(7, 13) * unit))
        x, y = _near_edge(rng, columns, rows)
        for n in range(look.text_lines):
            text = "".join(rng.choice(list(WORDS), int(rng.integers(4, 22))))
            draw.text((x, y + 1.3 * n * size), text, fill=int(rng.uniform(150, 255)), font=_font(size))
    ink = np.asarray(canvas, np.float32) / 255
    shade = np.float32(1.0 if rng.random() < 0.85 else 0.0)
    image += ink * (shade - image)


def _near_edge(rng: np.random.Generator, columns: int, rows: int) -> tuple[float, float]:
    """(x, y) mostly near a side of the film."""
    x = columns * (rng.uniform(0.0, 0.15) if rng.random() < 0.5 else rng.uniform(0.75, 0.95))
    return float(x), float(rows * rng.uniform(0.0, 0.95))


_FONTS: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if size not in _FONTS:
        _FONTS[size] = ImageFont.load_default(size)
    return _FONTS[size]
