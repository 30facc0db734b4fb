"""How a film stands: where the head is, and to which side the patient's front lies.

Films come mirrored, upside down and lying on their side, with a header that says so, says nothing, or is wrong. The
film is turned by quarter turns until the head is up; results are laid back on the image as it was sent. The front is to
the left or to the right of what then stands upright: the network's own opinion on every body, the header, and the
sacrum, which runs backward, each speak with a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.film_bodies import FilmBodies
from inference.film_grid import TURNS

Map = NDArray[np.floating[Any]]
Direction = tuple[float, float]

HEADER_WEIGHT = 2.2
"""Log-odds of what a header says: nine in ten are right."""
SACRUM_WEIGHT = 1.0
LEAST_DOUBT = 0.02
"""No opinion of the network counts as surer than one minus this."""
CONTRADICTS = 0.75
"""Probability from which on the network contradicts a header."""
HEAD_WEIGHT, GROWTH_WEIGHT, SACRUM_END_WEIGHT = 0.7, 0.3, 0.5
"""What the network says of the head on each body, how bodies grow, and at which end S1 is seen, each -1 to 1."""
NEXT_BODY = (0.4, 2.0)
"""S1 speaks where its middle lies so many steps of the chain beyond one of its ends, and no farther beside it."""
GROWTH = 0.035
"""Bodies grow by this part of their size from one to the next towards the feet."""
FEWEST_GROWING = 5


@dataclass(frozen=True)
class FilmOrientation:
    """How a film stands.

    Attributes
    ----------
    turn
        Quarter turns, counter-clockwise, that bring the head up.
    front
        Then the front lies to the left (-1) or right (1).
    confidence
        Probability of ``front``.
    contradicts_header
        The header says something else, of the head or of the front, than what is seen.
    """

    turn: int
    front: int
    confidence: float
    contradicts_header: bool


def header_turn(orientation: tuple[str, str] | None) -> int | None:
    """Quarter turns, counter-clockwise, that bring the head up; ``None``: the header does not say.

    ``orientation`` is that of ``Radiograph``: the patient's direction along increasing (column, row), as "A", "F".
    """
    head = _direction(orientation, "H", "F")
    return None if head is None else next(k for k in range(TURNS) if _turned(head, k)[0] == -1)


def header_front(orientation: tuple[str, str] | None, turn: int) -> int | None:
    """Side of the front after ``turn`` quarter turns, -1 left, 1 right; ``None``: the header does not say."""
    front = _direction(orientation, "A", "P")
    side = 0 if front is None else int(_turned(front, turn)[1])
    return side or None


def _direction(orientation: tuple[str, str] | None, letter: str, opposite: str) -> Direction | None:
    """(row, column) on the film along which ``letter`` lies; the first letter of an oblique direction counts."""
    for value, along in zip(orientation or (), ((0.0, 1.0), (1.0, 0.0)), strict=False):
        if value[:1] == letter:
            return along
        if value[:1] == opposite:
            return (-along[0], -along[1])
    return None


def _turned(direction: Direction, turns: int) -> Direction:
    """(row, column) after quarter turns, counter-clockwise."""
    for _ in range(turns % TURNS):
        direction = (-direction[1], direction[0])
    return direction


def front_side(
    front: Map, body: Map, found: FilmBodies, orientation: tuple[str, str] | None, turn: int
) -> FilmOrientation:
    """To which side the front lies on a film that stands upright after ``turn`` quarter turns.

    Parameters
    ----------
    front, body
        (rows, columns), the head up: probability that the front lies towards column 0, and of vertebral bodies.
    found
        The bodies of these maps; there is at least one.
    """
    weight = np.where(found.labels > 0, body, 0.0)
    left = float((front * weight).sum() / max(float(weight.sum()), 1e-9))
    left = float(np.clip(left, LEAST_DOUBT, 1 - LEAST_DOUBT))
    odds = np.log(left / (1 - left)) + SACRUM_WEIGHT * _sacrum_runs_right(found)
    said = header_front(orientation, turn)
    total = odds - HEADER_WEIGHT * (said or 0)
    side = -1 if total > 0 else 1
    seen_otherwise = said is not None and (said != side or (left if said == 1 else 1 - left) >= CONTRADICTS)
    said_turn = header_turn(orientation)
    confidence = float(1 / (1 + np.exp(-abs(total))))
    return FilmOrientation(turn, side, confidence, seen_otherwise or (said_turn is not None and said_turn != turn))


def _sacrum_runs_right(found: FilmBodies) -> float:
    """-1 to 1: how far S1 lies to the right of the line through the bodies, looking from the head; 0 without it."""
    if found.sacrum_probability == 0 or len(found.bodies) < 2:
        return 0.0
    down = found.bodies[-1].centre - found.bodies[0].centre
    away = np.argwhere(found.sacrum).mean(axis=0) - found.bodies[-1].centre
    angle = np.arctan2(down[0] * away[1] - down[1] * away[0], float(down @ away))
    return float(np.tanh(angle / np.radians(20)) * found.sacrum_probability)


def head_is_up(found: FilmBodies, maps: Mapping[str, Map]) -> float:
    """-1 to 1: whether the bodies, ordered by rows, run from head to feet. 0: nothing tells.

    The network says it of every body; the sacrum follows at the lower end, and bodies grow towards it.

    Parameters
    ----------
    maps
        (rows, columns) each: "head", probability that the head lies towards row 0, "body" and "sacrum".
    """
    if len(found.bodies) < 2:
        return 0.0
    weight = np.where(found.labels > 0, maps["body"], 0.0)
    said = HEAD_WEIGHT * (2 * float((maps["head"] * weight).sum() / max(float(weight.sum()), 1e-9)) - 1)
    said += GROWTH_WEIGHT * _growth(found) + SACRUM_END_WEIGHT * _sacrum_end(found, maps["sacrum"])
    return float(np.clip(said, -1, 1))


def _growth(found: FilmBodies) -> float:
    """-1 to 1: whether bodies grow along the chain; 0 with few of them."""
    places = np.array([b.place for b in found.bodies], float)
    sizes = np.log([np.sqrt((found.labels == b.label).sum()) for b in found.bodies])
    whole = np.array([not b.partial for b in found.bodies])
    if whole.sum() < FEWEST_GROWING:
        return 0.0
    first, last = np.triu_indices(int(whole.sum()), 1)
    slopes = (sizes[whole][last] - sizes[whole][first]) / (places[whole][last] - places[whole][first])
    return float(np.clip(np.median(slopes) / GROWTH, -1, 1))


def _sacrum_end(found: FilmBodies, sacrum: Map) -> float:
    """Probability of the largest piece of S1, negative where it continues the chain at its upper end; 0 elsewhere."""
    pieces, count = ndimage.label(sacrum >= 0.5)
    if not count:
        return 0.0
    largest = pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    at = np.argwhere(largest).mean(axis=0)
    centres = np.array([b.centre for b in found.bodies])
    step = float(np.median(np.linalg.norm(np.diff(centres, axis=0), axis=1)))
    for end, before, says in ((-1, -2, 1.0), (0, 1, -1.0)):
        away = (centres[end] - centres[before]) / max(float(np.linalg.norm(centres[end] - centres[before])), 1e-9)
        from_end = (at - centres[end]) / step
        beyond = float(away @ from_end)
        beside = float(np.linalg.norm(from_end - beyond * away))
        if NEXT_BODY[0] <= beyond <= NEXT_BODY[1] and beside <= NEXT_BODY[1] / 2:
            return says * float(sacrum[largest].mean())
    return 0.0
