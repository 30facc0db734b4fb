"""Tube voltage, contrast agent and kernel, as the headers have them or not."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from inference.findings import Acquisition
from tests.gate.conftest import Ct, HeadersOf, loaded


def acquisition_of(headers_of: HeadersOf, **elements: object) -> Acquisition:
    def edit(_: int, ds: Dataset) -> None:
        for keyword, value in elements.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)

    return loaded(headers_of(Ct(edit=edit))).acquisition


def test_what_is_said_is_kept(headers_of: HeadersOf) -> None:
    said = acquisition_of(headers_of, KVP="100", ContrastBolusAgent="Iomeron 400", ConvolutionKernel=["Br64f", "3"])
    assert said == Acquisition(kvp=100.0, contrast=True, kernel="Br64f\\3", sharp_kernel=True)


def test_silence_is_not_a_no(headers_of: HeadersOf) -> None:
    said = acquisition_of(headers_of, KVP=None, ConvolutionKernel=None, ContrastBolusAgent="")
    assert said == Acquisition()


@pytest.mark.parametrize("word", ["NONE", "no contrast", "Without", "ohne KM", "nativ", "N/A"])
def test_words_that_say_no_agent(headers_of: HeadersOf, word: str) -> None:
    assert acquisition_of(headers_of, ContrastBolusAgent=word).contrast is False


@pytest.mark.parametrize("word", ["Nonionic, iopamidol", "Ultravist", "CE", "NO2 enhanced agent"])
def test_words_that_name_an_agent(headers_of: HeadersOf, word: str) -> None:
    assert acquisition_of(headers_of, ContrastBolusAgent=word).contrast is True


@pytest.mark.parametrize(
    "word", ["NON-IONIC IODINE 350", "0.5 ml/kg Ultravist", "No oral, IV Omnipaque 350", "W/O ORAL, WITH IV ULTRAVIST"]
)
def test_words_that_begin_with_a_no_and_go_on_say_nothing(headers_of: HeadersOf, word: str) -> None:
    assert acquisition_of(headers_of, ContrastBolusAgent=word).contrast is None


def test_a_soft_kernel_and_an_unknown_one(headers_of: HeadersOf) -> None:
    assert acquisition_of(headers_of).sharp_kernel is False
    unknown = acquisition_of(headers_of, ConvolutionKernel="XYZ")
    assert (unknown.kernel, unknown.sharp_kernel) == ("XYZ", None)


@pytest.mark.parametrize("kvp", ["0", "-120", "120000"])
def test_an_absurd_voltage_is_none(headers_of: HeadersOf, kvp: str) -> None:
    assert acquisition_of(headers_of, KVP=kvp).kvp is None
