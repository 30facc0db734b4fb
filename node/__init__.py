"""DICOM in, DICOM out, durably."""

__version__ = "0.1.0"

SOFTWARE = "spine-node"
"""Manufacturer's model name of every result; the loop guard knows our own objects by it."""
