"""How attenuation came about: what the headers of a series say of tube voltage, contrast agent and kernel."""

from __future__ import annotations

import re
from collections.abc import Sequence

from inference.findings import Acquisition
from node.gate.geometry import Slice
from node.gate.kernels import SHARP, known_sharpness
from node.gate.policy import GatePolicy
from node.gate.values import text

_NO = r"(no|non|none|nein|keine?|without|w/?o|ohne|native?|n/?a|0)"
_OF_IT = r"([ _-]*(iv|i\.v\.|contrast( agent| media| medium)?|km|kontrastmittel|given|administered))*\W*"
NO_AGENT = re.compile(_NO + _OF_IT, re.IGNORECASE)
"""Contrast/Bolus Agent (0018,0010) that says that none was given."""
UNCLEAR = re.compile(_NO + r"\b.*", re.IGNORECASE)
"""It begins with a no and goes on: "non-ionic iodine", "no oral, IV Omnipaque". Nothing is concluded."""


def acquisition(slices: Sequence[Slice], policy: GatePolicy) -> Acquisition:
    """What the images of one volume say. An empty Contrast/Bolus Agent says nothing: many scanners leave it out."""
    if not slices:
        return Acquisition()
    first = slices[0]
    voltages = {part.image.phase.get("tube voltage", "") for part in slices}
    agents = {part.image.phase.get("contrast agent", "") for part in slices}
    agents.add(text(first.header.dataset, "ContrastBolusAgent"))
    given = [agent for agent in agents if agent]
    kernel = tuple(value for value in first.image.kernel if value)
    rank = known_sharpness(kernel, text(first.header.dataset, "Manufacturer"), policy.kernel_rules)
    return Acquisition(
        kvp=_kilovolts(voltages.pop()) if len(voltages) == 1 else None,
        contrast=_contrast(given),
        kernel="\\".join(kernel) or None,
        sharp_kernel=None if rank is None else rank == SHARP,
    )


def _contrast(agents: Sequence[str]) -> bool | None:
    if any(not UNCLEAR.fullmatch(agent) for agent in agents):
        return True
    return False if agents and all(NO_AGENT.fullmatch(agent) for agent in agents) else None


def _kilovolts(value: str) -> float | None:
    try:
        voltage = float(value)
    except ValueError:
        return None
    return voltage if 0 < voltage < 1000 else None
