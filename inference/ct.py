"""The CT pipeline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.findings import Findings
from inference.reformat import CoronalPicture, CurvedReformat


@dataclass(frozen=True)
class CtAnswer:
    """Findings, masks and the pictures that carry them.

    Attributes
    ----------
    findings
        Always there; ``findings.refusal`` says why where nothing could be evaluated.
    reformat
        The reader's picture; ``None`` when no spine was found.
    coronal
        The small picture for the numbering; there exactly when ``reformat`` is.
    labels
        uint8, shape of ``volume.hu``: 0, or the ordinal of the vertebra; ``None`` when nothing was segmented.
    parts
        uint8, the same shape: 1 vertebral body, 2 posterior elements.
    masks_on_reformat
        uint8 of the shape of ``reformat.hu``: ordinal of the vertebral body that a pixel shows.
    expected_on_reformat
        uint8, the same shape: ordinal of the vertebra whose expected body (of the abnormality score) a pixel shows.
    """

    findings: Findings
    reformat: CurvedReformat | None = None
    coronal: CoronalPicture | None = None
    labels: NDArray[np.uint8] | None = None
    parts: NDArray[np.uint8] | None = None
    masks_on_reformat: NDArray[np.uint8] | None = None
    expected_on_reformat: NDArray[np.uint8] | None = None
