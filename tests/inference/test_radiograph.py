"""The whole radiograph pipeline on drawn films whose points are known: measured, laid down, cut, refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from toy_film import MAPS, Body, ToyFilm, filmed, models, network, spine
from toy_spine import ToySession

from inference.film_contour import SixPoints, six_points
from inference.film_foreign import ForeignSettings
from inference.film_grid import whole_film
from inference.film_names import NameSettings
from inference.film_points import CHANNELS, SIZE, PointSettings, crop_grid
from inference.findings import KEYPOINTS, Grade, Level, Quality
from inference.geometry import Radiograph
from inference.grading import height_uncertainty_mm
from inference.radiograph import RadiographAnswer, RadiographSettings, evaluate
from inference.refusal import RefusalCode

SPACING = 0.7
HEIGHTS = [(33.0, 31.0, 35.0), (34.0, 32.0, 36.0), (22.0, 27.0, 36.0), (36.0, 33.0, 38.0), (37.0, 34.0, 38.0)]
HEADERS = {
    "upright": ("P", "F"),
    "mirrored": ("A", "F"),
    "head down": ("P", "H"),
    "turned half": ("A", "H"),
    "turned left": ("F", "A"),
    "turned right": ("H", "P"),
}


@pytest.fixture(scope="module")
def film() -> ToyFilm:
    """Five bodies, the third a wedge, and S1; the front to the left."""
    bodies = spine([*HEIGHTS, (34.0, 31.0, 36.0)], top=(60, 170), depth=50.0, bend=0.08, tilt=-0.2, disc=11, waist=0.05)
    return filmed(bodies[:-1], bodies[-1])


def chosen(**settings: Any) -> RadiographSettings:
    """Settings with names and outlines alone; the drawn bodies are a little less sure than those that are told of a
    real film."""
    return RadiographSettings(
        **{"points": None, "foreign": None, "names": NameSettings(sure_sacrum=0.8), "sure_body": 0.9} | settings
    )


def answered(
    film: ToyFilm,
    spacing: float | None = SPACING,
    orientation: tuple[str, str] | None = None,
    settings: RadiographSettings | None = None,
    lateral: bool | None = None,
    age_years: float | None = 70.0,
    **seen,
) -> RadiographAnswer:
    square = (spacing, spacing) if spacing is not None else None
    radiograph = Radiograph(film.pixels, square, orientation=orientation, lateral=lateral, spacing_source="a test")
    return evaluate(radiograph, models(network(film, **seen)), settings or chosen(), age_years)


def assert_points_lie_on(film: ToyFilm, answer: RadiographAnswer, within: float = 1.5) -> None:
    """Each end plate point is the drawn one: on the image as it was sent, first pixel's centre at (0.5, 0.5)."""
    found = answer.findings.vertebrae
    assert [v.ordinal for v in found] == list(range(1, len(film.points) + 1))
    for vertebra, true in zip(found, film.points, strict=True):
        assert vertebra.keypoints_px is not None
        points = np.array([vertebra.keypoints_px[name] for name in KEYPOINTS])
        apart = np.linalg.norm(points - (true[:, ::-1] + 0.5), axis=1)
        assert apart[[0, 1, 4, 5]].max() < within
        assert apart[[2, 3]].max() < within + 5  # along the plates, to where they are deepest


def test_heights_are_told_in_millimetres_where_they_are_known(film: ToyFilm) -> None:
    answer = answered(film)
    found = answer.findings
    assert found.refusal is None and found.pipeline == "radiograph" and found.spine_found
    assert_points_lie_on(film, answer)
    told = np.array([v.heights_mm.as_tuple() for v in found.vertebrae])
    assert np.abs(told / SPACING - film.heights).max() < 1.2  # of the film's pixels; the network's are twice as large
    assert all(v.height_uncertainty_mm == pytest.approx(0.92, abs=0.1) for v in found.vertebrae)
    assert found.pixel_size.spacing_mm == (SPACING, SPACING)
    assert set(found.timings_s) == {"prepare", "film", "orientation", "points", "names", "grade", "pictures"}


