"""What the capture and the reports of a radiograph say in sentences, in ASCII."""

from __future__ import annotations

from inference.findings import Findings, VertebraFinding
from node.results import wording

RELATIVE_HEIGHTS = "Ha/Hp, Hm/Hp: anterior and middle height over the vertebra's own posterior height"
WITHOUT_SIDE = "wall: that wall, anterior or posterior, which lost more"
NO_SEGMENTATION = (
    "Of a fluoroscopic image no segmentation is made: outlines stand in the capture, points in this report"
)
UNCALIBRATED = "UNCALIBRATED: ratios only, no millimetres"


def calibration(findings: Findings) -> str | None:
    """Whether there are millimetres, and where from; ``None`` for findings on a volume."""
    size = findings.pixel_size
    if size is None:
        return None
    if size.spacing_mm is None:
        return f"{UNCALIBRATED} ({size.source.removeprefix('uncalibrated: ')})"
    return f"Millimetres: {size.source}; {size.spacing_mm[0]:.3f} x {size.spacing_mm[1]:.3f} mm a pixel"


def compression(findings: Findings) -> str:
    """How to read the compression ratio, and which measured vertebrae have none."""
    those = wording.measured(findings)
    without = [v for v in those if v.compression_ratio_percent is None]
    if len(without) == len(those):
        return (
            "No compression ratio (VCR): no measured vertebra has a sure, healthy one on both sides." if those else ""
        )
    said = (
        "VCR: anterior height lost against the mean of both neighbours, in %; negative where the vertebra is the "
        "taller one."
    )
    others = "; ".join(f"{v.name} with {text}" for v in those if (text := compared_text(v, findings)))
    said += f" Where a neighbour was not healthy the next one was taken: {others}." if others else ""
    return said + (
        f" None without a sure, healthy one on both sides: {wording.names_text(without)}." if without else ""
    )


def compared_text(vertebra: VertebraFinding, findings: Findings) -> str | None:
    """With which vertebrae the compression ratio compares where these are not the neighbours: "V1 and V4"."""
    pair = vertebra.compared_with
    if pair is None or pair == (vertebra.ordinal - 1, vertebra.ordinal + 1):
        return None
    names = {v.ordinal: v.name for v in findings.vertebrae}
    return " and ".join(names.get(ordinal, f"V{ordinal}") for ordinal in pair)


def compression_text(vertebra: VertebraFinding) -> str | None:
    """The cell of the compression ratio: "23 %", "-4 %"."""
    value = vertebra.compression_ratio_percent
    return None if value is None else f"{round(value)} %"


def without_side_text(findings: Findings) -> str:
    """What is told of heights where the front may lie on either side."""
    return WITHOUT_SIDE if is_uncalibrated(findings) else f"Hm: middle height in mm; {WITHOUT_SIDE}"


def is_uncalibrated(findings: Findings) -> bool:
    """Whether the findings are of a radiograph without millimetres."""
    return findings.pixel_size is not None and findings.pixel_size.spacing_mm is None
