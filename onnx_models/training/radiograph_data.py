"""What the networks for films are taught: stored films formed anew, prepared as the pipeline does it, with their maps.

A canvas is 256 x 256, the whole film in its middle with the aspect kept, 0 outside the film and the exposed field.
Index is (row, column), pixel centres at whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.exposure import equalize_adapthist

from onnx_models.training.film_data import LATERAL_VIEWS, VIEWS, FormedFilm, StoredFilm, formed
from onnx_models.training.film_look import Look
from onnx_models.training.film_truth import coverage
from onnx_models.training.film_views import blank
from onnx_models.training.phantom.scene import F32
from onnx_models.training.radiograph_network import MAPS, SIZE

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
SHARES = {
    "lateral spine": 0.66, "AP spine": 0.08, "lateral chest": 0.09, "chest": 0.06, "other": 0.07, "blank": 0.04,
}  # fmt: skip
"""How often each view is shown in the training."""
BLACK, WHITE, CLIP_LIMIT, SMOOTHING = 0.5, 99.5, 0.01, 0.5
"""As the pipeline prepares films: percentiles within the field, CLAHE's clip limit, Gaussian in canvas pixels."""
MASKED = 0.85
"""How often the field is taken from the truth; else the film is prepared as if its borders had not been found."""
CENTRE_WIDTH = 0.11
"""Standard deviation of a centre's peak as a part of the body's diagonal, and at least 1.2 pixels."""
LEAST_SEEN = 0.5
"""Bodies of which less is exposed have no centre."""
SIDEWAYS = 0.5
"""The side of the front is taught where it lies so far (cosine) towards a side."""


@dataclass(frozen=True)
class Sample:
    """One training image.

    Attributes
    ----------
    canvas
        (256, 256) float32, 0 to 1.
    maps
        (4, 256, 256) float32 in the order of ``radiograph_network.MAPS``.
    front_known
        (256, 256) float32: 1 where the third map means anything.
    view
        Index into ``film_data.VIEWS``.
    """

    canvas: F32
    maps: F32
    front_known: F32
    view: int


def canvas_matrix(shape: tuple[int, ...], size: int = SIZE) -> F64:
    """(2, 3): film index to canvas index, the whole film in the middle."""
    step = max(shape) / size
    middle = (np.array(shape) - 1) / 2
    return np.column_stack([np.eye(2) / step, (size - 1) / 2 - middle / step])


def prepared(image: F32, exposed: Bools, size: int = SIZE) -> F32:
    """(size, size): CLAHE within the field, Gaussian filter, shrunk with the aspect kept, zero elsewhere."""
    rows, columns = (np.flatnonzero(exposed.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros((size, size), np.float32)
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    inside, there = image[box], exposed[box]
    black, white = np.percentile(inside[there][::3], (BLACK, WHITE))
    picture = np.zeros_like(image)
    if white > black:
        even = np.clip((inside - black) / (white - black), 0, 1)
        picture[box] = equalize_adapthist(np.where(there, even, np.median(even)), clip_limit=CLIP_LIMIT)
    step = max(image.shape) / size
    smooth = ndimage.gaussian_filter(picture, SMOOTHING * step, truncate=3.0)
    matrix = canvas_matrix(image.shape, size)
    offset = -matrix[:, 2] * step
    seen = ndimage.affine_transform(smooth, np.full(2, step), offset, (size, size), order=1, mode="grid-constant")
    field = ndimage.affine_transform(
        exposed.astype(np.float32), np.full(2, step), offset, (size, size), order=0, mode="grid-constant"
    )
    return np.asarray(np.clip(seen, 0, 1) * (field > 0.5), np.float32)


def target_maps(film: FormedFilm, size: int = SIZE) -> tuple[F32, F32]:
    """(maps (4, size, size), where the side of the front is known (size, size)) of a film; empty for frontal ones."""
    maps = np.zeros((len(MAPS), size, size), np.float32)
    known = np.zeros((size, size), np.float32)
    if film.view not in LATERAL_VIEWS:
        return maps, known
    matrix = canvas_matrix(film.image.shape, size)
    truth = film.truth.moved(matrix)
    shape = (size, size)
    step = max(film.image.shape) / size
    field = ndimage.affine_transform(
        film.exposed.astype(np.float32), np.full(2, step), -matrix[:, 2] * step, shape, order=1, mode="grid-constant"
    )
    row, column = np.arange(size)[:, None], np.arange(size)[None, :]
    for n, outline in enumerate(truth.outlines):
        mask = coverage(outline, shape) * field
        maps[2 if truth.sacral[n] else 0] += mask
        if abs(film.front_columns[n]) > SIDEWAYS:
            known = np.maximum(known, mask > 0.5)
            if film.front_columns[n] > 0:
                maps[3][mask > 0.5] = 1
        if truth.sacral[n] or film.seen[n] < LEAST_SEEN:
            continue
        diagonal = np.linalg.norm(np.ptp(truth.points[n], axis=0))
        width = max(1.2, CENTRE_WIDTH * float(diagonal))
        r, c = truth.centres[n]
        maps[1] = np.maximum(maps[1], np.exp(-0.5 * ((row - r) ** 2 + (column - c) ** 2) / width**2))
    maps[1] *= field
    return np.clip(maps, 0, 1), np.asarray(known, np.float32)


def sample(film: StoredFilm, rng: np.random.Generator, look: Look | None = None) -> Sample:
    """A new image of a stored film with its maps."""
    shown = formed(film, rng, look)
    exposed = shown.exposed if rng.random() < MASKED else np.ones_like(shown.exposed)
    maps, known = target_maps(shown)
    return Sample(prepared(shown.image, exposed), maps, known, VIEWS.index(film.view))


class FilmSource:
    """Films of a folder, kept as they are on disk; blank ones are made on the spot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[Path] = set()
        self.films: dict[str, list[dict[str, NDArray[Any]]]] = {view: [] for view in VIEWS}
        self.reload()

    def reload(self) -> None:
        """Take in the files that are new: films may still be made while a training runs."""
        for path in sorted(self._folder.glob("*.npz")):
            if path in self._seen:
                continue
            with np.load(path) as z:
                arrays = {name: z[name] for name in z.files}
            self.films[StoredFilm.from_arrays(arrays).view].append(arrays)
            self._seen.add(path)

    def __len__(self) -> int:
        return len(self._seen)

    def draw(self, rng: np.random.Generator, views: tuple[str, ...] = VIEWS) -> StoredFilm:
        """A film of one of ``views``, by `SHARES`.

        Raises
        ------
        FileNotFoundError
            Where there is no film of any of them.
        """
        there = [v for v in views if v == "blank" or self.films[v]]
        if not [v for v in there if v != "blank"]:
            raise FileNotFoundError(
                f"no film of {', '.join(views)} in {self._folder}: run python -m onnx_models.training.film_generator"
            )
        share = np.array([SHARES[v] for v in there])
        view = str(rng.choice(there, p=share / share.sum()))
        if view == "blank":
            return blank(rng, 256)
        films = self.films[view]
        return StoredFilm.from_arrays(films[int(rng.integers(len(films)))])
