"""Synthetic answers of every sort, built once."""

from __future__ import annotations

import pytest
from results_synthetic import Case, make_case


@pytest.fixture(scope="session")
def flagged() -> Case:
    """Eight vertebrae: V4 severe, V6 moderate, V8 seen only."""
    return make_case({4: (0.55, 0.5, 0.8), 6: (0.68, 0.9, 1.0)}, unmeasured=(8,))


@pytest.fixture(scope="session")
def normal() -> Case:
    """Seven undeformed vertebrae."""
    return make_case(count=7)
