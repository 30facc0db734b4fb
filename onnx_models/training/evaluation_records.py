"""One evaluation patient through the shipped pipeline, as a plain record that is kept on disk.

A record holds truth and answer side by side, nothing derived, so that figures can be made again without running
anything. It is filed under the hashes of the evaluation set, the models and the source of the pipeline: whatever
changes, changes the folder, and an interrupted evaluation goes on where it stopped.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inference.ct import CtSettings, evaluate
from inference.findings import KEYPOINTS, Findings, VertebraFinding
from inference.geometry import Volume
from inference.localization import localize
from inference.refusal import Refusal
from inference.runtime import Models, load_models
from inference.sampling import inside
from inference.screening import measured_only
from inference.straightening import straighten
from onnx_models import MODELS
from onnx_models.training.evaluation_set import EvaluationCase, EvaluationSet, case, negative
from onnx_models.training.phantom import VertebraTruth

BUILD = Path("build/evaluation")
WHOLE_MM, CUT_MM = 2.0, 1.0
"""All key points this far inside the image: whole. One of them farther out than that: cut. Between: not judged."""
Record = dict[str, Any]


@dataclass(frozen=True)
class Runner:
    """The shipped models, ready to be run on a case; ``localizer_only`` where there are no key points yet."""

    chosen: EvaluationSet
    models: Models
    hashes: dict[str, str]
    localizer_only: bool
    settings: CtSettings
    """The pipeline without masks and what is measured on them: those are judged on `evaluation_groups`."""
    source: str
    """`source_hash` when the code was loaded."""

    @property
    def folder(self) -> Path:
        """Where the records of this set, these models and this code are kept."""
        models = (self.hashes[name] for name in sorted(self.hashes))
        parts = [self.chosen.sha256, phantom_hash(), *models, self.source]
        return BUILD / "records" / "-".join(part[:10] for part in parts)

    def record(self, kind: str, index: int) -> Record:
        """The record of one patient (``patient`` or ``negative``), from disk where it is there."""
        path = self.folder / f"{kind}-{index:03d}.json"
        if path.is_file():
            kept: Record = json.loads(path.read_text())
            return kept
        made = self._judge(kind, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(made))
        partial.replace(path)
        return made

    def _judge(self, kind: str, index: int) -> Record:
        volume, truth = prepared(self.chosen, kind, index)
        began = time.perf_counter()
        answer = self.answer(volume, [t["middle"] for t in truth["vertebrae"]])
        return {**truth, "answer": answer, "seconds": round(time.perf_counter() - began, 3)}

    def answer(self, volume: Volume, middles: list[list[float]]) -> Record:
        """What the pipeline says of a volume: its findings, and the curve at the given points (x, y, z)."""
        line = localize(measured_only(volume), self.models, self.settings.screening.localization)
        out: Record = {"line_mm": [None] * len(middles), "line_refusal": None, "found": []}
        if isinstance(line, Refusal):
            out["line_refusal"] = str(line.code)
        else:
            smooth, _ = straighten(line)
            for i, (x, y, z) in enumerate(middles):
                if line.bottom_mm <= z <= line.top_mm:
                    lx, ly, _ = smooth.at(np.array([z]))
                    out["line_mm"][i] = round(float(np.hypot(lx[0] - x, ly[0] - y)), 3)
        if not self.localizer_only:
            out |= _said(evaluate(volume, self.models, self.settings, age_years=70.0).findings)
        return out


def load_runner(chosen: EvaluationSet, folder: Path = MODELS) -> Runner:
    """The models of `folder` on the CPU, one thread."""
    manifest = json.loads((folder / "manifest.json").read_text())
    hashes = {model["name"]: model["sha256"] for model in manifest["models"]}
    settings = CtSettings(masks=None, abnormality=None)
    if "labeller" not in hashes:
        settings = replace(settings, labelling=None)
    names = [name for name in settings.networks if name in hashes]
    models = load_models(folder, "cpu", threads=1, names=names)
    used = {name: hashes[name] for name in names}
    return Runner(chosen, models, used, "keypoints" not in names, settings, source_hash(pipeline_source()))


def pipeline_source(entry: str = "ct") -> list[Path]:
    """The modules of ``inference`` that a pipeline imports, itself among them: what its answers depend on."""
    folder = MODELS.parent / "inference"
    found: set[str] = set()
    waiting = {entry}
    while waiting:
        name = waiting.pop()
        found.add(name)
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                package, _, module = node.module.partition(".")
                if package == "inference":
                    waiting |= ({module} if module else {alias.name for alias in node.names}) - found
    return [folder / f"{name}.py" for name in sorted(found)]


def source_hash(paths: Iterable[Path]) -> str:
    """SHA-256 over names and content of files: another code, another evaluation."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def phantom_hash() -> str:
    """SHA-256 over the source of the phantom, but for its writing of DICOM."""
    paths = sorted((MODELS / "training" / "phantom").glob("*.py"))
    return source_hash(path for path in paths if path.name != "dicom.py")


