"""How well the abnormality score tells deformed vertebrae from healthy ones; nothing here is trained on.

``python -m onnx_models.training.completion_evaluation`` prints the figures as JSON: phantoms of the evaluation ranges
with seeds of their own (perfect masks, masks degraded as a segmenter's, and those of the shipped segmenter on whole
scans), real shapes as they are and pressed together, and the vertebrae of the one real CT. ``--calibrate`` measures, on
phantoms of the training ranges, what the normal surplus of each level is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from inference.abnormality import NEIGHBOURS, NETWORK, AbnormalitySettings, Body, score_bodies
from inference.findings import Level
from inference.masks import MaskSettings, segment
from inference.runtime import Models, load_models
from onnx_models.training.completion_card import written
from onnx_models.training.completion_cases import (
    MILD,
    MODERATE,
    SEVERE,
    Case,
    Shape,
    crushed,
    drawn,
    phantom_case,
)
from onnx_models.training.completion_scans import scan_of, segmented
from onnx_models.training.export import MODELS
from onnx_models.training.phantom import TRAINING
from onnx_models.training.real_cases import LABELS, nifti, real_folder
from onnx_models.training.segmenter_cases import real_case_list

EVALUATION_SEED = 9041
CALIBRATION_SEED = 7041
SEVERE_MEAN = 75.0
"""Mean score of fractured vertebrae in the external data of Botros et al. 2022: here that of severe deformities."""
HEALTHY = 0.05
"""Up to this loss a body counts as undeformed."""
NORMAL_PER_PATIENT = 4
"""So many undeformed vertebrae of each patient are scored beside every deformed one."""
LEVELS = tuple(f"T{n}" for n in range(1, 13)) + tuple(f"L{n}" for n in range(1, 6))


@dataclass(frozen=True)
class Record:
    """One scored vertebra of a case with known truth."""

    case: int
    level: str
    loss: float
    fractured_neighbours: int
    surplus: float
    score: float


def scored(
    case: Case, index: int, models: Models, settings: AbnormalitySettings, rng: np.random.Generator
) -> list[Record]:
    """Records of every deformed vertebra and of a few undeformed ones; those next to a fracture first."""
    graded = [i for i, b in enumerate(case.bodies) if b.level is not None and b.level[0] in "TL"]
    near = {i: _fractured_neighbours(case, i) for i in graded}
    sound = sorted((i for i in graded if case.loss[i] <= HEALTHY), key=lambda i: (-near[i], rng.random()))
    if not any(near.values()):
        rng.shuffle(sound)
    chosen = [i for i in graded if case.loss[i] > HEALTHY] + sound[:NORMAL_PER_PATIENT]
    found = score_bodies(case.labels, case.parts, case.affine, case.bodies, models, settings, chosen)
    out = []
    for i in chosen:
        one = found[i]
        if one.score is not None and one.surplus is not None:
            level = str(case.bodies[i].level)
            out.append(Record(index, level, float(case.loss[i]), near[i], one.surplus, one.score))
    return out


def _fractured_neighbours(case: Case, i: int) -> int:
    return sum(case.bodies[i + s].fractured for s in NEIGHBOURS if 0 <= i + s < len(case.bodies))


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Area under the ROC curve; NaN where one class is empty."""
    if not len(positive) or not len(negative):
        return float("nan")
    ranks = rankdata(np.concatenate([positive, negative]))
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def specificity_at(positive: Sequence[float], negative: Sequence[float], sensitivity: float = 0.9) -> float:
    """Part of the negatives below the score that finds ``sensitivity`` of the positives."""
    if not len(positive) or not len(negative):
        return float("nan")
    bound = np.sort(positive)[int((1 - sensitivity) * len(positive) + 1e-9)]
    return float((np.asarray(negative) < bound).mean())


