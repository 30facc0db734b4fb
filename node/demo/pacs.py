"""A small receiving PACS: keeps what it is sent and logs every C-STORE with the digest of its bytes.

Unlike an archive it never hides a repeat: each request is one line of ``received.jsonl``. It can be told to answer
with a status of the caller's choice, so that tests can play a PACS in trouble.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from pydicom import dcmread
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_file_meta_info
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.sop_class import Verification

AE_TITLE = "DEMOPACS"
Answer = Callable[["Received"], int]
"""Chooses the DIMSE status of a C-STORE."""


@dataclass(frozen=True)
class Received:
    """One C-STORE request. ``sha256`` is of the data set as it came over the network."""

    at: str
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    series_description: str
    sha256: str
    status: int
    file: str


class SmallPacs:
    """Storage and Verification SCP on a loopback port."""

    def __init__(self, folder: Path, port: int = 0, answer: Answer | None = None) -> None:
        self.folder = folder
        self.answer = answer
        self.received: list[Received] = []
        self._port = port
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        _config.LOG_HANDLER_LEVEL = "none"
        self._ae = AE(ae_title=AE_TITLE)
        self._ae.supported_contexts = AllStoragePresentationContexts
        self._ae.add_supported_context(Verification)
        self._ae.maximum_pdu_size = 131072

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._port

    def __enter__(self) -> SmallPacs:
        server = self._ae.start_server(
            ("127.0.0.1", self._port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._on_store)]
        )
        self._port = int(server.socket.getsockname()[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._ae.shutdown()

    def stored(self) -> dict[str, Path]:
        """SOP instance UID to file, of everything that was answered with success."""
        with self._lock:
            return {item.sop_instance_uid: self.folder / item.file for item in self.received if item.status == 0}

    def _on_store(self, event: evt.Event) -> int:
        content = event.request.DataSet.getvalue()
        data_set = event.dataset
        name = f"{len(self.received):04d}.dcm"
        item = Received(
            at=datetime.now(UTC).isoformat(),
            sop_class_uid=str(event.request.AffectedSOPClassUID),
            sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
            series_uid=str(data_set.SeriesInstanceUID),
            study_uid=str(data_set.StudyInstanceUID),
            series_description=str(data_set.get("SeriesDescription", "")),
            sha256=hashlib.sha256(content).hexdigest(),
            status=0,
            file=name,
        )
        if self.answer is not None:
            item = Received(**{**asdict(item), "status": self.answer(item)})
        with self._lock:
            if item.status == 0:
                with (self.folder / name).open("wb") as file:
                    file.write(b"\0" * 128 + b"DICM")
                    write_file_meta_info(cast(DicomIO, file), event.file_meta)
                    file.write(content)
            self.received.append(item)
            with (self.folder / "received.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(asdict(item)) + "\n")
        return item.status


def description_of(path: Path) -> str:
    """Series description of a stored object."""
    return str(dcmread(path, stop_before_pixels=True, specific_tags=["SeriesDescription"]).get("SeriesDescription", ""))
