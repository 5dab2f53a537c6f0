"""What goes wrong: every kind of fault, how often it is drawn, how long it lasts, and what it does."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tests.faults.toxic import Toxic
from tests.soak.stage import Stage, seen_through

Part = Literal["database", "server", "road"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of a plan. `roads` are the proxies that it strikes; `amount` from 0 to 1 is how hard it strikes."""

    at_seconds: float
    kind: str
    lasts_seconds: float = 0.0
    roads: tuple[int, ...] = ()
    amount: float = 0.0

    def __str__(self) -> str:
        where = f" on roads {', '.join(map(str, self.roads))}" if self.roads else ""
        return f"{self.kind}{where}" + (f" for {self.lasts_seconds:.1f} s" if self.lasts_seconds else "")


Act = Callable[[Stage, Fault], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault: what it strikes, how often it is in a deck, its shortest and longest time, and its doer."""

    part: Part
    act: Act
    copies: int = 2
    lasts_seconds: tuple[float, float] = (0.0, 0.0)
    roads: tuple[int, int] = field(default=(0, 0))


# -- the database -----------------------------------------------------------------------------------------------------


def _terminates(*names: str) -> Act:
    async def act(stage: Stage, fault: Fault) -> None:
        await stage.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = ANY ($1)", names
        )

    return act


def _restarts(mode: Literal["fast", "immediate"]) -> Act:
    async def act(stage: Stage, fault: Fault) -> None:
        await seen_through(stage.postgres.stop, mode)
        await asyncio.sleep(fault.lasts_seconds)
        await seen_through(stage.postgres.start)

    return act


async def _truncate(stage: Stage, fault: Fault) -> None:
    # Whoever holds a transaction open would have everybody wait behind us.
    await stage.execute("SET lock_timeout = '5s'; TRUNCATE request CASCADE")


async def _rotate_epoch(stage: Stage, fault: Fault) -> None:
    await stage.execute("SELECT rowcast.rotate_epoch('request')")


# -- the server -------------------------------------------------------------------------------------------------------


async def _kill_worker(stage: Stage, fault: Fault) -> None:
    workers = stage.service.workers()
    if workers == [stage.service.pid]:
        await _kill_server(stage, fault)
    elif workers:
        stage.service.send(signal.SIGKILL, workers[int(fault.amount * len(workers))])


async def _kill_server(stage: Stage, fault: Fault) -> None:
    await stage.service.kill()
    await asyncio.sleep(fault.lasts_seconds)
    await stage.service.start()


async def _freeze(stage: Stage, fault: Fault) -> None:
    """All of its processes, or one worker."""
    frozen = stage.service.processes()
    if fault.amount < 0.4 and (workers := stage.service.workers()):
        frozen = workers[:1]
    for pid in frozen:
        stage.service.send(signal.SIGSTOP, pid)
    try:
        await asyncio.sleep(fault.lasts_seconds)
    finally:
        for pid in frozen:
            stage.service.send(signal.SIGCONT, pid)


async def _deploy(stage: Stage, fault: Fault) -> None:
    await stage.service.stop()
    await stage.service.start()


# -- the roads --------------------------------------------------------------------------------------------------------


def _strikes(strike: Callable[[Toxic, Fault], None]) -> Act:
    """What is done to roads, and undone when its time is over."""

    async def act(stage: Stage, fault: Fault) -> None:
        roads = [stage.roads[number] for number in fault.roads]
        for road in roads:
            strike(road, fault)
        try:
            await asyncio.sleep(fault.lasts_seconds)
        finally:
            for road in roads:
                road.clear()

    return act


async def _refuse(stage: Stage, fault: Fault) -> None:
    roads = [stage.roads[number] for number in fault.roads]
    for road in roads:
        await road.refuse()
        road.reset()
    try:
        await asyncio.sleep(fault.lasts_seconds)
    finally:
        for road in roads:
            await listen_again(road)


async def listen_again(road: Toxic) -> None:
    """Listen at the same port, as soon as no connection has it by chance as its own end."""
    async with asyncio.timeout(30):
        while True:
            try:
                await road.listen()
            except OSError:
                await asyncio.sleep(0.1)
            else:
                return


KINDS: Mapping[str, Kind] = {
    "listener terminated": Kind(part="database", act=_terminates("rowcast-listener", "rowcast-poller"), copies=3),
    "readers terminated": Kind(part="database", act=_terminates("rowcast-reader", "rowcast-service")),
    "postgres restarted": Kind(part="database", act=_restarts("fast"), lasts_seconds=(0, 2)),
    "postgres crashed": Kind(part="database", act=_restarts("immediate"), lasts_seconds=(0, 2)),
    "table truncated": Kind(part="database", act=_truncate, copies=1),
    "epoch rotated": Kind(part="database", act=_rotate_epoch, copies=1),
    "worker killed": Kind(part="server", act=_kill_worker),
    "server killed": Kind(part="server", act=_kill_server, lasts_seconds=(0, 2)),
    "server frozen": Kind(part="server", act=_freeze, lasts_seconds=(1, 7)),
    "deploy": Kind(part="server", act=_deploy),
    "reset": Kind(part="road", act=_strikes(lambda road, _: road.reset()), roads=(8, 8)),
    "cut in a frame": Kind(
        part="road", roads=(2, 8), lasts_seconds=(1, 4),
        act=_strikes(lambda road, fault: road.set("down", on="open", cut_after=1 + int(fault.amount * 600))),
    ),
    "stalled": Kind(
        part="road", roads=(1, 3), lasts_seconds=(2, 9), act=_strikes(lambda road, _: road.set(stall=True))
    ),
    "slow": Kind(
        part="road", roads=(1, 3), lasts_seconds=(2, 5),
        act=_strikes(lambda road, fault: road.set("down", bytes_per_second=2000 + fault.amount * 18_000)),
    ),
    "split": Kind(
        part="road", roads=(1, 1), lasts_seconds=(1, 3),
        act=_strikes(lambda road, fault: road.set("down", split=1 + int(fault.amount * 3))),
    ),
    "delayed": Kind(
        part="road", roads=(1, 4), lasts_seconds=(2, 6),
        act=_strikes(lambda road, fault: road.set(delay_ms=20 + fault.amount * 380)),
    ),
    "body held": Kind(
        part="road", roads=(1, 2), lasts_seconds=(4, 9), copies=1,
        act=_strikes(lambda road, _: road.set("down", on="new", hold_body=True)),
    ),
    "refused": Kind(part="road", act=_refuse, roads=(1, 4), lasts_seconds=(1, 5)),
    "hung up": Kind(
        part="road", roads=(1, 4), lasts_seconds=(1, 4), copies=1, act=_strikes(lambda road, _: road.hang_up())
    ),
}  # fmt: skip
