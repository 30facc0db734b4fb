"""``make train`` makes and judges every model that is shipped."""

from __future__ import annotations

import re
from pathlib import Path

from inference.runtime import read_manifest
from onnx_models import MODELS

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def recipe() -> str:
    """What ``make train`` runs."""
    found = re.search(r"^train:.*\n((?:\t.*\n)+)", MAKEFILE.read_text(), re.MULTILINE)
    assert found is not None
    return found.group(1)


def test_every_shipped_model_is_trained_again() -> None:
    trained = re.search(r"for network in (.*?); do", recipe())
    assert trained is not None
    order = trained.group(1).split()
    assert set(order) == set(read_manifest(MODELS))
    for judged_alone in ("film_points", "film_foreign"):
        assert order.index("film") < order.index(judged_alone)  # its crops are cut by the other one's maps


def test_what_a_model_learns_from_is_made_before_and_every_card_is_written_after() -> None:
    before, _, after = recipe().partition("for network in")
    looped = re.search(r"for judge in (.*?); do", after)
    assert looped is not None
    judges = {f"{name}_evaluation" for name in looped.group(1).split()}
    judges |= set(re.findall(r"onnx_models\.training\.(\w+)", after))
    makers = ("film_generator", "film_points_films", "film_foreign_films", "labeller_scenes", "segmenter_generator")
    for maker in (*makers, "completion_data"):
        assert f"onnx_models.training.{maker}" in before
    for entry in read_manifest(MODELS).values():
        text = (MODELS / str(entry["card"])).read_text()
        writers = set(re.findall(r"written by onnx_models\.training\.(\w+)", text))
        assert writers
        assert writers <= judges, entry["name"]
