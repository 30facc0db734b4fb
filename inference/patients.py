"""Whether more than one person lies in the images: a mother with her child, two animals in one scanner.

Everything else assumes one spine. Two people are two large pieces of soft tissue with air between them, in most of the
slices that the spine runs through; arms are smaller, and legs lie below the spine.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from inference.geometry import Volume
from inference.surface import CentreLine

GRID_MM = 6.0
TISSUE_HU = -300.0
PERSON_CM2 = 150.0
"""An axial section of a trunk is larger; one of an arm is smaller."""
SHARE = 0.5
"""Of the slices with spine, in which there must be two of them."""


def several_people(volume: Volume, line: CentreLine) -> bool:
    """Whether at least half of the slices along ``line`` hold two sections of a trunk, apart from each other."""
    steps = [max(1, round(GRID_MM / s)) for s in volume.spacing_mm]
    axis = int(np.abs(volume.affine[2, :3]).argmax())
    pixel_cm2 = float(np.prod([volume.spacing_mm[a] * steps[a] for a in range(3) if a != axis])) / 100.0
    hu = np.moveaxis(volume.hu[:: steps[0], :: steps[1], :: steps[2]], axis, 0)
    middle = (np.array(volume.hu.shape) - 1) / 2
    several = []
    for k in range(len(hu)):
        middle[axis] = k * steps[axis]
        if not line.bottom_mm <= float(volume.to_lps(middle)[2]) <= line.top_mm:
            continue
        pieces, count = ndimage.label(ndimage.binary_opening(hu[k] > TISSUE_HU))
        area = np.bincount(pieces.ravel(), minlength=count + 1)[1:] * pixel_cm2
        several.append(int((area > PERSON_CM2).sum()) > 1)
    return bool(several) and float(np.mean(several)) >= SHARE
