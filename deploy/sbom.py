"""Software bill of materials of what runs in a hospital (CycloneDX 1.6): ``make sbom`` writes `deploy/sbom.cdx.json`.

cyclonedx-bom describes the environment, tools for tests and training among it; here the run-time part of it is kept:
what `pyproject.toml` needs, and what that needs, on this platform. Versions are those of `requirements.lock`, which has
the hashes of every file. The same environment gives the same bytes.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[1]
SBOM = REPOSITORY / "deploy" / "sbom.cdx.json"
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)
_KEPT = ("type", "bom-ref", "name", "version", "description", "licenses", "purl")


LICENCE_NOT_IN_METADATA = {"protobuf": "BSD-3-Clause"}
"""Looked up in the project's own LICENSE file."""


def locked() -> set[tuple[str, str]]:
    """Canonical names and versions that `requirements.lock` pins; some differ from one Python to another."""
    text = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    return {(str(canonicalize_name(name)), version) for name, version in _PINNED.findall(text)}


def needed_at_run_time() -> set[str]:
    """Canonical names of the distributions that the node needs to run, here and now."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [Requirement(line) for line in project["dependencies"]]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            key = (canonicalize_name(wanted.name), extra)
            if key in seen:
                continue
            seen.add(key)
            more = (Requirement(line) for line in requires(wanted.name) or ())
            waiting += [one for one in more if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def run_time_part(environment: dict[str, Any]) -> dict[str, Any]:
    """Of an environment's bill of materials, what is needed at run time."""
    needed = needed_at_run_time()
    components = [c for c in environment["components"] if canonicalize_name(c["name"]) in needed]
    if missing := needed - {canonicalize_name(c["name"]) for c in components}:
        raise SystemExit(f"the environment lacks {', '.join(sorted(missing))}: make test sets it up")
    for component in components:
        concluded = LICENCE_NOT_IN_METADATA.get(canonicalize_name(component["name"]))
        if "licenses" not in component and concluded:
            component["licenses"] = [{"license": {"id": concluded, "acknowledgement": "concluded"}}]
    refs = {component["bom-ref"] for component in components}
    root = environment["metadata"]["component"]
    return {
        "$schema": environment["$schema"],
        "bomFormat": environment["bomFormat"],
        "specVersion": environment["specVersion"],
        "version": 1,
        "metadata": {"component": {key: root[key] for key in _KEPT if key in root}},
        "components": sorted(
            ({key: component[key] for key in _KEPT if key in component} for component in components),
            key=lambda component: canonicalize_name(component["name"]),
        ),
        "dependencies": [
            {"ref": found["ref"], "dependsOn": sorted(refs & set(found.get("dependsOn", ())))}
            for found in sorted(environment["dependencies"], key=lambda found: str(found["ref"]))
            if found["ref"] in refs | {root["bom-ref"]}
        ],
    }


if __name__ == "__main__":
    described = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    written = run_time_part(described)
    SBOM.write_text(json.dumps(written, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{SBOM.relative_to(REPOSITORY)}: {len(written['components'])} components")
