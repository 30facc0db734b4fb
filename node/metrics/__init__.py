"""What a monitoring system is told: numbers of each process (`tally`), of the ledger, of the machine; by HTTP.

Every process counts for itself and forgets when it ends, as Prometheus expects of counters; the supervisor asks them
all (`channel`), adds what the ledger and the machine say (`figures`, `collector`) and answers scrapes (`server`).
Labels name what the configuration or the code names, and nothing that a sender chooses: no UID, no patient, no title of
a stranger.
"""
