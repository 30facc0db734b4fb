"""Judges labelling and numbering together, as they are used: volumes in, names out.

Phantoms of the groups of ``phantom-eval/2``, smaller and with a seed of their own, so that weights can be compared
without looking at the patients that the card speaks of. Of the one real abdomen (never trained or
tuned on): views that keep the sacrum or the last rib, and views that keep neither, moved and cropped by fixed seeds;
and the cardiac crop.

``python -m onnx_models.training.labeller_evaluation --patients 12 --out build/labeller.json``
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.canonical import cropped
from inference.detection import SpineBox, box_along, detect
from inference.geometry import Volume
from inference.labelling import candidates
from inference.localization import LocalizationSettings, localize
from inference.numbering import number
from inference.runtime import Models, load_models
from inference.sampling import extent
from inference.surface import CentreLine
from onnx_models import MODELS
from onnx_models.training.evaluation_groups import NO_ANCHOR, GroupSet, group_case, load_groups
from onnx_models.training.labeller_card import written
from onnx_models.training.labeller_scenes import named_centres
from onnx_models.training.metrics import matched
from onnx_models.training.real_cases import real_cases

SEED = 4_200_000
NEAR_MM = 15.0
"""A candidate stands for a vertebra when its centre is nearer than this."""
WHOLE_MM = 12.0
"""Vertebrae whose centre is nearer to the end of the images are not asked for; where they are named, it counts."""
BINS = (0.5, 0.7, 0.8, 0.9, 0.97, 1.0001)
"""Bounds of confidence for the figure of reliability."""
Centres = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Judged:
    """One view.

    Attributes
    ----------
    asked, found, identified
        Whole vertebrae in view, how many of them have a candidate, and how many bear their right name.
    confidences, correct
        Of every name that was given, of whole and cut vertebrae and of what is none.
    anchor
        In words; ``None`` where the numbering was said not to be known.
    """

    group: str
    detected: bool
    asked: int
    found: int
    identified: int
    confidences: tuple[float, ...]
    correct: tuple[bool, ...]
    anchor: str | None

    def sure(self, least: float = 0.9) -> list[bool]:
        """Which of the names given with that confidence are right."""
        return [right for right, c in zip(self.correct, self.confidences, strict=True) if c >= least]


def spine_box(volume: Volume, models: Models) -> SpineBox | None:
    """The box of the detector or, where the models hold none, about the line of the localizer."""
    if "detector" in models.sessions:
        found = detect(volume, models)
        return found if isinstance(found, SpineBox) else None
    line = localize(volume, models, LocalizationSettings())
    return box_along(line, volume) if isinstance(line, CentreLine) else None


def judge(volume: Volume, truth: Centres, whole: Collection[str], models: Models, group: str) -> Judged:
    """Run a volume and compare with the centres of its vertebrae; those in ``whole`` must be named."""
    box = spine_box(volume, models)
    if box is None:
        return Judged(group, False, len(whole), 0, 0, (), (), None)
    seen = candidates(volume, box, models)
    sequence = number(seen)
    names = list(truth)
    at = np.array([seen[i].centroid_lps_mm for i in sequence.kept]).reshape(-1, 3)
    place = matched(at, np.array([truth[n] for n in names]).reshape(-1, 3), NEAR_MM)
    true = [None if k is None else names[k] for k in place]
    given = [
        (c, str(level) == name, name in whole)
        for level, c, name in zip(sequence.levels, sequence.confidences, true, strict=True)
        if level is not None and c is not None
    ]
    return Judged(
        group,
        True,
        len(whole),
        sum(name in whole for name in true),
        sum(right and asked for _, right, asked in given),
        tuple(c for c, _, _ in given),
        tuple(right for _, right, _ in given),
        None if sequence.numbering is None else sequence.numbering.anchor,
    )


def small_set(seed: int) -> GroupSet:
    """The groups of ``phantom-eval/2`` with another seed, in coarse voxels."""
    chosen = load_groups()
    return replace(
        chosen,
        seed=seed,
        spacings_mm=((1.5, 3.0),),
        pixel_mm=(1.4, 2.2),
        most_voxels=1_200_000,
    )


def phantom_view(chosen: GroupSet, group: str, index: int) -> tuple[Volume, Centres]:
    """An acquired view of a phantom, and the centres of all its vertebrae within the ends of the images or nearly."""
    case = group_case(chosen, group, index)
    names, centres = named_centres(case.patient)
    low, high = (float(corner[2]) for corner in extent(case.volume))
    return case.volume, {n: c for n, c in zip(names, centres, strict=True) if low - NEAR_MM <= c[2] <= high + NEAR_MM}


def whole_of(volume: Volume, truth: Centres) -> list[str]:
    """Names of the vertebrae that lie far enough within the ends of the images."""
    low, high = (float(corner[2]) for corner in extent(volume))
    return [n for n, c in truth.items() if low + WHOLE_MM <= c[2] <= high - WHOLE_MM]


def kept_view(chosen: GroupSet, group: str, index: int, folder: Path | None) -> tuple[Volume, Centres]:
    """`phantom_view`, kept in ``folder`` for the next time; seeds make it, so it may be deleted at any time."""
    if folder is None:
        return phantom_view(chosen, group, index)
    path = folder / f"{chosen.seed}-{chosen.sha256[:8]}-{group.replace(' ', '-')}-{index}.npz"
    if not path.is_file():
        volume, truth = phantom_view(chosen, group, index)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        at = np.array(list(truth.values())).reshape(-1, 3)
        np.savez(partial, hu=volume.hu, affine=volume.affine, names=np.array(list(truth)), at=at)
        partial.replace(path)
    with np.load(path) as view:
        names = [str(name) for name in view["names"]]
        return Volume(view["hu"], view["affine"]), dict(zip(names, view["at"], strict=True))


def phantom_cases(
    chosen: GroupSet, models: Models, patients: int, say: Callable[[str], None], folder: Path | None = None
) -> Iterator[Judged]:
    """All groups, the patients of each in turn, so that an early end leaves every group its share."""
    for index in range(patients):
        for group in chosen.groups:
            began = time.monotonic()
            volume, truth = kept_view(chosen, group, index, folder)
            made = judge(volume, truth, whole_of(volume, truth), models, group)
            say(f"{worded(made)}, {index} ({time.monotonic() - began:.1f} s)")
            yield made


def worded(one: Judged) -> str:
    """A view in a line."""
    sure = one.sure()
    return (
        f"{one.group}: {one.identified} of {one.asked} whole ones identified, {sum(one.correct)} of {len(one.correct)} "
        f"names right, {sum(sure)} of {len(sure)} sure ones, anchor {one.anchor}"
    )


REAL = ("real, sacrum in view", "real, last rib in view", "real, no anchor")


def real_views(seed: int = 17) -> list[tuple[str, Volume, Centres]]:
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
        views.append((REAL[min(k // 20, 2)], moved, centres))
    views.append(("real, whole", volume, centres))
    views.append(("real, cardiac crop", cases["aorta crop"].volume, {}))
    return views


def figures(cases: list[Judged]) -> dict[str, dict[str, Any]]:
    """By group: shares with 95 % intervals from a bootstrap over views; sure names are those at .9 and above."""
    out: dict[str, dict[str, Any]] = {}
    groups = {name: [c for c in cases if c.group == name] for name in dict.fromkeys(c.group for c in cases)}
    anchored = [c for c in cases if not c.group.startswith("real") and c.group != NO_ANCHOR]
    real = [c for c in cases if c.group in REAL[:2]]
    for name, members in [*groups.items(), ("phantoms with an anchor", anchored), ("real, anchor in view", real)]:
        if not members:
            continue
        rows = [(c.asked, c.found, c.identified, len(c.correct), sum(c.correct), *_sure(c)) for c in members]
        table = np.array(rows, np.float64)
        out[name] = {
            "views": len(members),
            "spine_detected": float(np.mean([c.detected for c in members])),
            "abstained": float(np.mean([not c.correct for c in members])),
            "views_all_right": float(np.mean([bool(c.correct) and all(c.correct) for c in members])),
            "views_any_wrong": float(np.mean([not all(c.correct) for c in members])),
            "found": _share(table, 1, 0),
            "identified": _share(table, 2, 0),
            "names_right": _share(table, 4, 3),
            "sure_right": _share(table, 6, 5),
            "sure_names": int(table[:, 5].sum()),
        }
    return out


def _sure(one: Judged) -> tuple[int, int]:
    return len(one.sure()), sum(one.sure())


def reliability(cases: Iterable[Judged]) -> dict[str, Any]:
    """Of the names given, by confidence: how many, the mean confidence, and how many are right; and the mean distance
    between the two, weighted by number (the expected calibration error)."""
    pairs = [(c, right) for one in cases for c, right in zip(one.confidences, one.correct, strict=True)]
    table = np.array(pairs, np.float64).reshape(-1, 2)
    bins: list[dict[str, float]] = []
    for low, high in zip((0.0, *BINS[:-1]), BINS, strict=True):
        members = table[(table[:, 0] >= low) & (table[:, 0] < high)]
        if len(members):
            mean, right = (round(float(v), 4) for v in members.mean(axis=0))
            bins.append({"from": low, "names": len(members), "confidence": mean, "right": right})
    total = max(1, len(table))
    error = sum(one["names"] * abs(one["confidence"] - one["right"]) for one in bins) / total
    return {"bins": bins, "expected_calibration_error": round(error, 4)}


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
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no further patients after this")
    parser.add_argument("--views", type=Path, help="folder where acquired phantoms are kept for the next time")
    parser.add_argument("--prepare", action="store_true", help="only make the phantoms, in advance")
    parser.add_argument("--card", action="store_true", help="write the figures into the model's card")
    parser.add_argument("--out", type=Path, default=Path("build/labeller.json"))
    options = parser.parse_args(arguments)
    chosen = small_set(options.seed)
    if options.prepare:
        for index in range(options.patients):
            for group in chosen.groups:
                kept_view(chosen, group, index, options.views)
        return 0
    models = load_models(options.models, "cpu", threads=1, names=[options.line, "labeller"])
    deadline = time.monotonic() + 60 * options.minutes
    cases = []
    for group, volume, truth in real_views():
        cases.append(judge(volume, truth, whole_of(volume, truth), models, group))
        print(worded(cases[-1]), flush=True)
    for case in phantom_cases(chosen, models, options.patients, lambda line: print(line, flush=True), options.views):
        cases.append(case)
        if time.monotonic() > deadline:
            break
    result = {
        "models": [asdict(m) for m in models.identities],
        "seed": options.seed,
        "line": options.line,
        "groups": figures(cases),
        "reliability": reliability([c for c in cases if not c.group.startswith("real")]),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.card:
        card = options.models / "labeller.md"
        command = f"python -m onnx_models.training.labeller_evaluation --card --patients {options.patients}"
        card.write_text(written(card.read_text(), result, command))
    options.out.with_suffix(".cases.json").write_text(json.dumps([asdict(c) for c in cases]) + "\n")
    print(json.dumps({key: result[key] for key in ("groups", "reliability")}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
