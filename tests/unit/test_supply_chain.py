"""The bill of materials is that of the lock, no licence of it binds who uses it, and the audit never pretends."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from deploy import audit, sbom
from tests.conftest import REPOSITORY

LESSER = {"psycopg", "psycopg-binary", "psycopg-pool"}
"""Under the LGPL: used as it is, exchangeable by whoever installs it."""
COPYLEFT = re.compile(r"\b(A|L)?GPL", re.IGNORECASE)


@pytest.fixture(scope="module")
def components() -> dict[str, dict[str, Any]]:
    listed = json.loads(sbom.SBOM.read_text(encoding="utf-8"))["components"]
    return {canonicalize_name(component["name"]): component for component in listed}


def licence(component: dict[str, Any]) -> str:
    told = [found.get("expression") or found["license"] for found in component.get("licenses", [])]
    return " AND ".join(one if isinstance(one, str) else one.get("id") or one["name"] for one in told)


def test_it_lists_what_the_node_needs_as_the_lock_pins_it(components: dict[str, dict[str, Any]]) -> None:
    assert set(components) == sbom.needed_at_run_time(), "make sbom"
    assert {(name, component["version"]) for name, component in components.items()} <= sbom.locked(), "make sbom"


def test_every_wheel_of_the_lock_is_pinned_with_its_hash() -> None:
    text = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", "")
    entries = [line for line in text.splitlines() if line.strip() and not line.startswith(("#", " ", "--"))]
    assert len(entries) > 50
    assert [
        line.split()[0] for line in entries if not re.match(r"[\w.\[\]-]+==\S+.* --hash=sha256:[0-9a-f]{64}", line)
    ] == []


def test_it_says_what_depends_on_what(components: dict[str, dict[str, Any]]) -> None:
    document = json.loads(sbom.SBOM.read_text(encoding="utf-8"))
    assert (document["bomFormat"], document["metadata"]["component"]["name"]) == ("CycloneDX", "spine-node")
    refs = {component["bom-ref"] for component in components.values()}
    told = {found["ref"]: set(found["dependsOn"]) for found in document["dependencies"]}
    assert set(told) == refs | {document["metadata"]["component"]["bom-ref"]}
    assert set().union(*told.values()) <= refs


def test_every_licence_is_known_and_none_is_the_gpl(components: dict[str, dict[str, Any]]) -> None:
    licences = {name: licence(component) for name, component in components.items()}
    assert [name for name, told in licences.items() if not told] == []
    assert {name for name, told in licences.items() if COPYLEFT.search(told)} == LESSER
    assert all(licences[name].startswith("LGPL") for name in LESSER)


def looked_up(name: str, *weaknesses: str) -> dict[str, Any]:
    return {"name": name, "version": "1", "vulns": [{"id": one, "fix_versions": ["2"]} for one in weaknesses]}


@pytest.mark.parametrize(
    ("report", "code", "told"),
    [
        ({"dependencies": [looked_up("a"), looked_up("b")]}, audit.CLEAN, "2 packages looked up"),
        ({"dependencies": [looked_up("a"), looked_up("b", "CVE-1")]}, audit.VULNERABLE, "b 1: CVE-1 (mended in 2)"),
        (
            {"dependencies": [looked_up("a"), {"name": "b", "skip_reason": "not found"}]},
            audit.NOT_AUDITED,
            "NOT AUDITED: 1 of 2",
        ),
        ({"dependencies": []}, audit.NOT_AUDITED, "NOT AUDITED"),
        (None, audit.NOT_AUDITED, "NOT AUDITED"),
        (
            {"dependencies": [looked_up("a", "CVE-1"), {"name": "b", "skip_reason": "not found"}]},
            audit.VULNERABLE,
            "CVE-1",
        ),
    ],
)
def test_an_audit_that_could_not_be_made_is_no_good_audit(report: dict[str, Any] | None, code: int, told: str) -> None:
    assert audit.verdict(report)[0] == code
    assert told in audit.verdict(report)[1]


def test_a_check_without_an_audit_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(str(tmp_path / "pip-audit")) == audit.NOT_AUDITED
    asks_nobody = tmp_path / "asks-nobody"
    asks_nobody.write_text("#!/bin/sh\necho no route to host >&2\nexit 1\n")
    asks_nobody.chmod(0o700)
    assert audit.main(str(asks_nobody)) == audit.NOT_AUDITED
    absent, unreachable = capsys.readouterr().out.splitlines()
    assert absent.startswith("audit: NOT AUDITED: pip-audit is not installed here")
    assert unreachable == "audit: NOT AUDITED: the advisory service cannot be asked from here"


def test_the_audit_is_a_part_of_the_checks_and_not_of_the_tests() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")

    def would_run(target: str) -> str:
        command = ["make", "--dry-run", "--no-print-directory", target]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout

    checks, tests = would_run("check"), would_run("test")
    assert "deploy/audit.py" in checks
    assert "audit" not in tests
    assert "ruff check" in tests and "mypy" in tests
