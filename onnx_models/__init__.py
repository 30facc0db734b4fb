"""What is shipped: networks, their cards and the manifest; `training` makes every one of them again."""

from pathlib import Path

MODELS = Path(__file__).resolve().parent
"""The folder of the manifest."""
