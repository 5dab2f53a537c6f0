"""Everything at once: random faults, random writers and clients of all kinds, and at the end every store is right.

`scripts/soak` runs for as long as one likes; here it runs for two minutes in all, with another seed each time.
"""

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import wait_until
from tests.faults.toxic import toxic
from tests.soak import plan, verdict
from tests.soak.audit import Audit, AuditedStore
from tests.soak.clients import REQUESTS
from tests.soak.faults import KINDS
from tests.soak.report import Outcome
from tests.soak.stage import ROADS

from rowcast.latest import LatestByRow

ROOT = Path(__file__).parents[2]
SESSION = "6d1f9c1e-0000-4000-8000-000000000001"
EPOCH, OTHER_EPOCH = "0123456789abcdef", "fedcba9876543210"


@pytest.mark.fault(30)
@pytest.mark.fault(33)
@pytest.mark.fault(54)
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "how", [("--source=notify", "--workers=2"), ("--source=poll", "--workers=1")], ids=["notify", "poll"]
)
def test_nothing_is_lost_whatever_happens(how: tuple[str, ...]) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    with running("--minutes=1", f"--seed={seed}", "--clients=80", "--every=2.5", *how) as soak:
        said = soak.communicate()[0]
    print(said)
    assert soak.returncode == 0, f"seed {seed}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_takes_everything_down_when_it_is_told_to_stop(number: signal.Signals) -> None:
    with running("--clients=10", "--every=0.5") as soak:
        assert soak.stdout is not None
        directory = soak.stdout.readline().rpartition(" in ")[2].strip()
        assert Path(directory).is_dir()
        soak.stdout.readline()  # the first fault: everything runs
        started = descendants(soak.pid)
        assert len(started) > 5  # a database and a server, with processes of their own
        soak.send_signal(number)
        said = soak.communicate()[0]
    assert soak.returncode == 130, said
    assert "Traceback" not in said
    # An orphan that is killed is still seen until the system has cleared it away.
    wait_until(
        lambda: not [pid for pid in started if Path(f"/proc/{pid}").exists()],
        what="all processes are gone",
        seconds=5,
    )
    assert not Path(directory).exists()


@pytest.mark.parametrize("wrong", ["--minutes=0", "--minutes=soon", "--clients=none", "--workers=3", "--fast"])
def test_a_wrong_argument_is_told_in_one_line(wrong: str) -> None:
    with running(wrong) as soak:
        said = soak.communicate()[0]
    assert soak.returncode == 2
    assert said.count("\n") == 1
    assert wrong.partition("=")[0] in said
    assert "scripts/soak --minutes" in said


