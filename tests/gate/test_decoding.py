"""Compressed images by several processes: the same volume, the same refusals, and no waiting for one that died."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from inference.refusal import RefusalCode
from node.answering import gate_policy
from node.gate import GatePolicy, LoadedSeries, Unevaluable, decoding, load_volume, pixels, read_headers
from node.gate.assessment import assess
from node.gate.decoding import DecoderDiedError, processes_for
from node.gate.geometry import Slice
from node.settings import load_settings
from tests.dicom import ct_slice
from tests.gate.conftest import POLICY, Ct, save
from tests.gate.test_enhanced import enhanced
from tests.gate.test_pixels import LOSSLESS, compressed

TWO = GatePolicy(decoding_processes=2)
ONE = GatePolicy(decoding_processes=1)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[decoding._Decoder]]:
    """Every process that decodes, even where few images are not worth one; none may be left."""
    found: list[decoding._Decoder] = []

    class Watched(decoding._Decoder):
        def __init__(self) -> None:
            super().__init__()
            found.append(self)

    monkeypatch.setattr(decoding, "START_S", 0.0)
    monkeypatch.setattr(decoding, "_Decoder", Watched)
    yield found
    assert [decoder._process.returncode is None for decoder in found] == [False] * len(found)


def load(paths: list[Path], policy: GatePolicy = TWO) -> LoadedSeries | Unevaluable:
    headers, unreadable = read_headers(paths)
    assert unreadable == []
    return load_volume(headers, policy)


def assert_same(one: LoadedSeries | Unevaluable, two: LoadedSeries | Unevaluable) -> None:
    assert isinstance(one, LoadedSeries)
    assert isinstance(two, LoadedSeries)
    assert one.volume.hu.dtype == two.volume.hu.dtype
    assert np.array_equal(one.volume.hu, two.volume.hu)
    assert one.input_sha256 == two.input_sha256
    assert one.quality == two.quality


@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_every_syntax_gives_the_same_bits(tmp_path: Path, started: list[decoding._Decoder], slope: float) -> None:
    """One series that has all of them, uncompressed images among them."""
    paths = Ct(rows=64, columns=48, slope=slope).write(tmp_path)
    whole = load(paths, ONE)
    for path, transcode in zip(paths, [transcode for transcode, _ in LOSSLESS.values()], strict=False):
        transcode(path)
    serial = load(paths, ONE)
    assert started == []
    assert_same(serial, whole)
    assert_same(load(paths), serial)
    assert 1 <= len(started) <= 2


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_frames_of_one_instance_are_shared_out(tmp_path: Path, started: list[decoding._Decoder], syntax: str) -> None:
    ds = enhanced(Ct(rows=64, columns=48), [int(i) for i in np.random.default_rng(1).permutation(12)])
    ds.compress(syntax, generate_instance_uid=False)
    save(ds, tmp_path / "enhanced.dcm")
    serial = load([tmp_path / "enhanced.dcm"], ONE)
    assert_same(load([tmp_path / "enhanced.dcm"]), serial)
    assert 1 <= len(started) <= 2


def test_what_cannot_be_decoded_is_refused_with_the_same_words(
    tmp_path: Path, started: list[decoding._Decoder]
) -> None:
    """Frames that claim more than their header, before a decoder allocates it, among them."""
    paths = Ct(rows=64, columns=48).write(tmp_path)
    for path in paths:
        compressed(JPEG2000Lossless)(path)
    good = paths[4].read_bytes()
    bad = good.replace(
        b"\xff\x4f\xff\x51\x00\x29\0\0\0\0\0\x30\0\0\0\x40", b"\xff\x4f\xff\x51\x00\x29\0\0\0\0\xff\x30\0\0\xff\x40"
    )
    for content in (good[:-300], bad, good[: good.index(b"\xff\x4f\xff\x51") + 30]):
        assert content != good
        paths[4].write_bytes(content)
        serial, parallel = load(paths, ONE), load(paths)
        assert isinstance(serial, Unevaluable)
        assert isinstance(parallel, Unevaluable)
        assert serial.refusal == parallel.refusal
        assert serial.refusal.code is RefusalCode.PIXELS_UNREADABLE
    assert len(started) <= 6


def test_a_file_that_vanished_says_nothing_about_the_images(tmp_path: Path, started: list[decoding._Decoder]) -> None:
    paths = Ct(rows=64, columns=48).write(tmp_path)
    for path in paths:
        compressed(RLELossless)(path)
    headers, _ = read_headers(paths)
    paths[2].unlink()
    with pytest.raises(FileNotFoundError, match=paths[2].name):
        load_volume(headers, TWO)
    assert started


DEATHS = {
    "at once": "import sys; sys.exit(3)",
    "killed when asked": "import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 9)",
    "in mid-image": (
        'import os, sys; sys.stdin.readline(); os.write(1, b\'{"dtype": "<u2", "shape": [64, 48]}\\n\' + bytes(99));'
        " os.kill(os.getpid(), 11)"
    ),
    "in mid-line": "import os, sys; sys.stdin.readline(); os.write(1, b'{\"dty'); os.kill(os.getpid(), 9)",
    "out of memory": "import sys; sys.stdin.readline(); bytearray(1 << 50)",
}


@pytest.mark.parametrize("program", DEATHS.values(), ids=DEATHS)
def test_a_process_that_dies_is_an_error_and_nobody_waits(
    tmp_path: Path, started: list[decoding._Decoder], monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    paths = Ct(rows=64, columns=48).write(tmp_path)
    for path in paths:
        compressed(RLELossless)(path)
    monkeypatch.setattr(decoding, "COMMAND", (sys.executable, "-S", "-c", program))
    with pytest.raises(DecoderDiedError, match="a process that decodes images ended with"):
        load(paths)
    assert started


def test_too_little_memory_in_the_process_is_too_little_memory(
    tmp_path: Path, started: list[decoding._Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Ct(rows=64, columns=48).write(tmp_path)
    for path in paths:
        compressed(RLELossless)(path)
    said = 'import sys; sys.stdin.readline(); print(\'{"failed": "memory"}\', flush=True); sys.stdin.readline()'
    monkeypatch.setattr(decoding, "COMMAND", (sys.executable, "-S", "-c", said))
    with pytest.raises(MemoryError):
        load(paths)


def test_processes_are_started_where_they_pay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    grid = assess(read_headers(Ct().write(tmp_path)).headers, POLICY).grid
    assert grid is not None
    (part, *_) = grid.slices

    def processes(syntax: str, count: int, most: int = 0, size: int = 512) -> int:
        header = type(part.header)(**{**vars(part.header), "transfer_syntax_uid": str(syntax)})
        image = type(part.image)(**{**vars(part.image), "rows": size, "columns": size})
        return processes_for([Slice(header, image)] * count, most)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert processes(JPEG2000Lossless, 300) == 4
    assert processes(JPEG2000Lossless, 300, most=2) == 2
    assert processes(JPEG2000Lossless, 300, most=1) == 1
    assert processes(JPEG2000Lossless, 150, most=2) == 1, "the threads of one process do nearly as well"
    assert processes(JPEG2000Lossless, 30) == 1
    assert processes(JPEG2000Lossless, 300, size=128) == 1
    assert processes(JPEGLSLossless, 600) == 4
    assert processes(RLELossless, 600) == 1
    assert processes(RLELossless, 3000) == 4
    assert processes(DeflatedExplicitVRLittleEndian, 1200) == 4
    assert processes(ExplicitVRLittleEndian, 20_000) == 1
    assert processes("1.2.840.10008.1.2.1\0Doe^Jane" * 20, 20) == 1, "what is no UID is not quoted in a warning"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert processes(JPEG2000Lossless, 3000) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert processes(JPEG2000Lossless, 3000) == 8
    assert processes(JPEG2000Lossless, 3000, most=16) == 16


def test_the_configuration_says_how_many() -> None:
    assert gate_policy(load_settings()).decoding_processes == 0
    assert gate_policy(load_settings(work={"decoding_processes": 3})).decoding_processes == 3


def test_nothing_about_a_patient_goes_to_the_process(tmp_path: Path) -> None:
    (header, *_), _ = read_headers(Ct().write(tmp_path))
    asked = decoding.request(header, [None])
    assert asked.count(b"\n") == 1
    assert not any(word in asked for word in (b"Doe", b"P1", b"1950", dcmread(header.path).StudyInstanceUID.encode()))


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize(
    ("syntax", "loss"),
    [
        (JPEG2000Lossless, {}),
        (JPEG2000, {"j2k_cr": [8]}),
        (JPEGLSLossless, {}),
        (JPEGLSNearLossless, {"jls_error": 2}),
    ],
    ids=["JPEG 2000", "JPEG 2000 with loss", "JPEG-LS", "JPEG-LS with loss"],
)
def test_whichever_decoder_is_asked_first_the_values_are_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    syntax: str,
    loss: dict[str, object],
    bits: int,
    signed: bool,
) -> None:
    """With loss, too: an answer's identity rests on the decoded values, wherever they were decoded."""
    ds = ct_slice(0, size=64)
    noise = np.random.default_rng(3).normal(0, 20, (64, 64))
    values = 300 * np.sin(np.arange(64) / 7) + noise + (-200 if signed else 1000)
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, int(signed)
    ds.PixelData = np.rint(values).astype("<i2" if signed else "<u2").tobytes()
    ds.compress(syntax, generate_instance_uid=False, **loss)
    save(ds, tmp_path / "one.dcm")
    (header,), _ = read_headers([tmp_path / "one.dcm"])
    (several,) = pixels.stored_values(header, [None], one_thread=True)
    (alone,) = pixels.stored_values(header, [None])
    monkeypatch.setattr(pixels, "_FASTEST", {})
    (by_pydicom,) = pixels.stored_values(header, [None])
    assert np.array_equal(several, by_pydicom)
    assert np.array_equal(alone, by_pydicom)
    assert several.dtype == alone.dtype == by_pydicom.dtype
    assert int(several.max()) > 1000 - 1300 * signed


