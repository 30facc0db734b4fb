"""The command line: exit codes, one sentence per error, never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from node.demo.pacs import AE_TITLE, SmallPacs
from node.ledger import Database, deliveries, overview
from tests import ledger
from tests.dicom import STUDY, write_series

HERE = Path(__file__).resolve().parents[2]


def spine_node(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=HERE,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("echo", "127.0.0.1:1"), 1, "nothing listens there"),
        (("echo", "nowhere"), 2, "is not HOST:PORT"),
        (("echo", "host:99999"), 2, "is not HOST:PORT"),
        (("config", "check", "--config", "/nonexistent.yaml"), 2, "cannot read the configuration"),
        (("nonsense",), 2, "No such command"),
        (("analyze", "/nonexistent", "--out", "x"), 2, "does not exist"),
    ],
)
def test_errors_are_one_sentence(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = spine_node(*arguments)
    assert done.returncode == code
    assert said in " ".join((done.stderr + done.stdout).split())
    assert "Traceback" not in done.stderr + done.stdout


def test_echo_and_send(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 3)
    (tmp_path / "in" / "readme.txt").write_text("no DICOM")
    with SmallPacs(tmp_path / "pacs") as pacs:
        peer = f"127.0.0.1:{pacs.port}"
        assert spine_node("echo", peer, "--called", AE_TITLE).returncode == 0
        done = spine_node("send", str(tmp_path / "in"), peer, "--called", AE_TITLE, "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, {"stored": 3, "refused": []})
        assert len(pacs.received) == 3


def test_send_of_nothing_is_wrong_use(tmp_path: Path) -> None:
    assert spine_node("send", str(tmp_path), "127.0.0.1:1").returncode == 2


def test_show_never_prints_a_password(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("database_dsn: postgresql://spine:geheim@db/spine", encoding="utf-8")
    done = spine_node("config", "show", "--config", str(path))
    assert done.returncode == 0
    assert "geheim" not in done.stdout
    assert json.loads(done.stdout)["receive"]["port"] == 11112


def test_jobs_of_a_node_that_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(f"data_dir: {tmp_path / 'data'}", encoding="utf-8")
    done = spine_node("jobs", "list", "--config", str(path), "--json")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    assert spine_node("jobs", "show", "1.2.3", "--config", str(path)).returncode == 1


def test_a_retry_for_a_destination_that_left_the_configuration_says_so(tmp_path: Path, database: Database) -> None:
    path = tmp_path / "node.yaml"
    kept = {"name": "kept", "host": "127.0.0.1", "port": 1, "ae_title": "X"}
    content = {"data_dir": str(tmp_path / "data"), "database_dsn": database.dsn, "destinations": [kept]}
    path.write_text(json.dumps(content), encoding="utf-8")
    with database.transaction() as connection:
        connection.execute("INSERT INTO study (study_uid, last_instance_at) VALUES (%s, now())", (STUDY,))
        (result,) = ledger.finish(connection, ledger.claim(connection))
        for name in ("kept", "former"):
            deliveries.plan(connection, result, name)
        connection.execute("UPDATE delivery SET state = 'parked', reason = 'for a test'")

    def states() -> dict[str, str]:
        with database.transaction() as connection:
            found = overview.study(connection, STUDY)
        assert found is not None
        return {row["destination"]: row["state"] for row in found["deliveries"]}

    done = spine_node("jobs", "retry", STUDY, "--config", str(path))
    assert done.returncode == 1
    assert "1 taken up again" in done.stdout
    assert "no destination 'former'; add it, restart the node, retry" in done.stderr
    assert states() == {"kept": "pending", "former": "parked"}
    again = spine_node("jobs", "retry", STUDY, "--config", str(path))
    assert (again.returncode, again.stdout) == (1, ""), "nothing changed, and the reason is said again"


def test_what_a_study_waits_for_is_listed_and_shown(tmp_path: Path, database: Database) -> None:
    path = tmp_path / "node.yaml"
    content = {"data_dir": str(tmp_path / "data"), "database_dsn": database.dsn}
    path.write_text(json.dumps(content), encoding="utf-8")
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO study (study_uid, last_instance_at, waits_for, unreadable_since)"
            " VALUES (%s, now(), 'x.dcm cannot be read', '2026-01-02 03:04:05')",
            (STUDY,),
        )
    shown = spine_node("jobs", "show", STUDY, "--config", str(path))
    assert "waits: x.dcm cannot be read (since 2026-01-02 03:04:05)" in shown.stdout
    (listed,) = json.loads(spine_node("jobs", "list", "--config", str(path), "--json").stdout)
    assert listed["waits_for"] == "x.dcm cannot be read"
    assert "cannot" in spine_node("jobs", "list", "--config", str(path)).stdout


def test_a_folder_without_a_spine_is_exit_code_3(tmp_path: Path, shipped_models: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").write_text("no DICOM")
    done = spine_node("analyze", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 3, done.stderr
    listing = json.loads((tmp_path / "out" / "series.json").read_text())
    assert listing["series"] == []
    assert len(listing["unreadable"]) == 1
