"""The ledger in PostgreSQL: the one source of truth about what arrived, what became of it and what was sent where.

``intake`` is what arrived, ``answers`` what became of it, ``deliveries`` what was sent where, ``deaths`` what kills
senders, ``proofs`` what shows that it is there, ``retractions`` what was taken back, ``erasure`` what was forgotten;
``overview`` and ``audit`` are how people read it. Each function takes an open connection, so that a caller decides what
is one transaction.
"""

from node.ledger.database import Database, check_server, migrate, private_database, revive_private_database
from node.ledger.errors import DatabaseError
from node.ledger.queue_schema import programs_at_work

__all__ = [
    "Database",
    "DatabaseError",
    "check_server",
    "migrate",
    "private_database",
    "programs_at_work",
    "revive_private_database",
]