def test_the_wedge_is_compared_and_graded(film: ToyFilm) -> None:
    answer = answered(film)
    wedge = answer.findings.vertebrae[2]
    h = film.heights
    assert wedge.compression_ratio_percent == pytest.approx(100 * (1 - h[2, 0] / ((h[1, 0] + h[3, 0]) / 2)), abs=3)
    assert wedge.grade is Grade.MODERATE and wedge.rule == "height-loss/1"
    assert wedge.height_ratio == pytest.approx(h[2].min() / h[2].max(), abs=0.03)
    assert wedge.relative_heights.anterior == pytest.approx(h[2, 0] / h[2, 2], abs=0.03)
    assert answer.findings.patient.flag is True
    assert wedge.compared_with == (2, 4)
    assert answer.compressions[3].references == (2, 4) and not answer.compressions[3].replaced
    assert answer.compressions[2].references == (1, 4) and answer.compressions[2].replaced
    ends = [answer.findings.vertebrae[n] for n in (0, -1)]
    assert all(v.compression_ratio_percent is None and Quality.G_ONLY in v.quality for v in ends)


def test_labels_and_outlines_lie_on_the_film_as_it_was_sent(film: ToyFilm) -> None:
    answer = answered(film)
    assert answer.labels.shape == film.pixels.shape and answer.labels.dtype == np.uint8
    seen, true = answer.labels > 0, film.body >= 0.5
    assert 2 * (seen & true).sum() / (seen.sum() + true.sum()) > 0.97
    for ordinal, outline in answer.outlines_px.items():
        row, column = np.argwhere(answer.labels == ordinal).mean(axis=0)
        np.testing.assert_allclose(outline.mean(axis=0), [column + 0.5, row + 0.5], atol=4)
        np.testing.assert_allclose(outline[0], outline[-1])
    assert answer.sacrum_px is not None


@pytest.mark.parametrize("how", HEADERS)
@pytest.mark.parametrize("said", [True, False], ids=["by the header", "by the pixels"])
def test_results_lie_on_the_image_however_it_was_laid(film: ToyFilm, how: str, said: bool) -> None:
    laid = film.laid(how)
    answer = answered(laid, orientation=HEADERS[how] if said else None)
    assert answer.findings.refusal is None
    assert_points_lie_on(laid, answer)
    assert answer.orientation.contradicts_header is False
    assert [v.level for v in answer.findings.vertebrae][-1] is Level.L5


@pytest.mark.parametrize("header", [("A", "F"), ("P", "H"), ("F", "A"), ("L", "F")])
def test_a_wrong_header_is_outvoted_and_that_is_said(film: ToyFilm, header: tuple[str, str]) -> None:
    answer = answered(film, orientation=header)
    assert_points_lie_on(film, answer)
    assert answer.orientation.contradicts_header is (header != ("L", "F"))
    assert (Quality.HEADER_CONTRADICTED in answer.findings.quality) is (header != ("L", "F"))


def test_without_a_spacing_there_are_ratios_and_no_millimetres(film: ToyFilm) -> None:
    known, unknown = answered(film), answered(film, spacing=None)
    assert Quality.UNCALIBRATED in unknown.findings.quality
    assert unknown.findings.pixel_size.spacing_mm is None and unknown.findings.pixel_size.source == "a test"
    for a, b in zip(known.findings.vertebrae, unknown.findings.vertebrae, strict=True):
        assert b.heights_mm is None and b.height_uncertainty_mm is None
        assert b.grade is a.grade
        assert b.height_ratio == pytest.approx(a.height_ratio)
        assert b.compression_ratio_percent == pytest.approx(a.compression_ratio_percent)


def test_pixels_that_are_no_squares_do_not_bend_ratios(film: ToyFilm) -> None:
    flat = replace(
        film,
        **{n: getattr(film, n)[::2] for n in ("pixels", "body", "centre", "sacrum")},
        points=film.points * [0.5, 1],
    )
    known = network(film)
    session = ToySession(
        {n: (lambda inputs, n=n: known.run([n], inputs)[0]) for n in MAPS},
    )
    answer = evaluate(Radiograph(flat.pixels, aspect=2.0), models(session), chosen(), 70)
    square = answered(film, spacing=None)
    for a, b in zip(answer.findings.vertebrae, square.findings.vertebrae, strict=True):
        assert a.height_ratio == pytest.approx(b.height_ratio, abs=0.03)
        np.testing.assert_allclose(np.array(a.centroid_px) * [1, 2], b.centroid_px, atol=2)


