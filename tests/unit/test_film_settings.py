"""Which networks look at radiographs is the site's choice; one that was asked for and is not there is no silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from inference.runtime import ModelError
from node.answering import film_pipeline, radiograph_settings
from node.service import _check_models
from node.settings import Settings
from onnx_models import MODELS


def models_without(names: set[str], folder: Path) -> Path:
    """The shipped models, some of them left out."""
    manifest = json.loads((MODELS / "manifest.json").read_text())
    manifest["models"] = [m for m in manifest["models"] if m["name"] not in names]
    for entry in manifest["models"]:
        shutil.copy(MODELS / entry["file"], folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def site(**models: object) -> Settings:
    return Settings.model_validate({"models": models})


def test_the_published_method_may_tell_the_bodies() -> None:
    assert radiograph_settings(site()).body_network is None
    chosen = radiograph_settings(site(film_bodies="film_mdr2unet"))
    assert chosen.body_network == "film_mdr2unet" and {"film", "film_mdr2unet"} <= set(chosen.networks)


def test_what_was_asked_for_and_is_not_there_is_said(tmp_path: Path) -> None:
    folder = models_without({"film_mdr2unet"}, tmp_path)
    with pytest.raises(ModelError, match="film_mdr2unet"):
        film_pipeline(site(folder=folder, film_bodies="film_mdr2unet"))


def test_a_start_needs_every_network_that_looks_at_films(tmp_path: Path) -> None:
    """A site's own folder from a former version lacks the newest: told at the start, not when a film is there."""
    folder = models_without({"film_foreign"}, tmp_path)
    with pytest.raises(ModelError, match="film_foreign"):
        _check_models(site(folder=folder))
    (tmp_path / "without").mkdir()
    _check_models(site(folder=models_without({"film"}, tmp_path / "without")))


def test_without_the_network_for_films_there_is_no_pipeline_for_them(tmp_path: Path) -> None:
    assert film_pipeline(site(folder=models_without({"film"}, tmp_path))) is None