@contextmanager
def running(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a soak; it does not outlive the block."""
    process = subprocess.Popen(
        [ROOT / "scripts" / "soak", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                for pid in (process.pid, *descendants(process.pid)):
                    os.kill(pid, signal.SIGKILL)
                raise


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found, unseen = [], [pid]
    while unseen:
        children = parents.get(unseen.pop(), [])
        found += children
        unseen += children
    return found


# -- what would be found ----------------------------------------------------------------------------------------------


def row(number: int, version: int, status: str = "pending") -> dict[str, Any]:
    return {"session_id": SESSION, "request_id": f"row {number}", "status": status, "version": version}


def snapshot(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"requests": list(rows), "part": 1, "more": False}


@dataclass
class Shown:
    """A client that shows what a real store holds."""

    name: str = "client"
    session: str = SESSION
    place: str = "somewhere"
    audit: Audit = field(default_factory=lambda: Audit("client"))

    def __post_init__(self) -> None:
        self.store = AuditedStore(REQUESTS, self.audit)
        self.store.begin_stream()
        self.store.enter_epoch(EPOCH)
        self.store.keep_snapshot(snapshot(row(1, 10), row(2, 20)))

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        return self.store.rows

    def lost(self, *stored: dict[str, Any]) -> list[tuple[str, Any, Any]]:
        findings = verdict.lost([self], {SESSION: {each["request_id"]: each for each in stored}})
        assert all(finding.kind == "lost" and finding.client == "client, somewhere" for finding in findings)
        return [(finding.row, finding.shown, finding.stored) for finding in findings]

    def kinds(self) -> list[str]:
        return [finding.kind for finding in self.audit.findings]


def test_a_client_that_shows_what_is_stored_is_left_in_peace() -> None:
    client = Shown()
    client.store.keep_live(row(1, 11, "done") | {"terminal": True, "cause": "catchup"}, removed=False)
    assert client.lost(row(1, 11, "done"), row(2, 20)) == []
    assert client.kinds() == []


def test_a_row_that_is_not_shown_is_lost() -> None:
    assert Shown().lost(row(1, 10), row(2, 20), row(3, 30)) == [("row 3", None, row(3, 30))]


def test_a_row_that_is_shown_in_an_older_state_is_lost() -> None:
    assert Shown().lost(row(1, 10), row(2, 21, "done")) == [("row 2", row(2, 20), row(2, 21, "done"))]


def test_a_row_that_is_shown_though_it_went_is_lost() -> None:
    assert Shown().lost(row(1, 10)) == [("row 2", row(2, 20), None)]


def test_a_state_that_comes_again_is_recognised() -> None:
    client = Shown()
    client.store.keep_live(row(1, 10), removed=False)
    client.store.keep_live(row(2, 19), removed=False)
    assert client.kinds() == []
    assert client.audit.counts["recognised"] == 2
    assert client.audit.counts["applied"] == 2


def test_a_store_that_forgets_versions_is_caught() -> None:
    client = Shown()
    client.store._latest = LatestByRow()
    client.store.keep_live(row(1, 10), removed=False)
    client.store.keep_live(row(2, 19), removed=False)
    assert client.kinds() == ["duplicate", "stale"]
    assert [(finding.row, finding.shown, finding.stored) for finding in client.audit.findings] == [
        ("row 1", 10, 10), ("row 2", 19, 20),
    ]  # fmt: skip


def test_a_row_that_goes_twice_is_caught() -> None:
    client = Shown()
    client.store.keep_live(row(1, 11), removed=True)
    client.store._latest = LatestByRow()
    client.store.keep_live(row(1, 11), removed=False)
    assert client.kinds() == ["duplicate"]


def test_another_epoch_may_tell_everything_again() -> None:
    client = Shown()
    client.store.enter_epoch(OTHER_EPOCH)
    client.store.keep_snapshot(snapshot(row(1, 10), row(2, 19)))
    assert client.kinds() == []
    assert client.audit.counts["back across an epoch"] == 1


def test_streams_are_counted_by_how_they_began() -> None:
    client = Shown()
    for _ in range(2):
        client.store.begin_stream()
        client.store.enter_epoch(EPOCH)
        client.store.keep_live(row(1, 11), removed=False)
    client.store.begin_stream()
    client.store.enter_epoch(OTHER_EPOCH)
    client.store.keep_snapshot(snapshot(row(1, 12)))
    counts = client.audit.counts
    assert (counts["connects"], counts["resumes"], counts["resyncs"]) == (4, 2, 1)


def test_a_finding_is_told_with_all_that_is_known_of_it() -> None:
    client = Shown()
    assert Outcome("title", converged_seconds=[1.0]).is_good
    found = verdict.lost([client], {SESSION: {"row 1": row(1, 12), "row 2": row(2, 20)}})
    outcome = Outcome("title", converged_seconds=[1.0], findings=found)
    assert not outcome.is_good
    assert outcome.number("lost") == 1
    told = outcome.details()
    for part in ("lost: client, somewhere, row row 1", "'version': 10", "'version': 12", "applied row 1 10"):
        assert part in told


@pytest.mark.anyio
async def test_a_road_that_held_a_body_carries_on_when_it_is_let_go() -> None:
    """Else a reader without a watchdog would hang on it for ever, and be taken for one that lost something."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, toxic(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as road, asyncio.timeout(20):
        road.set("down", hold_body=True)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(road.url.rpartition(":")[2]))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"held, ")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.3)
        road.clear()
        for word in (b"let go, ", b"and on"):
            writer.write(word)
            expected = (b"held, " if word == b"let go, " else b"") + word
            assert await reader.readexactly(len(expected)) == expected
        writer.close()


# -- what is planned --------------------------------------------------------------------------------------------------


def test_the_seed_decides_the_plan() -> None:
    first = plan.draw(seed=1, seconds=600, every_seconds=5)
    assert first == plan.draw(seed=1, seconds=600, every_seconds=5)
    assert first != plan.draw(seed=2, seconds=600, every_seconds=5)
    assert first[:5] == plan.draw(seed=1, seconds=28, every_seconds=5)


def test_a_plan_has_faults_of_every_kind_within_their_bounds() -> None:
    faults = plan.draw(seed=3, seconds=600, every_seconds=5)
    assert {fault.kind for fault in faults} == set(KINDS)
    for fault in faults:
        kind = KINDS[fault.kind]
        assert kind.lasts_seconds[0] <= fault.lasts_seconds <= kind.lasts_seconds[1]
        assert kind.roads[0] <= len(set(fault.roads)) <= kind.roads[1]
        assert set(fault.roads) <= set(range(ROADS))
        assert 0 <= fault.amount < 1
        assert 0 < fault.at_seconds < 600
