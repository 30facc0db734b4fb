"""Are there known weaknesses in what is locked? ``make audit``: pip-audit over `requirements.lock`, without pretending.

Exit code 0: every package was looked up and none has a known weakness; 1: some have; 2: the advisory service could not
be asked, or not about all, and nothing can be said. pip-audit itself ends with 0 where it found nobody to ask.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
CLEAN, VULNERABLE, NOT_AUDITED = 0, 1, 2


def verdict(report: dict[str, Any] | None) -> tuple[int, str]:
    """Exit code and sentence for pip-audit's report; ``None`` where it made none."""
    found = (report or {}).get("dependencies", [])
    skipped = [one["name"] for one in found if "skip_reason" in one]
    weak = [
        f"{one['name']} {one['version']}: {weakness['id']}"
        + (f" (mended in {', '.join(weakness['fix_versions'])})" if weakness.get("fix_versions") else "")
        for one in found
        for weakness in one.get("vulns", ())
    ]
    if weak:
        return VULNERABLE, "known weaknesses: " + "; ".join(weak)
    if not found:
        return NOT_AUDITED, "NOT AUDITED: the advisory service cannot be asked from here"
    if skipped:
        return NOT_AUDITED, (
            f"NOT AUDITED: {len(skipped)} of {len(found)} packages could not be looked up: "
            "the advisory service cannot be reached from here, or a mirror stands in its place"
        )
    return CLEAN, f"{len(found)} packages looked up, no known weakness"


def main(pip_audit: str) -> int:
    """Run pip-audit and judge what it says; the exit code. One line says how it went, whatever happened."""
    if not Path(pip_audit).is_file():
        print("audit: NOT AUDITED: pip-audit is not installed here (`make tools`, or `make audit` for both)")
        return NOT_AUDITED
    lock = str(REPOSITORY / "requirements.lock")
    command = [pip_audit, "--requirement", lock, "--require-hashes", "--disable-pip", "--format", "json"]
    done = subprocess.run(
        [*command, "--progress-spinner", "off", "--timeout", "15"], capture_output=True, text=True, check=False
    )
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = None
    code, sentence = verdict(report)
    print(f"audit: {sentence}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
