"""Property-based fuzz of everything that a stranger can send: PDUs, messages, data sets.

``make fuzz`` runs it for as long as one likes and prints how many inputs were tried. A short form with fixed seeds is a
part of the tests, whose summary says its number of inputs.
"""
