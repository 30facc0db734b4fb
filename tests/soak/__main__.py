"""``python -m tests.soak --minutes 30``: mixed traffic at a steady rate, kills, outages; is all flat, is nothing lost?

Two machines on one PostgreSQL and one storage: ``steady`` does everything and is never killed, so that its processes
can be watched for as long as the run takes; ``struck`` works beside it and is killed again and again. The archive goes
away now and then, or says that it has no room. A sample every ten seconds goes to ``OUT/samples.jsonl``; at the end
the plot is drawn (``OUT/soak.svg``), the verdict is printed and written (``OUT/verdict.txt``), and the exit code is 0
if all is well.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import psutil
import psycopg
from psycopg.rows import dict_row

from node.demo.pacs import AE_TITLE, Received, SmallPacs
from node.demo.stage import RunningNode
from node.process import read_state
from tests.cluster.killer import MachineKiller
from tests.cluster.machines import WORKER, Cluster, cluster
from tests.cluster.server import fresh_database, postgres_server, postmaster
from tests.soak.plot import draw
from tests.soak.sampling import Finding, Sample, flat, look, queue_depth
from tests.soak.traffic import EXPECTED, Traffic

NO_ROOM = 0xA700
WINDOW_S = 120.0
"""Latencies of studies that were answered within this time make a sample's percentiles."""
SETTLE_S = 240.0
STEADY = "steady"


class SoakNode(RunningNode):
    """A node with the toy pipeline for radiographs."""

    program = "tests.soak.node"


class Outages:
    """An archive that is away, or full, for ``length_s`` every ``every_s``, in turns. ``marks``: when it went."""

    def __init__(self, pacs: SmallPacs, every_s: float, length_s: float) -> None:
        self.marks: list[tuple[float, str]] = []
        self.until_s = 0.0
        self._pacs = pacs
        self._every_s = every_s
        self._length_s = length_s
        self._over = threading.Event()
        self._full = False
        self._thread = threading.Thread(target=self._run, name="outages", daemon=True)
        pacs.answer = self._answer

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """The archive is there from now on."""
        self._over.set()
        self._thread.join(self._length_s + 30.0)

    def _answer(self, _item: Received) -> int:
        return NO_ROOM if self._full else 0

    def _run(self) -> None:
        number = 0
        while not self._over.wait(self._every_s):
            number += 1
            self.marks.append((time.time(), "archive away" if number % 2 else "archive full"))
            if number % 2:
                self._pacs.__exit__(None, None, None)
                self._over.wait(self._length_s)
                self._pacs.__enter__()
            else:
                self._full = True
                self._over.wait(self._length_s)
                self._full = False


def main() -> int:
    """Run the soak; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=6.0, help="seconds from one event to the next")
    parser.add_argument("--kill-every", type=float, default=45.0, help="seconds from one kill to the next")
    parser.add_argument("--outage-every", type=float, default=150.0, help="seconds from one outage to the next")
    parser.add_argument("--sample-every", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    given = parser.parse_args()
    findings = soak(given)
    verdict = "\n".join(f"{'ok  ' if finding.ok else 'NOT '} {finding.sentence}" for finding in findings)
    (given.out / "verdict.txt").write_text(verdict + "\n", encoding="utf-8")
    print(verdict)
    return 0 if all(finding.ok for finding in findings) else 1


def soak(given: argparse.Namespace) -> list[Finding]:
    """The whole run; what it proves."""
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "samples.jsonl"
    log.unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="spine-soak-") as scratch,
        postgres_server() as server,
        SmallPacs(Path(scratch) / "pacs") as pacs,
    ):
        dsn = fresh_database(server)
        destination = {"name": "pacs", "host": "127.0.0.1", "port": pacs.port, "ae_title": AE_TITLE, "timeout_s": 10}
        sections = {
            "site": "soak",
            "study": {"quiet_s": 3.0},
            "receive": {"port": 0, "network_timeout_s": 10.0},
            "destinations": [destination],
            "work": {"stalled_after_s": 6.0, "max_attempts": 50, "drain_s": 10},
            "deliver": {"backoff_s": [1, 2, 5]},
        }
        roles = {STEADY: ("receive", *WORKER), "struck": WORKER}
        with cluster(dsn, roles, kind=SoakNode, **sections) as machines:
            port = machines.ports()[0]
            traffic = Traffic(Path(scratch) / "studies", lambda: port, given.every, given.seed)
            killer = MachineKiller(machines, given.seed, spared=(STEADY,))
            outages = Outages(pacs, given.outage_every, min(20.0, given.outage_every / 3))
            samples: list[Sample] = []
            marks: list[tuple[float, str]] = []
            watched = _watched(machines, server)
            began = time.time()
            outages.start()
            with traffic:
                kill_at = began + given.kill_every
                while time.time() < began + 60.0 * given.minutes:
                    seconds = given.sample_every - (time.time() - began) % given.sample_every
                    time.sleep(seconds)
                    if time.time() >= kill_at:
                        killer.strike(0.0)
                        marks.append((time.time(), "kill"))
                        kill_at += given.kill_every
                    samples.append(look(time.time() - began, watched, dsn, _latencies(traffic, pacs)))
                    samples[-1].write(log)
                outages.end()
            settled = _settle(traffic, dsn)
            findings = flat(samples, list(watched))
            findings += [Finding(settled, f"everything is answered and sent within {SETTLE_S:.0f} s of the end")]
            findings += _proof(dsn, traffic, pacs, killer, len(outages.marks))
            if not all(finding.ok for finding in findings):
                (given.out / "tail.txt").write_text(machines.tail(), encoding="utf-8")
    draw(samples, [(at - began, what) for at, what in (*marks, *outages.marks)], given.out / "soak.svg")
    return findings


def _watched(machines: Cluster, server: str) -> dict[str, psutil.Process]:
    """Processes of the machine that lives through the run."""
    node = machines.machines[STEADY]
    pids = {"supervisor": node.process.pid, **read_state(node.settings)["pids"], "PostgreSQL": postmaster(server)}
    return {name: psutil.Process(pid) for name, pid in pids.items()}


def _latencies(traffic: Traffic, pacs: SmallPacs) -> list[float]:
    """Seconds from the last image's acknowledgement to the last result, of what was answered lately."""
    now = time.time()
    stored: dict[str, list[float]] = {}
    for item in list(pacs.received):
        if item.status == 0:
            stored.setdefault(item.study_uid, []).append(datetime.fromisoformat(item.at).timestamp())
    found = []
    for sent in list(traffic.sent):
        times = stored.get(sent.study_uid, [])
        if sent.kind in EXPECTED and len(times) >= EXPECTED[sent.kind] and max(times) >= now - WINDOW_S:
            found.append(max(times) - sent.acknowledged_at)
    return found


