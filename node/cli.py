"""The command line: ``spine-node run | demo | analyze | send | echo | jobs | models | config``, and `node.commands`.

Each command imports what it needs when it runs, so that ``echo`` does not wait for the networks' libraries.
Exit codes: 0 done, 1 failed, 2 wrong use, 3 nothing could be evaluated. A traceback never reaches a user; with
``SPINE_NODE_DEBUG=1`` it does.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from node import __version__
from node.commands import add_commands
from node.logs import configure_logs
from node.settings import ConfigurationError, load_settings

if TYPE_CHECKING:
    from node.analyze import AnalyzedSeries
    from node.deliver.status import Reply
    from node.settings import Destination, Settings

FAILED, WRONG_USE, NOTHING_EVALUATED = 1, 2, 3

EXPLAINED = {
    "AlreadyRunningError",
    "BackupError",
    "BusyError",
    "DatabaseError",
    "ModelError",
    "RetractionError",
    "StageError",
    "UnreachableError",
}
"""Errors whose message says what a person can do; known by name, since their modules are imported only when used."""

app = typer.Typer(
    help="Measures vertebrae on CT and returns SEG, SR and secondary capture. Research use only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
jobs_app = typer.Typer(help="What the node works on and has worked on.", no_args_is_help=True)
config_app = typer.Typer(help="Check or show the configuration.", no_args_is_help=True)
app.add_typer(jobs_app, name="jobs")
app.add_typer(config_app, name="config")
add_commands(app, jobs_app)

out_console = Console()
err_console = Console(stderr=True)

Config = Annotated[Path | None, typer.Option("--config", "-c", help="YAML configuration (default: SPINE_NODE_CONFIG).")]
Peer = Annotated[str, typer.Argument(help="HOST:PORT, or a destination of the configuration with its titles and TLS.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def main() -> None:
    """Entry point: errors become one sentence and an exit code."""
    configure_logs()
    try:
        app()
    except ConfigurationError as error:
        _fail(str(error), WRONG_USE)
    except KeyboardInterrupt:
        _fail("interrupted")
    except Exception as error:
        if os.environ.get("SPINE_NODE_DEBUG"):
            raise
        if EXPLAINED & {kind.__name__ for kind in type(error).__mro__}:
            _fail(str(error))
        _fail(f"internal error ({type(error).__name__}: {error}); set SPINE_NODE_DEBUG=1 for the traceback")


def _fail(sentence: str, code: int = FAILED) -> None:
    err_console.print(f"[red]spine-node:[/red] {escape(sentence)}", highlight=False, soft_wrap=True)
    sys.exit(code)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


@app.command("run")
def run_command(config: Config = None) -> None:
    """Run the node: listen, analyse, deliver, until it is told to stop; SIGHUP reloads access and destinations."""
    from node.service import run

    run(load_settings(config), again=lambda: load_settings(config))


@app.command("demo")
def demo_command(
    input_folder: Annotated[
        Path | None,
        typer.Option("--input", exists=True, file_okay=False, help="Folder of DICOM files instead of a phantom."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the received objects go.")] = Path("build/demo"),
) -> None:
    """Start a node and a small PACS, send a phantom CT with known fractures, show and validate what comes back."""
    from node.demo import run_demo

    sys.exit(run_demo(input_folder, out, out_console))


@app.command("analyze")
def analyze_command(
    dicom_dir: Annotated[Path, typer.Argument(help="Folder of DICOM files.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option(help="Where findings and objects go.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Analyse a folder without any network or database."""
    from node.analyze import analyze
    from node.answering import film_pipeline, pipeline_models

    settings = load_settings(config)
    models, films = pipeline_models(settings), film_pipeline(settings)
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=err_console, transient=True
    ) as bar:
        task = bar.add_task("reading headers", total=None)
        analyzed = analyze(dicom_dir, out, models, settings, lambda step: bar.update(task, description=step), films)
    if as_json:
        print((out / "series.json").read_text(encoding="utf-8"))
    else:
        _print_analyzed(analyzed, out)
    if not any(item.built is not None and item.built.findings.evaluable for item in analyzed):
        sys.exit(NOTHING_EVALUATED)


