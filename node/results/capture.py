"""``capture.dcm`` and the PNG: the picture that every PACS shows, as an RGB Secondary Capture."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import SecondaryCaptureImageStorage

from inference.findings import Findings
from node.results.common import (
    local_date,
    new_file,
    referenced_series,
    source_references,
    source_text,
    stamp,
    stamp_lossy,
)
from node.results.context import RADIOGRAPH, ResultContext
from node.results.identity import Identity
from node.results.notes import Caption
from node.results.picture import draw_picture
from node.results.pictures import Shown


def picture(findings: Findings, pictures: Shown | None, source: Sequence[Dataset], ctx: ResultContext) -> Image.Image:
    """The capture as an image (`picture.draw_picture`), captioned from source and run."""
    caption = Caption(
        source=source_text(source[0], ctx),
        software=f"spine-node {ctx.software_version}, {findings.pipeline} {findings.pipeline_version}",
        date=local_date(source[0], ctx).strftime("%Y-%m-%d %H:%M")
        + (f", revision {ctx.revision}" if ctx.revision > 1 else ""),
    )
    return draw_picture(findings, pictures, caption)


def png(image: Image.Image) -> bytes:
    """The picture as a PNG file, without any metadata."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def build_capture(
    image: Image.Image, source: Sequence[Dataset], findings: Findings, identity: Identity, ctx: ResultContext
) -> FileDataset:
    """The picture as a Secondary Capture Image (PS3.3 A.8.1).

    Its modality is that of the source: with OT, viewers put a cine bar over the text.
    """
    file = new_file(SecondaryCaptureImageStorage, identity.instance_uid("capture"))
    stamp(file, "capture", source, findings, identity, ctx)
    file.Modality = "CT" if ctx.pipeline != RADIOGRAPH else source[0].get("Modality") or "DX"
    file.ConversionType = "WSD"
    file.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    file.PatientOrientation = ""
    file.DerivationDescription = "Summary picture of an automatic analysis, research use only; not acquired"
    file.SourceImageSequence = source_references(source)
    file.ReferencedSeriesSequence = referenced_series(source)
    file.BurnedInAnnotation = "YES"
    stamp_lossy(file, source)
    file.SamplesPerPixel = 3
    file.PhotometricInterpretation = "RGB"
    file.PlanarConfiguration = 0
    file.Columns, file.Rows = image.size
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit = 7
    file.PixelRepresentation = 0
    pixels = image.tobytes()
    file.PixelData = pixels + b"\x00" if len(pixels) % 2 else pixels
    file["PixelData"].VR = "OB"
    return file