def figures(records: Iterable[Record], rounds: int = 500, seed: int = 3) -> dict[str, Any]:
    """Figures with 95 % bootstrap intervals over patients: {"auc": [value, low, high], ...}.

    Positives have lost ``MODERATE`` or more of a height. ``auc`` takes every other vertebra as negative, mild losses
    included; ``auc_undeformed`` only undeformed ones.
    """
    records = list(records)
    cases = sorted({r.case for r in records})
    by_case = {c: [r for r in records if r.case == c] for c in cases}
    rng = np.random.default_rng(seed)
    drawn_ones = [
        _plain([r for c in rng.choice(cases, len(cases)) for r in by_case[int(c)]])
        for _ in range(rounds if cases else 0)
    ]
    out: dict[str, Any] = {"vertebrae": len(records), "patients": len(cases)}
    for key, value in _plain(records).items():
        values = np.array([d[key] for d in drawn_ones])
        values = values[np.isfinite(values)]
        interval = np.percentile(values, [2.5, 97.5]).tolist() if len(values) else [float("nan")] * 2
        out[key] = [round(v, 4) for v in (value, *interval)]
    for name, low, high in _GROUPS:
        out[f"n_{name}"] = sum(low <= r.loss < high for r in records)
    return out


_GROUPS = (("normal", -1.0, HEALTHY), ("mild", MILD, MODERATE), ("moderate", MODERATE, SEVERE), ("severe", SEVERE, 2.0))


def _plain(records: Sequence[Record]) -> dict[str, float]:
    positive = [r.score for r in records if r.loss >= MODERATE]
    others = [r.score for r in records if r.loss < MODERATE]
    sound = [r.score for r in records if r.loss <= HEALTHY]
    out = {
        "auc": auc(positive, others),
        "auc_undeformed": auc(positive, sound),
        "specificity_at_90": specificity_at(positive, others),
    }
    for name, low, high in _GROUPS:
        values = [r.score for r in records if low <= r.loss < high]
        out[f"mean_{name}"] = float(np.mean(values)) if values else float("nan")
    return out


def phantoms(
    models: Models, settings: AbnormalitySettings, patients: int, degraded: bool, seed: int = EVALUATION_SEED
) -> list[Record]:
    """Records of that many patients of the evaluation ranges, every second one deformed."""
    out = []
    for index in range(patients):
        rng = np.random.default_rng([seed, index, 1])
        out += scored(phantom_case(seed, index, degraded=degraded), index, models, settings, rng)
    return out


def segmented_phantoms(
    models: Models, settings: AbnormalitySettings, patients: int, seed: int = EVALUATION_SEED
) -> list[Record]:
    """Records of whole scans of the evaluation ranges, with the masks of the shipped segmenter."""
    out = []
    for index in range(patients):
        case = segmented(scan_of(seed, index), models)
        out += scored(case, index, models, settings, np.random.default_rng([seed, index, 3]))
    return out


def by_neighbours(records: Sequence[Record]) -> dict[str, Any]:
    """`figures` for vertebrae with none, one, and two or more fractured ones among their four neighbours."""
    groups = {"0": (0, 0), "1": (1, 1), "2 or more": (2, 4)}
    return {
        name: figures([r for r in records if low <= r.fractured_neighbours <= high])
        for name, (low, high) in groups.items()
    }


