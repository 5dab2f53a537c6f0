"""One soak, from the first process to the verdict."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.soak import plan, verdict
from tests.soak.audience import Audience
from tests.soak.audit import Finding
from tests.soak.faults import KINDS, Fault, listen_again
from tests.soak.report import Outcome
from tests.soak.stage import Stage, stage
from tests.soak.writers import Writer

from crowd import AWAY

_PROGRESS_SECONDS = 10.0
_CONVERGENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.06
_ROUND_SECONDS = 25.0
_SHORTEST_ROUND_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is to be run."""

    seconds: float
    seed: int
    source: Literal["notify", "poll"] = "notify"
    workers: int = 2
    clients: int = 200
    writers: int = 8
    sessions: int = 40
    fault_every_seconds: float = 5.0
    sweep_seconds: float = 600.0

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.seconds:.0f} s, source {self.source}, {self.workers} workers, "
            f"{self.clients} clients, {self.writers} writers, a fault every {self.fault_every_seconds:g} s"
        )


async def soak(options: Options, directory: Path, say: Callable[[str], None]) -> Outcome:
    """Run it in a directory, say how it goes, and return the outcome."""
    random.seed(options.seed)  # the backoff of the clients
    async with stage(
        directory,
        source=options.source,
        workers=options.workers,
        sessions=options.sessions,
        sweep_seconds=options.sweep_seconds,
    ) as everything:
        return await Soak(options, everything, say).run()


