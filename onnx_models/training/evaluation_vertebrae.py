"""One case of ``phantom-eval/2`` through the whole CT pipeline, vertebra by vertebra, as a plain record kept on disk.

As in `evaluation_records` a record holds truth and answer side by side and is filed under the hashes of the set, the
phantom, the models and the source of ``inference``, so that an interrupted evaluation goes on where it stopped. Masks
are compared here, once, because they are not kept.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.ct import CtAnswer, CtSettings, evaluate
from inference.geometry import Volume
from inference.masks import BODY
from inference.runtime import Models, load_models
from inference.sampling import extent
from inference.screening import measured_only
from onnx_models import MODELS
from onnx_models.training.evaluation_groups import GroupSet, group_case, load_groups
from onnx_models.training.evaluation_records import (
    BUILD,
    found_of,
    phantom_hash,
    pipeline_source,
    source_hash,
    truth_of,
)
from onnx_models.training.evaluation_set import EvaluationCase
from onnx_models.training.labeller_scenes import named_centres
from onnx_models.training.metrics import dice_of, matched, surface_distance

MATCH_MM = 12.0
"""A found vertebra stands for a true one when their centres are nearer than this."""
REACH_MM = (62.0, 45.0, 78.0)
"""No part of a vertebra is farther from its centre to the sides, to the front and to the back."""
Record = dict[str, Any]


@dataclass(frozen=True)
class GroupRunner:
    """The shipped models, ready to be run on the cases of the groups."""

    chosen: GroupSet
    models: Models
    settings: CtSettings
    source: str

    @property
    def folder(self) -> Path:
        """Where the records of this set, these models and this code are kept."""
        hashes = [identity.sha256 for identity in sorted(self.models.identities, key=lambda m: m.name)]
        parts = [self.chosen.sha256, phantom_hash(), *hashes, self.source]
        return BUILD / "records" / "-".join(part[:10] for part in parts)

    def record(self, group: str, index: int) -> Record:
        """The record of one case, from disk where it is there."""
        path = self.folder / f"{group.replace(' ', '-')}-{index:03d}.json"
        if path.is_file():
            kept: Record = json.loads(path.read_text())
            return kept
        volume, parts, truth = prepared(self.chosen, group, index)
        began = time.perf_counter()
        answer = evaluate(volume, self.models, self.settings, age_years=70.0)
        seconds = round(time.perf_counter() - began, 3)
        made = judged(volume, parts, truth, answer) | {"group": group, "seconds": seconds}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(made))
        partial.replace(path)
        return made


def load_group_runner(folder: Path = MODELS, masks: bool = True) -> GroupRunner:
    """The models of ``folder`` on the CPU, one thread, with the pipeline's own settings; without masks names alone."""
    settings = CtSettings() if masks else CtSettings(masks=None, abnormality=None)
    return GroupRunner(
        load_groups(),
        load_models(folder, "cpu", threads=1, names=list(settings.networks)),
        settings,
        source_hash(pipeline_source()),
    )


def prepared(chosen: GroupSet, group: str, index: int) -> tuple[Volume, NDArray[np.uint8], Record]:
    """(volume, true parts, truth) of a case, kept on disk; parts (2, slices, rows, columns): 1-based number of the
    vertebra in ``truth["vertebrae"]`` whose member a voxel is, and 1 body or 2 posterior elements."""
    stem = BUILD / "cases" / f"{chosen.sha256[:10]}-{phantom_hash()[:10]}" / f"{group.replace(' ', '-')}-{index:03d}"
    facts = stem.with_suffix(".json")
    if facts.is_file():
        kept: Record = json.loads(facts.read_text())
        parts = np.load(stem.with_suffix(".npz"))["parts"]
        return Volume(np.load(stem.with_suffix(".npy")), np.array(kept["affine"])), parts, kept
    case = group_case(chosen, group, index)
    volume = measured_only(case.volume)
    parts, truth = parts_of(case), named_truth(case)
    stem.parent.mkdir(parents=True, exist_ok=True)
    np.save(stem.with_suffix(".npy"), volume.hu)
    np.savez_compressed(stem.with_suffix(".npz"), parts=parts)
    partial = stem.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(truth))
    partial.replace(facts)  # last: only then the case is there
    return volume, parts, truth


