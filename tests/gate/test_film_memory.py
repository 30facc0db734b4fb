"""What the largest film that is taken costs in memory, and that larger ones are refused before any is used."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from inference.film_preparation import prepare
from inference.refusal import RefusalCode
from node.gate import LoadedFilm, Unevaluable, load_film, read_headers
from node.results.film_picture import _grey
from tests.films import Film, shades
from tests.gate.conftest import POLICY, FilmsOf

ROWS, COLUMNS = 6400, 6250
PIXELS = ROWS * COLUMNS
MIB = 2**20
SPARED = 40 * MIB
"""Beside the images themselves: chunks, headers, masks of the reduced film."""


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def large(tmp_path: Path, padded: bool) -> Path:
    """A film of exactly as many pixels as are taken, 12 bits of 16."""

    def edit(ds: FileDataset) -> None:
        if padded:
            ds.PixelPaddingValue = 0

    film = np.tile(shades(64, 50).astype("<u2"), (100, 125))
    film[:40] = 0
    path = Film(stored=film, edit=edit).write(tmp_path / "film.dcm")
    assert film.size == PIXELS == POLICY.max_film_pixels
    return path


@pytest.mark.parametrize(("padded", "bytes_a_pixel"), [(False, 6), (True, 8)])
@pytest.mark.usefixtures("traced")
def test_the_peak_of_a_film_of_forty_million_pixels(tmp_path: Path, padded: bool, bytes_a_pixel: int) -> None:
    """2 bytes a pixel of the file's values (for a moment three times: file, shifted, shifted back), 4 of the image."""
    headers = read_headers([large(tmp_path, padded)]).headers
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    found = load_film(headers, POLICY)
    assert isinstance(found, LoadedFilm)
    loading = tracemalloc.get_traced_memory()[1] - before
    assert loading < bytes_a_pixel * PIXELS + SPARED

    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    assert prepare(found.film).picture.size < 2**20
    _grey(found.film.pixels)
    assert tracemalloc.get_traced_memory()[1] - before < PIXELS + SPARED


@pytest.mark.usefixtures("traced")
def test_one_row_more_is_refused_before_its_pixels_are_read(tmp_path: Path, films_of: FilmsOf) -> None:
    def edit(ds: FileDataset) -> None:
        ds.Rows, ds.Columns = ROWS + 1, COLUMNS

    headers = films_of(Film(edit=edit))
    tracemalloc.reset_peak()
    found = load_film(headers, POLICY)
    assert isinstance(found, Unevaluable)
    assert found.refusal.code is RefusalCode.IMAGE_TOO_LARGE
    assert "6401 x 6250; at most 40 million" in found.refusal.sentence
    assert tracemalloc.get_traced_memory()[1] < 10 * MIB