@pytest.mark.parametrize("frames", [1, 4])
def test_where_the_first_decoder_fails_another_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    """From the image on at which it failed."""
    asked: list[str] = []
    real = pixels.iter_pixels

    def failing(source: object, *, indices: list[int], raw: bool, decoding_plugin: str = "") -> Iterator[object]:
        asked.append(f"{decoding_plugin or 'any'} for {len(indices)}")
        for done, array in enumerate(real(source, indices=indices, raw=raw, decoding_plugin=decoding_plugin), start=1):
            if decoding_plugin and done == 3 - 2 * (frames == 1):
                raise RuntimeError("this decoder cannot")
            yield array

    ds = ct_slice(0, size=64)
    if frames > 1:
        ds = enhanced(Ct(rows=64, columns=48), list(range(12)))
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    save(ds, tmp_path / "one.dcm")
    (header,), _ = read_headers([tmp_path / "one.dcm"])
    wanted = [None] if frames == 1 else [2, 5, 6, 9]
    expected = list(pixels.stored_values(header, wanted))
    monkeypatch.setattr(pixels, "iter_pixels", failing)
    found = list(pixels.stored_values(header, wanted))
    assert asked == (["pyjpegls for 1", "any for 1"] if frames == 1 else ["pyjpegls for 4", "any for 2"])
    assert np.array_equal(found, expected)