def _print_analyzed(analyzed: list[AnalyzedSeries], out: Path) -> None:
    from node.results.wording import verdict

    table = Table("series", "modality", "images", "outcome", "why / what", title="Research use only")
    for item in analyzed:
        built, decision = item.built, item.decision.row()
        if built is None:
            what = decision["reason"] or ""
        elif built.findings.refusal is not None:
            what = f"not evaluable: {built.findings.refusal.sentence}"
        else:
            what = f"{verdict(built.findings)}, {len(built.findings.vertebrae)} vertebrae → {item.folder}"
        name = escape(decision["description"] or decision["series_uid"][-12:])
        images = str(decision["instances"])
        table.add_row(name, escape(decision["modality"]), images, decision["outcome"], escape(what))
    out_console.print(table)
    out_console.print(f"listing: {out / 'series.json'}")


@app.command("send")
def send_command(
    dicom_dir: Annotated[Path, typer.Argument(help="Folder of DICOM files.", exists=True)],
    peer: Peer,
    called: Annotated[str, typer.Option(help="Called AE title.")] = "ANY-SCP",
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "SPINENODE",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """C-STORE every DICOM file of a folder."""
    from node.analyze import dicom_files
    from node.deliver.sender import is_dicom, send
    from node.deliver.status import Verdict

    target, calling = _peer(peer, called, calling, load_settings(config))
    files = [path for path in dicom_files(dicom_dir) if is_dicom(path)] if dicom_dir.is_dir() else [dicom_dir]
    if not files:
        _fail(f"{dicom_dir} holds no DICOM file", WRONG_USE)
    refused: list[dict[str, str]] = []
    stored = 0
    with Progress(
        TextColumn("sending"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err_console,
        transient=True,
    ) as bar:
        task = bar.add_task("sending", total=len(files))

        def replied(index: int, reply: Reply) -> None:
            nonlocal stored
            bar.advance(task)
            if reply.verdict is Verdict.STORED:
                stored += 1
            else:
                refused.append({"file": str(files[index]), "reason": reply.sentence or ""})

        send(
            files,
            target.host,
            target.port,
            called_ae=target.ae_title,
            calling_ae=calling,
            tls=target.tls,
            replied=replied,
        )
    if as_json:
        _print_json({"stored": stored, "refused": refused})
    else:
        out_console.print(f"{stored} of {len(files)} objects stored at {peer}")
        for item in refused[:20]:
            out_console.print(f"  {Path(item['file']).name}: {item['reason']}")
    if refused:
        sys.exit(FAILED)


@app.command("echo")
def echo_command(
    peer: Peer,
    called: Annotated[str, typer.Option(help="Called AE title.")] = "ANY-SCP",
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "SPINENODE",
    config: Config = None,
) -> None:
    """C-ECHO a peer."""
    from node.deliver.sender import echo

    target, calling = _peer(peer, called, calling, load_settings(config))
    echo(target.host, target.port, called_ae=target.ae_title, calling_ae=calling, tls=target.tls)
    out_console.print(f"{peer} ({target.ae_title}) answers")


@app.command("models")
def models_command(config: Config = None, as_json: AsJson = False) -> None:
    """Check and list the networks and where they would run."""
    from node.answering import pipeline_models

    settings = load_settings(config)
    models = pipeline_models(settings)
    if as_json:
        _print_json({"provider": models.provider, "models": [vars(identity) for identity in models.identities]})
        return
    table = Table("model", "version", "SHA-256", title=f"provider: {models.provider}")
    for identity in models.identities:
        table.add_row(identity.name, identity.version, identity.sha256)
    out_console.print(table)


@config_app.command("check")
def config_check(config: Config = None) -> None:
    """Say whether the configuration can be used, certificates included, and what is off in it."""
    from node.receive.access import left_open
    from node.service import check_certificates

    settings = load_settings(config)
    check_certificates(settings)
    out_console.print(f"configuration is valid (analysis part {settings.configuration_sha256[:12]})")
    for sentence in left_open(settings.receive):
        out_console.print(f"  off: {escape(sentence)}", highlight=False, soft_wrap=True)


@config_app.command("show")
def config_show(config: Config = None) -> None:
    """Print the configuration in force, defaults included; a password in the DSN is not shown."""
    settings = load_settings(config)
    shown = settings.model_dump(mode="json")
    if settings.database_dsn:
        shown["database_dsn"] = "(set)"
    _print_json({**shown, "configuration_sha256": settings.configuration_sha256, "software_version": __version__})


@jobs_app.command("list")
def jobs_list(config: Config = None, as_json: AsJson = False, limit: int = 50) -> None:
    """Studies, newest first, with their state."""
    from node.ledger import overview
    from node.service import ledger_of

    with ledger_of(load_settings(config)) as database, database.transaction() as connection:
        rows = overview.studies(connection, limit)
    if as_json:
        _print_json(rows)
        return
    table = Table("study", "images", "last image", "state", "answers", "flag", "deliveries")
    for row in rows:
        flag = {True: "FLAG", False: "no flag", None: "-"}[row["flag"]]
        sent = ", ".join(f"{n} {state}" for state, n in sorted(row["deliveries"].items()))
        why = row["parked"] or row["waits_for"]
        state = row["state"] + (f": {why}" if why else "")
        last = row["last_instance_at"].strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(row["study_uid"], str(row["instances"]), last, state, str(row["answers"]), flag, sent)
    out_console.print(table)


@jobs_app.command("events")
def jobs_events(config: Config = None, as_json: AsJson = False, limit: int = 50) -> None:
    """What happened that nobody asked for: refused contexts, unreadable objects, parked work; newest first."""
    from node.ledger import intake
    from node.service import ledger_of

    with ledger_of(load_settings(config)) as database, database.transaction() as connection:
        rows = intake.events(connection, limit)
    if as_json:
        _print_json(rows)
        return
    table = Table("at", "what", "whom", "detail")
    for row in rows:
        at = row["at"].strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(at, escape(row["kind"]), escape(row["subject"]), escape(json.dumps(row["detail"])))
    out_console.print(table)


@jobs_app.command("retry")
def jobs_retry(study_uid: str, config: Config = None) -> None:
    """Take a parked study and its parked deliveries up again; 1 where a destination is not in the configuration."""
    from node.ledger import overview
    from node.queue import Queue
    from node.service import ledger_of

    settings = load_settings(config)
    with ledger_of(settings) as database, database.transaction() as connection:
        names = [destination.name for destination in settings.destinations]
        changed = overview.retry(connection, study_uid, names)
        left = overview.unconfigured(connection, study_uid, names)
        given_up = overview.given_up(connection, study_uid)
        if changed:
            queue = Queue(database.dsn)
            queue.wake_evaluation(connection, study_uid, 0.0)
            for answer_id, destination in overview.to_send(connection, study_uid):
                queue.wake_delivery(connection, answer_id, destination)
    if changed or not left:
        out_console.print(f"{changed} taken up again" if changed else "nothing of this study is parked")
    if given_up:
        out_console.print(f"{given_up} stay cancelled: they were given up while they were parked")
    if left:
        missing = ", ".join(repr(name) for name in left)
        _fail(f"still parked: the configuration has no destination {missing}; add it, restart the node, retry")


@jobs_app.command("cancel")
def jobs_cancel(study_uid: str, config: Config = None) -> None:
    """Stop working on a study: what was not sent is not sent, nothing is sent again; what is parked is given up."""
    from node.ledger import overview
    from node.service import ledger_of

    with ledger_of(load_settings(config)) as database, database.transaction() as connection:
        changed = overview.cancel(connection, study_uid)
    out_console.print(f"{changed} cancelled" if changed else "nothing of this study is outstanding")


def _peer(text: str, called: str, calling: str, settings: Settings) -> tuple[Destination, str]:
    """A destination by name or address, and our own title towards it."""
    from node.settings import Destination

    for destination in settings.destinations:
        if destination.name == text:
            return destination, destination.calling_ae_title or settings.receive.ae_title
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        _fail(f"{text!r} is not HOST:PORT, nor the name of a destination in the configuration", WRONG_USE)
    return Destination(name="peer", host=host, port=int(port), ae_title=called), calling


if __name__ == "__main__":
    main()
