"""Judges detection, labelling and numbering together, as they are used: volumes in, names out.

Phantoms have the evaluation's ranges and seeds of their own, in groups: ordinary, T13, L6, eleven thoracic, four
lumbar, scoliosis, and views that hold no anchor. Of the one real abdomen (never trained or tuned on): views that keep
the sacrum or the last rib, and views that keep neither, moved and cropped by fixed seeds; and the cardiac crop.

``python -m onnx_models.training.labeller_evaluation --patients 12 --out build/labeller.json``
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.detection import SpineBox, box_along, cropped, detect
from inference.geometry import Volume
from inference.labelling import candidates
from inference.localization import LocalizationSettings, localize
from inference.numbering import number
from inference.runtime import Models, load_models
from inference.surface import CentreLine
from onnx_models.training.export import MODELS
from onnx_models.training.labeller_scenes import named_centres
from onnx_models.training.phantom import EVALUATION, Patient, Plan, acquire, canonical_grid, sample_patient
from onnx_models.training.real_cases import real_cases

SEED = 4_100_000
NEAR_MM = 15.0
"""A candidate stands for a vertebra when its centre is nearer than this."""
WHOLE_MM = 12.0
"""Vertebrae whose centre is nearer to the end of the images are not asked for."""
GROUPS = ("ordinary", "T13", "L6", "eleven thoracic", "four lumbar", "scoliosis", "no anchor")


@dataclass(frozen=True)
class Judged:
    """One view: how many vertebrae it holds, how many were found, named, named right, and the same of sure names."""

    group: str
    detected: bool
    asked: int
    found: int
    named: int
    right: int
    sure: int
    sure_right: int
    confidences: tuple[float, ...]
    correct: tuple[bool, ...]
    anchor: str | None


def spine_box(volume: Volume, models: Models) -> SpineBox | None:
    """The box of the detector or, where the models hold none, about the line of the localizer."""
    if "detector" in models.sessions:
        found = detect(volume, models)
        return found if isinstance(found, SpineBox) else None
    line = localize(volume, models, LocalizationSettings())
    return box_along(line, volume) if isinstance(line, CentreLine) else None


def judge(volume: Volume, truth: dict[str, NDArray[np.float64]], models: Models, group: str) -> Judged:
    """Run a volume and compare with the centres of its whole vertebrae, by name."""
    box = spine_box(volume, models)
    if box is None:
        return Judged(group, False, len(truth), 0, 0, 0, 0, 0, (), (), None)
    seen = candidates(volume, box, models)
    sequence = number(seen)
    at = np.array([seen[i].centroid_lps_mm for i in sequence.kept]).reshape(-1, 3)
    found = 0
    confidences: list[float] = []
    correct: list[bool] = []
    used: set[int] = set()
    for name, centre in truth.items():
        distance = np.linalg.norm(at - centre, axis=1)
        if not len(distance) or distance.min() > NEAR_MM:
            continue
        k = int(distance.argmin())
        found += 1
        used.add(k)
        level, confidence = sequence.levels[k], sequence.confidences[k]
        if level is not None and confidence is not None:
            confidences.append(confidence)
            correct.append(str(level) == name)
    sure = [right for right, confidence in zip(correct, confidences, strict=True) if confidence >= 0.9]
    return Judged(
        group,
        True,
        len(truth),
        found,
        len(correct),
        sum(correct),
        len(sure),
        sum(sure),
        tuple(confidences),
        tuple(correct),
        None if sequence.numbering is None else sequence.numbering.anchor,
    )


def phantom_patient(group: str, index: int) -> Patient:
    """Patient of that group: the first of its seeds whose number of vertebrae fits."""
    wanted = {"T13": (13, 5), "L6": (12, 6), "eleven thoracic": (11, 5), "four lumbar": (12, 4)}.get(group, (12, 5))
    ranges = EVALUATION
    if wanted[0] != 12:
        ranges = replace(ranges, thoracic_variant=1.0)
    if wanted[1] != 5:
        ranges = replace(ranges, lumbar_variant=1.0)
    plan = Plan(cobb_deg=38.0) if group == "scoliosis" else None
    for attempt in range(64):
        rng = np.random.default_rng([SEED, GROUPS.index(group), index, attempt])
        patient = sample_patient(rng, ranges, plan)
        names = [v.level for v in patient.vertebrae]
        if (sum(n[0] == "T" for n in names), sum(n[0] == "L" for n in names)) == wanted:
            return patient
    raise RuntimeError(f"no patient of the group {group} in 64 draws")


def phantom_view(group: str, index: int) -> tuple[Volume, dict[str, NDArray[np.float64]]]:
    """An acquired view of a phantom and the centres of its whole vertebrae.

    Views hold the sacrum and the last rib, one of them, or C2, in turn; of the group "no anchor" none of them.
    """
    patient = phantom_patient(group, index)
    rng = np.random.default_rng([SEED, 77, GROUPS.index(group), index])
    names, centres = named_centres(patient)
    z = {name: float(centre[2]) for name, centre in zip(names, centres, strict=True)}
    last = max((n for n in names if n[0] == "T"), key=lambda n: int(n[1:]))
    if group == "no anchor":
        tops = [("C5", "T5"), ("T3", "T9"), ("L2", "L4")]
        top, bottom = (z[n] for n in tops[index % 3])
        low, high = bottom - rng.uniform(4, 12), top + rng.uniform(4, 12)
    elif index % 4 == 0:
        low, high = z["S1"] - rng.uniform(30, 120), z["T5"] + rng.uniform(-30, 60)
    elif index % 4 == 1:
        low, high = z["S1"] - rng.uniform(30, 120), z[last] + rng.uniform(30, 120)
    elif index % 4 == 2:
        low, high = z["L4" if "L4" in z else "L3"] + rng.uniform(-20, 20), z["T4"] + rng.uniform(-30, 60)
    else:
        low, high = z["S1"] - rng.uniform(30, 60), z["C1"] + rng.uniform(5, 40)
    inside = np.array([c for c in centres if low <= c[2] <= high])
    width = rng.uniform(170, 330)
    x0, y1 = (
        float(inside[:, 0].mean()) - width / 2 + rng.uniform(-15, 15),
        float(inside[:, 1].max()) + rng.uniform(50, 90),
    )
    spacing = (float(rng.uniform(1.5, 3.0)), *([max(1.4, width / 160)] * 2))
    grid = canonical_grid(np.array([x0, y1 - width, low]), np.array([x0 + width, y1, high]), spacing)
    whole = {n: c for n, c in zip(names, centres, strict=True) if low + WHOLE_MM <= c[2] <= high - WHOLE_MM}
    return acquire(patient, grid, rng, EVALUATION), whole


def kept_view(group: str, index: int, folder: Path | None) -> tuple[Volume, dict[str, NDArray[np.float64]]]:
    """`phantom_view`, kept in ``folder`` for the next time; seeds make it, so it may be deleted at any time."""
    if folder is None:
        return phantom_view(group, index)
    path = folder / f"{SEED}-{group.replace(' ', '-')}-{index}.npz"
    if not path.is_file():
        volume, truth = phantom_view(group, index)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        at = np.array(list(truth.values())).reshape(-1, 3)
        np.savez(partial, hu=volume.hu, affine=volume.affine, names=np.array(list(truth)), at=at)
        partial.replace(path)
    with np.load(path) as view:
        names = [str(name) for name in view["names"]]
        return Volume(view["hu"], view["affine"]), dict(zip(names, view["at"], strict=True))


def phantom_cases(
    models: Models, patients: int, say: Callable[[str], None], folder: Path | None = None
) -> Iterator[Judged]:
    """All groups, the patients of each in turn, so that an early end leaves every group its share."""
    for index in range(patients):
        for group in GROUPS:
            began = time.monotonic()
            volume, truth = kept_view(group, index, folder)
            made = judge(volume, truth, models, group)
            say(
                f"{group} {index}: {made.right} of {made.named} named right, {made.asked} in view, "
                f"anchor {made.anchor} ({time.monotonic() - began:.1f} s)"
            )
            yield made


def real_views(seed: int = 17) -> list[tuple[str, Volume, dict[str, NDArray[np.float64]]]]:
    """Of the real abdomen 40 views that keep an anchor and 20 that keep none; the cardiac crop. Empty without data."""
    cases = {case.name: case for case in real_cases()}
    if "example_ct" not in cases:
        return []
    volume, centres = cases["example_ct"].volume, cases["example_ct"].centroids_lps_mm
    centres = {name: c for name, c in centres.items() if name not in ("T11",)}
    rng = np.random.default_rng(seed)
    corners = volume.to_lps(np.array([[0, 0, 0], np.array(volume.hu.shape) - 1]))
    lower, upper = corners.min(axis=0), corners.max(axis=0)
    views = []
    for k in range(60):
        low, high = lower.copy(), upper.copy()
        if k < 20:  # sacrum in view
            low[2] = centres["S1"][2] - rng.uniform(25, 90)
            high[2] = rng.uniform(centres["L2"][2], upper[2])
        elif k < 40:  # last rib in view
            low[2] = rng.uniform(centres["L4"][2] - 15, centres["L2"][2] - 40)
            high[2] = upper[2] - rng.uniform(0, 4)
        else:  # neither: from L1's middle downward and L5's middle upward
            low[2] = rng.uniform(centres["L5"][2] - 8, centres["L4"][2] + 5)
            high[2] = rng.uniform(centres["L1"][2] - 18, centres["L1"][2] - 2)
        spine = np.array(list(centres.values()))
        low[0] = rng.uniform(lower[0], spine[:, 0].min() - 65)
        high[0] = rng.uniform(spine[:, 0].max() + 65, upper[0])
        low[1] = rng.uniform(lower[1], spine[:, 1].min() - 75)
        part = cropped(volume, low, high)
        assert part is not None
        noisy = part.hu + rng.normal(0, 6, part.hu.shape)
        moved = replace(part, hu=np.clip(np.rint(noisy), -1024, 3071).astype(np.int16))
        ends = np.sort(moved.to_lps(np.array([[0, 0, 0], np.array(moved.hu.shape) - 1]))[:, 2])
        whole = {n: c for n, c in centres.items() if ends[0] + WHOLE_MM <= c[2] <= ends[1] - WHOLE_MM}
        views.append(("real, anchor in view" if k < 40 else "real, no anchor", moved, whole))
    views.append(("real, whole", volume, centres))
    views.append(("real, cardiac crop", cases["aorta crop"].volume, {}))
    return views


def figures(cases: list[Judged]) -> dict[str, dict[str, Any]]:
    """By group: shares with 95 % intervals from a bootstrap over views; sure names are those at .9 and above."""
    out: dict[str, dict[str, Any]] = {}
    anchored = [c for c in cases if c.group in GROUPS and c.group != "no anchor"]
    groups = {name: [c for c in cases if c.group == name] for name in dict.fromkeys(c.group for c in cases)}
    for name, members in [*groups.items(), ("phantoms with an anchor", anchored)]:
        if not members:
            continue
        table = np.array([[c.asked, c.found, c.named, c.right, c.sure, c.sure_right] for c in members], np.float64)
        out[name] = {
            "views": len(members),
            "spine_detected": float(np.mean([c.detected for c in members])),
            "abstained": float(np.mean([c.named == 0 for c in members])),
            "views_all_right": float(np.mean([c.named > 0 and c.named == c.right for c in members])),
            "found": _share(table, 1, 0),
            "identified": _share(table, 3, 0),
            "named_right": _share(table, 3, 2),
            "sure_right": _share(table, 5, 4),
            "sure_names": int(table[:, 4].sum()),
        }
    return out


def _share(table: NDArray[np.float64], part: int, of: int) -> list[float] | None:
    """[share, lower, upper], or ``None`` where there is nothing to have a share of."""
    if table[:, of].sum() == 0:
        return None
    rng = np.random.default_rng(11)
    drawn = table[rng.integers(len(table), size=(1000, len(table)))].sum(axis=1)
    values = drawn[:, part] / np.maximum(drawn[:, of], 1)
    low, high = np.percentile(values, [2.5, 97.5])
    return [round(float(v), 4) for v in (table[:, part].sum() / table[:, of].sum(), low, high)]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.labeller_evaluation", description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--line", choices=("detector", "localizer"), default="localizer", help="which finds the spine")
    parser.add_argument("--patients", type=int, default=12, help="of each group")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no further patients after this")
    parser.add_argument("--views", type=Path, help="folder where acquired phantoms are kept for the next time")
    parser.add_argument("--out", type=Path, default=Path("build/labeller.json"))
    options = parser.parse_args(arguments)
    models = load_models(options.models, "cpu", threads=1, names=[options.line, "labeller"])
    deadline = time.monotonic() + 60 * options.minutes
    cases = []
    for group, volume, truth in real_views():
        cases.append(judge(volume, truth, models, group))
        one = cases[-1]
        print(f"{group}: {one.right} of {one.named} named right, {one.asked} in view, anchor {one.anchor}", flush=True)
    for case in phantom_cases(models, options.patients, lambda line: print(line, flush=True), options.views):
        cases.append(case)
        if time.monotonic() > deadline:
            break
    result = {
        "models": [asdict(m) for m in models.identities],
        "seed": SEED,
        "line": options.line,
        "groups": figures(cases),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    options.out.with_suffix(".cases.json").write_text(json.dumps([asdict(c) for c in cases]) + "\n")
    print(json.dumps(result["groups"], indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
