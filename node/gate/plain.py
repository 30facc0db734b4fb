"""Headers of plain files, read without pydicom's parser and converted by it: each value once, not once in every slice.

The slices of a series share most of what their headers say. The elements are walked over here
(:mod:`node.gate.elements`); pydicom converts those whose bytes were not met before. A file of which anything is not
plain is left to pydicom as a whole: what comes of it is the same either way.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from node.gate.deflated import end_of_meta
from node.gate.elements import UNDEFINED, NotPlainError, after_sequence, element
from node.gate.values import tidy

CHUNK = 1 << 15
"""Bytes of a file in which its header has to end, its pixel data begin."""
LONGEST_KEPT = 1024
MOST_KEPT = 20_000
"""Values, which must not take the machine's memory: each longer or further one is converted whenever it is met."""
_META = 132
"""Where file meta information begins (PS3.10 7.1)."""
_TRANSFER_SYNTAX, _DATA_SET = 0x0002_0010, 0x0008_0000
_CHARACTER_SET, _PIXEL_REPRESENTATION = 0x0008_0005, 0x0028_0103
_PIXEL_DATA = b"\xe0\x7f"
"""Group of the pixel data and of what goes with them: headers end there."""
_IMPLICIT = ImplicitVRLittleEndian.encode()
_EXPLICIT = (ExplicitVRLittleEndian.encode(), RLELossless.encode())
_ENCAPSULATED = b"1.2.840.10008.1.2.4."


class _Encoded(NamedTuple):
    tag: int
    vr: bytes
    length: int
    content: bytes
    start: int


_Raw = dict[int, _Encoded]
_Key = tuple[int, bytes, int, bytes, tuple[object, ...]]
_New = dict[BaseTag, _Key]
_Element = RawDataElement | DataElement


class PlainReader:
    """Reads headers of files, most of which say the same; for one thread.

    Values that are equal may be one object in several headers: they are to be read only.

    ``tags``: those that are read; file meta information is read as a whole.
    """

    def __init__(self, tags: Iterable[BaseTag]) -> None:
        self._wanted = {int(tag): tag for tag in tags} | {_CHARACTER_SET: BaseTag(_CHARACTER_SET)}
        self._known: dict[_Key, tuple[str, Any, None, bool]] = {}

    def read(self, path: Path) -> FileDataset | None:
        """The header of a file with every value converted (:func:`node.gate.values.tidy`); ``None``: not plain.

        Raises
        ------
        OSError
            The file cannot be read.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(descriptor, CHUNK)
        finally:
            os.close(descriptor)
        try:
            explicit, meta, found = self._elements_of(data)
        except (NotPlainError, struct.error):
            return None
        # what a value means may depend on these (PS3.5 6.1; "US or SS" of PS3.6)
        context = explicit, _value(found, _CHARACTER_SET), _value(found, _PIXEL_REPRESENTATION)
        new_of_meta, elements_of_meta = self._elements(meta, (True,))
        file_meta = FileMetaDataset(elements_of_meta)
        self._convert(file_meta, new_of_meta)
        new, elements = self._elements(found, context)
        dataset = FileDataset(path, elements, data[:128], file_meta, not explicit, is_little_endian=True)
        charset = dataset.get(BaseTag(_CHARACTER_SET))
        dataset.set_original_encoding(
            not explicit, True, default_encoding if charset is None else convert_encodings(charset.value)
        )
        self._convert(dataset, new)
        return dataset

    def _elements_of(self, data: bytes) -> tuple[bool, _Raw, _Raw]:
        """Whether VRs are explicit; elements of the file meta information; those that are wanted of the data set."""
        if data[_META - 4 : _META] != b"DICM":
            raise NotPlainError
        view = memoryview(data)
        start = end_of_meta(data)
        if not _META < start <= len(data):
            raise NotPlainError
        meta = self._walk(view[:start], _META, True, None)
        syntax = (_value(meta, _TRANSFER_SYNTAX) or b"").rstrip(b"\0 ")
        explicit = syntax in _EXPLICIT or syntax.startswith(_ENCAPSULATED)
        if not explicit and (syntax != _IMPLICIT or data[start + 4 : start + 6].isalpha()):
            raise NotPlainError
        return explicit, meta, self._walk(view, start, explicit, self._wanted)

    def _walk(self, data: memoryview, position: int, explicit: bool, wanted: dict[int, BaseTag] | None) -> _Raw:
        """Elements up to the pixel data or the end, all of them where nothing is ``wanted`` in particular."""
        found: _Raw = {}
        before = 0 if wanted is None else _DATA_SET - 1
        whole = wanted is None or len(data) < CHUNK
        while data[position : position + 2] != _PIXEL_DATA and (position != len(data) or not whole):
            tag, vr, length, start = element(data, position, explicit)
            if tag <= before:
                raise NotPlainError
            before = tag
            position = after_sequence(data, start, explicit) if length == UNDEFINED else start + length
            if wanted is None or tag in wanted:
                if position > len(data) or (length == UNDEFINED and not explicit and dictionary_VR(tag) != "SQ"):
                    raise NotPlainError
                found[tag] = _Encoded(tag, vr, length, bytes(data[start:position]), start)
        return found

    def _elements(self, encoded: _Raw, context: tuple[object, ...]) -> tuple[_New, dict[BaseTag, _Element]]:
        """Elements of which those that were met before are converted; the keys of the others by their tag."""
        new: _New = {}
        elements: dict[BaseTag, _Element] = {}
        for tag, vr, length, content, start in encoded.values():
            key = (tag, vr, length, content, context)
            known = self._known.get(key)
            base = BaseTag(tag)
            if known is not None:
                elements[base] = DataElement(base, *known, already_converted=True)
                continue
            name = vr.decode() if context[0] else None
            value = content if length else cast(bytes | None, empty_value_for_VR(name, raw=True))
            elements[base] = RawDataElement(base, name, length, value, start, not context[0], True)
            new[base] = key
        return new, elements

    def _convert(self, dataset: Dataset, new: _New) -> None:
        """Convert what is raw still, and keep it for the next header."""
        tidy(dataset, new)
        for tag, key in new.items():
            if len(self._known) < MOST_KEPT and tag in dataset and len(key[3]) <= LONGEST_KEPT:
                found = dataset[tag]
                self._known[key] = found.VR, found.value, None, found.is_undefined_length


def _value(elements: _Raw, tag: int) -> bytes | None:
    found = elements.get(tag)
    return None if found is None else found.content
