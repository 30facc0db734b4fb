"""A running node, watched by HTTP: what it tells, what alerts and dashboard ask for, and what it never tells."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from node.deliver.sender import send
from node.demo.pacs import AE_TITLE, SmallPacs
from node.demo.stage import RunningNode, stage
from node.process import read_state
from tests import peer
from tests.chaos.department import RESULTS_PER_ANSWER, write_study
from tests.conftest import REPOSITORY, wait_until
from tests.dicom import STUDY
from tests.end_to_end.test_node import send_files
from tests.peer import Peer
from tests.scrape import Scrape, ask

pytestmark = pytest.mark.xdist_group("node")

NODE_METRIC = re.compile(r"\bspine_node_[a-z_]+")
ANSWERED = f"{STUDY}.900"
IMAGES = 12


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, shipped_models: Path) -> Iterator[RunningNode]:
    """A node that has answered one study, seen one stranger, and cannot reach one of its two destinations."""
    folder = tmp_path_factory.mktemp("monitoring")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        closed = nobody.getsockname()[1]
    with SmallPacs(folder / "pacs") as pacs:
        there = {"name": "pacs", "host": "127.0.0.1", "port": pacs.port, "ae_title": AE_TITLE}
        away = {"name": "viewer", "host": "127.0.0.1", "port": closed, "ae_title": "VIEWER", "kinds": ["capture"]}
        with stage(
            site="test",
            study={"quiet_s": 0.5},
            receive={"port": 0, "calling_ae_titles": ["TEST"], "listeners": [{"port": 0}]},
            destinations=[there, away],
            deliver={"backoff_s": [0.5, 600]},
            work={"drain_s": 5},
            metrics={"port": 0, "ledger_period_s": 0},
        ) as started:
            with Peer(started.port) as stranger:
                assert stranger.ask(peer.request(calling="STRANGER")).kind == peer.REJECTED
            files = write_study(folder / "study", ANSWERED)
            second = read_state(started.settings)["ports"][1]
            send(files[:2], "127.0.0.1", second, called_ae="SPINENODE", calling_ae="XYZ", replied=lambda *_: None)
            assert send_files(started, files[2:]) == IMAGES - 2
            wait_until(lambda: _settled(Scrape(monitor(started))), 180, "the answer to be sent as far as can be")
            yield started


def _settled(scrape: Scrape) -> bool:
    """Whether one destination has everything, and the other has been tried twice in vain."""
    stored = scrape("deliveries_total", destination="pacs", outcome="stored")
    return stored == RESULTS_PER_ANSWER and scrape("deliveries_total", destination="viewer", outcome="retry") == 2


def monitor(node: RunningNode) -> int:
    return int(read_state(node.settings)["metrics_port"])


def test_what_came_in_and_from_whom(node: RunningNode) -> None:
    scrape = Scrape(monitor(node))
    assert scrape("receive_instances_total", calling_ae_title="TEST") == IMAGES - 2
    assert scrape("receive_instances_total", calling_ae_title="other") == 2, "a title that no list names"
    assert 500 < (scrape("receive_bytes_total", calling_ae_title="TEST") or 0) / (IMAGES - 2) < 2000
    assert scrape("receive_responses_total", status="0000") == IMAGES
    assert scrape("receive_associations_total", calling_ae_title="TEST") == 1
    reason = "calling AE title is not on the list"
    assert scrape("receive_incidents_total", kind="association_rejected", reason=reason) == 1
    assert scrape("receive_associations") == 0
    assert scrape("receive_associations_limit") == 50
    assert scrape("receive_listeners") == 2
    with Peer(node.port) as guest:
        guest.associate(calling="TEST")
        wait_until(lambda: Scrape(monitor(node))("receive_associations") == 1, what="the guest is counted")


def test_what_became_of_it(node: RunningNode) -> None:
    scrape = Scrape(monitor(node))
    assert scrape("evaluations_total", outcome="done") == 1
    assert scrape("series_total", outcome="answered", reason="GAP_IN_SERIES") == 1
    assert scrape("answers_total", pipeline="ct", status="not_evaluable", reason="GAP_IN_SERIES") == 1
    assert scrape("stage_duration_seconds_count", pipeline="ct", stage="gate") == 1
    assert scrape("studies_parked") == 0
    assert scrape("queue_jobs", queue="evaluate", state="due") == 0
    assert scrape("queue_oldest_due_seconds", queue="evaluate") == 0


def test_what_was_delivered_and_what_waits(node: RunningNode) -> None:
    scrape = Scrape(monitor(node))
    assert scrape("deliveries_total", destination="pacs", outcome="stored") == RESULTS_PER_ANSWER
    assert scrape("deliveries", destination="pacs", state="pending") == 0
    assert scrape("deliveries", destination="viewer", state="pending") == 1
    assert (scrape("delivery_oldest_pending_seconds", destination="viewer") or 0) > 0.4
    assert scrape("delivery_oldest_pending_seconds", destination="pacs") == 0
    assert scrape("queue_jobs", queue="deliver:viewer", state="scheduled") == 1
    assert scrape("answer_latency_seconds_count", pipeline="ct") is None, "not before every destination has it"


def test_the_machine_and_the_build(node: RunningNode) -> None:
    scrape = Scrape(monitor(node))
    roles = {"supervisor", "receive", "evaluate", "deliver"}
    for role in roles:
        assert scrape("role_up", role=role) == 1
        assert 10e6 < (scrape("role_resident_memory_bytes", role=role) or 0) < 4e9
        assert (scrape("role_open_descriptors", role=role) or 0) > 3
        assert (scrape("role_cpu_seconds_total", role=role) or 0) > 0
    assert scrape.labels("role_up", "role") == roles
    assert scrape.labels("build_info", "site") == {"test"}
    assert (scrape("spool_free_bytes") or 0) > 0
    assert scrape("spool_reserve_bytes") == 2048 * 2**20
    assert scrape("ledger_up") == 1


def test_nothing_told_leads_to_a_patient(node: RunningNode) -> None:
    told = Scrape(monitor(node)).text + json.dumps(ask(monitor(node), "/status")[1])
    assert STUDY not in told
    assert not re.search(r"\d+\.\d+\.\d+\.\d+\.\d+", told), "no UID"
    for chosen_by_strangers in ("STRANGER", "XYZ", "phantom"):
        assert chosen_by_strangers not in told


def test_it_says_that_it_is_well(node: RunningNode) -> None:
    assert ask(monitor(node), "/healthz")[0] == 200
    status, told = ask(monitor(node), "/readyz")
    assert (status, told["ok"]) == (200, True)
    assert {check["name"] for check in told["checks"]} > {"supervisor", "listener", "disk", "ledger", "process receive"}
    status, told = ask(monitor(node), "/status")
    assert told["events_of_a_day"]["association_rejected"] == 1
    assert ask(monitor(node), "/etc/passwd")[0] == 404
    with socket.create_connection(("127.0.0.1", monitor(node)), 20) as stranger:
        stranger.sendall(b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello")
        assert b" 501 " in stranger.recv(100)


@pytest.mark.parametrize("asked_for", ["alerts.yml", "dashboard.json"])
def test_alerts_and_dashboard_ask_for_what_is_told(node: RunningNode, asked_for: str) -> None:
    text = (REPOSITORY / "deploy" / "monitoring" / asked_for).read_text(encoding="utf-8")
    told = set()
    for family in Scrape(monitor(node)).families:
        told |= {f"{family.name}_total"} if family.type == "counter" else {family.name}
        if family.type == "histogram":
            told |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
    expressions = (
        [rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
        if (asked_for == "alerts.yml")
        else [target["expr"] for panel in json.loads(text)["panels"] for target in panel.get("targets", [])]
    )
    asked = {name for expression in expressions for name in NODE_METRIC.findall(expression)}
    assert len(asked) >= 10
    assert asked <= told, f"nobody tells {sorted(asked - told)}"


def test_a_process_that_dies_is_seen_and_seen_to_come_back(node: RunningNode) -> None:
    """Last in this module: the counters of the process begin anew, as those of every restarted one do."""
    before = node.pids["deliver"]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: node.pids["deliver"] != before, 60, "it is started again")
    wait_until(lambda: Scrape(monitor(node))("role_restarts_total", role="deliver") == 1, 60, "it is counted")
    wait_until(lambda: Scrape(monitor(node))("role_up", role="deliver") == 1, 60, "it answers")
    scrape = Scrape(monitor(node))
    assert scrape("role_restarts_total", role="receive") == 0
    assert (scrape("log_messages_total", role="supervisor", level="error") or 0) >= 1
    assert ask(monitor(node), "/readyz")[0] == 200
