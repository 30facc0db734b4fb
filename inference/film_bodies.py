"""From the maps of the whole-film network to vertebral bodies, one by one, from head to feet.

Voids are filled, small components removed, touching bodies parted by a watershed from their centres. The bodies form a
chain: the longest path through the nearest neighbours; whatever lies beside it is no vertebra. What meets the edge of
the film or of its exposed field is partial. S1 has a map of its own, and what it claims is no vertebra.

Everything is in the index (row, column) of the network's grid, whose rows run from head to feet.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree, shortest_path
from skimage.segmentation import watershed

Floats = NDArray[np.float64]
Map = NDArray[np.floating[Any]]


DISC = 0.2
"""A disc's height as a part of the distance between two centres: n bodies are as long as n distances less one disc."""
NEIGHBOURS = 4
"""A body's size is compared with so many of those nearest to it."""
MOST_CENTRES = 64
"""Peaks beyond these many, the highest first, are not looked at: no film shows more vertebrae."""


@dataclass(frozen=True)
class BodySettings:
    """Thresholds of the way from maps to bodies.

    Attributes
    ----------
    body, centre, sacrum
        Probabilities, or heights of the map of centres, from which on something is seen.
    smallest
        Pixels of the grid: smaller components are removed.
    smallest_part
        Of the median body's area: what is smaller is removed too.
    apart
        Two centres nearer than this many pixels are one.
    valley
        Two centres between which the map of centres stays above this part of the lower one are one.
    unseeded
        A component without a centre is a vertebra only from this mean probability on.
    other_sacrum
        A second piece of S1's map of this part of the first one's area: L5 or S2 was taken for S1, there is no anchor.
    edge
        A body nearer to the end of what was exposed than this many pixels is partial.
    too_large, too_long
        A body of more than so many times the median area of those nearest to it, and so many times as long as wide, is
        several that were not parted.
    longest_step
        Distance between neighbours, in medians of it, at which the chain ends.
    missing_step
        Distance, likewise, from which on a vertebra lies between that was not seen.
    """

    body: float = 0.5
    centre: float = 0.25
    sacrum: float = 0.5
    smallest: int = 12
    smallest_part: float = 0.2
    apart: float = 3.0
    valley: float = 0.85
    unseeded: float = 0.8
    other_sacrum: float = 0.4
    edge: float = 1.5
    too_large: float = 1.6
    too_long: float = 1.3
    longest_step: float = 3.6
    missing_step: float = 1.6


@dataclass(frozen=True)
class FilmBody:
    """One vertebral body as the network sees it.

    Attributes
    ----------
    label
        Its value in ``FilmBodies.labels``; 1 for the uppermost.
    centre
        (2,), (row, column), mean of its pixels.
    probability
        Mean probability of its pixels.
    place
        Its place in the sequence: neighbours differ by 1, by more where vertebrae lie between that were not seen.
    partial
        Cut by the end of the film or of its exposed field: never measured.
    seeded
        Whether the network saw its centre, and its alone.
    """

    label: int
    centre: Floats
    probability: float
    place: int
    partial: bool
    seeded: bool


@dataclass(frozen=True)
class FilmBodies:
    """All vertebral bodies of a film, from head to feet.

    Attributes
    ----------
    labels
        uint8, the grid's shape: 0 or the label of the body.
    sacrum
        bool, the grid's shape: S1 where it was seen.
    sacrum_probability
        Mean probability of S1; 0 where it was not seen at the lower end of the chain.
    """

    bodies: tuple[FilmBody, ...]
    labels: NDArray[np.uint8]
    sacrum: NDArray[np.bool_]
    sacrum_probability: float

    @property
    def has_sacrum(self) -> bool:
        """Whether S1 was seen below the last body."""
        return self.sacrum_probability > 0

    def alone(self, label: int, body: Map) -> NDArray[np.float32]:
        """The probability ``body`` without the other bodies, and without what is not joined to this one."""
        mine = self.labels == label
        free = (self.labels == 0) & ndimage.binary_dilation(mine, iterations=2)
        nearest = ndimage.distance_transform_edt(self.labels == 0, return_distances=False, return_indices=True)
        free &= self.labels[tuple(nearest)] == label
        filled = np.where(body >= 0.5, body, 1.0)  # a void that was filled is bone
        return np.asarray(np.where(mine, filled, np.where(free, np.minimum(body, 0.499), 0)), np.float32)

    def up(self, n: int) -> Floats:
        """(2,): the direction to the head at body ``n`` (counted from 0), from the centres of its neighbours."""
        centres = np.array([b.centre for b in self.bodies])
        if len(centres) < 2:
            return np.array([-1.0, 0.0])
        along = centres[max(n - 1, 0)] - centres[min(n + 1, len(centres) - 1)]
        return np.asarray(along / np.linalg.norm(along))