def test_a_side_that_is_told_of_the_mirror_image_too_is_no_side(film: ToyFilm) -> None:
    session = network(replace(film, sacrum=np.zeros_like(film.sacrum)))
    always_left = ToySession({n: (lambda inputs, n=n: session.run([n], inputs)[0]) for n in MAPS})
    always_left._outputs["front"] = lambda inputs: np.full_like(inputs["film"], 0.95)
    radiograph = Radiograph(film.pixels, (SPACING, SPACING))
    once, twice = (
        evaluate(radiograph, models(always_left), chosen(mirrored_too=mirrored)).findings for mirrored in (False, True)
    )
    assert Quality.FRONT_UNSURE in twice.quality and Quality.FRONT_UNSURE not in once.quality
    assert len(once.vertebrae) == len(twice.vertebrae) == len(HEIGHTS)


def test_names_need_the_sacrum(film: ToyFilm) -> None:
    named = answered(film).findings
    assert [v.level for v in named.vertebrae] == [Level.L1, Level.L2, Level.L3, Level.L4, Level.L5]
    assert named.numbering.anchor == "sacrum" and named.numbering.confidence == pytest.approx(0.86, abs=0.05)
    assert Quality.LEVELS_UNKNOWN not in named.quality
    without = answered(replace(film, sacrum=np.zeros_like(film.sacrum))).findings
    assert all(v.level is None for v in without.vertebrae) and without.numbering is None
    assert Quality.LEVELS_UNKNOWN in without.quality
    off = answered(film, settings=chosen(names=None)).findings
    assert all(v.level is None for v in off.vertebrae)


def test_a_body_that_the_network_is_unsure_of_has_no_grade_and_flags_nobody(film: ToyFilm) -> None:
    sure = answered(film).findings
    assert sure.vertebrae[2].grade is Grade.MODERATE and sure.patient.flag is True
    body = film.body.copy()
    rows = film.points[2][:, 0]
    body[int(rows.min()) - 4 : int(rows.max()) + 5] *= 0.85  # the third one, the wedge
    unsure = answered(replace(film, body=body)).findings
    third = unsure.vertebrae[2]
    assert Quality.LOW_CONFIDENCE in third.quality
    assert third.grade is None and third.rule is None and third.compression_ratio_percent is None
    assert third.heights_mm is not None and third.keypoints_px is not None
    assert unsure.patient.flag is False


def test_a_body_cut_by_the_collimator_is_marked_and_not_measured(film: ToyFilm) -> None:
    pixels, body = film.pixels.copy(), film.body.copy()
    edge = int(film.points[0, :, 0].mean())
    pixels[:edge], body[:edge] = 0.0, 0.0
    cut = replace(film, pixels=pixels, body=body)
    answer = answered(cut)
    first, second = answer.findings.vertebrae[:2]
    assert first.quality == (Quality.PARTIAL,) and first.grade is None
    assert first.keypoints_px is None and first.heights_mm is None and first.height_ratio is None
    assert second.compression_ratio_percent is None and second.heights_mm is not None