def prepared(chosen: EvaluationSet, kind: str, index: int) -> tuple[Volume, Record]:
    """Volume and truth of a case; kept on disk, because a scanner's view takes longer to make than to judge."""
    stem = BUILD / "cases" / f"{chosen.sha256[:10]}-{phantom_hash()[:10]}" / f"{kind}-{index:03d}"
    voxels, facts = stem.with_suffix(".npy"), stem.with_suffix(".json")
    if facts.is_file():
        kept: Record = json.loads(facts.read_text())
        return Volume(np.load(voxels), np.array(kept["affine"])), kept
    made = (negative if kind == "negative" else case)(chosen, index)
    volume, truth = measured_only(made.volume), truth_of(made, kind)
    stem.parent.mkdir(parents=True, exist_ok=True)
    for path, write in (
        (voxels, lambda f: np.save(f, volume.hu)),
        (facts, lambda f: f.write(json.dumps(truth).encode())),
    ):
        _appear(path, write)
    return volume, truth


def _appear(path: Path, write: Callable[[Any], object]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        write(file)
    partial.replace(path)


def truth_of(made: EvaluationCase, kind: str) -> Record:
    """What is known of a case, as plain values."""
    return {
        "kind": kind,
        "index": made.index,
        "region": made.region,
        "spacing_mm": made.spacing_mm,
        "affine": made.volume.affine.tolist(),
        "shape": list(made.volume.hu.shape),
        "vertebrae": [_vertebra(v, made) for v in made.patient.vertebrae if _view(v, made.volume) != "outside"],
    }


def _view(v: VertebraTruth, volume: Volume) -> str:
    """``whole``, ``cut`` or ``outside`` the image; ``edge`` where it is too near to say."""
    points = v.keypoints_lps_mm
    if inside(volume, points, WHOLE_MM).all():
        return "whole"
    if not inside(volume, points, -CUT_MM).any():
        return "outside"
    return "edge" if inside(volume, points, -CUT_MM).all() else "cut"


def _vertebra(v: VertebraTruth, made: EvaluationCase) -> Record:
    middle = v.keypoints_lps_mm[2:4].mean(axis=0)
    return {
        "level": v.level,
        "view": _view(v, made.volume),
        "centre": v.keypoints_lps_mm.mean(axis=0).tolist(),
        "middle": middle.tolist(),
        "points": v.keypoints_lps_mm.tolist(),
        "heights": v.heights_mm.tolist(),
        "loss": v.loss.tolist(),
        "G": v.G,
        "deformity": v.deformity,
        "metal": bool(v.metal or v.cement),
    }


def _said(findings: Findings) -> Record:
    return {
        "refusal": None if findings.refusal is None else str(findings.refusal.code),
        "flag": findings.patient.flag,
        "numbering": None if findings.numbering is None else findings.numbering.anchor,
        "found": [found_of(v) for v in findings.vertebrae],
        "timings_s": findings.timings_s,
    }


def found_of(v: VertebraFinding) -> Record:
    """A finding as plain values."""
    points = None if v.keypoints_lps_mm is None else [list(getattr(v.keypoints_lps_mm, k)) for k in KEYPOINTS]
    return {
        "centre": list(v.centroid_lps_mm),
        "points": points,
        "heights": None if v.heights_mm is None else list(v.heights_mm.as_tuple()),
        "loss": None if v.height_loss is None else list(v.height_loss.as_tuple()),
        "G": v.height_ratio,
        "grade": None if v.grade is None else str(v.grade),
        "level": None if v.level is None else str(v.level),
        "level_confidence": v.level_confidence,
        "score": v.abnormality_score,
        "volumes_ml": [v.vertebra_volume_ml, v.body_volume_ml],
        "confidence": v.confidence,
        "quality": [str(q) for q in v.quality],
    }