def find_bodies(
    body: Map, centre: Map, sacrum: Map, measured: NDArray[np.bool_], settings: BodySettings | None = None
) -> FilmBodies:
    """Vertebral bodies from head to feet.

    Parameters
    ----------
    body, centre, sacrum
        (rows, columns), 0 to 1: probability of vertebral bodies, map of their centres, probability of S1; the head
        lies towards row 0.
    measured
        Which points of the grid lie on the film and within its exposed field.
    """
    chosen = settings or BodySettings()
    taken = (sacrum >= chosen.sacrum) & (sacrum > body)
    mask = (body >= chosen.body) & measured & ~taken
    mask = _without_small(ndimage.binary_fill_holes(mask) & ~taken, chosen.smallest)
    labels, seeded = _parted(mask, np.asarray(body, np.float64), np.asarray(centre, np.float64), chosen)
    labels, seeded = _worth_keeping(labels, seeded, chosen)
    labels, seeded = _worth_keeping(*_divided(labels, seeded, np.asarray(body, np.float64), chosen), chosen)
    centres = np.array([np.argwhere(labels == n + 1).mean(axis=0) for n in range(len(seeded))]).reshape(-1, 2)
    chain = _chain(centres, chosen)
    places = _places(centres[chain], chosen)
    inner = ndimage.distance_transform_edt(np.pad(measured, 1))[1:-1, 1:-1]
    ordered = np.zeros(labels.shape, np.uint8)
    found = []
    for n, (k, place) in enumerate(zip(chain, places, strict=True)):
        mine = labels == k + 1
        ordered[mine] = n + 1
        partial = bool(inner[mine].min() <= chosen.edge)
        found.append(FilmBody(n + 1, centres[k], float(body[mine].mean()), place, partial, seeded[k]))
    s1, probability = _first_sacral(np.asarray(sacrum), found, chosen)
    return FilmBodies(tuple(found), ordered, s1, probability)


def _without_small(mask: NDArray[np.bool_], smallest: int) -> NDArray[np.bool_]:
    pieces, count = ndimage.label(mask)
    area = np.bincount(pieces.ravel(), minlength=count + 1)
    area[0] = 0
    return np.asarray(area[pieces] >= smallest)


def _parted(
    mask: NDArray[np.bool_], body: Floats, centre: Floats, settings: BodySettings
) -> tuple[NDArray[np.int32], list[bool]]:
    """Labels from 1 of single bodies, and whether each has a centre; what has none and is not sure is left out."""
    seeds = _centres(mask, body, centre, settings)
    markers = np.zeros(mask.shape, np.int32)
    for n, at in enumerate(seeds):
        markers[tuple(at)] = n + 1
    pieces, count = ndimage.label(mask)
    seeded = np.bincount(pieces[markers > 0], minlength=count + 1) > 0
    sure = ndimage.mean(body, pieces, np.arange(1, count + 1)) >= settings.unseeded
    area = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    without = [int(p) + 1 for p in np.argsort(-area, kind="stable") if sure[p] and not seeded[p + 1]][:MOST_CENTRES]
    deepest = ndimage.maximum_position(ndimage.distance_transform_edt(mask), pieces, without) if without else []
    for n, at in enumerate(deepest):
        markers[at] = len(seeds) + n + 1
    seeded[without] = True
    mask = mask & seeded[pieces]
    # Gaps in the probability part bodies first, then the valley between their centres, then half the way.
    deep = ndimage.gaussian_filter(1 - body, 0.7) + 0.3 * (1 - ndimage.gaussian_filter(centre, 0.7))
    labels = watershed(deep, markers, mask=mask, connectivity=2)
    return np.asarray(labels, np.int32), [True] * len(seeds) + [False] * len(without)


def _centres(mask: NDArray[np.bool_], body: Floats, centre: Floats, settings: BodySettings) -> list[NDArray[np.intp]]:
    """Peaks of the map of centres within bodies, one for each."""
    smooth = ndimage.gaussian_filter(centre, 0.7)
    peaks = (smooth == ndimage.maximum_filter(smooth, size=3)) & (smooth >= settings.centre) & mask
    plateaus, count = ndimage.label(peaks, np.ones((3, 3)))
    tops = ndimage.maximum_position(smooth, plateaus, range(1, count + 1))
    candidates = sorted((np.array(at) for at in tops), key=lambda at: -smooth[tuple(at)])
    kept: list[NDArray[np.intp]] = []
    for at in candidates[:MOST_CENTRES]:
        if not any(_same(at, other, smooth, body, settings) for other in kept):
            kept.append(at)
    return kept


def _same(at: NDArray[np.intp], higher: NDArray[np.intp], centre: Floats, body: Floats, settings: BodySettings) -> bool:
    """Whether a peak and a higher one are one centre: near, or with no valley and no gap between."""
    distance = float(np.linalg.norm(at - higher))
    if distance < settings.apart:
        return True
    points = np.linspace(at, higher, max(int(2 * distance), 3)).T
    between = ndimage.map_coordinates(centre, points, order=1)
    through = ndimage.map_coordinates(body, points, order=1)
    return bool(between.min() > settings.valley * centre[tuple(at)] and through.min() >= settings.body)


