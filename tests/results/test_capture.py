"""capture.dcm: what stands on the picture, where, and in which colour."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from results_synthetic import Case, completed, context, make_case, refused

from inference.findings import Grade, Level, Quality
from node.results import ResultError, capture_png, encode
from node.results.anatomy import crop
from node.results.capture import picture
from node.results.contours import dashed, outlines
from node.results.coronal import image_box
from node.results.drawing import BACKGROUND, EXPECTED_COLOUR, FRAME, GRADE_COLOURS, TEXT, VERDICT_COLOURS, spread
from node.results.notes import Caption, notes
from node.results.picture import HEADER_HEIGHT, HEIGHT, WIDTH, Layout, lay_out
from node.results.pictures import Pictures, windowed
from node.results.table import COLUMNS, DENSITY, UNSAFE_DENSITY
from node.results.wording import LIMITS_SENTENCE, as_answered

GREEN = GRADE_COLOURS[Grade.NORMAL]
SHAPES = ("flagged", "normal", "whole_spine", "complete", "thick", "one", "unnamed", "bent")
CAPTION = Caption("series 3, THORAX 1.0 B30f", "spine-node 0.1.0, ct 1.0.0", "2026-11-20 23:30")


def pictures(case: Case) -> Pictures:
    assert case.reformat is not None
    return Pictures(case.reformat, case.coronal, case.masks_on_reformat, case.expected_on_reformat)


def laid_out(case: Case) -> Layout:
    return lay_out(as_answered(case.findings), pictures(case), CAPTION)


def shaped(which: str, request: pytest.FixtureRequest) -> Case:
    """A case by name: long and short spines, named or not, measured or not, straight or bent."""
    if which == "one":
        return completed(make_case(count=1))
    if which == "unnamed":
        return completed(make_case({4: (0.55, 0.5, 0.8)}, count=7))
    if which == "bent":
        return completed(make_case(count=12, first_level=Level.T6, scoliosis_mm=45.0, kyphosis_mm=50.0))
    case: Case = request.getfixturevalue(which)
    return case


def pixels(case: Case, findings: object = None) -> np.ndarray:
    """(rows, columns, 3) of the picture of a case."""
    given = case if findings is None else findings
    with Image.open(io.BytesIO(capture_png(case.source, given, context()))) as image:
        return np.array(image)


def drawn_words(
    monkeypatch: pytest.MonkeyPatch, case: Case, findings: object = None
) -> list[tuple[str, tuple[float, ...]]]:
    """(text, bounding box) of every word put on the picture."""
    words: list[tuple[str, tuple[float, ...]]] = []
    original = ImageDraw.ImageDraw.text

    def text(self, xy, text, fill=None, font=None, anchor=None, **more):  # type: ignore[no-untyped-def]
        words.append((text, self.textbbox(xy, text, font=font, anchor=anchor)))
        return original(self, xy, text, fill, font, anchor, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    capture_png(case.source, case if findings is None else findings, context())
    return words


def test_the_object_and_the_png_are_the_same_picture(flagged: Case) -> None:
    capture = encode(flagged.source, flagged, context())[1].dataset
    assert (capture.Columns, capture.Rows) == (WIDTH, HEIGHT)
    assert np.array_equal(capture.pixel_array, pixels(flagged))
    assert (capture.PhotometricInterpretation, capture.Modality, capture.ConversionType) == ("RGB", "CT", "WSD")
    assert list(capture.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
    assert capture.BurnedInAnnotation == "YES"
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == flagged.source[0].SOPInstanceUID


def test_everything_a_reader_needs_is_on_it(flagged: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [text for text, _ in drawn_words(monkeypatch, flagged)]
    said = " ".join(words)
    assert words[0] == "AI - research use only"
    assert "FLAG: V4 severe, V6 moderate" in words
    assert "Vertebral height loss, possible fracture" in said
    assert {"A", "P", "R", "L", "H", "F", "50 mm"} <= set(words)
    assert "7 of 8 vertebrae measured; levels not seen: unknown" in said
    assert LIMITS_SENTENCE in said
    assert "series 3, THORAX 1.0 B30f" in said
    assert "cut by the edge of the field of view" in said
    for vertebra in flagged.findings.vertebrae:
        assert words.count(vertebra.name) == 2, "in the table and beside the coronal view"
    assert words.count("normal") == 5
    for cell in ("severe", "moderate", "not measured", "11.9", "0.54", "Hm -50 %", "G only"):
        assert cell in words


def test_no_flag_says_what_was_not_looked_at(normal: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [text for text, _ in drawn_words(monkeypatch, normal)]
    assert "NO FLAG" in words
    assert "7 graded, none raises the flag; nothing is said of any other vertebra" in words


def test_a_refusal_says_why_and_is_not_a_normal_result(flagged: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    words = " ".join(text for text, _ in drawn_words(monkeypatch, flagged, refused()))
    assert "NOT EVALUABLE" in words
    assert "Slices are missing inside the series. Two slices are missing." in words
    assert "neither a normal nor an abnormal result" in words
    assert "GAP_IN_SERIES" in words
    assert "AI - research use only" in words


@pytest.mark.parametrize("which", SHAPES)
def test_text_stays_on_the_picture_off_both_images_and_off_other_text(
    which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = shaped(which, request)
    image = pixels(case)
    words = drawn_words(monkeypatch, case)
    layout = laid_out(case)
    assert case.coronal is not None and layout.coronal_within is not None
    view = layout.view
    for left, top, right, bottom in (
        (view.left - 1, view.top - 1, view.right, view.bottom),
        tuple(np.add(image_box(case.coronal, layout.coronal_within), (-1, -1, 0, 0)).tolist()),
    ):
        assert (image[top : bottom + 1, [left, right]] == FRAME).all()
        assert (image[[top, bottom], left : right + 1] == FRAME).all()
        for text, (x0, y0, x1, y1) in words:
            assert x0 >= 0 and y0 >= 0 and x1 <= WIDTH and y1 <= HEIGHT, text
            assert x1 <= left + 1 or x0 >= right - 1 or y1 <= top + 1 or y0 >= bottom - 1, f"{text} lies on an image"
    for i, (one, a) in enumerate(words):
        for other, b in words[i + 1 :]:
            apart = a[2] <= b[0] + 1 or b[2] <= a[0] + 1 or a[3] <= b[1] + 3 or b[3] <= a[1] + 3
            assert apart, f"{one!r} and {other!r} overlap"


def test_letters_are_legible_on_a_display_of_one_megapixel(whole_spine: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = ImageDraw.ImageDraw.text

    def text(self, xy, text, fill=None, font=None, anchor=None, **more):  # type: ignore[no-untyped-def]
        sizes.append(font.size)
        return original(self, xy, text, fill, font, anchor, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    picture(whole_spine.findings, pictures(whole_spine), whole_spine.source, context())
    assert min(sizes) >= 15


def test_green_means_normal_and_nothing_else(flagged: Case, thick: Case) -> None:
    def has_green(image: np.ndarray) -> bool:
        return bool((image == GREEN).all(-1).any())

    assert has_green(pixels(flagged))
    assert not has_green(pixels(flagged, refused()))
    ungraded = replace(flagged.findings, vertebrae=tuple(replace(v, grade=None) for v in flagged.findings.vertebrae))
    assert not has_green(pixels(replace(flagged, findings=ungraded)))
    assert not has_green(pixels(thick)), "not measured is never green"
    for colour in (*VERDICT_COLOURS.values(), GRADE_COLOURS[None], GRADE_COLOURS[Grade.SEVERE]):
        red, green, blue = colour
        assert green <= max(red, blue) + 5, "a colour other than that of normal looks green"


def test_a_word_stands_in_the_colour_of_its_grade(flagged: Case) -> None:
    table = pixels(flagged)[HEADER_HEIGHT:, laid_out(flagged).table_left :]
    for grade in (Grade.NORMAL, Grade.MODERATE, Grade.SEVERE, None):
        assert (table == GRADE_COLOURS[grade]).all(-1).sum() > 60, grade
    assert not (table == GRADE_COLOURS[Grade.MILD]).all(-1).any()


@pytest.mark.parametrize("which", [name for name in SHAPES if name != "one"])
def test_a_row_is_level_with_its_vertebra(
    which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = shaped(which, request)
    assert case.reformat is not None
    layout = laid_out(case)
    centres = layout.view.rows_of(case.findings, pictures(case))
    boxes = {text: box for text, box in drawn_words(monkeypatch, case) if abs(box[0] - layout.table_left) < 5}
    for vertebra, centre in zip(case.findings.vertebrae, centres, strict=True):
        _, upper, _, lower = boxes[vertebra.name]
        assert upper < centre < lower, vertebra.name


@pytest.mark.parametrize("which", SHAPES)
def test_the_image_is_as_large_as_the_page_allows(which: str, request: pytest.FixtureRequest) -> None:
    """It fills the height that header and notes leave or the width that the table leaves, and shows all vertebrae."""
    case = shaped(which, request)
    layout = laid_out(case)
    view = layout.view
    notes_below = layout.notes_at[0] < view.right
    bottom, right = (layout.notes_at[1], WIDTH) if notes_below else (HEIGHT, layout.notes_at[0])
    assert bottom - view.bottom < 60 or right - (layout.table_left + layout.table.width) < 40
    first, last = crop(case.findings, pictures(case))
    assert (view.first <= first).all() and (view.last >= last).all()
    assert view.size[1] > (0.45 if notes_below else 0.6) * HEIGHT


def test_the_header_tells_the_verdict_by_colour_too(flagged: Case, normal: Case) -> None:
    for case, findings, verdict in (
        (flagged, None, "FLAG"),
        (normal, None, "no flag"),
        (normal, refused(), "not evaluable"),
    ):
        assert tuple(pixels(case, findings)[2, 2]) == VERDICT_COLOURS[verdict]
        assert tuple(pixels(case, findings)[HEIGHT - 1, WIDTH - 1]) == BACKGROUND


def test_the_scale_bar_is_fifty_millimetres(flagged: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The distance of two rows of the table, level with their vertebrae, in bars, is that in the patient."""
    assert flagged.reformat is not None
    layout = laid_out(flagged)
    view = layout.view
    margin = (pixels(flagged)[view.top :, : view.left - 1] == TEXT).all(-1)
    bar = int(margin.sum(axis=0).max())  # its column has more of the colour than any letter's
    boxes = {text: box for text, box in drawn_words(monkeypatch, flagged) if abs(box[0] - layout.table_left) < 5}
    rows = [(boxes[name][1] + boxes[name][3]) / 2 for name in ("V4", "V6")]
    centres = flagged.reformat.to_pixel(np.array([flagged.findings.vertebrae[i].centroid_lps_mm for i in (3, 5)]))
    apart_mm = (centres[1, 1] - centres[0, 1]) * flagged.reformat.spacing_mm
    assert (rows[1] - rows[0]) / bar * 50 == pytest.approx(apart_mm, rel=0.02)


