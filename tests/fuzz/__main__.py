"""``python -m tests.fuzz --minutes N``: other inputs in every round, until the time is over or something breaks."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from node.logs import configure_logs
from tests.fuzz.inputs import conversations, data_sets, hostile, syntaxes
from tests.fuzz.properties import Content, wire

ROUND = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    print_blob=True,
    phases=[Phase.generate, Phase.shrink],
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    options = parser.parse_args()
    configure_logs()
    end, number = time.monotonic() + 60 * options.minutes, options.seed
    tried: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch, wire(Path(scratch) / "wire") as listener:
        content = Content(Path(scratch) / "spool")

        @ROUND
        @given(conversations)
        def talk(conversation: tuple[bytes, list[bytes], int]) -> None:
            listener.converse(conversation)

        @ROUND
        @given(data_sets, syntaxes, hostile | st.just(b"1.2.3"))
        def take(data_set: bytes, syntax: str, uid: bytes) -> None:
            content.take(data_set, syntax, uid)

        while time.monotonic() < end:
            seed(number)(talk)()
            seed(number)(take)()
            number += 1
            tried = listener.tried + content.tried
            print(f"round {number - options.seed}: {_sentence(tried)}", flush=True)
    print(f"nothing broke in {options.minutes:g} minutes: {_sentence(tried)}")


def _sentence(tried: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(tried.items()))


if __name__ == "__main__":
    main()
