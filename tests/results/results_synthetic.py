"""A small spine of known geometry: volume, findings, masks and CT headers, without any network."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from inference.findings import (
    Acquisition,
    Findings,
    Grade,
    Heights,
    Keypoints,
    Level,
    ModelIdentity,
    Numbering,
    PatientFinding,
    Quality,
    VertebraFinding,
)
from inference.geometry import Volume
from inference.grading import RULE, grade
from inference.reformat import CoronalPicture, CurvedReformat, coronal, reformat
from inference.refusal import Refusal, RefusalCode
from inference.surface import CentreLine, CurvedSurface
from node.results import ResultContext

MODELS = (ModelIdentity("localizer", "1.0.0", "a" * 64), ModelIdentity("keypoints", "1.0.0", "b" * 64))
TOP_MM = 600.0
GAP_MM = 6.0
SPACING_MM = (2.5, 3.0, 3.0)
UID_ROOT = "1.2.826.0.1.3680043.8.498."


@dataclass(frozen=True)
class Case:
    """Has the attributes of ``inference.ct.CtAnswer`` beside the volume and the headers that the gate would give."""

    findings: Findings
    reformat: CurvedReformat | None
    labels: NDArray[np.uint8] | None
    volume: Volume
    source: tuple[Dataset, ...]
    coronal: CoronalPicture | None = None
    parts: NDArray[np.uint8] | None = None
    masks_on_reformat: NDArray[np.uint8] | None = None
    expected_on_reformat: NDArray[np.uint8] | None = None
    expected_labels: NDArray[np.uint8] | None = None


def context(**changes: object) -> ResultContext:
    """A run on a fixed day."""
    given = ResultContext(
        site="test hospital",
        pipeline="ct",
        input_sha256="c" * 64,
        configuration_sha256="d" * 64,
        revision=1,
        dated_at=datetime(2026, 11, 20, 23, 30, 5, tzinfo=timezone(timedelta(hours=1))),
        software_version="0.1.0",
        device_uid="2.25.1234567890",
        device_serial="node-1",
        parameters=(("mild_loss", "0.2"), ("moderate_loss", "0.25")),
    )
    return replace(given, **changes)


def make_case(
    crushed: dict[int, tuple[float, float, float]] | None = None,
    count: int = 8,
    unmeasured: Sequence[int] = (),
    first_level: Level | None = None,
    scoliosis_mm: float = 8.0,
    kyphosis_mm: float = 25.0,
    spacing_mm: float = 1.0,
) -> Case:
    """A spine of ``count`` vertebrae.

    ``crushed`` maps an ordinal to factors of its (anterior, middle, posterior) height; ``unmeasured`` ordinals were
    seen only. The centre line is bent by ``scoliosis_mm`` to the left and ``kyphosis_mm`` to the back.
    """
    crushed = crushed or {}
    body = [22.0 * 1.02**i for i in range(count)]
    length = sum(body) + GAP_MM * count
    z = np.linspace(TOP_MM, TOP_MM - length - 60, 400)
    t = (TOP_MM - z) / (TOP_MM - z[-1])
    line = CentreLine(
        np.column_stack([scoliosis_mm * np.sin(np.pi * t), 20 + kyphosis_mm * np.sin(np.pi * t), z]), np.ones(len(z))
    )
    surface = CurvedSurface.through(line)
    vertebrae = []
    arc = 30.0
    for i in range(count):
        vertebrae.append(upright_vertebra(i, arc, body[i], crushed.get(i + 1, (1.0, 1.0, 1.0)), line, surface))
        arc += body[i] + GAP_MM
    whole = {
        ordinal: upright_vertebra(
            ordinal - 1, _arc_of(body, ordinal), body[ordinal - 1], (1.0, 1.0, 1.0), line, surface
        ).keypoints_lps_mm
        for ordinal in crushed
    }
    levels = list(Level)
    vertebrae = [
        replace(
            v,
            level=levels[levels.index(first_level) + i] if first_level else None,
            level_confidence=0.97 if first_level else None,
        )
        for i, v in enumerate(vertebrae)
    ]
    for ordinal in unmeasured:
        vertebrae[ordinal - 1] = replace(
            vertebrae[ordinal - 1], keypoints_lps_mm=None, heights_mm=None, quality=(Quality.PARTIAL,)
        )
    graded = grade(vertebrae, spacing_mm)
    volume = _volume(line, graded)
    picture = reformat(volume, line, surface)
    drawn = on_reformat(picture, {v.ordinal: v.keypoints_lps_mm for v in graded})
    labels, parts = masks(volume, picture, surface, drawn)
    expected = on_reformat(picture, whole)
    findings = findings_of(graded, spacing_mm)
    return Case(findings, picture, labels, volume, headers(volume), coronal(volume, line), parts, drawn, expected)


def _arc_of(body: Sequence[float], ordinal: int) -> float:
    return 30.0 + sum(body[: ordinal - 1]) + GAP_MM * (ordinal - 1)


def completed(case: Case) -> Case:
    """The case with all that masks give: scores, volumes, attenuation, and a numbering that is known where named."""
    made = [_completed(v) if v.heights_mm is not None else v for v in case.findings.vertebrae]
    named = made[0].level is not None
    numbering = (
        Numbering("last rib and sacrum", 0.97, ("T13 to L5, T13 (0.03)",))
        if named
        else Numbering("", 0.0, ("T12 to L4 (0.61)", "T11 to L3 (0.35)"))
    )
    findings = replace(
        case.findings,
        vertebrae=tuple(made),
        numbering=numbering,
        acquisition=Acquisition(kvp=120.0, contrast=None, kernel="B30f", sharp_kernel=False),
    )
    return replace(case, findings=findings)


def _completed(v: VertebraFinding) -> VertebraFinding:
    worst = max(0.0, *(v.height_loss.as_tuple() if v.height_loss else (0.0,)))
    dense = v.ordinal > 2
    return replace(
        v,
        mask_heights_mm=Heights(*(h + 0.4 for h in v.heights_mm.as_tuple())) if v.heights_mm else None,
        abnormality_score=min(100.0, 4.0 + 140 * worst),
        vertebra_volume_ml=40.0 + v.ordinal,
        body_volume_ml=22.0 + v.ordinal,
        trabecular_mean_hu=150.0 - v.ordinal if dense else None,
        quality=(*v.quality, *((Quality.CONTRAST_UNKNOWN,) if dense else ())),
    )


def named_only(case: Case) -> Case:
    """The case as slices of 3 to 5 mm leave it: named and segmented, nothing measured."""
    vertebrae = tuple(
        replace(
            v,
            keypoints_lps_mm=None,
            heights_mm=None,
            height_ratio=None,
            height_loss=None,
            height_uncertainty_mm=None,
            grade=None,
            rule=None,
            mask_heights_mm=None,
            abnormality_score=None,
            quality=(),
        )
        for v in case.findings.vertebrae
    )
    patient = replace(case.findings.patient, worst_grade=None, flag=False)
    return replace(
        case,
        findings=replace(case.findings, vertebrae=vertebrae, patient=patient, spacing_along_spine_mm=5.0),
        expected_on_reformat=None,
    )


def upright_vertebra(
    i: int, arc: float, height: float, factors: tuple[float, float, float], line: CentreLine, surface: CurvedSurface
) -> VertebraFinding:
    """Six points on the surface, upright to the centre line; heights are their distances."""
    depth = 27.0
    middle = surface.roll(np.array([arc + height / 2, 0.0]))
    slope = float(
        np.gradient(line.points_lps_mm[:, 1], line.points_lps_mm[:, 2])[
            np.argmin(abs(line.points_lps_mm[:, 2] - middle[2]))
        ]
    )
    y0 = float(line.at(np.array(middle[2]))[1])
    down = np.array([1.0, -slope]) / np.hypot(1.0, slope)  # (arc, y), towards the feet along the spine
    back = np.array([-down[1], down[0]])
    if back[1] < 0:
        back = -back
    points: list[tuple[float, float, float]] = []
    for offset, shape, factor in zip((-depth / 2, 0.0, depth / 2), (0.93, 0.86, 1.0), factors, strict=True):
        half = height * shape * factor / 2
        for sign in (-1, 1):
            flat = np.array([arc + height / 2, y0]) + offset * back + sign * half * down
            x, y, z = surface.roll(flat)
            points.append((float(x), float(y), float(z)))
    a, m, p = (float(np.linalg.norm(np.subtract(points[2 * k], points[2 * k + 1]))) for k in range(3))
    heights = Heights(a, m, p)
    x, y, z = surface.roll(np.array([arc + height / 2, y0]))
    return VertebraFinding(
        ordinal=i + 1,
        centroid_lps_mm=(float(x), float(y), float(z)),
        keypoints_lps_mm=Keypoints(*points),
        heights_mm=heights,
        height_uncertainty_mm=0.9,
        confidence=0.98 - 0.01 * i,
    )


def findings_of(vertebrae: Sequence[VertebraFinding], spacing_mm: float) -> Findings:
    graded = [v for v in vertebrae if v.grade is not None]
    flag = any(
        v.grade.rank >= (Grade.SEVERE if Quality.G_ONLY in v.quality else Grade.MODERATE).rank
        for v in graded
        if v.grade is not None
    )
    worst = max((v.grade for v in graded if v.grade is not None), key=lambda g: g.rank, default=None)
    return Findings(
        pipeline="ct",
        pipeline_version="1.0.0",
        provider="CPUExecutionProvider",
        models=MODELS,
        patient=PatientFinding(worst_grade=worst, flag=flag, rule=RULE),
        vertebrae=tuple(vertebrae),
        spine_found=True,
        spacing_along_spine_mm=spacing_mm,
        timings_s={"inference": 1.25, "gate": 0.5},
    )


def refused(code: RefusalCode = RefusalCode.GAP_IN_SERIES, detail: str = "Two slices are missing.") -> Findings:
    """Findings of a series that could not be evaluated."""
    return Findings(
        pipeline="ct",
        pipeline_version="1.0.0",
        provider=None,
        models=MODELS,
        patient=PatientFinding(worst_grade=None, flag=None, rule=RULE),
        refusal=Refusal(code, detail),
    )


def _volume(line: CentreLine, vertebrae: Sequence[VertebraFinding]) -> Volume:
    """Air, a body, a canal, and a bright brick at every vertebra; slices run head to feet."""
    dk, dj, di = SPACING_MM
    shape = (int((line.top_mm - line.bottom_mm) / dk) + 1, 56, 48)
    affine = np.array(
        [[0, 0, di, -di * shape[2] / 2], [0, dj, 0, -60.0], [-dk, 0, 0, line.top_mm], [0, 0, 0, 1.0]], np.float64
    )
    volume = Volume(np.zeros(shape, np.int16), affine)
    points = volume.to_lps(np.stack(np.indices(shape), axis=-1).astype(np.float64))
    x, y, _ = line.at(points[..., 2])
    r = np.hypot(points[..., 0] - x, points[..., 1] - y)
    body = np.hypot(points[..., 0] / 65, (points[..., 1] - 20) / 75) < 1
    hu = np.where(body, 40, -1000).astype(np.int16)
    hu[r < 16] = 60
    behind = np.hypot(points[..., 0] - x, points[..., 1] - y - 24)
    hu[behind < 9] = 10
    for v in vertebrae:
        along = abs(points[..., 2] - v.centroid_lps_mm[2])
        half = (v.heights_mm.middle if v.heights_mm else 20.0) / 2
        hu[(along < half) & (r < 14.5)] = 220
        hu[(along < half) & (abs(along - half) < 2) & (r < 14.5)] = 480
    noise = np.random.default_rng(0).normal(0, 15, shape)
    return Volume(np.clip(hu + noise, -1024, 3000).astype(np.int16), affine, frame_of_reference_uid=f"{UID_ROOT}9")


def on_reformat(picture: CurvedReformat, points: dict[int, Keypoints | None]) -> NDArray[np.uint8]:
    """Ordinal of the vertebra between whose six points a pixel of the reformat lies."""
    rows, columns = picture.hu.shape
    mask = Image.new("L", (columns, rows))
    for ordinal, k in points.items():
        if k is None:
            continue
        ring = [
            k.anterior_superior,
            k.middle_superior,
            k.posterior_superior,
            k.posterior_inferior,
            k.middle_inferior,
            k.anterior_inferior,
        ]
        ImageDraw.Draw(mask).polygon([tuple(p) for p in picture.to_pixel(np.array(ring))], fill=ordinal)
    return np.array(mask)


def masks(
    volume: Volume, picture: CurvedReformat, surface: CurvedSurface, drawn: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels and parts: bodies reach 14 mm to each side of the surface, a thin process 30 mm behind them."""
    rows, columns = picture.hu.shape
    bodies = np.zeros(volume.hu.shape, np.uint8)
    behind = np.zeros(volume.hu.shape, np.uint8)
    for k in range(len(bodies)):
        index = np.stack(np.indices(bodies.shape[1:]), axis=-1).astype(np.float64)
        points = volume.to_lps(np.concatenate([np.full((*index.shape[:2], 1), float(k)), index], axis=-1))
        lateral = abs(surface.lateral(points))
        for into, shift_mm, reach_mm in ((bodies[k], 0.0, 14.0), (behind[k], 30.0, 3.5)):
            at = np.floor(picture.to_pixel(points - [0.0, shift_mm, 0.0])).astype(int)
            inside = (lateral <= reach_mm) & (at >= 0).all(-1) & (at[..., 0] < columns) & (at[..., 1] < rows)
            into[inside] = drawn[at[inside][:, 1], at[inside][:, 0]]
    labels = np.where(bodies > 0, bodies, behind)
    return labels, np.where(bodies > 0, 1, np.where(behind > 0, 2, 0)).astype(np.uint8)


