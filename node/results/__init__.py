"""Findings out of the node: DICOM objects with derived identity, the capture as a picture, ``findings.json``.

The flow: `encode` takes what the pipeline found and the headers of the source; `identity` names every object,
`common` copies the patient and stamps one clock; `reformat`, `capture`, `segmentation`, `report` and `details` build
one object each, `text_report` the report of an answer without heights.
"""

from node.results.capture import png
from node.results.context import DocumentReference, Result, ResultContext, ResultError
from node.results.document import findings_document
from node.results.encode import capture_png, encode
from node.results.identity import Identity, derived_uid
from node.results.segmentation import EXPECTED

__all__ = [
    "EXPECTED",
    "DocumentReference",
    "Identity",
    "Result",
    "ResultContext",
    "ResultError",
    "capture_png",
    "derived_uid",
    "encode",
    "findings_document",
    "png",
]
