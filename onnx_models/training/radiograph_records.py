"""One film through the whole radiograph pipeline beside its truth, as a plain record that is kept on disk.

As in `evaluation_records` a record holds truth and answer side by side and is filed under the hashes of the set, the
models and the source of ``inference`` and of this module, so that an interrupted evaluation goes on where it stopped.
The pipeline is told the pixel spacing in the plane of the spine and nothing of the view or of the patient's direction:
what it says of them it says from the pixels. Films that must be refused are shown a second time with a header that
calls them lateral. Masks are compared here, once, because they are not kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.film_preparation import prepare
from inference.film_sight import Look
from inference.findings import KEYPOINTS, VertebraFinding
from inference.geometry import Radiograph
from inference.grading import GradingRule, is_graded
from inference.radiograph import RadiographAnswer, RadiographSettings, evaluate
from inference.runtime import Models, load_models
from onnx_models import MODELS
from onnx_models.training.evaluation_records import pipeline_source, source_hash
from onnx_models.training.film_data import FormedFilm, end_plate_visibility
from onnx_models.training.film_evaluation_set import FilmSet, load_set, negative, positive
from onnx_models.training.film_geometry import FRONTAL
from onnx_models.training.film_real import RealFilm, RealSpineCt, real_film
from onnx_models.training.film_truth import coverage, union
from onnx_models.training.metrics import dice_of, matched
from onnx_models.training.radiograph_figures import PixelCounts

BUILD = Path("build/evaluation/radiograph")
NEAR = 0.5
"""A found body stands for a true one when their centres are nearer than this part of the true one's mean height."""
SHARED = 0.5
"""A found body that covers this part of each of two true ones has merged them."""
BINS = 128
Record = dict[str, Any]
Bools = NDArray[np.bool_]


@dataclass
class FilmRunner:
    """The shipped models, ready to be run on films.

    ``real`` gives the real CT that films are rendered from, or ``None`` where it is absent.
    """

    models: Models
    settings: RadiographSettings
    source: str
    chosen: FilmSet = field(default_factory=load_set)
    real: Callable[[], RealSpineCt | None] = lambda: None

    @property
    def folder(self) -> Path:
        """Where the records of this set, these models and this code are kept."""
        hashes = [identity.sha256 for identity in sorted(self.models.identities, key=lambda m: m.name)]
        return BUILD / "-".join(part[:10] for part in (self.chosen.sha256, *hashes, self.source))

    def film(self, index: int) -> Record:
        """The record of a lateral film of the set."""
        return self._kept(f"film-{index:03d}", lambda: self.judged(positive(self.chosen, index), index))

    def negative(self, index: int) -> Record:
        """The record of a film that must be refused."""
        return self._kept(f"negative-{index:03d}", lambda: self._refused(*negative(self.chosen, index)))

    def negative_called_lateral(self, index: int) -> Record:
        """Likewise, with a header that says that the view is lateral: the pixels then need say less."""
        name = f"negative-called-lateral-{index:03d}"
        return self._kept(name, lambda: self._refused(*negative(self.chosen, index), lateral=True))

    def real_lateral(self, number: int) -> Record | None:
        """The record of a lateral film of the real CT; ``None`` where that is absent."""
        ct = self.real()
        return None if ct is None else self._kept(f"real-{number:02d}", lambda: self._judged_real(ct, number))

    def real_frontal(self, number: int) -> Record | None:
        """Likewise of a frontal one, which must be refused."""
        ct = self.real()
        if ct is None:
            return None
        return self._kept(
            f"frontal-{number:02d}", lambda: self._refused(real_film(ct, number, FRONTAL), "AP of the real CT")
        )

    def _kept(self, name: str, make: Callable[[], Record]) -> Record:
        path = self.folder / f"{name}.json"
        if path.is_file():
            kept: Record = json.loads(path.read_text())
            return kept
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(made))
        partial.replace(path)
        return made

    def _refused(self, film: FormedFilm | RealFilm, kind: str, lateral: bool | None = None) -> Record:
        answer = evaluate(Radiograph(film.image, lateral=lateral), self.models, self.settings)
        return {"kind": kind, **said_of(answer)}

    def judged(self, film: FormedFilm, index: int, calibrated: bool = True) -> Record:
        """What the pipeline says of a film beside its truth; not kept.

        Of a film that is not ``calibrated`` the pipeline is told no spacing, and nothing is compared in mm.
        """
        truth = film.truth
        spine = np.flatnonzero(~truth.sacral)
        mm = film.pitch_mm / float(np.median(truth.magnification)) if len(truth.levels) else film.pitch_mm
        shown = Radiograph(film.image, spacing_mm=(mm, mm) if calibrated else None)
        answer = evaluate(shown, self.models, self.settings)
        sections, shadows = (np.zeros(film.image.shape, bool) for _ in range(2))
        owner = np.zeros(film.image.shape, np.uint8)
        for k, n in enumerate(spine):
            mask = (coverage(truth.outlines[n], owner.shape) > 0.5) & film.exposed
            owner[mask] = k + 1
            sections |= mask
            shadows |= (union(truth.silhouettes[n], owner.shape) > 0.5) & film.exposed
        seen = end_plate_visibility(film)[spine][film.seen[spine] > 0.6]
        visibility = float(np.median(seen)) if seen.size else 0.0
        true = [
            {
                "level": truth.levels[n],
                "whole": not bool(film.partial[n]),
                "deformity": truth.deformity[n],
                "metal": bool(truth.metal[n] or truth.cement[n]),
                "heights": truth.heights_mm[n].tolist(),
                "loss": truth.loss[n].tolist(),
                "points": truth.points[n].tolist(),
                "centre": truth.centres[n].tolist(),
                "mm": film.pitch_mm / float(truth.magnification[n]),
                "calibrated": calibrated,
            }
            for n in spine
        ]
        return {
            "index": index,
            "stratum": self.chosen.stratum(visibility),
            "visibility": round(visibility, 3),
            **said_of(answer),
            "dice": _dice(answer, sections),
            "silhouette_dice": _dice(answer, shadows),
            "pixels": self._pixels(shown, answer, sections),
            "front_right": _front_right(film, answer),
            "head_right": _head_right(film, answer),
            "vertebrae": compared(true, owner, answer),
            "elsewhere": elsewhere(true, answer),
        }

    def _judged_real(self, ct: RealSpineCt, number: int) -> Record:
        film = real_film(ct, number)
        mm = film.pitch_mm / film.magnification
        answer = evaluate(Radiograph(film.image, spacing_mm=(mm, mm)), self.models, self.settings)
        spine = [n for n, level in enumerate(film.levels) if level != "S1"]
        owner = np.zeros(film.image.shape, np.uint8)
        true = []
        for n in spine:
            mask = film.sections[n] & film.exposed
            if not mask.any():
                continue
            index = np.argwhere(mask)
            owner[mask] = len(true) + 1
            height = float(np.ptp(index[:, 0])) + 1
            true.append(
                {"level": film.levels[n], "whole": bool(film.whole[n]), "centre": index.mean(axis=0).tolist(), "mm": mm}
                | {"heights": [height * mm] * 3}
            )
        return {
            "index": number,
            **said_of(answer),
            "dice": _dice(answer, film.sections[spine].any(0) & film.exposed),
            "silhouette_dice": _dice(answer, film.silhouettes[spine].any(0) & film.exposed),
            "vertebrae": compared(true, owner, answer),
            "elsewhere": elsewhere(true, answer),
        }

    def _pixels(self, shown: Radiograph, answer: RadiographAnswer, sections: Bools) -> list[list[int]]:
        """Histograms of the probability of a body, as the pipeline uses it, over pixels with and without one."""
        s = self.settings
        look = Look(self.models, s.network, s.body_network, s.mirrored_too, s.bodies, s.nearer_too)
        seen = look(prepare(shown), answer.orientation.turn if answer.orientation is not None else 0)
        counts = PixelCounts.empty(BINS)
        counts.add(seen.maps["body"], seen.grid.from_film(sections.astype(np.float32)) > 0.5)
        return [counts.positive.tolist(), counts.negative.tolist()]


