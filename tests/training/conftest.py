"""Tests of the trainings: one thread each, as the networks are tiny and the tests run side by side."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("torch") is not None:
    import torch

    torch.set_num_threads(1)
