"""``reformat.dcm``: the curved mid-sagittal image on which every height can be checked with a viewer's ruler.

Secondary Capture with 16 bits, attribute by attribute as OHIF 3.13 was seen to draw lines on it in place and
to count its ruler in millimetres. Pixels are square: viewers were seen to swap row and column spacing. It has no plane,
position or frame of reference, because the surface is curved across the body; along and across it nothing is stretched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import SecondaryCaptureImageStorage

from inference.findings import Findings
from node.results.common import new_file, referenced_series, source_references, stamp, stamp_lossy
from node.results.context import ResultContext
from node.results.identity import Identity

RESCALE_INTERCEPT = -1024
WINDOW_CENTRE, WINDOW_WIDTH = 300, 1500


class Ruler(Protocol):
    """What is needed of ``inference.reformat.CurvedReformat``.

    ``hu`` is int16 (rows head to feet, columns front to back), ``spacing_mm`` the side of its square pixels;
    ``to_pixel`` maps LPS mm (..., 3) to (column, row), the first pixel's centre being (0.5, 0.5).
    """

    @property
    def hu(self) -> NDArray[np.int16]: ...

    @property
    def spacing_mm(self) -> float: ...

    def to_pixel(self, points_lps_mm: NDArray[np.floating]) -> NDArray[np.float64]: ...


def build_reformat(
    reformat: Ruler, source: Sequence[Dataset], findings: Findings, identity: Identity, ctx: ResultContext
) -> FileDataset:
    """The reformat as a Secondary Capture Image (PS3.3 A.8.1)."""
    file = new_file(SecondaryCaptureImageStorage, identity.instance_uid("reformat"))
    stamp(file, "reformat", source, findings, identity, ctx)
    file.Modality = "CT"
    file.ConversionType = "WSD"
    file.ImageType = ["DERIVED", "SECONDARY"]
    file.PatientOrientation = ["P", "F"]
    spacing = ds_number(reformat.spacing_mm)
    file.PixelSpacing = [spacing, spacing]
    file.PixelSpacingCalibrationType = "GEOMETRY"
    file.PixelSpacingCalibrationDescription = "Arc length on the curved mid-sagittal surface x = f(z)"
    file.DerivationDescription = (
        "Curved mid-sagittal reformat through the vertebral bodies (x = f(z), rows at equal arc length of f), "
        "sampled from the source series; not acquired"
    )
    file.SourceImageSequence = source_references(source)
    file.ReferencedSeriesSequence = referenced_series(source)
    file.BurnedInAnnotation = "NO"
    stamp_lossy(file, source)

    stored = np.clip(reformat.hu.astype(np.int32) - RESCALE_INTERCEPT, 0, 65535).astype("<u2")
    file.SamplesPerPixel = 1
    file.PhotometricInterpretation = "MONOCHROME2"
    file.Rows, file.Columns = stored.shape
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit = 15
    file.PixelRepresentation = 0
    file.RescaleSlope = 1
    file.RescaleIntercept = RESCALE_INTERCEPT
    file.RescaleType = "HU"
    file.WindowCenter = WINDOW_CENTRE
    file.WindowWidth = WINDOW_WIDTH
    file.PixelData = _even(stored.tobytes())
    file["PixelData"].VR = "OW"
    return file


def ds_number(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 section 6.2) that reads back as closely as it can."""
    for digits in range(15, 5, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"{value} does not fit a decimal string")


def _even(pixels: bytes) -> bytes:
    return pixels + b"\x00" if len(pixels) % 2 else pixels
