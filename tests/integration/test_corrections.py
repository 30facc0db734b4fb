"""What a corrected patient, an audit and an erasure find after the node's own steps, with a toy for the networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset

from node.deliver.courier import Courier
from node.demo.pacs import AE_TITLE, SmallPacs
from node.erasing import erase_patient
from node.ledger import Database, audit
from tests.films import Film
from tests.integration.test_films import LATERAL, OTHER_LATERAL, STUDY, House


@pytest.fixture
def house(tmp_path: Path, database: Database) -> House:
    return House(tmp_path, database)


def corrected(film: Film, patient_id: str) -> FileDataset:
    """The film as an archive sends it again after its patient was corrected."""

    def correct(dataset: FileDataset) -> None:
        dataset.PatientID = patient_id

    return replace(film, edit=correct).dataset()


def test_a_corrected_patient_is_sent_and_the_wrong_one_is_not(house: House, tmp_path: Path) -> None:
    house.receive(LATERAL.dataset(), OTHER_LATERAL.dataset())  # the archive is down: nothing is sent yet
    house.receive(corrected(LATERAL, "RIGHT"), corrected(OTHER_LATERAL, "RIGHT"))
    with SmallPacs(tmp_path / "pacs") as pacs:
        there = house.settings.destinations[0].model_copy(update={"port": pacs.port, "ae_title": AE_TITLE})
        courier = Courier(house.settings.model_copy(update={"destinations": (there,)}), house.database)
        for answer in house.study()["answers"]:
            courier.deliver(answer["id"], "pacs")
        sent = [dcmread(path) for path in pacs.stored().values()]
    assert [dataset.PatientID for dataset in sent] == ["RIGHT"] * 6
    assert all(" r2 " in dataset.SeriesDescription for dataset in sent)
    states = [row["state"] for row in house.study()["deliveries"]]
    assert states == ["withdrawn"] * 6 + ["stored"] * 6


def test_the_chain_of_a_result_leads_from_what_was_received_to_where_it_went(house: House) -> None:
    house.receive(LATERAL.dataset())
    house.receive(corrected(LATERAL, "RIGHT"))
    with house.database.transaction() as connection:
        first, revision = audit.chains(connection, STUDY)
    assert [len(chain["inputs"]) for chain in (first, revision)] == [1, 2]
    assert first["inputs"][0]["sha256"] in {row["sha256"] for row in revision["inputs"]}
    assert (first["revision"], revision["revision"]) == (1, 2)
    for chain in (first, revision):
        assert chain["rule"] == "height-loss/1"
        assert chain["models"] == [vars(model) for model in house.films.models.identities]
        assert [row["kind"] for row in chain["results"]] == ["capture", "report", "details"]
        assert chain["results"][0]["deliveries"][0]["destination"] == "pacs"


def test_a_patient_whose_images_went_through_the_node_leaves_nothing_behind(house: House) -> None:
    house.receive(LATERAL.dataset(), OTHER_LATERAL.dataset())
    erased = erase_patient(house.settings, house.database, str(LATERAL.dataset().PatientID))
    assert (erased.studies, erased.images, erased.results) == (1, 2, 6)
    assert list(house.settings.data_dir.rglob("*.dcm")) == []
    house.receive(LATERAL.dataset())
    assert house.answers()[0] == ("radiograph", "1.2.1", 1, "evaluated", True)
    assert len(house.answers()) == 2, "what was answered before it was erased is known again, and not answered again"
    assert not list(house.settings.outbox_dir.rglob("*.dcm"))
