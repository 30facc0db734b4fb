"""The commands that people and monitors use to look into the ledger: jobs show, retract, erase, audit, probe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from node.cli import app
from node.demo.pacs import AE_TITLE, SmallPacs
from node.ledger import Database, overview
from node.probe import probe
from node.process import write_state
from node.receive.association import Listener
from node.receive.spool import Spool
from node.settings import Receive, load_settings
from tests.desk import KINDS, Desk
from tests.dicom import STUDY
from tests.orthanc import free_port


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[SmallPacs]:
    with SmallPacs(tmp_path / "pacs") as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path, database: Database, pacs: SmallPacs) -> Desk:
    desk = Desk(tmp_path, database, pacs.port)
    content = {**desk.settings.model_dump(mode="json"), "database_dsn": database.dsn}
    (tmp_path / "node.yaml").write_text(json.dumps(content), encoding="utf-8")
    return desk


LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:")
"""A line of the log, which goes to standard error where the program runs by itself."""


class Spoken:
    """A command line that was run in this process."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        done = CliRunner().invoke(
            app, [*arguments, "--config", str(folder / "node.yaml")], env={"COLUMNS": "300"}, catch_exceptions=True
        )
        self.code, self.error, self.output = done.exit_code, done.exception, done.output

    def json(self) -> Any:
        assert self.code == 0, (self.error, self.output)
        return json.loads("\n".join(line for line in self.output.splitlines() if not LOGGED.match(line)))


def test_show_says_of_each_result_and_destination_what_was_sent_accepted_and_committed(
    tmp_path: Path, desk: Desk
) -> None:
    desk.deliver()
    with desk.database.transaction() as connection:
        connection.execute(
            "UPDATE delivery SET state = 'confirmed', confirmed_at = now(), proved_by = 'find' WHERE id = 1"
        )
    shown = Spoken(tmp_path, "jobs", "show", STUDY, "--json").json()
    first, second, _ = shown["deliveries"]
    assert (first["kind"], first["destination"], first["proved_by"]) == ("reformat", "pacs", "find")
    assert first["last_try_at"] <= first["stored_at"] <= first["confirmed_at"]
    assert second["stored_at"] is not None
    assert second["confirmed_at"] is None


def test_audit_tells_the_chain_and_of_an_unknown_uid_nothing(tmp_path: Path, desk: Desk) -> None:
    desk.deliver()
    uid = desk.rows()[0]["sop_instance_uid"]
    (chain,) = Spoken(tmp_path, "audit", uid, "--json").json()
    assert [row["kind"] for row in chain["results"]] == list(KINDS)
    assert chain["results"][0]["deliveries"][0]["accepted_at"]
    assert Spoken(tmp_path, "audit", "1.2.3").code == 1
    assert Spoken(tmp_path, "audit", uid).code == 0


def test_retract_and_erase_by_command(tmp_path: Path, desk: Desk) -> None:
    desk.deliver()
    (done,) = Spoken(tmp_path, "retract", STUDY, "--reason", "safety", "--json").json()
    assert (done["kinds"], done["destinations"]) == (list(KINDS), ["pacs"])
    again = Spoken(tmp_path, "retract", STUDY)
    assert again.code == 1
    assert "results that stand" in str(again.error)
    assert Spoken(tmp_path, "retract", STUDY, "--reason", "whim").code == 2
    assert Spoken(tmp_path, "erase", "--yes").code == 2
    assert Spoken(tmp_path, "erase", "--patient", "NOBODY", "--yes").code == 1
    with desk.database.transaction() as connection:
        connection.execute(
            """
            INSERT INTO instance (spool_name, received_at, calling_ae, called_ae, transfer_syntax, sop_class_uid,
                                  sop_instance_uid, study_uid, series_uid, patient_id, modality, bytes, sha256)
            VALUES ('2026010101/x.dcm', now(), 'A', 'B', '1.2', '1.2', '1.2.3', %s, '1.2', 'P-1', 'CT', 1, 'aa')
            """,
            (STUDY,),
        )
    assert Spoken(tmp_path, "erase", "--patient", "P-1").code == 1, "it asks, and nobody says yes"
    assert Spoken(tmp_path, "erase", "--patient", "P-1", "--yes", "--json").json()["studies"] == 1
    (record,) = Spoken(tmp_path, "erase", "--records", "--patient", "P-1", "--json").json()
    assert record["counts"]["results"] == 4
    assert Spoken(tmp_path, "erase", "--records", "--patient", "P-2", "--json").json() == []
    assert Spoken(tmp_path, "erase", "--records").code == 0
    with desk.database.transaction() as connection:
        assert [study["state"] for study in overview.studies(connection)] == ["erased"]


