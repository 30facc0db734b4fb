"""However a message is cut into fragments and PDUs (PS3.8 Annex E), the same bytes lie in the spool."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from tests.pdus import COMMAND, CT, ECHO, LAST, data_pdus, echo_command, p_data, pdv, store, store_command
from tests.receive.conftest import Ear

DATA = random.Random(7).randbytes(300_001) + b"\0"
COMMAND_SET = store_command("1.2.3.4")


def cut(content: bytes, *places: int) -> list[bytes]:
    edges = [0, *places, len(content)]
    return [content[a:b] for a, b in pairwise(edges)]


def fragments(content: bytes, kind: int, *places: int) -> list[bytes]:
    parts = cut(content, *places)
    return [pdv(part, kind | (LAST if n == len(parts) - 1 else 0)) for n, part in enumerate(parts)]


SMALL = DATA[:5000]
SHAPES = {
    "a PDU each": [p_data(*fragments(COMMAND_SET, COMMAND)), p_data(*fragments(SMALL, 0))],
    "command and data in one PDU": [p_data(*fragments(COMMAND_SET, COMMAND), *fragments(SMALL, 0))],
    "several fragments in one PDU": [
        p_data(*fragments(COMMAND_SET, COMMAND)),
        p_data(*fragments(SMALL, 0, 10, 11, 3000)),
    ],
    "the command in many PDUs": [p_data(f) for f in fragments(COMMAND_SET, COMMAND, *range(1, len(COMMAND_SET)))]
    + [p_data(*fragments(SMALL, 0))],
    "empty fragments": [
        p_data(pdv(b"", COMMAND)),
        p_data(pdv(COMMAND_SET, COMMAND), pdv(b"", COMMAND | LAST)),
        p_data(pdv(b"", 0)),
        p_data(pdv(SMALL, 0), pdv(b"", 0)),
        p_data(pdv(b"", LAST)),
    ],
    "an empty PDU": [p_data(*fragments(COMMAND_SET, COMMAND)), p_data(), p_data(*fragments(SMALL, 0))],
    "the last of the command with the first of the data": [
        p_data(pdv(COMMAND_SET[:20], COMMAND)),
        p_data(pdv(COMMAND_SET[20:], COMMAND | LAST), pdv(SMALL[:100], 0)),
        p_data(pdv(SMALL[100:], LAST)),
    ],
    "thousands of fragments of one byte": [
        p_data(*fragments(COMMAND_SET, COMMAND)),
        p_data(*fragments(SMALL, 0, *range(1, len(SMALL)))),
    ],
    "thousands of PDUs of two bytes": [p_data(*fragments(COMMAND_SET, COMMAND))]
    + [p_data(f) for f in fragments(SMALL, 0, *range(2, len(SMALL), 2))],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_message_in_any_shape_is_stored(ear: Ear, shape: str) -> None:
    with ear.sender() as sender:
        sender.associate()
        sender.send(b"".join(SHAPES[shape]))
        assert sender.status() == 0
        assert sender.release() == 6
    assert [ear.data_set(reception) for reception in ear.receptions] == [SMALL]


@pytest.mark.parametrize("seed", range(6))
def test_random_shapes_in_random_pieces(ear: Ear, seed: int) -> None:
    """Cut anywhere into fragments, fragments into PDUs, and the stream into pieces that end anywhere."""
    rng = random.Random(seed)
    with ear.sender() as sender:
        sender.associate()
        for _ in range(3):
            places = sorted(rng.sample(range(1, len(DATA)), rng.choice([0, 3, 40, 400])))
            fragments_left = fragments(COMMAND_SET, COMMAND, *sorted(rng.sample(range(1, 40), rng.randrange(4))))
            fragments_left += fragments(DATA, 0, *places)
            stream, room = b"", 131072
            group: list[bytes] = []
            for fragment in (part for whole in fragments_left for part in _split(whole, room)):
                if group and (sum(map(len, group)) + len(fragment) > room or rng.random() < 0.5):
                    stream += p_data(*group)
                    group = []
                group.append(fragment)
            stream += p_data(*group)
            ends = sorted(rng.sample(range(1, len(stream)), 15))
            for piece in cut(stream, *ends):
                sender.send(piece)
            assert sender.status() == 0
    assert [ear.data_set(reception) == DATA for reception in ear.receptions] == [True] * 3


def _split(fragment: bytes, room: int) -> list[bytes]:
    """A fragment as several that fit into a PDU each."""
    control, content = fragment[5], fragment[6:]
    parts = cut(content, *range(room - 6, len(content), room - 6))
    return [pdv(part, control if n == len(parts) - 1 else control & COMMAND) for n, part in enumerate(parts)]


def test_instances_larger_than_the_buffer(ear: Ear) -> None:
    with ear.sender() as sender:
        sender.associate()
        contents = [random.Random(n).randbytes(3_500_000 + n * 1000) for n in range(2)]
        assert sender.store_all([store(f"1.2.{n}", content) for n, content in enumerate(contents)]) == [0, 0]
    assert [
        ear.data_set(reception) == content for reception, content in zip(ear.receptions, contents, strict=True)
    ] == [
        True,
        True,
    ]


def test_an_empty_data_set_is_an_instance(ear: Ear) -> None:
    with ear.sender() as sender:
        sender.associate()
        assert sender.store_all([store("1.2.3", b"")]) == [0]
    assert [ear.data_set(reception) for reception in ear.receptions] == [b""]


def test_a_sender_that_does_not_wait_for_answers_gets_them_in_order(fast: Ear) -> None:
    with fast.sender() as sender:
        sender.associate()
        sender.send(b"".join(store(f"1.2.{n}", DATA[: n * 999], message_id=n) for n in range(1, 40)))
        answered = []
        for _ in range(39):
            _, body = sender.read()
            at = body.index(b"\0\0\x20\x01\x02\0\0\0")
            answered.append(int.from_bytes(body[at + 8 : at + 10], "little"))
    assert answered == list(range(1, 40))
    assert [reception.sop_instance_uid for reception in fast.receptions] == [f"1.2.{n}" for n in range(1, 40)]


def test_echo_is_answered_between_and_behind_instances(ear: Ear) -> None:
    echo = p_data(pdv(echo_command(), COMMAND | LAST, ECHO))
    with ear.sender() as sender:
        sender.associate()
        for number in range(3):
            sender.send(echo)
            assert sender.status() == 0
            assert sender.store_all([store(f"1.2.{number}", SMALL)]) == [0]
        sender.send(store("1.2.9", SMALL) + echo + store("1.2.10", SMALL) + echo)
        assert [sender.status() for _ in range(4)] == [0] * 4
        assert sender.release() == 6
    assert len(ear.receptions) == 5


def test_the_response_names_what_it_answers(ear: Ear) -> None:
    with ear.sender() as sender:
        sender.associate()
        sender.send(store("1.2.3.456", SMALL, message_id=777))
        kind, body = sender.read()
    assert kind == 4
    assert body[4:6] == bytes([CT, COMMAND | LAST])
    assert b"1.2.3.456" in body
    assert b"\0\0\x20\x01\x02\0\0\0" + (777).to_bytes(2, "little") in body
    assert b"\0\0\0\x01\x02\0\0\0\x01\x80" in body
    assert data_pdus(b"") == p_data(pdv(b"", LAST))
