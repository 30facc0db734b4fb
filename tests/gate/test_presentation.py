"""What a reader sees: look-up tables, windows, one inversion, odd bits, padding; and what is shown where these fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from inference.findings import Quality
from inference.refusal import RefusalCode
from node.gate import LoadedFilm, Unevaluable, load_film
from tests.films import DX_FOR_PROCESSING, RF, Film, shades
from tests.gate.conftest import POLICY, FilmsOf, film_of, raw

BONE, GROUND, AIR = (40, 32), (40, 20), (40, 2)
"""(row, column) in a body, beside it, and outside of the patient."""


def seen(films_of: FilmsOf, film: Film) -> NDArray[np.float32]:
    pixels = film_of(films_of(film)).film.pixels
    assert pixels.dtype == np.float32
    assert 0 <= pixels.min() <= pixels.max() <= 1
    return pixels


def assert_bone_is_bright(pixels: NDArray[np.float32]) -> None:
    assert pixels[BONE] > pixels[GROUND] + 0.1 > pixels[AIR] + 0.2, "bone is bright and air dark"


def inverse(film: NDArray[np.int64], bits: int = 12) -> NDArray[np.int64]:
    return (1 << bits) - 1 - film


def window(centre: float, width: float, function: str = "") -> object:
    def edit(ds: FileDataset) -> None:
        ds.WindowCenter, ds.WindowWidth = centre, width
        if function:
            ds.VOILUTFunction = function

    return edit


def test_without_any_window_the_range_of_the_values_is_shown(films_of: FilmsOf) -> None:
    pixels = seen(films_of, Film())
    assert_bone_is_bright(pixels)
    assert (pixels.min(), pixels.max()) == (0, 1)


@pytest.mark.parametrize(
    ("photometric", "shape"),
    [("MONOCHROME1", ""), ("MONOCHROME1", "INVERSE"), ("MONOCHROME2", "INVERSE")],
)
def test_monochrome1_and_inverse_shape_invert_once_never_twice(films_of: FilmsOf, photometric: str, shape: str) -> None:
    def edit(ds: FileDataset) -> None:
        ds.PhotometricInterpretation = photometric
        if shape:
            ds.PresentationLUTShape = shape

    straight = seen(films_of, Film())
    turned = seen(films_of, Film(stored=inverse(shades()), edit=edit))
    assert np.allclose(turned, straight, atol=1e-5)


def test_identity_shape_inverts_nothing(films_of: FilmsOf) -> None:
    def edit(ds: FileDataset) -> None:
        ds.PresentationLUTShape = "IDENTITY"

    assert_bone_is_bright(seen(films_of, Film(edit=edit)))


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        ("", 2047.5, (2047.5 - 1999.5) / 999 + 0.5),  # C.11.2.1.2.1 with centre 2000, width 1000
        ("LINEAR", 1800, (1800 - 1999.5) / 999 + 0.5),
        ("LINEAR_EXACT", 1800, (1800 - 2000) / 1000 + 0.5),
        ("SIGMOID", 1800, 1 / (1 + np.exp(-4 * (1800 - 2000) / 1000))),
        ("NO_SUCH_FUNCTION", 1800, (1800 - 1999.5) / 999 + 0.5),
    ],
)
def test_window_functions_are_those_of_the_standard(
    films_of: FilmsOf, function: str, value: float, expected: float
) -> None:
    film = shades()
    film[50, 50] = round(value)
    expected += (round(value) - value) / (999 if function != "SIGMOID" else np.inf)
    pixels = seen(films_of, Film(stored=film, edit=window(2000, 1000, function)))
    assert pixels[50, 50] == pytest.approx(expected, abs=1e-4)


def test_the_first_of_several_windows_counts(films_of: FilmsOf) -> None:
    def several(ds: FileDataset) -> None:
        ds.WindowCenter, ds.WindowWidth = [2000, 100], [1000, 50]

    one = seen(films_of, Film(edit=window(2000, 1000)))
    assert np.array_equal(seen(films_of, Film(edit=several)), one)


@pytest.mark.parametrize("width", [0, -100, 0.5])
def test_an_impossible_window_is_left_out(films_of: FilmsOf, width: float) -> None:
    assert np.array_equal(seen(films_of, Film(edit=window(2000, width))), seen(films_of, Film()))


def test_a_window_that_shows_nothing_is_left_out(films_of: FilmsOf) -> None:
    assert np.array_equal(seen(films_of, Film(edit=window(60000, 100))), seen(films_of, Film()))
    assert Quality.WINDOW_OVERRULED in film_of(films_of(Film(edit=window(60000, 100)))).quality


def lateral_film(bits: int = 12) -> NDArray[np.int64]:
    """A film whose values differ from pixel to pixel as a real one's do: no value holds more than a few pixels."""
    noise = np.random.default_rng(4).normal(0, 120, (96, 64))
    film = 300 + 0.8 * shades() + np.linspace(-200, 400, 96)[:, None] + np.where(shades() > 900, noise, noise / 3)
    return np.rint(np.clip(film, 0, 4095)).astype(np.int64) >> (12 - bits)