def test_a_person_reads_a_table(tmp_path: Path, desk: Desk) -> None:
    desk.deliver()
    shown = Spoken(tmp_path, "jobs", "show", STUDY)
    assert shown.code == 0
    for word in ("sent", "accepted", "committed", "reformat", "stored", "pacs"):
        assert word in shown.output


class TestProbe:
    """Health, as a monitor asks for it."""

    @pytest.fixture
    def listener(self, tmp_path: Path, desk: Desk) -> Iterator[Listener]:
        running = Listener(Receive(port=0), Spool(tmp_path / "spool"), lambda _: None, lambda *_: None)
        running.start()
        write_state(desk.settings, port=running.port, dsn=desk.database.dsn)
        yield running
        running.stop()

    def checks(self, desk: Desk, **options: Any) -> dict[str, bool]:
        return {check.name: check.ok for check in probe(desk.settings, 5.0, **options)}

    def test_a_node_that_is_well(self, tmp_path: Path, desk: Desk, listener: Listener) -> None:
        well = dict.fromkeys(("listener", "disk", "database", "work", "destination pacs"), True)
        assert self.checks(desk) == well
        found = Spoken(tmp_path, "probe", "--json")
        assert {check["name"]: check["ok"] for check in found.json()} == well
        assert Spoken(tmp_path, "probe", "--local").code == 0

    def test_a_destination_that_is_down_is_no_reason_to_restart_the_node(
        self, tmp_path: Path, desk: Desk, listener: Listener, pacs: SmallPacs
    ) -> None:
        pacs._ae.shutdown()
        assert self.checks(desk)["destination pacs"] is False
        assert Spoken(tmp_path, "probe").code == 1
        assert Spoken(tmp_path, "probe", "--local").code == 0

    def test_parked_work_calls_for_a_person(self, desk: Desk, listener: Listener) -> None:
        with desk.database.transaction() as connection:
            connection.execute("UPDATE delivery SET state = 'parked' WHERE id = 1")
        assert self.checks(desk)["work"] is False
        assert "work" not in self.checks(desk, local=True)

    def test_a_listener_that_is_gone(self, tmp_path: Path, desk: Desk, listener: Listener) -> None:
        listener.stop()
        assert self.checks(desk, local=True) == {"listener": False, "disk": True, "database": True}
        assert Spoken(tmp_path, "probe", "--local").code == 1

    def test_a_disk_below_its_reserve_and_a_database_that_is_away(self, desk: Desk, listener: Listener) -> None:
        write_state(desk.settings, dsn="postgresql://nobody@127.0.0.1:1/none")
        receive = desk.settings.receive.model_copy(update={"free_space_reserve_mb": 2**40})
        settings = desk.settings.model_copy(update={"receive": receive})
        found = {check.name: check for check in probe(settings, 5.0, local=True)}
        assert [found[name].ok for name in ("disk", "database")] == [False, False]
        assert "less than the reserve" in found["disk"].sentence

    def test_a_node_that_does_not_run_is_not_started(self, tmp_path: Path) -> None:
        settings = load_settings(
            data_dir=tmp_path / "none",
            receive={"port": free_port()},
            destinations=[{"name": "pacs", "host": "127.0.0.1", "port": 1, "ae_title": AE_TITLE}],
        )
        assert not any(check.ok for check in probe(settings, 2.0))
        assert not (tmp_path / "none").exists()