class Soak:
    """A run that is under way: rounds of load and faults, each followed by a rest in which everything must come right.

    The longer a loss goes unseen, the likelier it is that a later change or a snapshot hides it; hence the rounds.
    """

    def __init__(self, options: Options, stage: Stage, say: Callable[[str], None]) -> None:
        self._options = options
        self._stage = stage
        self._say = say
        self._outcome = Outcome(str(options))
        self._began = time.monotonic()
        self._rested_seconds = 0.0
        self._rest_began: float | None = None
        self._locks = {part: asyncio.Lock() for part in ("database", "server", *range(len(stage.roads)))}
        self._writers = [self._writer(number) for number in range(options.writers)]
        self._faults = deque(
            plan.draw(seed=options.seed, seconds=options.seconds, every_seconds=options.fault_every_seconds)
        )

    async def run(self) -> Outcome:
        """Load, faults, rest, and so on; then the verdict."""
        options, everything = self._options, self._stage
        audience = Audience.of(options.clients, seed=options.seed, ways=everything.ways(), sessions=everything.sessions)
        showing = asyncio.create_task(self._show_progress(audience))
        try:
            while True:
                left_seconds = options.seconds - self._elapsed()
                await self._round(min(_ROUND_SECONDS, left_seconds))
                is_right = await self._converge(audience)
                await self._count(audience)
                if not is_right or options.seconds - self._elapsed() < _SHORTEST_ROUND_SECONDS:
                    break
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
            await audience.leave()
        return self._outcome

    async def _round(self, seconds: float) -> None:
        """Write and break things for so long, then mend what is broken."""
        begins_at = self._planned_seconds()
        stopping = asyncio.Event()
        pause_seconds = _PAUSE_SECONDS * len(self._writers) / 8
        writing = [asyncio.create_task(each.run(stopping, pause_seconds=pause_seconds)) for each in self._writers]
        try:
            await self._strike_until(begins_at + seconds)
            await self._heal()
            stopping.set()
            await asyncio.gather(*writing)
        finally:
            stopping.set()  # a transaction that fails while it is being cancelled hides that from its writer
            for task in writing:
                task.cancel()
            await asyncio.gather(*writing, return_exceptions=True)

    def _writer(self, number: int) -> Writer:
        return Writer(
            self._stage.dsn,
            self._stage.sessions,
            dice=random.Random(f"{self._options.seed} writer {number}"),
            counts=self._outcome.writes,
            psql=self._stage.psql if number == 0 else None,
        )

    # -- faults -------------------------------------------------------------------------------------------------------

    async def _strike_until(self, end_seconds: float) -> None:
        """Let the faults happen whose time comes before the end of the round, and wait until the last is over."""
        async with asyncio.TaskGroup() as striking:
            while self._faults and self._faults[0].at_seconds < end_seconds:
                fault = self._faults.popleft()
                await self._until(fault.at_seconds)
                striking.create_task(self._strike(fault))
            await self._until(end_seconds)
        self._rest_began = time.monotonic()

    def _planned_seconds(self) -> float:
        """How far the plan has come: it stands still while everything rests."""
        if self._rest_began is not None:
            self._rested_seconds += time.monotonic() - self._rest_began
            self._rest_began = None
        return self._elapsed() - self._rested_seconds

    async def _until(self, planned_seconds: float) -> None:
        await asyncio.sleep(max(0.0, planned_seconds - self._planned_seconds()))

    async def _strike(self, fault: Fault) -> None:
        """Let a fault happen, one at a time to each part; those of different parts overlap."""
        kind = KINDS[fault.kind]
        locks = [self._locks[part] for part in (fault.roads if kind.part == "road" else (kind.part,))]
        for lock in locks:
            await lock.acquire()
        try:
            self._say(f"{self._elapsed():5.0f} s  {fault}")
            await kind.act(self._stage, fault)
            self._outcome.faults[fault.kind] += 1
        except (*AWAY, TimeoutError) as error:
            self._outcome.faults[f"{fault.kind} (missed)"] += 1
            self._say(f"{self._elapsed():5.0f} s  {fault.kind} could not be done: {error}")
        finally:
            for lock in locks:
                lock.release()

    async def _heal(self) -> None:
        """See that nothing is broken any more."""
        for road in self._stage.roads:
            road.clear()
            await listen_again(road)
        await self._stage.service.answers("/readyz")

    # -- the verdict --------------------------------------------------------------------------------------------------

    async def _converge(self, audience: Audience) -> bool:
        """Wait until every client shows what is stored; say whether that came."""
        outcome, began = self._outcome, time.monotonic()
        stored = await verdict.stored_rows(self._stage.dsn, self._stage.sessions)
        while True:
            findings = verdict.lost(audience.clients, stored)
            took = time.monotonic() - began
            if not findings:
                outcome.converged_seconds.append(took)
                self._say(f"{self._elapsed():5.0f} s  all {len(audience.clients)} clients are right after {took:.1f} s")
                return True
            if took >= outcome.slowest_seconds:
                outcome.slowest, outcome.slowest_seconds = findings[-1], took
            if took > _CONVERGENCE_SECONDS or audience.ended():
                outcome.findings = await verdict.explained(findings, self._stage.dsn)
                return False
            await asyncio.sleep(0.05)

    async def _count(self, audience: Audience) -> None:
        """Take in what clients and server have counted so far."""
        outcome, service = self._outcome, self._stage.service
        outcome.seen = audience.counts()
        lost = [finding for finding in outcome.findings if finding.kind == "lost"]
        outcome.findings = lost + [finding for client in audience.clients for finding in client.audit.findings]
        outcome.findings += [
            Finding("ended", "the server", "", why, "it runs until it is told to stop") for why in service.deaths()
        ]
        for name, error in audience.ended().items():
            why = f"{type(error).__name__}: {error}"
            outcome.findings.append(Finding("ended", name, "", why, "it follows for ever"))
        outcome.sweep_found, outcome.sweeping_processes = await asyncio.to_thread(service.sweep_found)
        outcome.troubles = service.troubles()

    # -- progress -----------------------------------------------------------------------------------------------------

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    async def _show_progress(self, audience: Audience) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            seen = audience.counts()
            wrong = sum(len(client.audit.findings) for client in audience.clients) + len(audience.ended())
            self._say(
                f"{self._elapsed():5.0f} s  {self._outcome.writes['changes']:,} changes, {seen['applied']:,} applied, "
                f"{seen['connects']:,} connects, {seen['polls']:,} polls, {self._outcome.faults.total()} faults, "
                f"{wrong} findings"
            )