def _worth_keeping(
    labels: NDArray[np.int32], seeded: list[bool], settings: BodySettings
) -> tuple[NDArray[np.int32], list[bool]]:
    """Without what is too small beside the others; labels from 1."""
    area = np.bincount(labels.ravel(), minlength=len(seeded) + 1)[1:]
    usual = float(np.median(area[area > 0])) if (area > 0).any() else 0.0
    smallest = max(settings.smallest, settings.smallest_part * usual)
    keep = [n for n in range(len(seeded)) if area[n] >= smallest]
    renamed = np.zeros(len(seeded) + 1, np.int32)
    for new, old in enumerate(keep):
        renamed[old + 1] = new + 1
    return renamed[labels], [seeded[n] for n in keep]


def _divided(
    labels: NDArray[np.int32], seeded: list[bool], body: Floats, settings: BodySettings
) -> tuple[NDArray[np.int32], list[bool]]:
    """Bodies that are as large as several of their neighbours and as long, divided along their length.

    Two bodies whose centres were seen as one, or not at all, are no vertebra of twice the height. They are parted
    where the probability is least near where the ends should be; their parts count as bodies without a centre.
    """
    out, told = labels.copy(), list(seeded)
    if len(seeded) < 3:
        return out, told
    numbers = np.arange(1, len(seeded) + 1)
    area = ndimage.sum_labels(np.ones(labels.shape), labels, numbers)
    centres = np.array(ndimage.center_of_mass(np.ones(labels.shape), labels, numbers))
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    for n in range(len(seeded)):
        others = np.argsort(distance[n])[1 : 1 + NEIGHBOURS]
        if area[n] < settings.too_large * np.median(area[others]):
            continue
        places = np.argwhere(labels == n + 1)
        spread, axes = np.linalg.eigh(np.cov((places - centres[n]).T))
        if spread[1] < settings.too_long**2 * spread[0]:
            continue
        along = (places - centres[n]) @ axes[:, 1]
        step = np.median(np.sort(distance[others], axis=1)[:, 1])  # of each to the one next to it
        count = round(float((np.ptp(along) + 1) / step + DISC))
        if count < 2:
            continue
        markers = np.zeros(labels.shape, np.int32)
        for k in range(count):
            middle = np.quantile(along, (k + 0.5) / count)
            markers[tuple(places[np.abs(along - middle) <= 1].T)] = len(told) + k
        markers[markers == len(told)] = n + 1
        parts = watershed(ndimage.gaussian_filter(1 - body, 0.7), markers, mask=labels == n + 1, connectivity=2)
        out = np.where(labels == n + 1, parts, out).astype(np.int32)
        told[n] = False
        told += [False] * (count - 1)
    return out, told


def _chain(centres: Floats, settings: BodySettings) -> list[int]:
    """Indices of the centres along the spine, from head to feet.

    It is the path with most bodies through the tree of nearest neighbours; rows tell which of its ends is the head.
    """
    if len(centres) < 2:
        return list(range(len(centres)))
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    tree = minimum_spanning_tree(distance).toarray()
    steps = tree[tree > 0]
    tree[tree > settings.longest_step * float(np.median(steps))] = 0
    joined = shortest_path(tree > 0, directed=False, unweighted=True)
    length = shortest_path(tree, directed=False)
    reachable = np.where(np.isfinite(joined), joined + 1e-6 * np.where(np.isfinite(length), length, 0), -1)
    first, last = np.unravel_index(int(reachable.argmax()), reachable.shape)
    _, before = breadth_first_order(tree + tree.T, int(first), directed=False)
    path = [int(last)]
    while path[-1] != first:
        path.append(int(before[path[-1]]))
    return path if centres[path[0], 0] <= centres[path[-1], 0] else path[::-1]


def _places(centres: Floats, settings: BodySettings) -> list[int]:
    """A whole number for each, 1 apart, more where the distance holds vertebrae that were not seen."""
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    places = [1] if len(centres) else []
    for n, step in enumerate(steps):
        near = np.delete(steps[max(n - 2, 0) : n + 3], min(n, 2))
        ratio = float(step / np.median(near)) if len(near) else 1.0
        places.append(places[-1] + (max(1, round(ratio)) if ratio > settings.missing_step else 1))
    return places


def _first_sacral(sacrum: Map, bodies: list[FilmBody], settings: BodySettings) -> tuple[NDArray[np.bool_], float]:
    """S1's mask and mean probability, where it is one, and follows the last body as its next neighbour."""
    nothing = np.zeros(sacrum.shape, bool)
    pieces, count = ndimage.label(sacrum >= settings.sacrum)
    if not count or len(bodies) < 2:
        return nothing, 0.0
    area = np.bincount(pieces.ravel())[1:]
    largest = pieces == 1 + int(area.argmax())
    if largest.sum() < settings.smallest or (area >= settings.other_sacrum * area.max()).sum() > 1:
        return nothing, 0.0
    at = np.argwhere(largest).mean(axis=0)
    steps = [float(np.linalg.norm(b.centre - a.centre)) / (b.place - a.place) for a, b in pairwise(bodies)]
    last = bodies[-1].centre
    onward = last - bodies[-2].centre
    follows = float((at - last) @ onward) > 0
    near = float(np.linalg.norm(at - last)) <= settings.missing_step * float(np.median(steps[-3:]))
    return largest, float(sacrum[largest].mean()) if follows and near else 0.0