def calibrate(
    models: Models, patients: int = 40, settings: AbnormalitySettings | None = None, scans: bool = False
) -> dict[str, Any]:
    """The usual surplus of healthy vertebrae by level, and what severe ones have beyond it (training ranges).

    ``scans`` takes the masks of the shipped segmenter, else perfect and degraded ones. A cubic through the surpluses of
    all levels is less shaken by chance than a median of each.
    """
    settings = settings or AbnormalitySettings()
    healthy: list[tuple[int, float]] = []
    severe: list[tuple[int, float]] = []
    for index in range(patients):
        if scans:
            case = segmented(scan_of(CALIBRATION_SEED, index, TRAINING), models)
        else:
            case = phantom_case(CALIBRATION_SEED, index, TRAINING, degraded=index % 4 > 1)
        found = score_bodies(case.labels, case.parts, case.affine, case.bodies, models, settings)
        for body, loss, one in zip(case.bodies, case.loss, found, strict=True):
            if one.surplus is None or str(body.level) not in LEVELS:
                continue
            if loss <= HEALTHY:
                healthy.append((LEVELS.index(str(body.level)), one.surplus))
            elif loss >= SEVERE:
                severe.append((LEVELS.index(str(body.level)), one.surplus))
    place, surplus = np.array(healthy).T
    curve = np.polyfit(place, surplus, 3)
    beyond = surplus - np.polyval(curve, place)
    lost = [value - np.polyval(curve, at) for at, value in severe]
    return {
        "normal_surplus": {level: round(float(np.polyval(curve, n)), 3) for n, level in enumerate(LEVELS)},
        "beyond_percentiles_5_25_50_75_95_99": np.percentile(beyond, [5, 25, 50, 75, 95, 99]).round(4).tolist(),
        "severe_beyond_mean": float(np.mean(lost)) if lost else None,
        "full_surplus": full_surplus(lost) if lost else None,
        "healthy": len(healthy),
        "severe": len(severe),
    }


def full_surplus(severe: Sequence[float]) -> float:
    """The scale of the score: the surplus of 100 with which severe deformities have a mean score of `SEVERE_MEAN`.

    ``severe`` is what severe ones have beyond the usual surplus. Where none gives that mean, the nearest does.
    """

    def mean(scale: float) -> float:
        return float(np.clip(100.0 * np.asarray(severe) / scale, 0.0, 100.0).mean())

    scales = np.arange(0.10, 0.60, 0.01)
    return round(float(min(scales, key=lambda scale: abs(mean(scale) - SEVERE_MEAN))), 2)


def real_shapes(models: Models, settings: AbnormalitySettings, folder: Path) -> list[dict[str, Any]]:
    """Scores of every real shape as it is, and pressed together by 30 and 50 % (all of it, or its front)."""
    from onnx_models.training.real_shapes import load_spines  # noqa: PLC0415 - slow to load, needed here only

    out = []
    for spine in load_spines(folder):
        shapes = [
            Shape(
                Level(v.level),
                0.0,
                v.centroid_lps_mm,
                v.frame,
                float(np.linalg.norm(v.keypoints_lps_mm[2:4].mean(0) - v.keypoints_lps_mm[:2].mean(0)) * 2),
                45.0,
                v.body_distance,
            )
            for v in spine.vertebrae
        ]
        for name, loss, wedge in (
            ("as it is", 0.0, False),
            *((f"{k} {p:.0%}", p, k == "wedge") for k in ("crush", "wedge") for p in (0.3, 0.5)),
        ):
            for i, shape in enumerate(shapes):
                if shape.level[0] not in "TL":
                    continue
                changed = [*shapes]
                if loss:
                    changed[i] = crushed(shape, loss, wedge)
                case = drawn(changed, np.random.default_rng([1, i]), (1.0, 1.0, 1.0))
                one = score_bodies(case.labels, case.parts, case.affine, case.bodies, models, settings, [i])[i]
                out.append(
                    {"source": spine.name, "level": str(shape.level), "change": name, "loss": loss,
                     "surplus": one.surplus, "score": one.score, "neighbours": one.neighbours}
                )  # fmt: skip
    return out


def real_ct(models: Models, settings: AbnormalitySettings, folder: Path, sacrum: bool = True) -> list[dict[str, Any]]:
    """Scores from the silver body masks of the example CT (no fracture known), T11 cut by the edge."""
    silver = folder / "totalsegmentator" / "spine_report" / "example_ct_report"
    labels, bodies = nifti(silver / "totalseg.nii.gz"), nifti(silver / "totalseg_vertebrae_body.nii.gz")
    parts = np.where(bodies.hu == 1, 1, 2).astype(np.uint8)
    numbers = np.where(np.isin(labels.hu, list(LABELS)), labels.hu, 0).astype(np.uint8)
    known = sorted(LABELS, reverse=True)
    listed = [Body(n, Level(LABELS[n]), partial=LABELS[n] == "T11") for n in known if sacrum or LABELS[n] != "S1"]
    found = score_bodies(numbers, parts, labels.affine, listed, models, settings)
    return [
        {"level": str(b.level), "surplus": a.surplus, "score": a.score, "neighbours": a.neighbours,
         "expected_ml": a.expected.volume_ml if a.expected else None}
        for b, a in zip(listed, found, strict=True)
    ]  # fmt: skip