def load_film_runner(
    settings: RadiographSettings, folder: Path = MODELS, real: Callable[[], RealSpineCt | None] = lambda: None
) -> FilmRunner:
    """The models of ``folder`` on the CPU, one thread.

    Raises ``ModelError`` where one is missing.
    """
    models = load_models(folder, "cpu", threads=1, names=list(settings.networks))
    return FilmRunner(models, settings, source_hash([*pipeline_source("radiograph"), Path(__file__)]), real=real)


def said_of(answer: RadiographAnswer) -> Record:
    """What the pipeline says of a film as a whole."""
    findings = answer.findings
    return {
        "refusal": None if findings.refusal is None else str(findings.refusal.code),
        "view": {name: round(p, 4) for name, p in answer.view.items()},
        "turn": None if answer.orientation is None else answer.orientation.turn,
        "front_confidence": None if answer.orientation is None else round(answer.orientation.confidence, 4),
        "numbering": bool(findings.numbering is not None and findings.numbering.known),
        "flag": bool(findings.patient.flag),
        "bodies": len(findings.vertebrae),
        "called": sum(called(v) for v in findings.vertebrae),
        "seconds": round(sum(findings.timings_s.values()), 3),
    }


def called(v: VertebraFinding, rule: GradingRule | None = None) -> bool:
    """Whether a measured body would be graded moderate or severe if no doubt kept it from being graded."""
    rule = rule or GradingRule()
    if v.height_ratio is None or not is_graded(v.level):
        return False
    if v.height_loss is not None:
        return max(v.height_loss.as_tuple()) >= rule.moderate_loss
    return v.height_ratio <= rule.moderate_g


