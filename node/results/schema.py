"""Writes ``findings.schema.json``: ``python -m node.results.schema``; ``--check`` says whether it is up to date."""

import sys

from node.results.document import SCHEMA_FILE, json_schema

if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if SCHEMA_FILE.read_text(encoding="ascii") != json_schema():
            sys.exit(f"{SCHEMA_FILE.name} is out of date: run python -m node.results.schema")
    else:
        SCHEMA_FILE.write_text(json_schema(), encoding="ascii")
        print(f"wrote {SCHEMA_FILE.name}")