def _settle(traffic: Traffic, dsn: str) -> bool:
    """Wait until everything that was acknowledged is in the ledger, and nothing is outstanding there."""
    acknowledged = {uid for sent in traffic.sent for uid in sent.uids}
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        with psycopg.connect(dsn) as connection:
            entered = {row[0] for row in connection.execute("SELECT DISTINCT sop_instance_uid FROM instance")}
            depth = queue_depth(connection)
        if acknowledged <= entered and not depth["unsent"] and not depth["unevaluated"]:
            return True
        time.sleep(1.0)
    return False


def _proof(dsn: str, traffic: Traffic, pacs: SmallPacs, killer: MachineKiller, outages: int) -> list[Finding]:
    """Nothing lost, nothing twice."""
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        entered = {row["uid"] for row in connection.execute("SELECT DISTINCT sop_instance_uid AS uid FROM instance")}
        results = {row["uid"] for row in connection.execute("SELECT sop_instance_uid AS uid FROM result")}
        answered = Counter(row["study_uid"] for row in connection.execute("SELECT study_uid FROM answer WHERE sent"))
        decided = {row["study_uid"] for row in connection.execute("SELECT DISTINCT study_uid FROM series")}
        parked = connection.execute("SELECT count(*) AS n FROM study WHERE parked IS NOT NULL").fetchone()
    acknowledged = {uid for sent in traffic.sent for uid in sent.uids}
    digests: dict[str, set[str]] = {}
    stored = [item for item in pacs.received if item.status == 0]
    for item in stored:
        digests.setdefault(item.sop_instance_uid, set()).add(item.sha256)
    repeats = len(stored) - len(digests)
    allowed = (killer.deaths("deliver") + outages) * 4
    undecided = [f"{sent.study_uid} ({sent.kind})" for sent in traffic.sent if sent.study_uid not in decided]
    timed = [sent for sent in traffic.sent if sent.kind in EXPECTED]
    wrong = [sent for sent in timed if answered[sent.study_uid] != 1]
    traffic_text = ", ".join(f"{count} {kind}" for kind, count in sorted(traffic.counts.items()))
    killed = sum(killer.killed.values())
    return [
        Finding(True, f"traffic: {traffic_text}; kills {killed}, outages of the archive {outages}"),
        Finding(acknowledged <= entered, f"{len(acknowledged)} images acknowledged, {len(entered)} in the ledger"),
        Finding(
            not undecided,
            f"{len(decided)} studies have an outcome; acknowledged and without one: {undecided or 0}",
        ),
        Finding(not wrong, f"{len(timed) - len(wrong)} of {len(timed)} studies to be answered have one answer"),
        Finding(parked is not None and parked["n"] == 0, "no study is parked"),
        Finding(set(digests) == results, f"{len(results)} results built, {len(digests)} in the archive"),
        Finding(all(len(found) == 1 for found in digests.values()), "one digest under one UID"),
        Finding(repeats <= allowed, f"{repeats} repeats of the same bytes (at most {allowed} by kills and outages)"),
    ]


if __name__ == "__main__":
    sys.exit(main())
