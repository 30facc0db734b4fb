"""Writes ``findings.schema.json``: ``python -m node.results.schema``."""

from node.results.document import SCHEMA_FILE, json_schema

if __name__ == "__main__":
    SCHEMA_FILE.write_text(json_schema(), encoding="ascii")
    print(f"wrote {SCHEMA_FILE.name}")
