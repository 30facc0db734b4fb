"""Findings out of the node: DICOM objects with derived identity, the capture as a picture, ``findings.json``.

The flow: `encode` takes what the pipeline found and the headers of the source; `identity` names every object,
`common` copies the patient and stamps one clock; `reformat`, `capture`, `segmentation`, `report` and `details` build
one object each, `text_report` the report of an answer without heights. `film` does the same for a radiograph, whose own
image takes the place of the reformat.
"""

from node.results.capture import png
from node.results.context import DocumentReference, Result, ResultContext, ResultError
from node.results.document import findings_document
from node.results.encode import capture_png, encode
from node.results.film import FilmAnswer, encode_film
from node.results.identity import Identity, derived_uid
from node.results.segmentation import EXPECTED, FILM

__all__ = [
    "EXPECTED",
    "FILM",
    "DocumentReference",
    "FilmAnswer",
    "Identity",
    "Result",
    "ResultContext",
    "ResultError",
    "capture_png",
    "derived_uid",
    "encode",
    "encode_film",
    "findings_document",
    "png",
]
