"""capture.dcm: what stands on the picture, where, and in which colour."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from results_synthetic import Case, context, make_case, refused

from inference.findings import Grade, Quality
from node.results import capture_png, encode
from node.results.anatomy import crop, windowed
from node.results.capture import picture
from node.results.drawing import BACKGROUND, FRAME, GRADE_COLOURS, TEXT, VERDICT_COLOURS
from node.results.picture import HEADER_HEIGHT, HEIGHT, WIDTH, Caption, lay_out, notes, spread
from node.results.wording import LIMITS_SENTENCE

GREEN = GRADE_COLOURS[Grade.NORMAL]
CAPTION = Caption("series 3, THORAX", "spine-node 0.1.0, ct 1.0.0", "2026-11-20 23:30")


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
    ruler = case.reformat if findings is None else None
    picture(case.findings if findings is None else findings, ruler, case.source, context())
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
    assert {"A", "P", "H", "F", "50 mm"} <= set(words)
    assert "7 of 8 vertebrae measured; levels not seen: unknown" in said
    assert LIMITS_SENTENCE in said
    assert "series 3, THORAX 1.0 B30f" in said
    assert "cut by the edge of the field of view" in said
    for vertebra in flagged.findings.vertebrae:
        assert words.count(vertebra.name) == 1
    assert words.count("normal") == 5
    for cell in ("severe", "moderate", "not measured", "11.9", "0.54", "Hm -50 %", "G only", "<=.74"):
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


@pytest.mark.parametrize("which", ["flagged", "normal", "whole_spine", "one"])
def test_text_stays_on_the_picture_off_the_anatomy_and_off_other_text(
    which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    case: Case = make_case(count=1) if which == "one" else request.getfixturevalue(which)
    image = pixels(case)
    words = drawn_words(monkeypatch, case)
    assert case.reformat is not None
    view = lay_out(case.findings, case.reformat, CAPTION).view
    left, top, right, bottom = view.left - 1, view.top - 1, view.right, view.bottom
    assert (image[top : bottom + 1, [left, right]] == FRAME).all()
    assert (image[[top, bottom], left : right + 1] == FRAME).all()
    for text, (x0, y0, x1, y1) in words:
        assert x0 >= 0 and y0 >= 0 and x1 <= WIDTH and y1 <= HEIGHT, text
        assert x1 <= left + 1 or x0 >= right - 1 or y1 <= top + 1 or y0 >= bottom - 1, f"{text} lies on the image"
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
    picture(whole_spine.findings, whole_spine.reformat, whole_spine.source, context())
    assert min(sizes) >= 16


def test_green_means_normal_and_nothing_else(flagged: Case) -> None:
    def has_green(image: np.ndarray) -> bool:
        return bool((image == GREEN).all(-1).any())

    assert has_green(pixels(flagged))
    assert not has_green(pixels(flagged, refused()))
    ungraded = replace(flagged.findings, vertebrae=tuple(replace(v, grade=None) for v in flagged.findings.vertebrae))
    assert not has_green(pixels(replace(flagged, findings=ungraded)))
    for colour in (*VERDICT_COLOURS.values(), GRADE_COLOURS[None], GRADE_COLOURS[Grade.SEVERE]):
        red, green, blue = colour
        assert green <= max(red, blue) + 5, "a colour other than that of normal looks green"


def test_a_word_stands_in_the_colour_of_its_grade(flagged: Case) -> None:
    assert flagged.reformat is not None
    table = pixels(flagged)[HEADER_HEIGHT:, lay_out(flagged.findings, flagged.reformat, CAPTION).table_left :]
    for grade in (Grade.NORMAL, Grade.MODERATE, Grade.SEVERE, None):
        assert (table == GRADE_COLOURS[grade]).all(-1).sum() > 60, grade
    assert not (table == GRADE_COLOURS[Grade.MILD]).all(-1).any()


@pytest.mark.parametrize("which", ["flagged", "normal", "whole_spine"])
def test_a_row_is_level_with_its_vertebra(
    which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    case: Case = request.getfixturevalue(which)
    assert case.reformat is not None
    centres = lay_out(case.findings, case.reformat, CAPTION).view.rows_of(case.findings, case.reformat)
    boxes = dict(drawn_words(monkeypatch, case))
    for vertebra, centre in zip(case.findings.vertebrae, centres, strict=True):
        _, upper, _, lower = boxes[vertebra.name]
        assert upper < centre < lower, vertebra.name


@pytest.mark.parametrize("which", ["flagged", "normal", "whole_spine", "five"])
def test_the_image_is_as_large_as_the_page_allows(which: str, request: pytest.FixtureRequest) -> None:
    """Its height is all that header and notes leave, and what the spine needs of the reformat is on it."""
    case: Case = make_case(count=5) if which == "five" else request.getfixturevalue(which)
    assert case.reformat is not None
    layout = lay_out(case.findings, case.reformat, CAPTION)
    view = layout.view
    notes_below = layout.notes_at[0] < view.right
    assert (layout.notes_at[1] if notes_below else HEIGHT) - view.bottom < 60
    first, last = crop(case.findings, case.reformat)
    assert (view.first <= first).all() and (view.last >= last).all()
    assert view.size[1] > (0.6 if notes_below else 0.8) * HEIGHT


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
    view = lay_out(flagged.findings, flagged.reformat, CAPTION).view
    margin = (pixels(flagged)[view.top :, : view.left - 1] == TEXT).all(-1)
    bar = int(margin.sum(axis=0).max())  # its column has more of the colour than any letter's
    boxes = dict(drawn_words(monkeypatch, flagged))
    rows = [(boxes[name][1] + boxes[name][3]) / 2 for name in ("V4", "V6")]
    centres = flagged.reformat.to_pixel(np.array([flagged.findings.vertebrae[i].centroid_lps_mm for i in (3, 5)]))
    apart_mm = (centres[1, 1] - centres[0, 1]) * flagged.reformat.spacing_mm
    assert (rows[1] - rows[0]) / bar * 50 == pytest.approx(apart_mm, rel=0.02)


def test_notes_name_the_vertebrae_of_each_quality_flag(flagged: Case) -> None:
    said = " | ".join(notes(flagged.findings, CAPTION))
    assert "V1, V7: no undeformed vertebra above and below to compare with" in said
    assert "V8: cut by the edge" in said
    assert "+/- 0.9 mm" in said
    whole = replace(flagged.findings, quality=(Quality.OUTSIDE_SCREENING_AGE, Quality.LOSSY_SOURCE))
    assert "Note: outside screening age; source images are lossy compressed." in " ".join(notes(whole, CAPTION))


def test_what_was_not_graded_is_not_said_to_be_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(count=5)
    first = replace(case.findings.vertebrae[0], grade=None, rule=None)
    case = replace(case, findings=replace(case.findings, vertebrae=(first, *case.findings.vertebrae[1:])))
    assert Quality.G_ONLY in first.quality
    words = [text for text, _ in drawn_words(monkeypatch, case)]
    assert words.count("G only") == 1, "V5 alone"
    assert not any("graded from" in word for word in words)


def test_many_vertebrae_and_many_notes_still_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(count=24, unmeasured=(24,))
    quality = (Quality.LOW_CONFIDENCE, Quality.NEAR_EDGE, Quality.COARSE_SPACING, Quality.OFF_CENTRE_LINE)
    vertebrae = tuple(replace(v, quality=(*v.quality, *quality[: v.ordinal % 4])) for v in case.findings.vertebrae)
    crowded = replace(case, findings=replace(case.findings, vertebrae=vertebrae, quality=tuple(Quality)))
    for text, (_, _, x1, y1) in drawn_words(monkeypatch, crowded):
        assert x1 <= WIDTH and y1 <= HEIGHT, text


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
