"""What the capture and the reports of a radiograph say in sentences, in ASCII."""

from __future__ import annotations

from inference.findings import Findings, Quality, VertebraFinding
from node.results import wording
from node.results.gaps import gaps

RELATIVE_HEIGHTS = "Ha/Hp, Hm/Hp: anterior and middle height over the vertebra's own posterior height"
WITHOUT_SIDE = "wall: that wall, anterior or posterior, which lost more"
NO_SEGMENTATION = (
    "Of a fluoroscopic image no segmentation is made: outlines stand in the capture, points in this report"
)
OWN_RATIOS = "Ha/Hp, Hm/Hp: over the own posterior height"
PASSED_OVER = "deformed, unsure, with cement or metal, not measured or not seen"
"""Why a neighbour is no reference of a compression ratio."""
WEIGHTED = "the mean is then weighted by distance, the nearer one counts more"
LIMITS = (
    "On radiographs fusion is not recognised: fused vertebrae are graded like others. Cement and metal are told by a "
    "network that was trained on rendered ones; where it misses them a vertebra is graded like others."
)
UNCALIBRATED = "UNCALIBRATED: ratios only, no millimetres"


def calibration(findings: Findings) -> str | None:
    """Whether there are millimetres, and where from; ``None`` for findings on a volume."""
    size = findings.pixel_size
    if size is None:
        return None
    if size.spacing_mm is None:
        return f"{UNCALIBRATED} ({size.source.removeprefix('uncalibrated: ')})"
    said = f"Millimetres: {size.source}; {size.spacing_mm[0]:.3f} x {size.spacing_mm[1]:.3f} mm a pixel"
    stated = any(v.height_uncertainty_mm is not None for v in findings.vertebrae)
    return f"{said}, whose error is not in the +/- of heights" if stated else said


def own_ratios(findings: Findings, listed: bool) -> str:
    """How to read the ratios that stand beside millimetres; with ``listed`` each vertebra's too."""
    those = [v for v in wording.measured(findings) if v.heights_mm is not None and v.relative_heights is not None]
    if not those:
        return ""
    if not listed:
        return f"{OWN_RATIOS}."
    return f"{OWN_RATIOS}: {'; '.join(f'{v.name} {relative_text(v, 0)}, {relative_text(v, 1)}' for v in those)}."


def relative_text(vertebra: VertebraFinding, part: int) -> str | None:
    """A height over the own posterior one: ``part`` 0 is the anterior, 1 the middle one."""
    relative = vertebra.relative_heights
    return None if relative is None else f"{relative.as_tuple()[part]:.2f}"


def compression(findings: Findings) -> str:
    """How to read the compression ratio, and which measured vertebrae have none, and why."""
    those = wording.measured(findings)
    without = [v for v in those if v.compression_ratio_percent is None]
    unsure = [v for v in without if Quality.LOW_CONFIDENCE in v.quality]
    alone = [v for v in without if Quality.LOW_CONFIDENCE not in v.quality]
    if not those:
        return ""
    said = ["No compression ratio (VCR)."]
    if len(without) < len(those):
        said = [
            "VCR: anterior height lost against the mean of both neighbours, in %; negative where the vertebra is the "
            "taller one."
        ]
    others = "; ".join(f"{v.name} with {text}" for v in those if (text := compared_text(v, findings)))
    if others:
        said.append(f"A neighbour that is {PASSED_OVER} is passed over: {others}; {WEIGHTED}.")
    if unsure:
        said.append(f"None of an unsure vertebra: {wording.names_text(unsure)}.")
    if alone:
        foreign = any(Quality.FOREIGN_MATERIAL in v.quality for v in those)
        one = "sure, undeformed one" + (" without cement or metal" if foreign else "")
        said.append(f"None without a {one} near by on both sides: {wording.names_text(alone)}.")
    return " ".join(said)


def compared_text(vertebra: VertebraFinding, findings: Findings) -> str | None:
    """With which vertebrae the compression ratio compares where these are not the neighbours: "V1 and V4".

    Across a gap the next one that was seen is no neighbour.
    """
    pair = vertebra.compared_with
    if pair is None:
        return None
    across = any(pair[0] <= above.ordinal and below.ordinal <= pair[1] for above, below in gaps(findings))
    if pair == (vertebra.ordinal - 1, vertebra.ordinal + 1) and not across:
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
