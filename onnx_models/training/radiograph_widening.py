"""A wide whole-film network that begins as a narrow one: what was learnt is kept, what is new is added to it.

Channels of the narrow network become the first ones of the wide. The others have the random weights that every network
begins with, and reach the first ones by a tenth of those, so that the wide network says at first what the narrow one
did, and learns from there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

FRESH = 0.1
"""Weights that lead from a new channel to an old one, as a part of what they would be at random."""
JOINED = (".0.0.weight", "view.0.weight")
"""Ends of names of weights that see two sets of channels side by side (below ``join``, and of the view)."""


def widths_of(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Channels at each level of the whole-film network that has these weights."""
    return tuple(
        value.shape[0] for name, value in state.items() if name.startswith("down.") and name.endswith(JOINED[0])
    )


def widened(narrow: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The state of `network` (as it begins, at random) with that of a narrower one in it.

    Raises
    ------
    ValueError
        Where the other is not narrower, but another network.
    """
    state = {name: value.clone() for name, value in network.state_dict().items()}
    if state.keys() != narrow.keys():
        raise ValueError(f"weights of another network: {sorted(state.keys() ^ narrow.keys())}")
    for name, old in narrow.items():
        state[name] = _widened(name, old, state[name])
    return state


@torch.no_grad()
def _widened(name: str, old: Tensor, new: Tensor) -> Tensor:
    """One weight: outputs are its first axis, inputs its second."""
    if old.shape == new.shape:
        return old.clone()
    if old.ndim != new.ndim or any(a > b for a, b in zip(old.shape, new.shape, strict=True)):
        raise ValueError(f"{name}: {tuple(old.shape)} does not fit into {tuple(new.shape)}")
    outputs = old.shape[0]
    if old.ndim == 1:
        new[:outputs] = old
        return new
    sets = 2 if (name.startswith("join.") and name.endswith(JOINED[0])) or name == JOINED[1] else 1
    new[:outputs] *= FRESH
    for before, after in zip(old.chunk(sets, dim=1), new.chunk(sets, dim=1), strict=True):
        after[:outputs, : before.shape[1]] = before
    return new
