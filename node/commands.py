"""The commands around the ledger: ``jobs show``, ``retract``, ``erase``, ``audit``, ``probe``, ``backup``, ``restore``.

`node.cli` adds them to the command line; what they share is given to them.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from node.settings import load_settings

FAILED = 1

Config = Annotated[Path | None, typer.Option("--config", "-c", help="YAML configuration (default: SPINE_NODE_CONFIG).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

_out = Console()
_err = Console(stderr=True)


def add_commands(app: typer.Typer, jobs: typer.Typer) -> None:
    """Add these commands to the command line and to its group ``jobs``."""
    jobs.command("show")(jobs_show)
    app.command("retract")(retract)
    app.command("erase")(erase)
    app.command("audit")(audit)
    app.command("probe")(probe)
    app.command("backup")(backup)
    app.command("restore")(restore)


def jobs_show(study_uid: str, config: Config = None, as_json: AsJson = False) -> None:
    """What became of a study: of its series, and of each result at each destination (sent, accepted, committed)."""
    from node.ledger import overview
    from node.service import ledger_of

    with ledger_of(load_settings(config)) as database, database.transaction() as connection:
        found = overview.study(connection, study_uid)
    if found is None:
        _fail(f"the ledger has no study {study_uid}")
        return
    if as_json:
        _print_json(found)
        return
    state = f"parked: {found['parked']}" if found["parked"] else f"evaluated {_time(found['evaluated_at'])}"
    if found["waits_for"]:
        since = f" (since {_time(found['unreadable_since'])})" if found["unreadable_since"] else ""
        state += f", waits: {found['waits_for']}{since}"
    _out.print(f"study {study_uid}: {found['instances']} images, {escape(state)}", highlight=False, soft_wrap=True)
    series = Table("series", "modality", "images", "outcome", "why")
    for row in found["series"]:
        name = escape(row["description"] or row["series_uid"])
        series.add_row(
            name, escape(row["modality"]), str(row["instances"]), row["outcome"], escape(row["reason"] or "")
        )
    _out.print(series)
    results = Table("result", "r", "destination", "state", "sent", "accepted", "committed", "why")
    for row in found["deliveries"]:
        committed = _time(row["confirmed_at"])
        if row["proved_by"] == "find":
            committed += " (query)"
        state = row["state"]
        if row["retracted_at"]:
            state += ", retracted"
        elif row["outdated_by"]:
            state += f", outdated by r{row['outdated_by']}"
        times = (_time(row["last_try_at"]), _time(row["stored_at"]), committed)
        results.add_row(
            row["kind"], str(row["revision"]), row["destination"], state, *times, escape(row["reason"] or "")
        )
    _out.print(results)
    for destination, revision, stands in sorted(
        {(row["destination"], row["outdated_by"], row["revision"]) for row in found["deliveries"] if row["outdated_by"]}
    ):
        _out.print(
            f"{destination} still has results of revision {stands}, and not all of revision {revision} that supersedes "
            "it: have that sent, or take back what is wrong (`spine-node retract`, with UIDs of `spine-node audit`)",
            highlight=False,
            soft_wrap=True,
        )


def retract(
    uid: Annotated[str, typer.Argument(help="A result's SOP Instance UID, its series' UID, or a study's UID.")],
    reason: Annotated[Literal["quality", "safety"], typer.Option(help="Safety is the patient's.")] = "quality",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Take results back: a rejection note (IHE IOCM) goes to whoever has them; what is not sent yet is not sent."""
    from node.deliver.retraction import Retractor, maker
    from node.results.rejection import Reason
    from node.service import ledger_of

    settings = load_settings(config)
    with ledger_of(settings) as database:
        done = Retractor(settings, database, maker(settings)).retract(uid, Reason(reason))
    if as_json:
        _print_json([vars(item) for item in done])
        return
    for item in done:
        where = ", ".join(item.destinations) or "nobody: none was sent"
        _out.print(f"retracted: {', '.join(item.kinds)}; note {item.note_uid} goes to {where}", soft_wrap=True)


