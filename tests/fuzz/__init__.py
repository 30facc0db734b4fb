"""Property-based fuzz of everything that a stranger can send: PDUs, messages, data sets.

``python -m tests.fuzz --minutes 10`` runs it for as long as one likes and prints how many inputs were tried; a short
form with fixed seeds is a part of the tests.
"""
