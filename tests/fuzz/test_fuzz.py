"""The short form: fixed seeds, under a minute; `make fuzz` goes on with others."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.chaos.counts import record
from tests.fuzz.inputs import conversations, data_sets, hostile, syntaxes
from tests.fuzz.properties import Content, wire

SHORT = settings(
    max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


def test_no_conversation_harms_the_listener(tmp_path: Path) -> None:
    with wire(tmp_path) as tested:

        @SHORT
        @given(conversations)
        def talk(conversation: tuple[bytes, list[bytes], int]) -> None:
            tested.converse(conversation)

        talk()
        assert tested.tried["conversations"] >= 100
    record("strangers: hostile conversations", **tested.tried)


def test_no_data_set_harms_spool_registrar_or_gate(tmp_path: Path) -> None:
    tested = Content(tmp_path / "spool")

    @SHORT
    @given(data_sets, syntaxes, hostile | st.just(b"1.2.3"))
    def take(content: bytes, syntax: str, uid: bytes) -> None:
        tested.take(content, syntax, uid)

    take()
    assert tested.tried["data sets"] >= 100
    record("strangers: hostile data sets", **tested.tried)