def erase(
    patient: Annotated[str, typer.Option(help="Patient ID, as it came in the images.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    records: Annotated[bool, typer.Option("--records", help="List what was erased; with --patient, of one.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Erase a patient's images, results and ledger rows from this node (not from the archive), and write that down."""
    from node.erasing import erase_patient
    from node.ledger import erasure
    from node.service import ledger_of

    settings = load_settings(config)
    patient = patient.strip()
    if records:
        with ledger_of(settings) as database, database.transaction() as connection:
            rows = erasure.records(connection, patient or None)
        if as_json:
            _print_json(rows)
            return
        table = Table("erased", "studies", "images", "results", "files", "salted hash of the patient ID")
        for row in rows:
            counts = (str(row["counts"].get(name, 0)) for name in ("studies", "images", "results", "files"))
            table.add_row(_time(row["at"]), *counts, row["patient_hash"])
        _out.print(table)
        return
    if not patient:
        raise typer.BadParameter("--patient is needed: the Patient ID, as it came in the images")
    if not yes:
        typer.confirm("Erase everything that this node holds of this patient? It cannot be undone.", abort=True)
    with ledger_of(settings) as database:
        erased = erase_patient(settings, database, patient)
    if erased.at is None:
        _fail("this node holds nothing of this patient (see --records for what was erased before)")
    if as_json:
        _print_json(vars(erased))
        return
    _out.print(
        f"erased: {erased.studies} studies, {erased.images} images, {erased.results} results, {erased.files} files. "
        "Objects in the archive are the archive's: reject or erase them there.",
        soft_wrap=True,
    )


def audit(
    uid: Annotated[str, typer.Argument(help="A result's SOP Instance UID, its series' UID, or a study's UID.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """The chain of a result: digests of its input, models, rule, objects, and where each of them went."""
    from node.ledger.audit import chains
    from node.service import ledger_of

    with ledger_of(load_settings(config)) as database, database.transaction() as connection:
        found = chains(connection, uid)
    if not found:
        _fail(f"the ledger has no result, series of results or study {uid}")
    if as_json:
        _print_json(found)
        return
    for chain in found:
        _out.print(_tree(chain), soft_wrap=True)


def probe(
    config: Config = None,
    local: Annotated[bool, typer.Option("--local", help="The node alone: what a restart may mend.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that each answer is waited for.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Is the node well? Exit code 0 where everything is, 1 where something is not."""
    from node.probe import probe as look

    checks = look(load_settings(config), timeout, local=local)
    if as_json:
        _print_json([vars(check) for check in checks])
    else:
        for check in checks:
            mark = "[green]ok[/green]  " if check.ok else "[red]FAIL[/red]"
            _out.print(f"{mark} {escape(check.name)}: {escape(check.sentence)}", highlight=False, soft_wrap=True)
    if not all(check.ok for check in checks):
        raise typer.Exit(FAILED)


def backup(
    folder: Annotated[Path, typer.Argument(help="An empty folder, or one that is not there yet; on another disk.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Copy ledger, spool and outbox of a node, running or not, into a folder (deploy/BACKUP.md)."""
    from node.backup import back_up
    from node.service import ledger_of

    settings = load_settings(config)
    with ledger_of(settings) as database:
        manifest = back_up(settings, database.dsn, folder)
    _print_manifest(vars(manifest), as_json)


def restore(
    folder: Annotated[Path, typer.Argument(help="A back-up.", exists=True, file_okay=False)],
    lost: Annotated[
        Literal["everything", "ledger", "files"], typer.Option(help="What is not there any more; the rest stays.")
    ] = "everything",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Restore a back-up into an empty storage and database, or the half that was lost; then start the node."""
    from node.backup import restore as restore_from

    _print_manifest(vars(restore_from(load_settings(config), folder, lost)), as_json)


def _print_manifest(manifest: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(manifest)
        return
    _out.print(
        f"back-up of {manifest['made_at']}: the ledger, {manifest['images']} images, {manifest['results']} results"
        + (f"; {manifest['damaged']} images were damaged" if manifest["damaged"] else "")
        + (f"; {manifest['missing']} files are nowhere: send these studies again" if manifest["missing"] else ""),
        soft_wrap=True,
    )


def _tree(chain: dict[str, Any]) -> Tree:
    flag = {True: "FLAG", False: "no flag", None: chain["reason_code"] or "no verdict"}[chain["flag"]]
    tree = Tree(f"{chain['pipeline']} answer r{chain['revision']} of study {chain['study_uid']}: {escape(flag)}")
    inputs = tree.add(f"{len(chain['inputs'])} images of series {chain['series_uid']}")
    for row in chain["inputs"]:
        gone = ""
        if row["erased_at"]:
            copy = row["spool_name"]
            gone = f", its file is gone, the same bytes are in the spool as {escape(copy)}" if copy else ", file gone"
        received = f"received {_time(row['received_at'])} from {escape(row['calling_ae'])}{gone}"
        inputs.add(f"{row['sop_instance_uid']} sha256 {row['sha256']} ({received})")
    tree.add(f"input sha256 {chain['input_sha256']}")
    made = tree.add(
        f"spine-node {chain['software_version']}, pipeline {chain['pipeline_version'] or 'not recorded'}, "
        f"{chain['provider'] or 'no provider'}, configuration sha256 {chain['configuration_sha256']}"
    )
    for model in chain["models"] or ():
        made.add(f"model {model['name']} {model['version']} sha256 {model['sha256']}")
    tree.add(f"rule {chain['rule'] or 'not recorded'}, flag from a loss of {chain['flag_loss'] or 'not recorded'}")
    results = tree.add(f"results, built {_time(chain['finished_at'])}")
    for result in chain["results"]:
        taken_back = f", retracted {_time(result['retracted_at'])}" if result["retracted_at"] else ""
        branch = results.add(f"{result['kind']} {result['sop_instance_uid']} sha256 {result['sha256']}{taken_back}")
        for delivery in result["deliveries"]:
            proof = {"find": " by query", "storage_commitment": " by storage commitment"}.get(delivery["proved_by"], "")
            stands = f"; outdated: revision {delivery['outdated_by']} is not there" if delivery["outdated_by"] else ""
            branch.add(
                f"{delivery['destination']}: {delivery['state']}; sent {_time(delivery['sent_at'])}, accepted "
                f"{_time(delivery['accepted_at'])}, committed {_time(delivery['committed_at'])}{proof}{stands}"
            )
    return tree


def _time(value: datetime | None) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S") if value is not None else "-"


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def _fail(sentence: str) -> None:
    _err.print(f"[red]spine-node:[/red] {escape(sentence)}", highlight=False, soft_wrap=True)
    raise typer.Exit(FAILED)
