"""Delivery to a destination with TLS, from a real outbox and ledger."""

from __future__ import annotations

import hashlib
from pathlib import Path

from node.deliver.courier import Courier
from node.demo.pacs import AE_TITLE
from node.ledger import Database, answers, deliveries, overview
from node.settings import load_settings
from tests import ledger
from tests.dicom import STUDY, write_series
from tests.listening import Certificates, listening


def test_results_wait_while_the_certificate_is_wrong_and_go_when_it_is_mended(
    tmp_path: Path, database: Database, certificates: Certificates
) -> None:
    """A certificate that is not to be trusted is no reason to park: somebody mends it, and the results are there."""
    with listening(tmp_path / "pacs", ae_title=AE_TITLE, tls=certificates.listener("stranger")) as other:
        destination = {
            "name": "pacs",
            "host": "127.0.0.1",
            "port": other.port,
            "ae_title": AE_TITLE,
            "tls": certificates.destination("node"),
        }
        settings = load_settings(data_dir=tmp_path / "node", destinations=[destination])
        (path,) = write_series(settings.outbox_dir, 1)
        content = path.read_bytes()
        result = answers.ResultRow(
            kind="capture",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            sop_instance_uid="1.2.3",
            series_uid="1.2.4",
            outbox_name=path.name,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        with database.transaction() as connection:
            connection.execute("INSERT INTO study (study_uid, last_instance_at) VALUES (%s, now())", (STUDY,))
            claimed = ledger.claim(connection)
            assert claimed is not None
            (row_id,) = ledger.finish(connection, claimed, [result])
            deliveries.plan(connection, row_id, "pacs")

        def deliver() -> tuple[str, str]:
            Courier(settings, database).deliver(claimed.id, "pacs")
            with database.transaction() as connection:
                connection.execute("UPDATE delivery SET next_try_at = now()")
                found = overview.study(connection, STUDY)
            assert found is not None
            (row,) = found["deliveries"]
            return row["state"], row["reason"] or ""

        state, reason = deliver()
        assert state == "pending"
        assert "no TLS with" in reason
        other.listener.reload(other.listener._settings.model_copy(update={"tls": certificates.listener()}))
        assert deliver()[0] == "stored"
        assert len(other.receptions) == 1