def test_notes_name_the_vertebrae_of_each_quality_flag(flagged: Case) -> None:
    said = " | ".join(note.text for note in notes(flagged.findings, pictures(flagged), CAPTION))
    assert "V1, V7: no undeformed vertebra above and below to compare with" in said
    assert "V8: cut by the edge" in said
    assert "+/- 0.9 mm" in said
    assert "rule height-loss/1; flag from a loss of 25 %, or severe by G only." in said
    whole = replace(flagged.findings, quality=(Quality.OUTSIDE_SCREENING_AGE, Quality.LOSSY_SOURCE))
    assert "Note: outside screening age; source images are lossy compressed." in " ".join(
        note.text for note in notes(whole, pictures(flagged), CAPTION)
    )


def test_what_was_not_graded_is_not_said_to_be_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(count=5)
    first = replace(case.findings.vertebrae[0], grade=None, rule=None)
    case = replace(case, findings=replace(case.findings, vertebrae=(first, *case.findings.vertebrae[1:])))
    assert Quality.G_ONLY in first.quality
    words = [text for text, _ in drawn_words(monkeypatch, case)]
    assert words.count("G only") == 1, "V5 alone"
    assert not any("graded from" in word for word in words)


def test_many_vertebrae_and_many_notes_still_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    case = completed(make_case(count=24, unmeasured=(24,)))
    quality = (Quality.LOW_CONFIDENCE, Quality.NEAR_EDGE, Quality.COARSE_SPACING, Quality.OFF_CENTRE_LINE)
    vertebrae = tuple(replace(v, quality=(*v.quality, *quality[: v.ordinal % 4])) for v in case.findings.vertebrae)
    crowded = replace(case, findings=replace(case.findings, vertebrae=vertebrae, quality=tuple(Quality)))
    words = drawn_words(monkeypatch, crowded)
    for text, (_, _, x1, y1) in words:
        assert x1 <= WIDTH and y1 <= HEIGHT, text
    said = " ".join(text for text, _ in words)
    assert "... (more in the details)" in said
    for whole in ("23 of 24 vertebrae measured", "likeliest T12 to L4", LIMITS_SENTENCE, "Source: series 3"):
        assert whole in said
    layout = laid_out(crowded)
    assert crowded.coronal is not None and layout.coronal_within is not None
    left, top, right, bottom = image_box(crowded.coronal, layout.coronal_within)
    assert bottom - top > 200
    for text, (x0, y0, x1, y1) in words:
        assert x1 <= left or x0 >= right or y1 <= top or y0 >= bottom, f"{text} lies on the coronal view"
    names = [(text, box) for text, box in words if box[0] > layout.table_left + 300 and text.startswith("V")]
    for i, (one, a) in enumerate(names):
        for other, b in names[i + 1 :]:
            assert a[2] <= b[0] + 1 or b[2] <= a[0] + 1 or a[3] <= b[1] + 3 or b[3] <= a[1] + 3, f"{one} {other}"


