"""The operations guide names only commands, keys, reasons, events and files that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from pydantic import BaseModel

from inference.refusal import RefusalCode
from node.cli import app
from node.settings import Settings
from tests.conftest import REPOSITORY

GUIDE = (REPOSITORY / "deploy" / "OPERATIONS.md").read_text(encoding="utf-8")
WRITTEN_ELSEWHERE = {"BACKUP.md", "SIZING.md"}
_COMMAND = re.compile(r"(?<!chown )spine-node ([a-z]+)(?:\s+([a-z]+)\b)?")
_CODE = re.compile(r"^```.*?^```|`[^`]+`", re.MULTILINE | re.DOTALL)
_KEY = re.compile(r"`([a-z_]+(?:\.[a-z_]+)+)`")
_OPTION = re.compile(r"(?<![-\w])--[a-z-]+")


def commands() -> dict[str, set[str]]:
    """Names of the commands, with those below a group."""
    group = typer.main.get_command(app)
    assert hasattr(group, "commands")
    return {name: set(getattr(command, "commands", {})) for name, command in group.commands.items()}


def options() -> set[str]:
    """Every option of every command."""
    found: set[str] = set()
    waiting = [typer.main.get_command(app)]
    while waiting:
        command = waiting.pop()
        found |= {option for parameter in command.params for option in parameter.opts}
        waiting += getattr(command, "commands", {}).values()
    return found


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of the configuration with dots; a list's entries are named like the list."""
    for name, told in model.model_fields.items():
        yield f"{prefix}{name}"
        for section in _sections(told.annotation):
            if section is not model:
                yield from keys(section, f"{prefix}{name}.")


def _sections(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _sections(part)


def test_every_command_named_is_one() -> None:
    known = commands()
    named = {(found[1], found[2]) for code in _CODE.findall(GUIDE) for found in _COMMAND.finditer(code)}
    assert {first for first, _ in named} <= set(known), "no such command"
    assert {(a, b) for a, b in named if known[a] and b not in known[a]} == set(), "no such command of its group"
    assert len({first for first, _ in named}) >= 10
    jobs = set(re.findall(r"`jobs ([a-z]+)", GUIDE))
    assert jobs <= known["jobs"]


def test_every_option_named_is_one() -> None:
    named = {option for line in GUIDE.splitlines() if "spine-node" in line for option in _OPTION.findall(line)}
    assert named - {"--now"} <= options()
    assert "--records" in named


def test_every_key_named_is_one() -> None:
    known = set(keys(Settings))
    named = {key for key in _KEY.findall(GUIDE) if key.split(".")[0] in Settings.model_fields}
    assert named <= known, f"no such key: {sorted(named - known)}"
    assert len(named) >= 25
    assert {f"{key}.crl_file" for key in ("receive.tls", "destinations.tls")} <= known


def test_every_limit_and_term_of_the_configuration_is_explained_in_the_default_file() -> None:
    text = (REPOSITORY / "config" / "default.yaml").read_text(encoding="utf-8")
    assert {key for key in keys(Settings) if key.split(".")[-1] not in text} == set()


def test_every_reason_is_explained_once() -> None:
    named = re.findall(r"`([A-Z0-9_]{5,})`", GUIDE.split("### Studies", 1)[1].split("###", 1)[0])
    assert sorted(named) == sorted(code.value for code in RefusalCode)


def test_every_incident_that_is_told_is_explained() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "node" / "receive").glob("*.py"))
    told = set(re.findall(r"(?:\.tell|_refused|\brefused|[^_]record)\(\s*\"([a-z_]+)\"", source))
    assert len(told) >= 10
    explained = set(re.findall(r"`([a-z_]+)`", GUIDE.split("### Senders", 1)[1].split("###", 1)[0]))
    assert told <= explained | {"access_reloaded"}, sorted(told - explained)


def test_every_file_named_is_there() -> None:
    linked = set(re.findall(r"\]\(([^)]+)\)", GUIDE)) - WRITTEN_ELSEWHERE
    assert [name for name in linked if not (REPOSITORY / "deploy" / name).exists()] == []
    tests = re.findall(r"`((?:tests|config)/[^`]+)`", GUIDE)
    assert tests
    assert [name for name in tests if not (REPOSITORY / name).exists()] == []


def test_every_alert_says_what_to_do() -> None:
    path = REPOSITORY / "deploy" / "monitoring" / "alerts.yml"
    rules = [rule for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert f"({len(rules)}, each with its" in GUIDE.replace("\n", " ")
    known = commands()
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "mend"}
        for found in _COMMAND.finditer(rule["annotations"]["mend"]):
            assert found[1] in known, rule["alert"]
            assert not known[found[1]] or found[2] in known[found[1]], rule["alert"]


@pytest.mark.parametrize("name", ["THREATS.md", "CONFORMANCE.md"])
def test_the_guide_leads_to_the_other_pages(name: str) -> None:
    assert f"({name})" in GUIDE
    assert Path(REPOSITORY / "deploy" / name).is_file()