def named_truth(case: EvaluationCase) -> Record:
    """`truth_of` of a case; each vertebra has its ``number`` in the parts, and the two uppermost ones, which have no
    parts, are there by name and centre alone, in view or nearly, so that a name given to them can be judged."""
    truth = truth_of(case, "group")
    levels = [v.level for v in case.patient.vertebrae]
    for vertebra in truth["vertebrae"]:
        vertebra["number"] = levels.index(vertebra["level"]) + 1
    low, high = (float(corner[2]) for corner in extent(case.volume))
    for name, centre in zip(*named_centres(case.patient), strict=True):
        if name in ("C1", "C2") and low - MATCH_MM <= centre[2] <= high + MATCH_MM:
            truth["vertebrae"].append(
                {"level": name, "view": "edge", "centre": centre.tolist(), "loss": [0.0] * 3, "number": 0}
                | {"deformity": "none", "metal": False}
            )
    return truth


def parts_of(case: EvaluationCase) -> NDArray[np.uint8]:
    """(2, slices, rows, columns): number of the vertebra and its part at each voxel's centre."""
    volume, shape = case.volume, case.volume.hu.shape
    out = np.zeros((2, *shape), np.uint8)
    centres = np.array([v.centroid_lps_mm for v in case.patient.vertebrae])
    aside, front, back = REACH_MM
    low = centres.min(axis=0) - np.array([aside, front, back])
    high = centres.max(axis=0) + np.array([aside, back, back])
    corners = np.array([[(high if (n >> a) & 1 else low)[a] for a in range(3)] for n in range(8)])
    index = volume.to_index(corners)
    first = np.clip(np.floor(index.min(axis=0)).astype(int), 0, shape)
    last = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, first, shape)
    rows, columns = (np.arange(a, b) for a, b in zip(first[1:], last[1:], strict=True))
    for k in range(first[0], last[0]):
        points = volume.to_lps(np.stack(np.meshgrid([k], rows, columns, indexing="ij"), axis=-1))
        found = case.patient.part(points.reshape(-1, 3))
        for n in range(2):
            out[n, k, first[1] : last[1], first[2] : last[2]] = found[n].reshape(len(rows), len(columns))
    return out


def judged(volume: Volume, parts: NDArray[np.uint8], truth: Record, answer: CtAnswer) -> Record:
    """The truth with, at each vertebra, what was found of it; and what else was found or named."""
    findings = answer.findings
    found = [found_of(v) for v in findings.vertebrae]
    at, true = (np.array([one["centre"] for one in many]).reshape(-1, 3) for many in (found, truth["vertebrae"]))
    place = matched(at, true, MATCH_MM)
    voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000.0
    vertebrae = [dict(v) for v in truth["vertebrae"]]
    for ordinal, (one, k) in enumerate(zip(found, place, strict=True), start=1):
        if k is not None:
            vertebrae[k]["found"] = one | _compared(volume, parts, vertebrae[k]["number"], answer, ordinal)
    for vertebra in vertebrae:
        if vertebra["number"]:
            own = parts[0] == vertebra["number"]
            vertebra["true_ml"] = [float(own.sum()) * voxel_ml, float((own & (parts[1] == 1)).sum()) * voxel_ml]
    numbering = findings.numbering
    return {
        **truth,
        "vertebrae": vertebrae,
        "answer": {
            "refusal": None if findings.refusal is None else str(findings.refusal.code),
            "numbering": bool(numbering is not None and numbering.known),
            "anchor": None if numbering is None else numbering.anchor,
            "elsewhere": [one for one, k in zip(found, place, strict=True) if k is None],
            "timings_s": findings.timings_s,
        },
    }


def _compared(
    volume: Volume, parts: NDArray[np.uint8], number: int, answer: CtAnswer, ordinal: int
) -> dict[str, float | None]:
    """Dice of the vertebra and of its body, and the mean distance of the surfaces; ``None`` without a mask."""
    nothing: dict[str, float | None] = {"dice": None, "body_dice": None, "surface_mm": None}
    if answer.labels is None or answer.parts is None or not number:
        return nothing
    both = (answer.labels == ordinal) | (parts[0] == number)
    if not (answer.labels == ordinal).any():
        return nothing
    box = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in ndimage.find_objects(both.astype(np.uint8))[0])
    said, true = answer.labels[box] == ordinal, parts[0][box] == number
    body, true_body = said & (answer.parts[box] == BODY), true & (parts[1][box] == 1)
    return {
        "dice": dice_of(said, true),
        "body_dice": dice_of(body, true_body),
        "surface_mm": surface_distance(said, true, volume.spacing_mm),
    }
