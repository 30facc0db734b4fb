"""The radiograph pipeline: every vertebral body of a lateral film outlined, measured and compared with its neighbours.

    exposed field -> CLAHE -> Gaussian -> shrink, zero padding    (`film_field`, `film_preparation`, `film_grid`)
                  -> network on the whole film                    (`film_sight`: bodies, centres, S1, front, view)
                  -> small ones out, voids filled, parted, chain  (`film_bodies`)
                  -> head up, front to the left or right          (`film_orientation`)
                  -> six points from the outline                  (`film_contour`, `film_checks`)
                  -> six points from a network on each body       (`film_points`; their disagreement is a flag)
                  -> cement and metal from a second one           (`film_foreign`)
                  -> names, compression ratios, grades            (`film_names`, `film_ratios`, `grading`)

What is shown lies on the film as it was sent, whichever way it was turned to be read. Without a pixel spacing in the
plane of the spine there are ratios and no millimetres. What cannot be said is refused or flagged, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon
from skimage.measure import find_contours

from inference import gaps, grading, screening
from inference.film_bodies import BodySettings, FilmBodies
from inference.film_checks import disagreement
from inference.film_contour import SixPoints, six_points
from inference.film_foreign import ForeignSettings, foreign_material
from inference.film_grid import TURNS, FilmGrid
from inference.film_names import FilmNames, NameSettings, named
from inference.film_orientation import FilmOrientation, front_side, header_turn
from inference.film_points import BodyCrops, OutlinedBody, PointSettings, body_crops, network_points
from inference.film_preparation import PreparedFilm, prepare
from inference.film_ratios import Compression, graded
from inference.film_sight import VIEWS, FilmSight, Look
from inference.film_vertebrae import MeasuredBody, untold, vertebra, with_names, without_side
from inference.findings import Findings, Heights, Numbering, PatientFinding, PixelSize, Quality
from inference.findings import VertebraFinding as Vertebra
from inference.geometry import Radiograph
from inference.grading import GradingRule
from inference.refusal import Refusal, RefusalCode
from inference.runtime import ModelRunError, Models
from inference.steps import Steps

PIPELINE, PIPELINE_VERSION = "radiograph", "1.6.0"
ADULT_YEARS = 18.0
BODY_MM = 25.0
"""Posterior height of a vertebral body, roughly: how coarse a grid is on a film whose pixels have no known size."""
UNGRADED = frozenset({Quality.LOW_CONFIDENCE})
"""A body that the network is unsure of has no grade: of healthy ones, more than a third would be called fractured."""
AS_SENT = 0.3
"""Evidence for the way that a film was sent, or that its header says: most films are sent upright."""


@dataclass(frozen=True)
class RadiographSettings:
    """Every threshold of the pipeline; a stage that is ``None`` is left out, and what it gives is not said.

    Attributes
    ----------
    network
        Name in the manifest of the network that sees the whole film.
    body_network
        Name of one that sees the bodies alone (the method's own), whose map then takes the place of ``network``'s;
        centres, S1, front and view are still the latter's.
    mirrored_too
        Look at the film's mirror image as well, and take the mean: what is told of the one must hold for the other.
    nearer_too
        Look again, nearer, where bodies are small: a film of the whole spine shows them half as large as others do.
    bodies
        From its maps to bodies.
    points
        The network that looks at each body again. Its points are told then, the outline's heights stand beside them,
        and it says itself which bodies it is sure of.
    foreign
        Which bodies hold cement or metal: they are not graded.
    names
        Names from the sacrum upwards, where it is seen.
    rule
        Cut-offs of losses and of G.
    lateral, lateral_by_header
        Least probability of a lateral spine; where the header says that the view is lateral the latter is enough.
    chest_films
        Whether lateral chest films are measured too.
    least_vertebrae
        Fewer whole bodies in a chain are not evaluated.
    sure_body, worst_misfit
        Below this mean probability, or above this part of its area between a body and its fitted outline, or without
        a centre of its own: ``LOW_CONFIDENCE``.
    sure_front
        Below this probability of the side of the front no anterior height is told from a posterior one:
        ``FRONT_UNSURE``.
    sure_head
        Below this evidence (-1 to 1) that the film's head is up, without S1 and a header that says it: ``HEAD_UNSURE``.
    upright
        Cosine of the angle between the chain and the rows' direction from which on a film stands upright.
    screening_age_years
        Younger patients are answered and flagged ``OUTSIDE_SCREENING_AGE``.
    """

    network: str = "film"
    body_network: str | None = None
    mirrored_too: bool = True
    nearer_too: bool = True
    bodies: BodySettings = field(default_factory=BodySettings)
    points: PointSettings | None = field(default_factory=PointSettings)
    foreign: ForeignSettings | None = field(default_factory=ForeignSettings)
    names: NameSettings | None = field(default_factory=NameSettings)
    rule: GradingRule = field(default_factory=GradingRule)
    lateral: float = 0.9
    lateral_by_header: float = 0.3
    chest_films: bool = False
    least_vertebrae: int = 3
    sure_body: float = 0.96
    worst_misfit: float = 0.15
    sure_front: float = 0.75
    sure_head: float = 0.2
    upright: float = 0.7
    screening_age_years: float = 50.0

    @property
    def networks(self) -> tuple[str, ...]:
        """Names in the manifest of the networks that these stages run."""
        stages = (stage.network for stage in (self.points, self.foreign) if stage is not None)
        return (self.network, *([self.body_network] if self.body_network is not None else []), *stages)


@dataclass(frozen=True)
class RadiographAnswer:
    """Findings, and what is drawn on the film as it was sent.

    Attributes
    ----------
    findings
        Always there; ``findings.refusal`` says why where nothing could be evaluated.
    labels
        uint8, (rows, columns) of the film: 0, or the ordinal of the vertebral body; ``None`` when nothing was found.
    outlines_px
        By ordinal: (n, 2) float64, (column, row) as `VertebraFinding.keypoints_px`, closed.
    sacrum_px
        The same of S1, where it was seen below the last vertebra.
    compressions
        By ordinal: with which vertebrae a compression ratio compares, and whether a neighbour was replaced.
    orientation
        How the film stands; ``None`` when that was not reached.
    view
        Probability of each of `VIEWS`; empty when that was not reached.
    """

    findings: Findings
    labels: NDArray[np.uint8] | None = None
    outlines_px: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    sacrum_px: NDArray[np.float64] | None = None
    compressions: dict[int, Compression] = field(default_factory=dict)
    orientation: FilmOrientation | None = None
    view: dict[str, float] = field(default_factory=dict)


def evaluate(
    film: Radiograph,
    models: Models,
    settings: RadiographSettings | None = None,
    age_years: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> RadiographAnswer:
    """Evaluate one film.

    Parameters
    ----------
    film
        As a reader sees it, and as it was sent.
    models
        Holds ``settings.networks``.
    age_years
        ``None`` where unknown.
    progress
        Called with a few words before each step.

    Returns
    -------
    The answer, also where nothing could be evaluated: the content of an image raises nothing.
    """
    run = _Run(models, settings or RadiographSettings(), film, Steps(progress))
    try:
        return run.evaluate(age_years)
    except _RefusedError as reason:
        return run.refused(reason.refusal)
    except ModelRunError as error:
        return run.refused(Refusal(RefusalCode.MODEL_FAILED, f"({error})"))


class _RefusedError(Exception):
    """Nothing can be said of this film."""

    def __init__(self, code: RefusalCode, detail: str = "") -> None:
        super().__init__(code)
        self.refusal = Refusal(code, detail)


@dataclass
class _Run:
    """One evaluation under way: what every answer carries, and the clock."""

    models: Models
    settings: RadiographSettings
    film: Radiograph
    step: Steps
    quality: tuple[Quality, ...] = ()
    spine_found: bool = False
    numbering: Numbering | None = None
    orientation: FilmOrientation | None = None
    view: dict[str, float] = field(default_factory=dict)

    @cached_property
    def look(self) -> Look:
        s = self.settings
        return Look(self.models, s.network, s.body_network, s.mirrored_too, s.bodies, s.nearer_too)

    def evaluate(self, age_years: float | None) -> RadiographAnswer:
        self._look_at_headers(age_years)

        with self.step("prepare"):
            prepared = prepare(self.film)

        with self.step("film"):
            seen = self._upright(prepared)
        self.view = seen.view
        self._need_lateral_spine(seen)

        with self.step("orientation"):
            front, body = seen.maps["front"], seen.maps["body"]
            self.orientation = front_side(front, body, seen.found, self.film.orientation, seen.turn)
            doubts = (
                (Quality.FRONT_UNSURE, self._front_is_unsure),
                (Quality.HEAD_UNSURE, self._head_is_unsure(seen)),
                (Quality.HEADER_CONTRADICTED, self.orientation.contradicts_header),
            )
            self.quality += tuple(doubt for doubt, so in doubts if so)

        with self.step("points"):
            measured = [self._measured(seen, n) for n in range(len(seen.found.bodies))]

        if self.settings.points is not None or self.settings.foreign is not None:
            with self.step("second look"):
                measured = self._looked_at_again(prepared, seen, measured)

        with self.step("names"):
            names = self._named(seen.found)
        self.numbering = names.numbering

        with self.step("grade"):
            vertebrae, compressed = self._graded(prepared, seen, measured, names)
            patient = grading.patient_finding(vertebrae, self.settings.rule)
            if self._front_is_unsure:
                vertebrae, compressed = tuple(without_side(v) for v in vertebrae), []

        with self.step("pictures"):
            outlines = {m.body.label: _outline(m.alone, seen.grid) for m in measured}
            answer = RadiographAnswer(
                findings=self._findings(patient, vertebrae),
                labels=_drawn(outlines, seen.grid.film_shape),
                outlines_px=outlines,
                sacrum_px=_outline(seen.found.sacrum.astype(np.float32), seen.grid) if seen.found.has_sacrum else None,
                compressions={n + 1: c for n, c in enumerate(compressed) if c is not None},
                orientation=self.orientation,
                view=self.view,
            )
        return replace(answer, findings=replace(answer.findings, timings_s=dict(self.step.timings_s)))

    def refused(self, refusal: Refusal) -> RadiographAnswer:
        """The answer "not evaluable"."""
        findings = self._findings(grading.patient_finding((), self.settings.rule), ())
        return RadiographAnswer(replace(findings, refusal=refusal), orientation=self.orientation, view=self.view)

    def _look_at_headers(self, age_years: float | None) -> None:
        if age_years is None:
            self.quality += (Quality.AGE_UNKNOWN,)
        elif age_years < ADULT_YEARS:
            raise _RefusedError(RefusalCode.AGE_BELOW_18)
        elif age_years < self.settings.screening_age_years:
            self.quality += (Quality.OUTSIDE_SCREENING_AGE,)
        if self.film.spacing_mm is None:
            self.quality += (Quality.UNCALIBRATED,)

    def _upright(self, film: PreparedFilm) -> FilmSight:
        """The film with its head up: as the header says where that looks right, else the turn that looks best."""
        first = self.look(film, header_turn(self.film.orientation) or 0)
        if self._stands(first):
            return first
        others = [self.look(film, turn) for turn in range(TURNS) if turn != first.turn]
        return max([first, *others], key=lambda seen: seen.evidence + AS_SENT * (seen is first))

    def _stands(self, seen: FilmSight) -> bool:
        enough = len(seen.whole) >= self.settings.least_vertebrae
        return enough and seen.upright >= self.settings.upright and seen.head_up >= -AS_SENT and self._is_lateral(seen)

    def _is_lateral(self, seen: FilmSight) -> bool:
        said = seen.view[VIEWS[0]] + (seen.view[VIEWS[2]] if self.settings.chest_films else 0.0)
        return said >= (self.settings.lateral_by_header if self.film.lateral else self.settings.lateral)

    def _need_lateral_spine(self, seen: FilmSight) -> None:
        """The view, told from the pixels and the header; then bodies enough in a chain that stands upright."""
        likeliest = max(seen.view, key=lambda name: seen.view[name])
        told = f"(It looks like: {likeliest}, {seen.view[likeliest]:.2f}.)"
        if not self._is_lateral(seen):
            if likeliest == "blank":
                raise _RefusedError(RefusalCode.NO_SPINE_FOUND)
            chest = likeliest in {"chest", "lateral chest"}
            raise _RefusedError(RefusalCode.CHEST_FILM if chest else RefusalCode.NOT_A_LATERAL_SPINE, told)
        if self.film.lateral is False:
            raise _RefusedError(RefusalCode.NOT_A_LATERAL_SPINE, "(The header says that the view is not lateral.)")
        if not seen.found.bodies:
            raise _RefusedError(RefusalCode.NO_SPINE_FOUND)
        self.spine_found = True
        if len(seen.whole) < self.settings.least_vertebrae or seen.upright < self.settings.upright:
            code = RefusalCode.TOO_LITTLE_SPINE if seen.whole else RefusalCode.NO_VERTEBRA_FOUND
            raise _RefusedError(code, f"({len(seen.whole)} whole vertebral bodies were seen in a row.)")

    def _measured(self, seen: FilmSight, n: int) -> MeasuredBody:
        """One body with its six points; none where it is cut."""
        body = seen.found.bodies[n]
        alone = seen.found.alone(body.label, seen.maps["body"])
        side = self.orientation.front if self.orientation is not None else -1
        six = None if body.partial else _on_film(six_points(alone, seen.found.up(n), side), seen)
        return MeasuredBody(body, alone, six, seen.grid.step)

    def _looked_at_again(self, film: PreparedFilm, seen: FilmSight, measured: list[MeasuredBody]) -> list[MeasuredBody]:
        """Bodies that have six points, each looked at by itself: for cement and metal, and measured once more."""
        outlined = [OutlinedBody(m.six, m.alone) for m in measured if m.six is not None]
        crops = body_crops(film, seen.grid, seen.maps["body"], outlined)
        if self.settings.foreign is not None:
            said = iter(foreign_material(crops, self.models, self.settings.foreign))
            measured = [replace(m, foreign=next(said)) if m.six is not None else m for m in measured]
        if self.settings.points is not None:
            measured = self._measured_again(crops, seen, measured, self.settings.points)
        return measured

    def _measured_again(
        self, crops: BodyCrops, seen: FilmSight, measured: list[MeasuredBody], settings: PointSettings
    ) -> list[MeasuredBody]:
        """Bodies with the network's points in place of the outline's, which stay beside them.

        Where it sees no upright body nothing is measured; where it doubts its own points those of the outline are
        told, with its doubt.
        """
        said = iter(network_points(crops, seen.grid, self.models, settings.network))
        again = []
        for m in measured:
            if m.six is None:
                again.append(m)
                continue
            second = next(said)
            points = _on_film(second.six, seen)
            if not second.is_body:
                again.append(replace(m, six=None))
            elif second.spread > settings.unsure or points is None:
                again.append(replace(m, spread=max(second.spread, settings.unsure)))
            else:
                apart = disagreement(m.six, points) > settings.agreement
                again.append(
                    replace(m, six=points, step=second.step, outlined=m.six, disagrees=apart, spread=second.spread)
                )
        return again

    def _named(self, found: FilmBodies) -> FilmNames:
        if self.settings.names is None:
            nothing = (None,) * len(found.bodies)
            return FilmNames(nothing, nothing, None)
        return named(found, self.settings.names)

    def _graded(
        self, film: PreparedFilm, seen: FilmSight, measured: list[MeasuredBody], names: FilmNames
    ) -> tuple[tuple[Vertebra, ...], list[Compression | None]]:
        """Vertebrae with heights, ratios and grades, and how each was compared."""
        calibrated, front_unsure = self.film.spacing_mm is not None, self._front_is_unsure
        vertebrae = [
            vertebra(m, film, seen.grid, calibrated=calibrated, sure=self._is_sure(m), front_unsure=front_unsure)
            for m in measured
        ]
        places = [m.body.place for m in measured]
        vertebrae = list(gaps.with_gaps(vertebrae, _missing(names, places)))
        vertebrae = with_names(vertebrae, names)
        spacing = self._spacing_mm(seen, measured)
        fine = [self.settings.rule.heights_are_told(s) for s in spacing]
        vertebrae = [v if f else untold(v) for v, f in zip(vertebrae, fine, strict=True)]
        heights = [
            Heights(*(float(h) for h in m.six.heights)) if m.six is not None and f else None
            for m, f in zip(measured, fine, strict=True)
        ]
        centres = np.array([m.body.centre for m in measured])
        positions = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(centres, axis=0), axis=1))])
        coarsest = max((s for s, h in zip(spacing, heights, strict=True) if h is not None), default=0.0)
        said, compressed = graded(vertebrae, heights, places, positions.tolist(), coarsest, self.settings.rule)
        return tuple(_without_reasons(v) for v in screening.safely_graded(said, UNGRADED)), compressed

    def _spacing_mm(self, seen: FilmSight, measured: list[MeasuredBody]) -> list[float]:
        """Spacing of the grid on which each body was measured; by the size of bodies where mm are not known."""
        posterior = [float(m.six.heights[2]) * seen.grid.step for m in measured if m.six is not None]
        unknown = self.film.spacing_mm is None and posterior
        mm = BODY_MM / float(np.median(posterior)) if unknown else 1.0
        return [m.step * mm for m in measured]

    @property
    def _front_is_unsure(self) -> bool:
        return self.orientation is not None and self.orientation.confidence < self.settings.sure_front

    def _head_is_unsure(self, seen: FilmSight) -> bool:
        """Neither the network nor S1 nor the header says it."""
        told = seen.found.has_sacrum or header_turn(self.film.orientation) == seen.turn
        return not told and seen.head_up < self.settings.sure_head

    def _is_sure(self, measured: MeasuredBody) -> bool:
        """By what the second network expects of its own heights, else by how surely and how well the body was seen."""
        if measured.six is None or not measured.body.seeded:
            return False
        if measured.spread is not None and self.settings.points is not None:
            return measured.spread <= self.settings.points.sure
        well = measured.six.misfit <= self.settings.worst_misfit
        return well and measured.body.probability >= self.settings.sure_body

    def _findings(self, patient: PatientFinding, vertebrae: tuple[Vertebra, ...]) -> Findings:
        known = self.numbering is not None and self.numbering.known
        return Findings(
            pipeline=PIPELINE,
            pipeline_version=PIPELINE_VERSION,
            provider=self.models.provider,
            models=self.models.identities,
            patient=patient,
            vertebrae=vertebrae,
            spine_found=self.spine_found,
            numbering=self.numbering,
            quality=self.quality if known else (Quality.LEVELS_UNKNOWN, *self.quality),
            pixel_size=PixelSize(self.film.spacing_mm, self.film.spacing_source),
            timings_s=dict(self.step.timings_s),
        )


def _without_reasons(vertebra: Vertebra) -> Vertebra:
    """An unsure body without the flags that say what its grade rests on, since it has none."""
    if UNGRADED.isdisjoint(vertebra.quality):
        return vertebra
    of_grade = (Quality.G_ONLY, Quality.MILD_NOT_REPORTED)
    return replace(vertebra, quality=tuple(flag for flag in vertebra.quality if flag not in of_grade))


def _missing(names: FilmNames, places: Sequence[int]) -> list[int]:
    """How many bodies were not seen between each and the next one; ``places`` in the sequence, by the distance."""
    return gaps.missing_between(names.levels, [below - above - 1 for above, below in pairwise(places)])


def _on_film(six: SixPoints | None, seen: FilmSight) -> SixPoints | None:
    """The six points; ``None`` where one of them lies outside the image: nothing could be drawn along them."""
    if six is None:
        return None
    points = seen.grid.image_points(six.points)
    columns_rows = np.array(seen.grid.film_shape[::-1])
    return six if ((points >= 0) & (points <= columns_rows)).all() else None


def _outline(alone: NDArray[np.float32], grid: FilmGrid) -> NDArray[np.float64]:
    """The longest line (n, 2) at one half around a body, (column, row) on the film."""
    lines = find_contours(np.pad(alone, 1), 0.5)
    longest = max(lines, key=len)
    return grid.image_points(longest - 1)


def _drawn(outlines: dict[int, NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 of a film's shape: the ordinal of the body whose outline holds a pixel's centre."""
    out = np.zeros(shape, np.uint8)
    for ordinal, outline in outlines.items():
        rows, columns = polygon(outline[:, 1] - 0.5, outline[:, 0] - 0.5, shape)
        out[rows, columns] = ordinal
    return out