def points_network(film: ToyFilm, off_px: float = 0.0) -> ToySession:
    """A network that knows the film's points in every crop; the upper front point is ``off_px`` of the film too low."""
    found = evaluate(Radiograph(film.pixels, (SPACING, SPACING)), models(network(film)), chosen(), 70).findings

    def answer(inputs):
        seen = [n for n, v in enumerate(found.vertebrae) if v.keypoints_px is not None]
        assert inputs["crops"].shape == (len(seen), CHANNELS, SIZE, SIZE)
        middle = slice(3 * SIZE // 8, 5 * SIZE // 8)
        shown, bodies, alone = inputs["crops"].swapaxes(0, 1)
        assert shown[:, middle, middle].mean() > shown.mean()  # the body is in the middle
        assert bodies[:, middle, middle].mean() > 0.85 and alone[:, middle, middle].mean() > 0.85
        assert bodies[:, :3].max() > 0.5 and alone[:, :3].max() == 0  # neighbours are seen, and are not this body
        out = []
        for n in seen:
            grid = whole_film(film.pixels.shape, (SPACING, SPACING), 256)
            crop = crop_grid(grid, SixPoints(grid.to_grid(film.points[n]), axes_of(film.points[n])))
            points = crop.to_grid(film.points[n])
            points[0, 0] += off_px * SPACING / crop.step
            out.append(points)
        return np.array(out, np.float32)

    return ToySession({"points": answer, "spread": lambda inputs: np.ones((len(inputs["crops"]), 3), np.float32)})


def axes_of(points: np.ndarray) -> np.ndarray:
    """To the back and to the head, from six points of a body."""
    up = (points[0::2] - points[1::2]).mean(axis=0)
    up /= np.linalg.norm(up)
    back = points[4:].mean(axis=0) - points[:2].mean(axis=0)
    back -= (back @ up) * up
    return np.stack([back / np.linalg.norm(back), up])


@pytest.mark.parametrize(("off_px", "disagree"), [(0.0, False), (6.0, True)])
def test_points_of_a_second_network_are_told_and_compared(film: ToyFilm, off_px: float, disagree: bool) -> None:
    both = models(network(film))
    both = replace(both, sessions={**both.sessions, "film_points": points_network(film, off_px)})
    settings = chosen(points=PointSettings())
    assert settings.networks == ("film", "film_points")
    answer = evaluate(Radiograph(film.pixels, (SPACING, SPACING)), both, settings, 70)
    alone = answered(film).findings
    for second, first, h in zip(answer.findings.vertebrae, alone.vertebrae, film.heights, strict=True):
        assert (Quality.MASK_DISAGREES in second.quality) is disagree
        assert second.mask_heights_mm == first.heights_mm
        assert second.mask_relative_heights == first.relative_heights
        assert first.mask_relative_heights is None, "one way alone has nothing beside it"
        assert second.heights_mm.anterior == pytest.approx(SPACING * (h[0] - off_px), abs=0.5)
        assert second.heights_mm.posterior == pytest.approx(SPACING * h[2], abs=0.5)


def test_both_ways_are_told_without_millimetres_too(film: ToyFilm) -> None:
    both = models(network(film))
    both = replace(both, sessions={**both.sessions, "film_points": points_network(film, 6.0)})
    told = evaluate(Radiograph(film.pixels), both, chosen(points=PointSettings()), 70).findings
    alone = answered(film, spacing=None).findings
    for second, first in zip(told.vertebrae, alone.vertebrae, strict=True):
        assert second.mask_heights_mm is None
        assert second.mask_relative_heights.as_tuple() == pytest.approx(first.relative_heights.as_tuple())
        assert Quality.MASK_DISAGREES in second.quality


def test_points_of_which_the_network_is_not_sure_leave_those_of_the_outline(film: ToyFilm) -> None:
    known = points_network(film, 6.0)
    session = ToySession(
        {
            "points": lambda inputs: known.run(["points"], inputs)[0],
            "spread": lambda inputs: np.array([[1.0, 1.0, 1.0]] + [[1.0, 1.0, 20.0]] * 4, np.float32),
        }
    )
    both = models(network(film))
    both = replace(both, sessions={**both.sessions, "film_points": session})
    answer = evaluate(Radiograph(film.pixels, (SPACING, SPACING)), both, chosen(points=PointSettings()), 70)
    found = answer.findings.vertebrae
    told = [v.heights_mm for v in found]
    alone = [v.heights_mm for v in answered(film).findings.vertebrae]
    assert told[0] != alone[0] and told[1:] == alone[1:]
    assert [Quality.MASK_DISAGREES in v.quality for v in found] == [True] + [False] * 4, "nothing was compared"
    assert [Quality.LOW_CONFIDENCE in v.quality for v in found] == [False] + [True] * 4
    assert all(v.grade is None and v.compression_ratio_percent is None for v in found[1:])
    assert answer.findings.patient.flag is not True, "the wedge is among those that it doubts"
    assert found[2].height_uncertainty_mm == pytest.approx(1.25 * 20 * 2 * 50 * SPACING / SIZE, rel=0.2)


def test_the_second_network_says_which_bodies_are_sure(film: ToyFilm) -> None:
    known = points_network(film)
    session = ToySession(
        {
            "points": lambda inputs: known.run(["points"], inputs)[0],
            "spread": lambda inputs: np.array([[1.0, 1.0, 1.0]] * 3 + [[1.0, 3.0, 1.0]] * 2, np.float32),
        }
    )
    dim = replace(film, body=0.9 * film.body)  # the first one is sure of none
    first, both = models(network(dim)), models(network(dim))
    both = replace(both, sessions={**both.sessions, "film_points": session})
    alone = evaluate(Radiograph(film.pixels, (SPACING, SPACING)), first, chosen(), 70).findings.vertebrae
    told = evaluate(Radiograph(film.pixels, (SPACING, SPACING)), both, chosen(points=PointSettings()), 70)
    assert all(Quality.LOW_CONFIDENCE in v.quality and v.grade is None for v in alone)
    reasons = {Quality.G_ONLY, Quality.MILD_NOT_REPORTED}
    assert all(reasons.isdisjoint(v.quality) for v in alone), "there is no grade that would rest on anything"
    doubted = [Quality.LOW_CONFIDENCE in v.quality for v in told.findings.vertebrae]
    assert doubted == [False, False, False, True, True]
    assert [v.grade is None for v in told.findings.vertebrae] == doubted
    sure, unsure = (told.findings.vertebrae[n].height_uncertainty_mm for n in (0, 4))
    assert sure == pytest.approx(unsure / 3, rel=0.1) and sure > height_uncertainty_mm(SPACING)
    assert unsure == pytest.approx(1.25 * 3.0 * 2 * 50 * SPACING / SIZE, rel=0.1)  # 3 pixels of a crop of 2 depths


def test_points_that_make_no_body_are_no_end_plates(film: ToyFilm) -> None:
    nonsense = ToySession(
        {
            "points": lambda inputs: np.full((len(inputs["crops"]), 6, 2), 20, np.float32),
            "spread": lambda inputs: np.ones((len(inputs["crops"]), 3), np.float32),
        }
    )
    both = models(network(film))
    both = replace(both, sessions={**both.sessions, "film_points": nonsense})
    answer = evaluate(Radiograph(film.pixels, (SPACING, SPACING)), both, chosen(points=PointSettings()), 70)
    assert len(answer.findings.vertebrae) == 5 and answer.findings.patient.flag is None
    assert all(Quality.NO_END_PLATES in v.quality and v.heights_mm is None for v in answer.findings.vertebrae)


def foreign_network(*probabilities: float) -> ToySession:
    """Tells these of the bodies, from the head."""
    return ToySession({"foreign": lambda inputs: np.array(probabilities, np.float32)[: len(inputs["crops"])]})


def test_a_body_with_cement_or_metal_is_measured_but_neither_graded_nor_a_reference(film: ToyFilm) -> None:
    both = models(network(film))
    told = foreign_network(0.0, 0.96, 0.94, 0.0, 0.0)
    both = replace(both, sessions={**both.sessions, "film_foreign": told})
    settings = chosen(foreign=ForeignSettings())
    assert settings.networks == ("film", "film_foreign")
    answer = evaluate(Radiograph(film.pixels, (SPACING, SPACING)), both, settings, 70)
    found, alone = answer.findings.vertebrae, answered(film).findings.vertebrae
    assert [Quality.FOREIGN_MATERIAL in v.quality for v in found] == [False, True, False, False, False]
    assert [v.heights_mm for v in found] == [v.heights_mm for v in alone]
    assert [v.grade is None for v in found] == [False, True, False, False, False]
    assert found[1].rule is None and Quality.G_ONLY not in found[1].quality
    assert alone[2].compared_with == (2, 4)
    assert found[2].compared_with == (1, 4) and answer.compressions[3].replaced


def test_a_fracture_with_cement_flags_nobody(film: ToyFilm) -> None:
    both = models(network(film))
    assert answered(film).findings.patient.flag is True, "the third one is a wedge"
    both = replace(both, sessions={**both.sessions, "film_foreign": foreign_network(0.0, 0.0, 0.97, 0.0, 0.0)})
    patient = evaluate(Radiograph(film.pixels), both, chosen(foreign=ForeignSettings()), 70).findings.patient
    assert patient.flag is False


def test_both_networks_look_at_the_same_bodies(film: ToyFilm) -> None:
    """Where the six points make no body the flag stays: why nothing was measured may lie in the cement."""
    crops = []
    points = ToySession(
        {
            "points": lambda inputs: (crops.append(inputs["crops"]), np.full((len(inputs["crops"]), 6, 2), 20.0))[1],
            "spread": lambda inputs: np.ones((len(inputs["crops"]), 3), np.float32),
        }
    )
    cement = ToySession({"foreign": lambda inputs: (crops.append(inputs["crops"]), np.full(5, 0.97))[1]})
    both = models(network(film))
    both = replace(both, sessions={**both.sessions, "film_points": points, "film_foreign": cement})
    settings = chosen(points=PointSettings(), foreign=ForeignSettings())
    found = evaluate(Radiograph(film.pixels), both, settings, 70).findings.vertebrae
    assert crops[0].shape == (5, CHANNELS, SIZE, SIZE)
    assert np.array_equal(*crops)
    assert all({Quality.FOREIGN_MATERIAL, Quality.NO_END_PLATES} <= set(v.quality) for v in found)


@pytest.mark.parametrize(
    ("head_up", "with_sacrum", "header", "unsure"),
    [
        (0.45, False, None, True),
        (0.45, True, None, False),
        (0.45, False, ("P", "F"), False),
        (0.95, False, None, False),
    ],
)
def test_where_neither_pixels_nor_header_tell_the_head_that_is_said(
    head_up: float, with_sacrum: bool, header: tuple[str, str] | None, unsure: bool
) -> None:
    even = [(34.0, 31.0, 36.0)] * 6  # bodies that do not grow tell nothing either
    bodies = spine(even, top=(60, 170), depth=50.0, disc=11)
    seen = filmed(bodies[:-1], bodies[-1] if with_sacrum else None)
    found = answered(seen, orientation=header, head_up=head_up).findings
    assert found.refusal is None and (Quality.HEAD_UNSURE in found.quality) is unsure


def test_above_the_last_name_bodies_are_flagged_and_those_above_t4_have_no_grade() -> None:
    bodies = spine([(14.0, 13.0, 15.0)] * 19, top=(14, 170), depth=24.0, disc=7)
    film = filmed(bodies[:-1], bodies[-1])
    doubted = np.where(np.indices(film.body.shape)[0] < bodies[8].centre[0], 0.85, 1.0)  # where the names end
    settings = chosen(sure_body=0.5, names=NameSettings(sure_sacrum=0.5, sure_body=0.8))
    found = answered(replace(film, body=film.body * doubted), settings=settings).findings
    levels = [v.level for v in found.vertebrae]
    assert len(levels) == 18 and levels[-1] is Level.L5 and levels[:5] == [None] * 5
    assert [Quality.NOT_NAMED in v.quality for v in found.vertebrae] == [level is None for level in levels]
    graded = [v.grade is not None for v in found.vertebrae if v.heights_mm is not None]
    assert graded == [False] * 4 + [True] * 14, "C7, T1, T2, T3 would be the first four"


def test_above_a_vertebra_that_was_not_seen_the_gap_is_flagged() -> None:
    bodies = spine([(34.0, 31.0, 36.0)] * 7, top=(40, 170), depth=50.0, disc=11)
    answer = answered(filmed([b for n, b in enumerate(bodies) if n != 3]))
    gaps = [Quality.GAP_BELOW in v.quality for v in answer.findings.vertebrae]
    assert gaps == [False, False, True, False, False, False]
    assert answer.compressions[3].replaced and answer.compressions[3].references == (2, 4)


@pytest.mark.parametrize("spacing", [SPACING, None])
def test_of_an_unknown_side_nothing_is_told_that_needs_it(film: ToyFilm, spacing: float | None) -> None:
    silent = replace(film, sacrum=np.zeros_like(film.sacrum))
    answer, sure = answered(silent, spacing, front=0.55), answered(silent, spacing)
    found = answer.findings
    assert answer.orientation.confidence < 0.75 and answer.compressions == {}
    assert Quality.FRONT_UNSURE in found.quality and Quality.FRONT_UNSURE not in sure.findings.quality
    assert (answer.labels == sure.labels).all() and answer.outlines_px.keys() == sure.outlines_px.keys()
    assert found.patient == sure.findings.patient and found.patient.flag is True
    for told, known in zip(found.vertebrae, sure.findings.vertebrae, strict=True):
        assert Quality.FRONT_UNSURE in told.quality and Quality.LOW_CONFIDENCE not in told.quality
        assert told.compression_ratio_percent is None and told.relative_heights is None
        assert told.heights_mm is None and told.height_loss is None
        assert told.mask_heights_mm is None and told.mask_relative_heights is None
        assert set(told.keypoints_px) == {"middle_superior", "middle_inferior"}
        assert told.grade is known.grade  # a loss is one on whichever side
        assert told.height_ratio == pytest.approx(known.height_ratio, abs=0.01)
        middle = known.heights_mm.middle if spacing is not None else None
        assert told.without_side.middle_mm == (None if middle is None else pytest.approx(middle, abs=0.1))
        if known.height_loss is not None:
            a, m, p = known.height_loss.as_tuple()
            assert told.without_side.middle_loss == pytest.approx(m, abs=0.01)
            assert told.without_side.wall_loss == pytest.approx(max(a, p), abs=0.01)


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_mild_loss_is_told_by_the_spacing_of_the_grid(film: ToyFilm, calibrated: bool) -> None:
    """Of a film of the same pixels of which the network sees each body half or a third as fine."""
    mild = spine(
        [HEIGHTS[0], HEIGHTS[1], (26.5, 28.0, 36.5), *HEIGHTS[3:]], top=(60, 170), depth=50.0, disc=11, waist=0.05
    )
    small = filmed(mild)
    for times, flags in ((1, set()), (1.6, {Quality.MILD_NOT_REPORTED}), (3.5, {Quality.HEIGHTS_NOT_TOLD})):
        wide = padded(small, times)
        found = answered(wide, SPACING if calibrated else None).findings
        third = next(v for v in found.vertebrae if abs(v.centroid_px[1] - small.points[2, :, 0].mean()) < 15)
        assert flags <= set(third.quality)
        assert (third.grade is Grade.MILD) is (not flags)
        if Quality.HEIGHTS_NOT_TOLD in flags:
            assert all(v.keypoints_px is None and v.heights_mm is None for v in found.vertebrae)
        elif calibrated:
            step = SPACING * max(wide.pixels.shape) / 256
            assert third.height_uncertainty_mm == pytest.approx(height_uncertainty_mm(step))


def padded(film: ToyFilm, times: float) -> ToyFilm:
    """The film with so much empty ground below and to the right that it is so many times as large."""
    more = [(0, round((times - 1) * n)) for n in film.pixels.shape]
    maps = {n: np.pad(getattr(film, n), more) for n in ("body", "centre", "sacrum")}
    return replace(film, pixels=np.pad(film.pixels, more, mode="edge"), **maps)


def test_a_point_outside_the_image_leaves_its_vertebra_without_end_plates(
    film: ToyFilm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference import radiograph

    def beyond(body, up, front):
        six = six_points(body, up, front)
        uppermost = np.argwhere(body >= 0.5)[:, 0].min() < 40
        return replace(six, points=six.points - [100.0, 0.0]) if uppermost else six

    monkeypatch.setattr(radiograph, "six_points", beyond)
    first, second, *_ = answered(film).findings.vertebrae
    assert first.quality == (Quality.NO_END_PLATES,)
    assert first.keypoints_px is None and first.heights_mm is None and first.grade is None
    assert second.keypoints_px is not None and second.compression_ratio_percent is None


@pytest.mark.parametrize(
    ("view", "code"),
    [
        ("AP spine", RefusalCode.NOT_A_LATERAL_SPINE),
        ("other", RefusalCode.NOT_A_LATERAL_SPINE),
        ("chest", RefusalCode.CHEST_FILM),
        ("lateral chest", RefusalCode.CHEST_FILM),
        ("blank", RefusalCode.NO_SPINE_FOUND),
    ],
)
def test_other_views_are_refused(film: ToyFilm, view: str, code: RefusalCode) -> None:
    answer = answered(film, view=view)
    assert answer.findings.refusal.code is code
    assert answer.findings.vertebrae == () and answer.findings.patient.flag is None
    assert answer.labels is None and answer.view[view] == pytest.approx(0.95)


def test_lateral_chest_films_are_measured_where_a_site_wants_it(film: ToyFilm) -> None:
    answer = answered(film, view="lateral chest", settings=chosen(chest_films=True))
    assert answer.findings.refusal is None and len(answer.findings.vertebrae) == 5


def test_an_unsure_view_is_decided_by_the_header(film: ToyFilm) -> None:
    assert answered(film, sure=0.4).findings.refusal.code is RefusalCode.NOT_A_LATERAL_SPINE
    assert answered(film, sure=0.4, lateral=True).findings.refusal is None
    assert answered(film, lateral=False).findings.refusal.code is RefusalCode.NOT_A_LATERAL_SPINE


def test_two_bodies_are_too_few() -> None:
    few = filmed(spine(HEIGHTS[:2], top=(200, 170), depth=50.0, disc=11))
    answer = answered(few)
    assert answer.findings.refusal.code is RefusalCode.TOO_LITTLE_SPINE and answer.findings.spine_found


def test_nothing_seen_is_no_spine(film: ToyFilm) -> None:
    nothing = np.zeros_like(film.body)
    empty = replace(film, body=nothing, centre=nothing, sacrum=nothing)
    assert answered(empty).findings.refusal.code is RefusalCode.NO_SPINE_FOUND


def test_bodies_side_by_side_are_a_spine_that_lies_and_that_is_said() -> None:
    row = [Body((250.0, 60.0 + 75 * n), (30.0,) * 3, 40.0) for n in range(4)]
    answer = answered(filmed(row), orientation=("P", "F"))
    assert answer.orientation.turn % 2 == 1 and answer.orientation.contradicts_header
    assert Quality.FRONT_UNSURE in answer.findings.vertebrae[0].quality  # nothing tells where its front is


@pytest.mark.parametrize(("age", "quality"), [(None, Quality.AGE_UNKNOWN), (40.0, Quality.OUTSIDE_SCREENING_AGE)])
def test_age_is_told(film: ToyFilm, age: float | None, quality: Quality) -> None:
    assert quality in answered(film, age_years=age).findings.quality


def test_children_are_refused(film: ToyFilm) -> None:
    assert answered(film, age_years=12.0).findings.refusal.code is RefusalCode.AGE_BELOW_18


def test_a_network_that_fails_is_an_answer(film: ToyFilm) -> None:
    def fails(inputs):
        raise RuntimeError("a broken node")

    answer = evaluate(Radiograph(film.pixels), models(ToySession({"body": fails})), chosen(), 70)
    assert answer.findings.refusal.code is RefusalCode.MODEL_FAILED
    assert "a broken node" in answer.findings.refusal.sentence


@pytest.mark.parametrize("level", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (40, 7), (256, 256)])
def test_no_image_and_no_map_raises_anything(shape: tuple[int, int], level: float) -> None:
    pixels = np.random.default_rng(5).uniform(0, 1, shape).astype(np.float32)

    def even(inputs):
        return np.full((1, 1, 256, 256), level, np.float32)

    view = np.eye(6, dtype=np.float32)[:1]
    everywhere = ToySession(dict.fromkeys(MAPS[:-1], even) | {"view": lambda inputs: view})
    for given in (pixels, np.full(shape, level, np.float32)):
        answer = evaluate(Radiograph(given), models(everywhere), chosen(), 70)
        assert answer.findings.refusal is not None