def compared(true: list[Record], owner: NDArray[np.uint8], answer: RadiographAnswer) -> list[Record]:
    """The true bodies with what was found of each.

    Parameters
    ----------
    true
        With "centre" as (row, column) index, "heights" in mm, and "mm", the size of a pixel at the body; without
        "calibrated", or where that is true, both are so, else they only fit each other.
    owner
        (rows, columns): n + 1 where the film shows body n of ``true``, else 0.
    """
    out = [dict(one) for one in true]
    labels = answer.labels if answer.labels is not None else np.zeros(owner.shape, np.uint8)
    place = _places(true, answer)
    shared = np.zeros((int(labels.max()) + 1, len(true) + 1))
    np.add.at(shared, (labels.ravel(), owner.ravel()), 1)
    part = shared[1:] / np.maximum(shared.sum(axis=0), 1)
    for n, one in enumerate(out):
        covers = np.flatnonzero(part[:, n + 1] >= SHARED)
        one["merged"] = bool(any((part[k, 1:] >= SHARED).sum() > 1 for k in covers))
        one["found"] = None
        if n in place:
            vertebra = answer.findings.vertebrae[place.index(n)]
            one["found"] = _found(vertebra, one) | {"dice": dice_of(labels == vertebra.ordinal, owner == n + 1)}
    return out


def elsewhere(true: list[Record], answer: RadiographAnswer) -> int:
    """How many bodies were found and measured where there is no vertebra but S1, or none at all."""
    place = _places(true, answer)
    found = zip(answer.findings.vertebrae, place, strict=True)
    return sum(k is None and v.keypoints_px is not None for v, k in found)


def _places(true: list[Record], answer: RadiographAnswer) -> list[int | None]:
    """For each found body the index of its true one."""
    if not true:
        return [None] * len(answer.findings.vertebrae)
    # distances in parts of the true heights: one scale a film
    height = float(np.median([np.mean(one["heights"]) / one["mm"] for one in true]))
    centres = [v.centroid_px for v in answer.findings.vertebrae if v.centroid_px is not None]
    at = np.array(centres).reshape(-1, 2)[:, ::-1] - 0.5
    return matched(at, np.array([one["centre"] for one in true]), NEAR * height)


def _found(v: VertebraFinding, true: Record) -> Record:
    points = None
    if v.keypoints_px is not None and all(k in v.keypoints_px for k in KEYPOINTS):  # else its front is unknown
        points = [[v.keypoints_px[k][1] - 0.5, v.keypoints_px[k][0] - 0.5] for k in KEYPOINTS]
    error = parts = height_parts = None
    if points is not None and "points" in true:
        told, real = np.array(points), np.array(true["points"])
        off = np.linalg.norm(told - real, axis=1)
        tall, true_tall = (np.linalg.norm(p[0::2] - p[1::2], axis=1) for p in (told, real))
        parts, height_parts = (off / true_tall[2]).tolist(), (np.abs(tall - true_tall) / true_tall[2]).tolist()
        error = (off * true["mm"]).tolist() if true.get("calibrated", True) else None
    heights = v.heights_mm
    return {
        "ordinal": v.ordinal,
        "level": None if v.level is None else str(v.level),
        "level_confidence": v.level_confidence,
        "error_mm": error,
        "error_parts": parts,
        "height_error_parts": height_parts,
        "heights": None if heights is None else list(heights.as_tuple()),
        "outline_heights": None if v.mask_heights_mm is None else list(v.mask_heights_mm.as_tuple()),
        "relative": None if v.relative_heights is None else list(v.relative_heights.as_tuple()),
        "loss": None if v.height_loss is None else list(v.height_loss.as_tuple()),
        "G": v.height_ratio,
        "grade": None if v.grade is None else str(v.grade),
        "called": called(v),
        "vcr": v.compression_ratio_percent,
        "compared_with": None if v.compared_with is None else list(v.compared_with),
        "confidence": v.confidence,
        "quality": [str(q) for q in v.quality],
    }


def _dice(answer: RadiographAnswer, mask: Bools) -> float | None:
    return None if answer.labels is None else round(dice_of(answer.labels > 0, mask), 4)


def _front_right(film: FormedFilm, answer: RadiographAnswer) -> bool | None:
    """Whether the side of the front is right where the film stands upright, whichever way it was turned."""
    if answer.orientation is None or not len(film.truth.levels):
        return None
    p = film.truth.points
    ahead = (p[:, :2].mean(axis=(0, 1)) - p[:, 4:].mean(axis=(0, 1))).tolist()
    for _ in range(answer.orientation.turn):
        ahead = [-ahead[1], ahead[0]]
    return bool(np.sign(ahead[1]) == answer.orientation.front)


def _head_right(film: FormedFilm, answer: RadiographAnswer) -> bool | None:
    """Whether the head is up after the quarter turns that were made."""
    if answer.orientation is None or len(film.truth.levels) < 2:
        return None
    down = (film.truth.centres[-1] - film.truth.centres[0]).tolist()
    for _ in range(answer.orientation.turn):
        down = [-down[1], down[0]]
    return bool(down[0] > abs(down[1]))
