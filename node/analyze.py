"""``spine-node analyze``: a folder of DICOM files in, findings and DICOM objects out; no network, no database.

The same gate, the same inference and the same encoding as in the node; only the ledger is missing, so the start of
the run is part of every UID: two runs give two sets of objects.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from inference.refusal import Outcome
from inference.runtime import Models
from node import gate
from node.answering import BuiltAnswer, FilmPipeline, Identity, answer, gate_policy, load
from node.gate import SeriesDecision
from node.results import png
from node.settings import Settings


@dataclass(frozen=True)
class AnalyzedSeries:
    """One line of ``series.json``: a series, or a radiograph of it.

    ``folder`` and ``built`` are set where it was answered.
    """

    decision: SeriesDecision
    folder: Path | None = None
    built: BuiltAnswer | None = None


def dicom_files(folder: Path) -> list[Path]:
    """Every file below ``folder`` that may be DICOM, in a stable order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "DICOMDIR")


def analyze(
    folder: Path,
    out: Path,
    models: Models,
    settings: Settings,
    progress: Callable[[str], None] | None = None,
    films: FilmPipeline | None = None,
) -> list[AnalyzedSeries]:
    """Analyse every study below ``folder``; write ``out/<SeriesInstanceUID>/`` per answered series and ``series.json``.

    A radiograph has a folder of its own in that of its series, named by its SOP instance UID.

    Raises
    ------
    OSError
        ``out`` cannot be written.
    """
    started_at = datetime.now(UTC).replace(microsecond=0)
    policy = gate_policy(settings, films)
    headers, unreadable = gate.read_headers(dicom_files(folder))
    analyzed: list[AnalyzedSeries] = []
    for study_uid in dict.fromkeys(header.study_uid for header in headers):
        of_study = gate.latest(header for header in headers if header.study_uid == study_uid)
        for decision in gate.choose(of_study, policy):
            built, target = None, None
            if decision.outcome is Outcome.ANSWERED:
                begun = time.perf_counter()
                if progress is not None:
                    progress("reading")
                series = load(decision, of_study, policy)
                identity = Identity(revision=1, dated_at=started_at, with_durations=True)
                gate_s = time.perf_counter() - begun
                of_film = films if decision.sop_instance_uid else None
                built = answer(series, models, settings, identity, films=of_film, gate_s=gate_s, progress=progress)
                target = out / decision.series_uid / decision.sop_instance_uid
                _write(target, built)
            analyzed.append(AnalyzedSeries(decision, target, built))
    out.mkdir(parents=True, exist_ok=True)
    listing = {
        "schema": "spine-node/series/1",
        "series": [_listed(item.decision) for item in analyzed],
        "unreadable": [{"file": str(item.path), "reason": item.reason} for item in unreadable],
    }
    (out / "series.json").write_text(json.dumps(listing, indent=2), encoding="utf-8")
    return analyzed


def _listed(decision: SeriesDecision) -> dict[str, Any]:
    """A decision as ``series.json`` has it."""
    row = decision.row()
    return {
        "study_instance_uid": decision.study_uid,
        "series_instance_uid": row["series_uid"],
        "sop_instance_uid": row["sop_instance_uid"] or None,
        "modality": row["modality"],
        "description": row["description"],
        "instances": row["instances"],
        "outcome": row["outcome"],
        "reason": {"code": row["reason_code"], "sentence": row["reason"]} if row["reason_code"] else None,
        "better_series_instance_uid": row["better_series_uid"],
    }


def _write(target: Path, built: BuiltAnswer) -> None:
    target.mkdir(parents=True, exist_ok=True)
    (target / "findings.json").write_text(json.dumps(built.document, indent=2), encoding="utf-8")
    for result in built.results:
        (target / result.filename).write_bytes(result.encoded())
        if result.kind == "capture":
            (target / "capture.png").write_bytes(png(Image.fromarray(result.dataset.pixel_array)))
