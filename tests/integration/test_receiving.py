"""Receiving over a real association, into a real ledger; strangers at the door included."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    MPEG2MPML,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)
from pynetdicom import AE, build_context

from node.deliver.association import UnreachableError
from node.deliver.sender import echo, send
from node.deliver.status import Reply, Verdict
from node.ledger import Database, overview
from node.queue import Queue
from node.receive.association import TRANSFER_SYNTAXES, Listener
from node.receive.registrar import Registrar
from node.receive.spool import Spool
from node.settings import Receive
from tests.conftest import wait_until
from tests.dicom import STUDY, ct_slice, write_series
from tests.pdus import COMMAND, LAST, RawSender, p_data, pdv, store_command


class Ear:
    """A listener with its spool, registrar and ledger."""

    def __init__(self, folder: Path, database: Database, plain: bool = False, **settings: Any) -> None:
        self.database = database
        self.spool = Spool(folder / "spool")
        queue = Queue(database.dsn)
        self.registrar = Registrar(self.spool, database, lambda c, study: queue.wake_evaluation(c, study, 60.0))
        self.listener = Listener(
            Receive(port=0, **settings), self.spool, self.registrar.arrived, self.registrar.record, plain=plain
        )

    def count(self, what: str) -> int:
        with self.database.transaction() as connection:
            return overview.counts(connection)[what]

    def events(self) -> list[dict[str, Any]]:
        with self.database.transaction() as connection:
            return connection.execute("SELECT kind, subject, detail FROM event ORDER BY id").fetchall()

    def send(self, paths: list[Path], called: str = "SPINENODE", calling: str = "SCANNER") -> list[Reply]:
        replies: list[Reply] = []
        send(
            paths,
            "127.0.0.1",
            self.listener.port,
            called_ae=called,
            calling_ae=calling,
            timeout_s=10,
            replied=lambda _index, reply: replies.append(reply),
        )
        return replies


@pytest.fixture(params=["fast", "plain"])
def ears(request: pytest.FixtureRequest, tmp_path: Path, database: Database) -> Iterator[Callable[..., Any]]:
    """Makes listeners, by either handler, that are stopped at the end of the test."""

    @contextmanager
    def make(**settings: Any) -> Iterator[Ear]:
        ear = Ear(tmp_path, database, plain=request.param == "plain", **settings)
        ear.registrar.start()
        ear.listener.start()
        try:
            yield ear
        finally:
            ear.listener.stop()
            ear.registrar.stop()

    yield make


def test_a_series_arrives_and_stands_in_the_ledger(ears: Callable[..., Any], tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", 5)
    with ears() as ear:
        assert [reply.verdict for reply in ear.send(paths)] == [Verdict.STORED] * 5
        wait_until(lambda: ear.count("instances") == 5, what="five instances in the ledger")
        with ear.database.transaction() as connection:
            row = connection.execute("SELECT * FROM instance ORDER BY id LIMIT 1").fetchone()
            jobs = connection.execute("SELECT lock, status FROM procrastinate_jobs").fetchall()
        assert row is not None
        assert (row["study_uid"], row["patient_id"], row["calling_ae"]) == (STUDY, "P-1", "SCANNER")
        assert jobs == [{"lock": f"study:{STUDY}", "status": "todo"}]


def test_what_was_acknowledged_is_rebuilt_from_the_spool_alone(
    ears: Callable[..., Any], tmp_path: Path, database: Database
) -> None:
    paths = write_series(tmp_path / "in", 3)
    with ears() as ear:
        ear.send(paths)
        wait_until(lambda: ear.count("instances") == 3, what="three instances in the ledger")
    with database.transaction() as connection:
        connection.execute("DELETE FROM instance")
        connection.execute("DELETE FROM study")
    torn = next(iter(Spool(tmp_path / "spool").names()))
    original = (tmp_path / "spool" / torn).read_bytes()
    (tmp_path / "spool" / torn).with_name("0" * 32 + ".dcm").write_bytes(original[:-10])
    with ears() as ear:
        wait_until(lambda: ear.count("instances") == 3, what="three instances rebuilt")
        assert ear.count("studies") == 1
        assert [event["kind"] for event in ear.events()] == ["quarantined"]


def test_the_same_object_twice_is_kept_and_is_no_news(ears: Callable[..., Any], tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", 2)
    with ears() as ear:
        ear.send(paths)
        wait_until(lambda: ear.count("instances") == 2, what="two instances")
        ear.send(paths[:1])
        wait_until(lambda: ear.count("instances") == 3, what="the repeat in the ledger")
        with ear.database.transaction() as connection:
            study = connection.execute("SELECT instances FROM study").fetchone()
        assert study == {"instances": 2}


def test_nothing_is_rejected_for_its_content(ears: Callable[..., Any], tmp_path: Path) -> None:
    document = ct_slice(0)
    document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    document.save_as(tmp_path / "pdf.dcm", enforce_file_format=True)
    with ears() as ear:
        assert ear.send([tmp_path / "pdf.dcm"])[0].verdict is Verdict.STORED
        wait_until(lambda: ear.count("instances") == 1, what="the document in the ledger")


def test_every_syntax_that_we_decode_is_negotiated_and_no_other(ears: Callable[..., Any]) -> None:
    with ears() as ear:
        for syntax in (*TRANSFER_SYNTAXES, MPEG2MPML):
            ae = AE(ae_title="SCANNER")
            association = ae.associate(
                "127.0.0.1", ear.listener.port, [build_context(CTImageStorage, syntax)], ae_title="SPINENODE"
            )
            assert association.is_established == (syntax in TRANSFER_SYNTAXES), syntax
            if association.is_established:
                association.release()
        wait_until(lambda: any(e["kind"] == "context_refused" for e in ear.events()), what="the refusal as an event")
        refused = [e for e in ear.events() if e["kind"] == "context_refused"]
        assert [(e["subject"], [c["transfer_syntaxes"] for c in e["detail"]["contexts"]]) for e in refused] == [
            ("SCANNER", [[MPEG2MPML]])
        ]


def test_the_refused_contexts_of_an_association_are_one_event(ears: Callable[..., Any]) -> None:
    with ears() as ear:
        ae = AE(ae_title="SCANNER")
        offers = [build_context(CTImageStorage), *(build_context(f"1.2.3.4.{n}") for n in range(40))]
        association = ae.associate("127.0.0.1", ear.listener.port, offers, ae_title="SPINENODE")
        association.release()
        ear.listener.stop(5.0)
        ear.registrar.stop()
        assert [(e["kind"], len(e["detail"]["contexts"])) for e in ear.events()] == [("context_refused", 40)]


def test_a_message_without_end_is_cut_off(ears: Callable[..., Any], tmp_path: Path) -> None:
    """Fragments of one C-STORE beyond the largest instance: not gathered in memory; the next sender is served."""
    fragment = p_data(pdv(b"\0" * 100_000, 0))
    with ears(max_instance_mb=1, network_timeout_s=10.0) as ear:
        with RawSender(ear.listener.port) as peer:
            peer.associate()
            peer.send(p_data(pdv(store_command("1.2.3"), COMMAND | LAST)))
            with pytest.raises(OSError, match=r"."):
                for _ in range(3000):  # 300 MB
                    peer.send(fragment)
        wait_until(lambda: any(e["kind"] == "instance_too_large" for e in ear.events()), what="the event")
        assert ear.send(write_series(tmp_path / "in", 1))[0].verdict is Verdict.STORED


def test_many_instances_on_one_association_may_be_more_than_one_may_be(
    ears: Callable[..., Any], tmp_path: Path
) -> None:
    paths = write_series(tmp_path / "in", 48, size=700)  # 0.93 MiB each
    with ears(max_instance_mb=1) as ear:
        assert {reply.verdict for reply in ear.send(paths)} == {Verdict.STORED}


def test_our_order_of_syntaxes_decides(ears: Callable[..., Any]) -> None:
    proposed = [ExplicitVRBigEndian, JPEG2000Lossless, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
    with ears() as ear:
        for offer, taken in (
            (proposed, ImplicitVRLittleEndian),
            ([*proposed, ExplicitVRLittleEndian], ExplicitVRLittleEndian),
        ):
            ae = AE(ae_title="SCANNER")
            association = ae.associate(
                "127.0.0.1", ear.listener.port, [build_context(CTImageStorage, offer)], ae_title="SPINENODE"
            )
            assert association.accepted_contexts[0].transfer_syntax == [taken]
            association.release()


def test_a_wrong_called_title_and_an_unlisted_caller_are_turned_away(ears: Callable[..., Any], tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", 1)
    with ears(calling_ae_titles=("SCANNER",)) as ear:
        with pytest.raises(UnreachableError, match="rejected"):
            ear.send(paths, called="OTHER")
        with pytest.raises(UnreachableError, match="rejected"):
            ear.send(paths, calling="STRANGER")
        assert ear.send(paths)[0].verdict is Verdict.STORED
        wait_until(lambda: sum(e["kind"] == "association_rejected" for e in ear.events()) == 2, what="two events")


def test_more_associations_than_allowed_are_rejected_and_the_next_is_served(ears: Callable[..., Any]) -> None:
    with ears(max_associations=2) as ear:
        ae = AE(ae_title="SCANNER")
        ae.add_requested_context(CTImageStorage)
        opened = [ae.associate("127.0.0.1", ear.listener.port, ae_title="SPINENODE") for _ in range(4)]
        assert [association.is_established for association in opened] == [True, True, False, False]
        for association in opened[:2]:
            association.release()
        wait_until(
            lambda: ae.associate("127.0.0.1", ear.listener.port, ae_title="SPINENODE").is_established,
            what="a new association after the others were released",
        )
        ae.shutdown()


def test_the_disk_is_full_and_then_is_not(
    ears: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_series(tmp_path / "in", 1)
    with ears() as ear:
        monkeypatch.setattr(Spool, "free_bytes", lambda _self: 10)
        reply = ear.send(paths)[0]
        assert (reply.status_code, reply.verdict) == (0xA700, Verdict.PASSING)
        monkeypatch.undo()
        assert ear.send(paths)[0].verdict is Verdict.STORED
        wait_until(lambda: [e["kind"] for e in ear.events()] == ["out_of_space"], what="the event")


STRANGERS = {
    "garbage": b"\xde\xad\xbe\xef" * 64,
    "http": b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
    "a declared length of 4 GB": struct.pack(">BBI", 1, 0, 0xFFFFFFFF) + b"\0" * 100,
    "P-DATA of 1 GB before any association": struct.pack(">BBI", 4, 0, 2**30) + b"\0" * 100,
    "half a header": b"\x01\x00\x00",
    "nothing at all": b"",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_is_hung_up_on_and_the_next_client_is_served(ears: Callable[..., Any], name: str) -> None:
    with ears(network_timeout_s=1.0) as ear:
        with socket.create_connection(("127.0.0.1", ear.listener.port), timeout=10) as stranger:
            stranger.sendall(STRANGERS[name])
            echo("127.0.0.1", ear.listener.port, called_ae="SPINENODE", calling_ae="SCANNER")
            while stranger.recv(4096):
                pass
        echo("127.0.0.1", ear.listener.port, called_ae="SPINENODE", calling_ae="SCANNER")
        assert threading.active_count() < 40


def test_a_sender_that_dies_in_the_middle_leaves_no_instance(ears: Callable[..., Any], tmp_path: Path) -> None:
    """A C-STORE whose data set never ends is no instance; the association is dropped, the next is served."""
    paths = write_series(tmp_path / "in", 1, size=512)
    with ears(network_timeout_s=1.0) as ear:
        ae = AE(ae_title="SCANNER")
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = ae.associate("127.0.0.1", ear.listener.port, ae_title="SPINENODE")
        stolen = association.dul.socket.socket
        stolen.sendall(struct.pack(">BBI", 4, 0, 60_000) + struct.pack(">I", 59_996) + b"\x01\x03")
        stolen.close()
        assert ear.send(paths)[0].verdict is Verdict.STORED
        wait_until(lambda: ear.count("instances") == 1, what="only the whole instance")
        assert len(list(ear.spool.names())) == 1


@pytest.mark.debian
def test_storescu_is_served(ears: Callable[..., Any], tmp_path: Path, program: Callable[[str], str]) -> None:
    storescu = program("storescu")
    paths = write_series(tmp_path / "in", 4)
    with ears() as ear:
        done = subprocess.run(
            [storescu, "-aec", "SPINENODE", "127.0.0.1", str(ear.listener.port), *map(str, paths)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        wait_until(lambda: ear.count("instances") == 4, what="four instances in the ledger")
