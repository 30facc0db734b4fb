"""Every way of measuring the bodies of one film, side by side, against the projected true points.

"outline" is the contour method on what the network for whole films sees, "points" the network that looks at each body
again; "true outline" is the contour method on the true masks of the 256 x 256 grid: the best that an outline can give
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.film_checks import disagreement
from inference.film_contour import SixPoints, six_points
from inference.film_grid import FilmGrid
from inference.film_points import OutlinedBody, PointSettings, body_crops, network_points
from inference.film_preparation import PreparedFilm, prepare
from inference.geometry import Radiograph
from inference.radiograph import RadiographSettings
from inference.runtime import Models
from onnx_models.training.film_data import FormedFilm
from onnx_models.training.film_points_data import NEAR, SeenFilm, Sight, axes_of, seen_film
from onnx_models.training.film_real import RealFilm
from onnx_models.training.film_truth import coverage

F64 = NDArray[np.float64]
Map = NDArray[np.float32]
TRUE_OUTLINE, OUTLINE, POINTS = "true outline", "outline", "points"
PIPELINE, LIMITS = RadiographSettings(), PointSettings()
SOFT = 0.7
"""Pixels by which the edge of a silver mask is softened."""
LEAST_SPAN = 0.05
"""Ratios that differ by less have no slope."""


@dataclass(frozen=True)
class Told:
    """Six points (6, 2) in film index as one way tells them.

    ``spread`` is the largest expected error of a height and ``apart`` the largest difference of one to the outline's,
    both as parts of the posterior height; ``sure`` whether the pipeline, with this way alone, would have no doubt.
    """

    points: F64
    spread: float = 0.0
    apart: float = 0.0
    sure: bool = True


@dataclass(frozen=True)
class Body:
    """A whole body of a film.

    Attributes
    ----------
    film, place
        Which film, and the place on it from the head.
    level
        "T12"
    points
        True ones (6, 2), film index.
    mm
        Of the body per pixel of the film.
    loss
        Largest loss of height in space against the undeformed twin.
    visibility
        Mean of both end plates.
    told
        By way; a way that does not measure the body has no entry.
    """

    film: int
    place: int
    level: str
    points: F64
    mm: float
    loss: float
    visibility: float
    told: dict[str, Told] = field(default_factory=dict)


def heights_of(points: F64) -> F64:
    """(..., 3) anterior, middle and posterior height of points (..., 6, 2)."""
    return np.asarray(np.linalg.norm(points[..., 0::2, :] - points[..., 1::2, :], axis=-1))


def bodies_of(shown: FormedFilm, number: int, sight: Sight, models: Models, name: str = "film_points") -> list[Body]:
    """The whole bodies that are seen on a film with what each way tells of them; ``models`` holds the network."""
    seen = seen_film(shown, sight)
    if seen is None:
        return []
    truth = seen.truth
    bodies = []
    for n, level in enumerate(truth.levels):
        mm = shown.pitch_mm / float(truth.magnification[n])
        loss, visibility = float(truth.loss[n].max()), float(seen.visibility[n])
        bodies.append(Body(number, n, level, truth.points[n], mm, loss, visibility))
        exact = true_outline(seen, n)
        if exact is not None:
            bodies[-1].told[TRUE_OUTLINE] = Told(seen.grid.to_film(exact.points))
    _measure(seen.film, seen.grid, seen.body, seen.outlined, seen.probability, bodies, models, name)
    return bodies


def real_bodies(film: RealFilm, number: int, sight: Sight, models: Models, name: str = "film_points") -> list[Body]:
    """The whole bodies that are seen on a film of the real CT; the silver mask's contour stands for the truth.

    Its voxels are 3 mm wide, so this tells whether the network answers alike on real anatomy, not how exact it is.
    """
    mm = film.pitch_mm / film.magnification
    prepared = prepare(Radiograph(np.asarray(film.image, np.float32)))
    seen = sight(prepared)
    centres = np.array([np.argwhere(mask).mean(axis=0) if mask.any() else np.full(2, np.nan) for mask in film.sections])
    bodies, outlined, probability = [], [], []
    front = 1 if film.mirrored else -1
    for k, found in enumerate(seen.found.bodies):
        distance = np.linalg.norm(centres - seen.grid.to_film(found.centre), axis=1)
        n = int(np.nanargmin(distance))
        if found.partial or not film.whole[n] or film.levels[n] == "S1":
            continue
        up = centres[max(n - 1, 0)] - centres[min(n + 1, len(centres) - 1)]
        true = six_points(ndimage.gaussian_filter(film.sections[n].astype(np.float32), SOFT), up, front)
        alone = seen.found.alone(found.label, seen.maps["body"])
        six = six_points(alone, seen.found.up(k), front)
        if true is None or six is None or distance[n] >= NEAR * true.heights[2]:
            continue
        bodies.append(Body(number, n, film.levels[n], true.points, mm, 0.0, float("nan")))
        outlined.append(OutlinedBody(six, alone))
        probability.append(found.probability * found.seeded)
    if bodies:
        _measure(prepared, seen.grid, seen.maps["body"], outlined, np.array(probability), bodies, models, name)
    return bodies


def true_outline(seen: SeenFilm, body: int) -> SixPoints | None:
    """The contour method on the true mask of a body, on the grid of the whole film."""
    truth = seen.grid.to_grid(seen.truth.points[body])
    mask = coverage(seen.grid.to_grid(seen.truth.outlines[body]), seen.grid.shape)
    mask = mask * seen.film.measured_on(seen.grid)
    back, up = axes_of(truth)
    front = 1 if back @ np.array([-up[1], up[0]]) > 0 else -1
    return six_points(np.asarray(mask, np.float32), up, front)


def _measure(
    film: PreparedFilm,
    grid: FilmGrid,
    body: Map,
    outlined: Sequence[OutlinedBody],
    probability: F64,
    bodies: list[Body],
    models: Models,
    name: str,
) -> None:
    """Entries of the outlines, and of the network on crops placed by them."""
    again = network_points(body_crops(film, grid, body, outlined), grid, models, name)
    for n, (one, second) in enumerate(zip(outlined, again, strict=True)):
        sure = bool(probability[n] >= PIPELINE.sure_body and one.six.misfit <= PIPELINE.worst_misfit)
        bodies[n].told[OUTLINE] = Told(grid.to_film(one.six.points), sure=sure)
        apart = disagreement(one.six, second.six)
        sure = second.inside and second.spread <= LIMITS.sure and probability[n] > 0
        bodies[n].told[POINTS] = Told(grid.to_film(second.six.points), second.spread, apart, bool(sure))


def ratios(bodies: list[Body], way: str | None) -> list[tuple[float, float]]:
    """(told, true) compression ratio in per cent of each body whose neighbours were measured as well.

    Neighbours are the next ones, deformed or not: this judges heights, not the choice of references.
    """
    by_place = {(b.film, b.place): b for b in bodies if way is None or way in b.told}
    out = []
    for (film, place), body in by_place.items():
        above, below = by_place.get((film, place - 1)), by_place.get((film, place + 1))
        if above is None or below is None:
            continue
        three = (above, body, below)
        true = [float(heights_of(b.points)[0]) for b in three]
        told = true if way is None else [float(heights_of(b.told[way].points)[0]) for b in three]
        out.append((compression(told), compression(true)))
    return out


def compression(anterior: list[float]) -> float:
    """VCR in per cent of (above, own, below)."""
    return 100 * (1 - anterior[1] / ((anterior[0] + anterior[2]) / 2))


def errors(bodies: list[Body], way: str) -> dict[str, Any]:
    """Figures of one way on the bodies that it measures."""
    chosen = [b for b in bodies if way in b.told]
    if not chosen:
        return {"bodies": 0}
    told = np.array([b.told[way].points for b in chosen])
    true = np.array([b.points for b in chosen])
    mm = np.array([b.mm for b in chosen])
    h, t = heights_of(told), heights_of(true)
    g, true_g = h.min(axis=1) / h.max(axis=1), t.min(axis=1) / t.max(axis=1)
    low = true_g <= 0.8  # where the targets change
    part = np.abs(h - t) / t[:, 2:]
    front, true_front = h[:, 0] / h[:, 2], t[:, 0] / t[:, 2]
    figures: dict[str, Any] = {
        "bodies": len(chosen),
        "point_mm": (np.linalg.norm(told - true, axis=2).mean(axis=1) * mm).mean(),
        "height_mm": (np.abs(h - t).mean(axis=1) * mm).mean(),
        "height_percent": 100 * part.mean(),
        "height_percent_p95": 100 * np.percentile(part.max(axis=1), 95),
        "bias_mm": ((h - t).mean(axis=1) * mm).mean(),
        "anterior_loss": np.abs(front - true_front).mean(),
        "middle_loss": np.abs(h[:, 1] / h[:, 2] - t[:, 1] / t[:, 2]).mean(),
        "dg_high": np.abs(g - true_g)[~low].mean() if (~low).any() else None,
        "dg_low": np.abs(g - true_g)[low].mean() if low.any() else None,
        "deformed": int(low.sum()),
    }
    if np.ptp(true_front) > LEAST_SPAN:
        figures["slope"] = np.polyfit(true_front, front, 1)[0]
        figures["r_front"] = np.corrcoef(true_front, front)[0, 1]
    pairs = np.array(ratios(bodies, way)).reshape(-1, 2)
    if len(pairs):
        gap = pairs[:, 0] - pairs[:, 1]
        figures |= {"vcr": len(pairs), "vcr_bias": gap.mean(), "vcr_limits": 1.96 * gap.std()}
        if np.ptp(pairs[:, 1]) > 100 * LEAST_SPAN:
            figures["vcr_r"] = np.corrcoef(pairs.T)[0, 1]
    return {k: v if v is None or isinstance(v, int) else round(float(v), 4) for k, v in figures.items()}
