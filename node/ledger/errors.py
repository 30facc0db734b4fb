"""What is raised where the ledger cannot be used at all."""

from __future__ import annotations


class DatabaseError(Exception):
    """The database cannot be used; the message says what a person can do."""