def test_window() -> None:
    grey = windowed(np.array([[-3000, -250, 250, 750, 3000]], np.int16))
    assert grey.tolist() == [[0, 0, 128, 255, 255]]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([10, 50, 90], [10, 50, 90]),
        ([50, 50, 50], [50, 70, 90]),
        ([95, 98, 99], [60, 80, 100]),
        ([99, 10], [99, 10]),
        ([], []),
    ],
)
def test_names_keep_apart_and_in_order(wanted: list[float], expected: list[float]) -> None:
    assert spread(wanted, 20, 0, 100) == expected


def test_a_later_revision_says_so_on_the_picture(normal: Case) -> None:
    first, second = (capture_png(normal.source, normal, context(revision=n)) for n in (1, 2))
    assert first != second


def test_no_flag_names_what_is_deformed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case({1: (0.7, 0.75, 1.0), 3: (0.78, 0.95, 1.0)}, count=6)
    words = [text for text, _ in drawn_words(monkeypatch, case)]
    assert "NO FLAG" in words
    assert (
        "6 graded, none raises the flag (not by itself: V1 moderate by G only, V3 mild); "
        "nothing is said of any other vertebra" in words
    )


def test_the_cut_off_stands_beside_g_where_there_is_room(whole_spine: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [text for text, _ in drawn_words(monkeypatch, whole_spine)].count("<=.74") == 2


def test_the_table_says_what_masks_give_and_what_is_unsafe(complete: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [text for text, _ in drawn_words(monkeypatch, complete)]
    said = " ".join(words)
    for cell in ("Ha", "Hm", "Hp", "G", "loss", "grade", "score", "HU", "74", "48", "140*"):
        assert cell in words
    assert "*: unsafe to compare" in said
    assert "no T-score, no diagnosis of osteoporosis; 120 kV, contrast agent: unknown, kernel B30f" in said
    assert "0 = as the neighbours predict; wedges score low; read beside the heights" in said
    assert "Numbering: counted from last rib and sacrum, confidence 0.97; alternatives T13 to L5, T13 (0.03)." in said


@pytest.mark.parametrize("unsafe_scan", [False, True])
@pytest.mark.parametrize("count", [6, 12, 18])
def test_every_attenuation_stands_on_the_picture(
    count: int, unsafe_scan: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the table, or in the notes where the table has no room for it."""
    levels = list(Level)
    first = levels[levels.index(Level.L5) - count]
    case = completed(make_case(count=count, first_level=first))
    lumbar = {Level.T11, Level.T12, Level.L1, Level.L2, Level.L3, Level.L4}
    vertebrae = tuple(v if v.level in lumbar else replace(v, trabecular_mean_hu=None) for v in case.findings.vertebrae)
    quality = (Quality.CONTRAST_UNKNOWN,) if unsafe_scan else ()
    case = replace(case, findings=replace(case.findings, vertebrae=vertebrae, quality=quality))
    in_table = any(c in (DENSITY, UNSAFE_DENSITY) for c in laid_out(case).table.columns)
    words = [text for text, _ in drawn_words(monkeypatch, case)]
    for v in vertebrae:
        if v.trabecular_mean_hu is not None:
            said = f"{v.trabecular_mean_hu:.0f}*"
            assert said in words if in_table else f"{v.name} {said}" in " ".join(words), v.name
    assert in_table or f"HU{'*' if unsafe_scan else ''}: " in " ".join(words)


def test_the_notes_list_attenuation_only_where_its_column_is_left_out(complete: Case) -> None:
    columns = [c for c in COLUMNS if c is not DENSITY]
    with_column, without = (
        " ".join(note.text for note in notes(complete.findings, pictures(complete), CAPTION, given))
        for given in (COLUMNS, columns)
    )
    assert "HU: T10 147*, T11 146*, T12 145*" in without and "HU: T10" not in with_column
    assert "no T-score" in with_column and "no T-score" in without


def test_attenuation_that_the_acquisition_makes_unsafe_has_a_star_at_its_heading(
    complete: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    vertebrae = tuple(replace(v, quality=()) for v in complete.findings.vertebrae)
    findings = replace(complete.findings, vertebrae=vertebrae, quality=(Quality.CONTRAST_AGENT,))
    words = [text for text, _ in drawn_words(monkeypatch, replace(complete, findings=findings))]
    assert "HU*" in words and "140" in words and "HU" not in words
    assert "contrast agent raises the HU" in " ".join(words)


def test_columns_without_a_value_are_left_out(flagged: Case, thick: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [text for text, _ in drawn_words(monkeypatch, flagged)]
    assert "score" not in words and "HU" not in words
    words = [text for text, _ in drawn_words(monkeypatch, thick)]
    assert not {"Ha", "G", "loss", "score"} & set(words)
    assert words.count("not measured") == 10
    assert "NOT GRADED" in words
    assert any("Named or segmented only (slices 5.0 mm apart)" in word for word in words)
    assert "0 of 10 vertebrae measured; levels not seen: T4, T5, T6, T7, L5; none graded." in " ".join(words)


def test_an_unknown_numbering_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    said = " ".join(text for text, _ in drawn_words(monkeypatch, completed(make_case(count=5))))
    assert "Numbering not known (no sure sacrum, last rib or C2 in view): counted from the top;" in said
    assert "likeliest T12 to L4 (0.61)." in said


def _on_image(case: Case, colour: tuple[int, int, int]) -> np.ndarray:
    """(rows, columns) of the image: where the colour was drawn, before lines are made smooth."""
    view = laid_out(case).view
    part = pixels(case)[view.top : view.bottom, view.left : view.right].astype(int)
    return np.asarray(abs(part - colour).sum(axis=-1) < 60)


def test_bodies_are_outlined_in_the_colour_of_their_grade(complete: Case) -> None:
    without = replace(complete, masks_on_reformat=None, expected_on_reformat=None)
    assert (pixels(complete) != pixels(without)).any()
    unmeasured = tuple(replace(v, keypoints_lps_mm=None, heights_mm=None) for v in complete.findings.vertebrae[1:])
    findings = replace(complete.findings, vertebrae=(complete.findings.vertebrae[0], *unmeasured))
    seen = replace(complete, findings=findings)
    assert _on_image(seen, GRADE_COLOURS[None]).sum() > 200, "not measured: grey outlines"
    assert not _on_image(seen, GRADE_COLOURS[Grade.SEVERE]).any()


def test_the_expected_body_is_dashed_where_the_score_is_notable_and_nowhere_else(complete: Case) -> None:
    assert complete.reformat is not None
    blue = _on_image(complete, EXPECTED_COLOUR)
    assert blue.sum() > 40
    view = laid_out(complete).view
    rows = view.rows_of(complete.findings, pictures(complete))
    scored = [rows[5] - view.top, rows[7] - view.top]
    for row in np.flatnonzero(blue.any(axis=1)):
        assert min(abs(row - place) for place in scored) < 60
    low = tuple(replace(v, abnormality_score=12.0) for v in complete.findings.vertebrae)
    calm = replace(complete, findings=replace(complete.findings, vertebrae=low))
    assert not _on_image(calm, EXPECTED_COLOUR).any()
    said = " ".join(note.text for note in notes(calm.findings, pictures(calm), CAPTION))
    assert "Blue dashes" not in said and "Thin lines" in said


def test_outlines_lie_inside_their_masks_and_dashes_are_parts_of_them() -> None:
    labels = np.zeros((40, 50), np.uint8)
    labels[5:20, 10:30], labels[22:38, 12:32] = 3, 7
    found = {ordinal: (box, edge) for ordinal, box, edge in outlines(labels, 4.0, 2)}
    assert set(found) == {3, 7}
    canvas = np.zeros((160, 200), bool)
    for box, edge in found.values():
        canvas[box] |= edge
    enlarged = np.kron(labels > 0, np.ones((4, 4), bool))
    grown = enlarged | np.roll(enlarged, 1, 0) | np.roll(enlarged, -1, 0) | np.roll(enlarged, 1, 1)
    grown |= np.roll(enlarged, -1, 1)
    assert (canvas <= grown).all() and canvas.sum() > 300
    assert not canvas[45:55, 60:100].any(), "the inside stays free"
    _, edge = found[3]
    broken = dashed(edge, 8)
    assert (broken <= edge).all() and 0.3 < broken.sum() / edge.sum() < 0.7
    assert not dashed(np.zeros((4, 4), bool), 8).any()


def test_maps_of_another_shape_than_the_reformat_are_an_error(complete: Case) -> None:
    assert complete.masks_on_reformat is not None
    with pytest.raises(ResultError, match="the masks have the shape"):
        encode(complete.source, replace(complete, masks_on_reformat=complete.masks_on_reformat[1:]), context())


def test_names_beside_the_coronal_view_are_level_with_their_vertebrae(
    complete: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = laid_out(complete)
    assert complete.coronal is not None and layout.coronal_within is not None
    left, top, right, bottom = image_box(complete.coronal, layout.coronal_within)
    scale = (bottom - top) / complete.coronal.hu.shape[0]
    words = drawn_words(monkeypatch, complete)
    for i, vertebra in enumerate(complete.findings.vertebrae):
        row = complete.coronal.to_pixel(np.array(vertebra.centroid_lps_mm))[1] * scale + top
        boxes = [box for text, box in words if text == vertebra.name and box[0] > layout.table_left + 5]
        (box,) = boxes
        assert box[1] < row < box[3], vertebra.name
        assert box[2] < left if i % 2 == 0 else box[0] > right, "in turn on both sides"
    marks = {text: box for text, box in words if text in ("R", "L")}
    assert marks["R"][2] < left < right < marks["L"][0]
    columns = complete.coronal.to_pixel(np.array([[-9.0, 0.0, 0.0], [9.0, 0.0, 0.0]]))[:, 0]
    assert columns[0] < columns[1], "the patient's left lies at the right"