def real_ct_segmented(models: Models, settings: AbnormalitySettings) -> list[dict[str, Any]]:
    """Scores of T12 to L5 of the example CT from masks of the shipped segmenter at the silver centroids."""
    shown = [c for c in real_case_list() if c.level in LEVELS]
    volume = shown[0].volume
    masks = segment(volume, np.array([c.centre for c in shown]), models)
    listed = [Body(n + 1, Level(c.level), partial=bool(masks.partial[n])) for n, c in enumerate(shown)]
    found = score_bodies(masks.labels, masks.parts, volume.affine, listed, models, settings)
    return [
        {"level": str(b.level), "surplus": a.surplus, "score": a.score, "neighbours": a.neighbours, "cut": b.partial}
        for b, a in zip(listed, found, strict=True)
    ]


def evaluate(patients: int = 40, folder: Path = MODELS, part: str = "all") -> dict[str, Any]:
    """Every figure of the card; ``part`` is "phantoms", "segmented", "real" or "all".

    Real images and shapes are left out where their folder is absent, and that is said.
    """
    models = load_models(folder, "cpu", threads=1, names=[NETWORK, MaskSettings().network])
    settings = AbnormalitySettings()
    out: dict[str, Any] = {"fractured_neighbours_are": settings.fractured}
    if part in ("all", "phantoms"):
        other = replace(settings, fractured="zeros" if settings.fractured == "told" else "told")
        perfect = phantoms(models, settings, patients, degraded=False)
        out["phantoms"] = figures(perfect)
        out["phantoms_by_fractured_neighbours"] = by_neighbours(perfect)
        out[f"phantoms_{other.fractured}"] = by_neighbours(phantoms(models, other, patients, degraded=False))
        out["phantoms_degraded"] = figures(phantoms(models, settings, patients, degraded=True))
    if part in ("all", "segmented"):
        records = segmented_phantoms(models, settings, patients)
        out["phantoms_segmented"] = figures(records)
        out["phantoms_segmented_by_fractured_neighbours"] = by_neighbours(records)
    if part in ("all", "real"):
        real = real_folder()
        if real is None:
            return {**out, "real": "not measured: the folder of real images is absent"}
        out["real_ct"] = real_ct(models, settings, real)
        out["real_ct_without_sacrum"] = real_ct(models, settings, real, sacrum=False)
        out["real_ct_segmented"] = real_ct_segmented(models, settings)
        out["real_shapes"] = real_shapes(models, settings, real)
    return out


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.completion_evaluation", description=__doc__)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--part", choices=("all", "phantoms", "segmented", "real"), default="all")
    parser.add_argument("--folder", type=Path, default=MODELS)
    parser.add_argument("--card", action="store_true", help="write the figures into the model's card")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--scans", action="store_true", help="calibrate on masks of the shipped segmenter")
    options = parser.parse_args(arguments)
    if options.calibrate:
        models = load_models(options.folder, "cpu", threads=1, names=[NETWORK, MaskSettings().network])
        print(json.dumps(calibrate(models, options.patients, scans=options.scans), indent=1))
    else:
        answer = evaluate(options.patients, options.folder, options.part)
        print(json.dumps(answer, indent=1))
        if options.card:
            models = load_models(options.folder, "cpu", threads=1, names=[NETWORK, MaskSettings().network])
            card = options.folder / "completion.md"
            command = (
                "python -m onnx_models.training.completion_evaluation --card "
                f"--part {options.part} --patients {options.patients}"
            )
            shas = {one.name: one.sha256 for one in models.identities}
            card.write_text(written(card.read_text(), answer, shas, command))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