def from_disk(header: Dataset) -> Dataset:
    """The header as the gate would read it from a file: text decoded lazily by its character set."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a hostile header may hold what pydicom warns of
        header.save_as(buffer, implicit_vr=False, little_endian=True)
    buffer.seek(0)
    return pydicom.dcmread(buffer, force=True)


def headers(volume: Volume) -> tuple[Dataset, ...]:
    """CT Image headers without pixels, in the volume's slice order."""
    slices, rows, columns = volume.hu.shape
    dk, dj, di = volume.spacing_mm
    made = []
    for k in range(slices):
        ds = Dataset()
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SOPClassUID = CTImageStorage
        ds.SOPInstanceUID = f"{UID_ROOT}1.{k + 1}"
        ds.StudyInstanceUID = f"{UID_ROOT}2"
        ds.SeriesInstanceUID = f"{UID_ROOT}3"
        ds.FrameOfReferenceUID = volume.frame_of_reference_uid
        ds.Modality = "CT"
        ds.Manufacturer = "Scanner Works"
        ds.StudyDate, ds.StudyTime = "20261120", "120000"
        ds.AccessionNumber, ds.StudyID = "A-77", "1"
        ds.StudyDescription = "CT Thorax"
        ds.ReferringPhysicianName = "Hôpital^Général"
        ds.PatientName, ds.PatientID = "Müller^Jürgen", "P-4711"
        ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19500101", "M", "076Y"
        ds.SeriesNumber, ds.InstanceNumber = 3, k + 1
        ds.SeriesDescription = "THORAX 1.0 B30f"
        ds.TimezoneOffsetFromUTC = "+0100"
        ds.Rows, ds.Columns = rows, columns
        ds.PixelSpacing = [dj, di]
        ds.SliceThickness = dk
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [float(v) for v in volume.affine[:3, 3] + k * volume.affine[:3, 0]]
        made.append(ds)
    return tuple(made)
