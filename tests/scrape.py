"""Reads a node's metrics as a monitoring system does: over HTTP, in Prometheus' text format."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


class Scrape:
    """One answer of ``/metrics``."""

    def __init__(self, port: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            self.text = answer.read().decode("utf-8")
        self.families = list(text_string_to_metric_families(self.text))
        self._samples: dict[tuple[str, Labels], float] = {}
        for family in self.families:
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self._samples, f"{key} is told twice"
                self._samples[key] = sample.value

    def __call__(self, name: str, **labels: str) -> float | None:
        """The value of a sample; its name is without the program's prefix. ``None`` where it is not told."""
        return self._samples.get((f"spine_node_{name}", frozenset(labels.items())))

    def labels(self, name: str, label: str) -> set[str]:
        """All values of a label."""
        return {dict(found)[label] for told, found in self._samples if told == f"spine_node_{name}"}


def ask(port: int, path: str) -> tuple[int, Any]:
    """Status and JSON content of another question."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
