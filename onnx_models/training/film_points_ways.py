"""Every way of measuring the bodies of one film, side by side, against the projected true points.

"true outline" is the contour method on the true masks of the network's 256 x 256 grid: the best that an outline can
give there. "points" is the network, its crops placed by such an outline. Where a network for whole films is at hand,
"outline" and "both" are what the pipeline tells without and with the second network.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.film_contour import SixPoints, six_points
from inference.film_grid import FilmGrid, whole_film
from inference.film_points import PointSettings, crop_grid
from inference.film_preparation import PreparedFilm, prepare
from inference.findings import KEYPOINTS, Quality
from inference.geometry import Radiograph
from inference.radiograph import SIZE as GRID
from inference.radiograph import RadiographSettings, evaluate
from inference.runtime import Models
from onnx_models.training.film_data import FormedFilm
from onnx_models.training.film_points_data import SeenFilm, axes_of, seen_film
from onnx_models.training.film_real import RealFilm
from onnx_models.training.film_truth import coverage

F64 = NDArray[np.float64]
TRUE_OUTLINE, POINTS, OUTLINE, BOTH = "true outline", "points", "outline", "both"
ANY = 1e9
SOFT = 0.7
"""Pixels by which the edge of a silver mask is softened."""
LEAST_SPAN = 0.05
"""Ratios that differ by less have no slope."""
NEAR = 0.4
"""A told body is the true one whose centre is nearer than this part of its depth."""


@dataclass(frozen=True)
class Told:
    """Six points (6, 2) in film index as one way tells them.

    ``spread`` is the largest expected error of a height and ``apart`` the largest difference of one to the outline's,
    both as parts of the posterior height; ``sure`` whether the pipeline has no doubt apart from that difference.
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


def bodies_of(shown: FormedFilm, number: int, models: Models, name: str = "film_points") -> list[Body]:
    """The whole bodies of a film with what each way tells of them; empty where there is none.

    ``models`` holds the network ``name``, and "film" where the pipeline is to be run too.
    """
    seen = seen_film(shown)
    if seen is None:
        return []
    truth = seen.truth
    bodies = [
        Body(
            number, n, truth.levels[n], truth.points[n], shown.pitch_mm / float(truth.magnification[n]),
            float(truth.loss[n].max()), float(seen.visibility[n]), {},
        )
        for n in range(len(truth.levels))
    ]  # fmt: skip
    outlined = {n: six for n in range(len(bodies)) if (six := true_outline(seen, n)) is not None}
    _cropped(seen.film, seen.grid, outlined, bodies, models, name)
    if "film" in models.sessions:
        mm = float(np.median([b.mm for b in bodies]))
        _piped(Radiograph(np.asarray(shown.image, np.float32), (mm, mm)), bodies, models, name)
    return bodies


def real_bodies(film: RealFilm, number: int, models: Models, name: str = "film_points") -> list[Body]:
    """The whole bodies of a film of the real CT; the contour of the silver mask on the film stands for the truth.

    Its voxels are 3 mm wide, so this tells whether the network answers alike on real anatomy, not how exact it is.
    """
    mm = film.pitch_mm / film.magnification
    seen = Radiograph(np.asarray(film.image, np.float32), (mm, mm))
    prepared = prepare(Radiograph(seen.pixels))
    grid = whole_film(prepared.film_shape, prepared.pixel, GRID)
    centres = np.array([np.argwhere(mask).mean(axis=0) if mask.any() else np.full(2, np.nan) for mask in film.sections])
    bodies, outlined = [], {}
    for n in np.flatnonzero(film.whole):
        up = centres[max(n - 1, 0)] - centres[min(n + 1, len(centres) - 1)]
        if film.levels[n] == "S1" or not np.isfinite(up).all():
            continue
        mask = ndimage.gaussian_filter(film.sections[n].astype(np.float32), SOFT)
        six = six_points(mask, up, 1 if film.mirrored else -1)
        if six is not None:
            outlined[len(bodies)] = SixPoints(grid.to_grid(six.points), six.axes)
            bodies.append(Body(number, int(n), film.levels[n], six.points, mm, 0.0, float("nan"), {}))
    _cropped(prepared, grid, outlined, bodies, models, name)
    if "film" in models.sessions and bodies:
        _piped(seen, bodies, models, name)
    return bodies


def true_outline(seen: SeenFilm, body: int) -> SixPoints | None:
    """The contour method on the true mask of a body, on the grid of the whole film."""
    truth = seen.grid.to_grid(seen.truth.points[body])
    mask = coverage(seen.grid.to_grid(seen.truth.outlines[body]), seen.grid.shape)
    mask = mask * seen.film.measured_on(seen.grid)
    back, up = axes_of(truth)
    front = 1 if back @ np.array([-up[1], up[0]]) > 0 else -1
    return six_points(np.asarray(mask, np.float32), up, front)


def _cropped(
    film: PreparedFilm, grid: FilmGrid, outlined: dict[int, SixPoints], bodies: list[Body], models: Models, name: str
) -> None:
    """Entries of outlines on ``grid``, and of the network on crops placed by them."""
    if not outlined:
        return
    crops = [crop_grid(grid, six) for six in outlined.values()]
    said = models.run(name, {"crops": np.stack([film.on(c) for c in crops])[:, None]})
    for k, (n, six) in enumerate(outlined.items()):
        bodies[n].told[TRUE_OUTLINE] = Told(grid.to_film(six.points))
        points = np.asarray(said["points"][k], np.float64)
        spread = float(said["spread"][k].max() / heights_of(points)[2])
        bodies[n].told[POINTS] = Told(crops[k].to_film(points), spread)


def _piped(film: Radiograph, bodies: list[Body], models: Models, name: str) -> None:
    """Entries of the pipeline, without and with the network."""
    without = RadiographSettings(names=None, chest_films=True)
    within = replace(without, points=PointSettings(network=name, agreement=ANY, unsure=ANY))
    for way, settings in ((OUTLINE, without), (BOTH, within)):
        answer = evaluate(film, models, settings, age_years=70.0)
        for vertebra in answer.findings.vertebrae:
            if vertebra.keypoints_px is None:
                continue
            points = np.array([vertebra.keypoints_px[n] for n in KEYPOINTS])[:, ::-1] - 0.5
            found = _owner(points, bodies)
            if found is not None:
                sure = Quality.LOW_CONFIDENCE not in vertebra.quality
                found.told[way] = Told(points, apart=_apart(found, points, way), sure=sure)


def _apart(body: Body, points: F64, way: str) -> float:
    if way == OUTLINE or OUTLINE not in body.told:
        return 0.0
    first, second = heights_of(body.told[OUTLINE].points), heights_of(points)
    return float(np.abs(first - second).max() / ((first[2] + second[2]) / 2))


def _owner(points: F64, bodies: list[Body]) -> Body | None:
    distance = [float(np.linalg.norm(points.mean(axis=0) - b.points.mean(axis=0))) for b in bodies]
    nearest = bodies[int(np.argmin(distance))]
    depth = float(np.linalg.norm(nearest.points[:2].mean(axis=0) - nearest.points[4:].mean(axis=0)))
    return nearest if min(distance) < NEAR * depth else None


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