def between(film: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """(centre, width) of a window whose ends are these quantiles of the film."""
    first, last = np.quantile(film, (low, high))
    return float(first + last + 1) / 2, float(last - first + 1)


BLACK_AND_WHITE, HARD = [(0.0, 0.03), (0.5, 0.53), (0.97, 1.0)], [(0.0, 0.1), (0.5, 0.6), (0.9, 1.0)]
"""Parts of the pixels that are left grey: all others are white, black and white, or black."""


@pytest.mark.parametrize("bits", [12, 8])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("part", BLACK_AND_WHITE, ids=str)
def test_a_window_that_leaves_only_black_and_white_is_overruled_and_that_is_said(
    films_of: FilmsOf, part: tuple[float, float], photometric: str, bits: int
) -> None:
    film = lateral_film(bits)

    def inverted(ds: FileDataset) -> None:
        ds.PhotometricInterpretation = photometric

    def edit(ds: FileDataset) -> None:
        inverted(ds)
        ds.WindowCenter, ds.WindowWidth = between(film, *part)

    found, without = (film_of(films_of(Film(stored=film, bits=bits, edit=e))) for e in (edit, inverted))
    np.testing.assert_array_equal(found.film.pixels, without.film.pixels)
    assert Quality.WINDOW_OVERRULED in found.quality
    assert Quality.WINDOW_OVERRULED not in without.quality


@pytest.mark.parametrize("bits", [12, 8])
@pytest.mark.parametrize("part", [*HARD, (0.02, 0.98)], ids=str)
def test_a_hard_window_is_the_department_s_and_stays(films_of: FilmsOf, part: tuple[float, float], bits: int) -> None:
    film = lateral_film(bits)
    centre, width = between(film, *part)
    found = film_of(films_of(Film(stored=film, bits=bits, edit=window(centre, width))))
    expected = np.clip((film - centre + 0.5) / (width - 1) + 0.5, 0, 1)
    np.testing.assert_allclose(found.film.pixels, expected, atol=1e-4)
    assert Quality.WINDOW_OVERRULED not in found.quality


def test_a_steep_sigmoid_is_judged_by_the_greys_that_it_leaves(films_of: FilmsOf) -> None:
    film = lateral_film()
    centre, width = between(film, 0.45, 0.55)
    steep, steepest = (
        film_of(films_of(Film(stored=film, edit=window(centre, part * width, "SIGMOID")))) for part in (1, 0.02)
    )
    assert Quality.WINDOW_OVERRULED not in steep.quality
    assert Quality.WINDOW_OVERRULED in steepest.quality


@pytest.mark.parametrize("border", [0, 4095])
def test_a_window_is_judged_within_the_film_not_by_the_border_around_it(films_of: FilmsOf, border: int) -> None:
    """Nine tenths of the image are a border of one value, and a tenth of what is left is grey."""
    inside = lateral_film()
    film = np.full((300, 210), border)
    film[100:196, 70:134] = inside
    found = film_of(films_of(Film(stored=film, edit=window(*between(inside, 0.5, 0.6)))))
    assert Quality.WINDOW_OVERRULED not in found.quality
    assert 0 < ((found.film.pixels > 0) & (found.film.pixels < 1)).mean() < 0.02
    other = film_of(films_of(Film(stored=film, edit=window(*between(inside, 0.5, 0.53)))))
    assert Quality.WINDOW_OVERRULED in other.quality


def test_a_window_is_judged_by_what_the_shutter_leaves_to_be_seen(films_of: FilmsOf) -> None:
    """Lead behind a shutter makes no black window a good one, and no good one bad."""
    rng = np.random.default_rng(6)
    film = rng.normal(3500, 150, (200, 160)).clip(0, 4095).astype(int)
    film[50:150, 40:120] = rng.normal(1500, 300, (100, 80)).clip(0, 4095).astype(int)

    def shuttered(centre: float, width: float, inset: int) -> LoadedFilm:
        def edit(ds: FileDataset) -> None:
            ds.WindowCenter, ds.WindowWidth = centre, width
            ds.ShutterShape = "RECTANGULAR"
            ds.ShutterUpperHorizontalEdge, ds.ShutterLowerHorizontalEdge = 51 + inset, 150 - inset
            ds.ShutterLeftVerticalEdge, ds.ShutterRightVerticalEdge = 41 + inset, 120 - inset

        return film_of(films_of(Film(stored=film, edit=edit)))

    black = shuttered(3500, 800, 0)
    assert Quality.WINDOW_OVERRULED in black.quality
    assert black.film.pixels[50:150, 40:120].std() > 0.1
    hard = shuttered(1500, 300, 8)
    assert Quality.WINDOW_OVERRULED not in hard.quality


def test_narrow_values_in_a_window_made_for_them_are_no_border(films_of: FilmsOf) -> None:
    """Each of them fills a part of the image; the window shows them grey."""
    film = np.random.default_rng(6).normal(120, 4, (200, 160)).round().clip(0, 255).astype(int)
    found = film_of(films_of(Film(stored=film, bits=8, edit=window(120.5, 10))))
    assert Quality.WINDOW_OVERRULED not in found.quality


def test_an_even_image_says_nothing_against_its_window(films_of: FilmsOf) -> None:
    found = film_of(films_of(Film(stored=np.full((200, 160), 700), edit=window(1000, 2000))))
    assert Quality.WINDOW_OVERRULED not in found.quality


def test_a_picture_of_two_values_is_shown_by_its_window(films_of: FilmsOf) -> None:
    film = np.where(shades() > 2000, 3000, 1000)
    found = film_of(films_of(Film(stored=film, edit=window(2000, 1000))))
    assert Quality.WINDOW_OVERRULED not in found.quality
    assert set(np.unique(found.film.pixels)) == {0, 1}


def test_a_voi_table_that_leaves_only_black_and_white_gives_way_to_the_window(films_of: FilmsOf) -> None:
    table = np.where(np.arange(4096) < 1500, 0, 65535)

    def edit(ds: FileDataset) -> None:
        ds.VOILUTSequence = Sequence([lut([4096, 0, 16], table.tolist())])

    def with_window(ds: FileDataset) -> None:
        edit(ds)
        ds.WindowCenter, ds.WindowWidth = 2000, 3000

    film = lateral_film()
    alone, both, windowed, without = (
        film_of(films_of(Film(stored=film, edit=e))) for e in (edit, with_window, window(2000, 3000), None)
    )
    assert Quality.WINDOW_OVERRULED in alone.quality
    np.testing.assert_array_equal(alone.film.pixels, without.film.pixels)
    assert Quality.WINDOW_OVERRULED not in both.quality
    np.testing.assert_array_equal(both.film.pixels, windowed.film.pixels)


def lut(descriptor: list[int], data: object, vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if descriptor[1] >= 0 else "SS", descriptor)
    item.add_new("LUTData", vr, data)
    return item


def test_a_voi_table_comes_before_the_window(films_of: FilmsOf) -> None:
    table = (np.arange(4096) ** 2 / 4095**2 * 65535).astype(int)

    def edit(ds: FileDataset) -> None:
        ds.VOILUTSequence = Sequence([lut([4096, 0, 16], table.tolist())])
        ds.WindowCenter, ds.WindowWidth = 60, 50

    pixels = seen(films_of, Film(edit=edit))
    assert pixels[BONE] == pytest.approx((shades()[BONE] / 4095) ** 2, abs=1e-3)
    assert_bone_is_bright(pixels)


def test_a_voi_table_of_bytes_in_words_and_one_of_65536_entries(films_of: FilmsOf) -> None:
    straight = np.arange(65536, dtype="<u2")

    def long(ds: FileDataset) -> None:
        ds.VOILUTSequence = Sequence([lut([0, 0, 16], straight.tobytes(), "OW")])

    def narrow(ds: FileDataset) -> None:
        ds.VOILUTSequence = Sequence([lut([256, 1000, 8], np.arange(256, dtype=np.uint8).tobytes(), "OW")])

    assert seen(films_of, Film(edit=long))[BONE] == pytest.approx(shades()[BONE] / 65535, abs=1e-4)
    film = shades()
    film[50, 50] = 1100
    assert seen(films_of, Film(stored=film, edit=narrow))[50, 50] == pytest.approx(100 / 255, abs=1e-3)


def test_a_modality_table_comes_before_the_window(films_of: FilmsOf) -> None:
    def edit(ds: FileDataset) -> None:
        ds.ModalityLUTSequence = Sequence([lut([4096, 0, 16], np.arange(4095, -1, -1).tolist())])
        ds.ModalityLUTSequence[0].ModalityLUTType = "US"
        ds.WindowCenter, ds.WindowWidth = 2047.5, 4096

    pixels = seen(films_of, Film(stored=inverse(shades()), edit=edit))
    assert pixels[BONE] == pytest.approx(shades()[BONE] / 4095, abs=1e-3)


def test_a_broken_table_is_left_out(films_of: FilmsOf) -> None:
    def edit(ds: FileDataset) -> None:
        ds.VOILUTSequence = Sequence([lut([4096, 0, 16], [1, 2, 3])])

    assert np.array_equal(seen(films_of, Film(edit=edit)), seen(films_of, Film()))


def test_rescale_is_applied_before_the_window(films_of: FilmsOf) -> None:
    def edit(ds: FileDataset) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = 2, -1000
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = 3000, 8000, "LINEAR_EXACT"

    pixels = seen(films_of, Film(edit=edit))
    assert pixels[BONE] == pytest.approx((2 * shades()[BONE] - 4000) / 8000 + 0.5, abs=1e-4)


@pytest.mark.parametrize("bits", [8, 10, 13, 14, 16])
def test_odd_bits_stored_with_something_in_the_bits_above(films_of: FilmsOf, bits: int) -> None:
    film = shades(bits=bits)
    dirty = film | (1 << 15) if bits < 15 else film
    clean, seen_dirty = seen(films_of, Film(stored=film, bits=bits)), seen(films_of, Film(stored=dirty, bits=bits))
    assert np.array_equal(clean, seen_dirty)
    assert_bone_is_bright(clean)


def test_eight_bits_allocated(films_of: FilmsOf) -> None:
    assert_bone_is_bright(seen(films_of, Film(stored=shades(95, 63, bits=8), bits=8, allocated=8)))


def test_signed_values(films_of: FilmsOf) -> None:
    film = Film(stored=shades() - 2048, signed=True, edit=window(0, 4096))
    assert_bone_is_bright(seen(films_of, film))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_dark_whatever_the_presentation_but_only_at_the_border(films_of: FilmsOf, photometric: str) -> None:
    film = shades() if photometric == "MONOCHROME2" else inverse(shades())
    film[:10] = 4095
    film[BONE] = 4095

    def edit(ds: FileDataset) -> None:
        ds.PhotometricInterpretation = photometric
        ds.PixelPaddingValue = 4095

    pixels = seen(films_of, Film(stored=film, edit=edit))
    assert (pixels[:10] == 0).all()
    assert pixels[BONE] == (1 if photometric == "MONOCHROME2" else 0), "a measurement, not padding"


RECTANGLE = {
    "ShutterShape": "RECTANGULAR",
    "ShutterLeftVerticalEdge": 9,
    "ShutterRightVerticalEdge": 60,
    "ShutterUpperHorizontalEdge": 5,
    "ShutterLowerHorizontalEdge": 90,
}
CIRCLE = {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [48, 32], "RadiusOfCircularShutter": 30}


CORNERS = {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [5, 9, 5, 60, 90, 60, 90, 9]}
"""The rectangle by its corners, each (row, column)."""


WHOLE = (2048, 4096)
"""Centre and width of a window that shows every value of 12 bits."""


def shuttered(**values: object) -> Film:
    """A film that is white all around, as lead is not: what hides it is the header alone. It has a window: without one
    the range of what is seen would be shown."""
    stored = shades()
    stored[:6] = stored[-8:] = 4095
    stored[:, :10] = stored[:, -6:] = 4095

    def edit(ds: FileDataset) -> None:
        ds.WindowCenter, ds.WindowWidth = WHOLE
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return Film(stored=stored, edit=edit)


def test_what_a_display_shutter_hides_from_a_reader_is_dark(films_of: FilmsOf) -> None:
    """Rows and columns are counted from 1, and those of the edges are seen."""
    without = seen(films_of, shuttered())
    pixels = seen(films_of, shuttered(**RECTANGLE))
    assert (pixels[:4] == 0).all() and (pixels[90:] == 0).all()
    assert (pixels[:, :8] == 0).all() and (pixels[:, 60:] == 0).all()
    np.testing.assert_array_equal(pixels[4:90, 8:60], without[4:90, 8:60])
    inverted = seen(films_of, shuttered(**RECTANGLE, PhotometricInterpretation="MONOCHROME1"))
    assert (inverted[:4] == 0).all(), "dark whatever the presentation"


def test_a_round_shutter_and_both_together(films_of: FilmsOf) -> None:
    rows, columns = np.indices((96, 64)) + 1
    inside = (rows - 48) ** 2 + (columns - 32) ** 2 <= 30**2
    without = seen(films_of, shuttered())
    pixels = seen(films_of, shuttered(**CIRCLE))
    assert (pixels[~inside] == 0).all()
    np.testing.assert_array_equal(pixels[inside], without[inside])
    both = seen(films_of, shuttered(**{**RECTANGLE, **CIRCLE, "ShutterShape": ["RECTANGULAR", "CIRCULAR"]}))
    inside &= (columns >= 9) & (columns <= 60) & (rows >= 5) & (rows <= 90)
    assert (both[~inside] == 0).all()
    np.testing.assert_array_equal(both[inside], without[inside])


def test_a_polygonal_shutter_of_a_rectangle_s_corners_hides_what_the_rectangle_does(films_of: FilmsOf) -> None:
    np.testing.assert_array_equal(seen(films_of, shuttered(**CORNERS)), seen(films_of, shuttered(**RECTANGLE)))
    both = {**CIRCLE, **CORNERS, "ShutterShape": ["CIRCULAR", "POLYGONAL"]}
    other = {**CIRCLE, **RECTANGLE, "ShutterShape": ["CIRCULAR", "RECTANGULAR"]}
    np.testing.assert_array_equal(seen(films_of, shuttered(**both)), seen(films_of, shuttered(**other)))


def test_a_polygonal_shutter_may_be_oblique_hollow_and_reach_beyond_the_image(films_of: FilmsOf) -> None:
    without = seen(films_of, shuttered())
    rows, columns = np.indices((96, 64)) + 1
    diamond = seen(films_of, shuttered(**{**CORNERS, "VerticesOfThePolygonalShutter": [1, 32, 48, 62, 95, 32, 48, 2]}))
    outside = np.abs(rows - 48) / 47 + np.abs(columns - 32) / 30 - 1
    assert (diamond[outside > 0.04] == 0).all()
    np.testing.assert_array_equal(diamond[outside <= 0], without[outside <= 0])
    notched = [-40, -30, -40, 500, 60, 500, 60, 32, 90, 32, 90, -30]  # all but the lower right, and the last rows
    pixels = seen(films_of, shuttered(**{**CORNERS, "VerticesOfThePolygonalShutter": notched}))
    inside = (rows <= 60) | ((rows <= 90) & (columns <= 32))
    assert (pixels[~inside] == 0).all()
    np.testing.assert_array_equal(pixels[inside], without[inside])


def test_of_several_shutters_a_malformed_one_is_left_out(films_of: FilmsOf) -> None:
    broken = {"VerticesOfThePolygonalShutter": [5, 9, 5, 60, 90], "ShutterShape": ["RECTANGULAR", "POLYGONAL"]}
    found = seen(films_of, shuttered(**{**RECTANGLE, **broken}))
    np.testing.assert_array_equal(found, seen(films_of, shuttered(**RECTANGLE)))


def malformed_corners(value: bytes) -> Film:
    def edit(ds: FileDataset) -> None:
        ds.WindowCenter, ds.WindowWidth = WHOLE
        ds.ShutterShape = "POLYGONAL"
        raw(ds, "VerticesOfThePolygonalShutter", "IS", value)

    return replace(shuttered(), edit=edit)


@pytest.mark.parametrize("value", [b"5\\9\\5\\x\\90\\60 ", b"5\\9\\5\\\\90\\60 "], ids=repr)
def test_corners_that_are_no_numbers_hide_nothing(films_of: FilmsOf, value: bytes) -> None:
    np.testing.assert_array_equal(seen(films_of, malformed_corners(value)), seen(films_of, shuttered()))


@pytest.mark.parametrize(
    "values",
    [
        {**RECTANGLE, "ShutterRightVerticalEdge": 12},
        {**RECTANGLE, "ShutterLowerHorizontalEdge": 1},
        {"ShutterShape": "RECTANGULAR", "ShutterLeftVerticalEdge": 20},
        {**RECTANGLE, "ShutterShape": "POLYGONAL"},
        {**CIRCLE, "RadiusOfCircularShutter": 3},
        {**CIRCLE, "CenterOfCircularShutter": [48]},
        {**CIRCLE, "RadiusOfCircularShutter": 2**31 - 1},
        {**RECTANGLE, "ShutterShape": ""},
        {**CORNERS, "VerticesOfThePolygonalShutter": [5, 9, 5, 60, 90]},
        {**CORNERS, "VerticesOfThePolygonalShutter": [5, 9, 90, 60]},
        {**CORNERS, "VerticesOfThePolygonalShutter": [5, 9, 50, 30, 90, 51]},
        {**CORNERS, "VerticesOfThePolygonalShutter": [500, 900, 500, 600, 9000, 600]},
        {**CORNERS, "VerticesOfThePolygonalShutter": [0, 0, 0, 2**31 - 1, 2**31 - 1, 2**31 - 1, 2**31 - 1, 0]},
        {**CORNERS, "VerticesOfThePolygonalShutter": [5, 9, 5, 60, 90, 60, 90, 9] * 251},
    ],
    ids=lambda values: " ".join(f"{keyword[:13]}={str(value)[:20]}" for keyword, value in values.items()),
)
def test_a_shutter_that_hides_nearly_everything_or_makes_no_sense_hides_nothing(
    films_of: FilmsOf, values: dict[str, object]
) -> None:
    np.testing.assert_array_equal(seen(films_of, shuttered(**values)), seen(films_of, shuttered()))


def test_a_padding_value_read_with_the_wrong_sign(films_of: FilmsOf) -> None:
    film = shades() - 2048
    film[:10] = -2000

    def edit(ds: FileDataset) -> None:
        raw(ds, "PixelPaddingValue", "US", (65536 - 2000).to_bytes(2, "little"))

    assert (seen(films_of, Film(stored=film, signed=True, bits=16, edit=edit))[:10] == 0).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_an_image_for_processing_is_turned_by_the_sign_of_its_intensities(films_of: FilmsOf, sign: int) -> None:
    def edit(ds: FileDataset) -> None:
        ds.PresentationIntentType = "FOR PROCESSING"
        ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", sign
        ds.PhotometricInterpretation = "MONOCHROME2"

    stored = shades() if sign == -1 else inverse(shades())
    found = film_of(films_of(Film(sop_class=DX_FOR_PROCESSING, stored=stored, edit=edit)))
    assert Quality.FOR_PROCESSING in found.quality
    assert_bone_is_bright(found.film.pixels)


def test_a_linear_image_for_processing_is_made_logarithmic(films_of: FilmsOf) -> None:
    intensity = np.rint(16000 * np.exp(-4.0 * shades() / 4095)).astype(np.int64)  # Beer-Lambert

    def edit(ds: FileDataset) -> None:
        ds.PresentationIntentType = "FOR PROCESSING"
        ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LIN", 1

    pixels = seen(films_of, Film(sop_class=DX_FOR_PROCESSING, stored=intensity, bits=14, edit=edit))
    assert_bone_is_bright(pixels)
    assert np.corrcoef(pixels.ravel(), shades().ravel())[0, 1] > 0.97, "attenuation, not transmission"


def test_a_fluoroscopic_spot_image_is_a_radiograph(films_of: FilmsOf) -> None:
    assert_bone_is_bright(seen(films_of, Film(sop_class=RF, modality="RF")))


def test_rows_and_columns_stay_as_they_were_sent(films_of: FilmsOf) -> None:
    assert seen(films_of, Film(stored=shades(90, 70))).shape == (90, 70)


@pytest.mark.parametrize(
    "descriptor",
    [[4096, 70_000, 16], [4096, -40_000, 16], [4096, 0, 0], [4096, 0, 64], [70_000, 0, 16], [-40_000, 0, 16]],
    ids=str,
)
def test_a_descriptor_that_no_table_can_have_is_left_out(films_of: FilmsOf, descriptor: list[int]) -> None:
    def edit(ds: FileDataset) -> None:
        item = lut([4096, 0, 16], list(range(4096)))
        item.add_new("LUTDescriptor", "IS", descriptor)  # wider than any header can say it
        ds.VOILUTSequence = Sequence([item])

    assert np.array_equal(seen(films_of, Film(edit=edit)), seen(films_of, Film()))


def test_a_table_shorter_than_the_65536_that_zero_means_is_left_out(films_of: FilmsOf) -> None:
    def edit(ds: FileDataset) -> None:
        ds.VOILUTSequence = Sequence([lut([0, 0, 16], np.arange(65535, dtype="<u2").tobytes(), "OW")])
        ds.ModalityLUTSequence = Sequence([lut([0, 0, 16], [5, 6, 7])])

    assert np.array_equal(seen(films_of, Film(edit=edit)), seen(films_of, Film()))


@pytest.mark.parametrize(("first", "vr"), [(40_000, "US"), (40_000 - 65536, "SS")])
def test_a_first_value_is_read_with_the_sign_of_the_values(films_of: FilmsOf, first: int, vr: str) -> None:
    def edit(ds: FileDataset) -> None:
        item = lut([20_000, 0, 16], np.arange(20_000).tolist())
        item.add_new("LUTDescriptor", vr, [20_000, first, 16])
        ds.VOILUTSequence = Sequence([item])

    film = shades() * 4 + 40_000
    pixels = seen(films_of, Film(stored=film, bits=16, edit=edit))
    assert pixels[BONE] == pytest.approx((film[BONE] - 40_000) / 19_999, abs=1e-3)


def test_an_error_of_the_conversion_is_a_reason(films_of: FilmsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OverflowError

    headers = films_of(Film())
    monkeypatch.setattr("node.gate.radiograph.as_read", fails)
    found = load_film(headers, POLICY)
    assert isinstance(found, Unevaluable)
    assert (found.refusal.code, "OverflowError" in found.refusal.sentence) == (RefusalCode.PIXELS_UNREADABLE, True)
