"""The source of changes that asks instead of listening: behind a pooler, or on request.

Each tick is one query for all sessions that somebody reads: what is visible now and was not in the snapshot of the tick
before. Two snapshots leave nothing between them, whatever order transactions committed in. A cursor may claim the older
of them while its rows are handed out, and the newer one afterwards.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rowcast.backoff import Backoff
from rowcast.cursor import Cursor
from rowcast.errors import DatabaseUnavailable, ReadOnlyDatabase, RowcastError
from rowcast.event import RowState
from rowcast.hub import Hub, Read, Reader
from rowcast.postgres.connection import connect, translated
from rowcast.postgres.health import Health
from rowcast.postgres.pace import Pace, Pause
from rowcast.postgres.reader import states_in
from rowcast.postgres.statements import document, load, values_of
from rowcast.watch import Watch

if TYPE_CHECKING:
    import asyncpg

    from rowcast.postgres.connection import Connection

__all__ = ["Poller"]

logger = logging.getLogger(__name__)

_LONGEST_TICK_SECONDS = 10
_TURN = 100  # rows; about a millisecond
_CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Look:
    """What one tick saw: its snapshot as text, that snapshot's xmin, and the states that an earlier one did not show.

    Without a snapshot the next tick begins anew, with no states. `floor`: tombstones of transactions below it may have
    been purged.
    """

    snapshot: str | None
    horizon: int
    epoch: str
    floor: int
    states: Sequence[RowState]


class Poller:
    """The `Source` of a hub that asks the database what has become visible.

    After a change it asks again within milliseconds, and ever less often while nothing happens, down to once in
    `slowest_seconds`; while nobody reads any session, it asks nothing. `dsn` must lead to the primary; a pooler in
    transaction mode may stand in between.

    While it runs it stands in front of the hub's reader: what joins a session reads it after a tick that knew of the
    session. So no tick compares with a snapshot that is newer than what a reader was sent.
    """

    name = "poll"

    def __init__(self, dsn: str, watch: Watch, *, slowest_seconds: float = 1) -> None:
        self._dsn = dsn
        self._watch = watch
        self._pace = Pace(slowest_seconds=slowest_seconds)
        self._backoff = Backoff(first_seconds=0.05, cap_seconds=0.5, random=random.random)
        values = values_of(watch) | {"document": document(watch, "r")}
        self._sql = load("poll.sql", values) | load("read.sql", values)
        self._hub: Hub | None = None
        self._health = Health(watch)
        self._said = ""
        self._is_asking = self._is_asleep = False
        self._wanted = asyncio.Event()
        self._ticked = asyncio.Event()
        self._begun = self._ended = 0
        # The sessions that every tick since the last snapshot was asked for; None where `regain` sees to all.
        self._covered: frozenset[str] | None = None

    async def run(self, hub: Hub) -> None:
        """Ask, and reconnect for ever."""
        self._hub = hub
        reader, hub.reader = hub.reader, OrderedReader(hub.reader, self)
        try:
            while True:
                try:
                    await self._ask_on_one_connection(hub)
                except RowcastError as error:
                    if str(error) != self._said:  # it is tried again every half second
                        logger.warning("the poll source lost the database", extra={"reason": str(error)})
                    self._said = str(error)
                except Exception:
                    logger.exception("the poll source failed")
                finally:
                    hub.lose()
                    self._is_asking = self._is_asleep = False
                    self._cover(None)
                await asyncio.sleep(self._backoff.next_seconds())
        finally:
            hub.reader = reader

    async def flush(self) -> None:
        """Wait for a complete tick that begins after the call. Where nobody reads, there is nobody to tell."""
        wanted = self._begun + 1
        while self._is_asking and not self._is_asleep and self._ended < wanted:
            self._wanted.set()
            await self._ticked.wait()
        if not self._is_asking:
            raise DatabaseUnavailable("nothing is asked")

    async def attend(self, sessions: Collection[str]) -> None:
        """Return when whatever is committed from now on is sure to be found for the readers of `sessions`."""
        while self._covered is not None and self._hub is not None:
            read = self._hub.sessions
            if all(session in self._covered or session not in read for session in sessions):
                return
            self._wanted.set()
            await self._ticked.wait()

    async def _ask_on_one_connection(self, hub: Hub) -> None:
        connection = await connect(self._dsn, application_name="rowcast-poller")
        connection.add_termination_listener(lambda _: self._wanted.set())
        try:
            await self._health.check(connection)
            checked = time.monotonic()
            # What was read before this look may be older than it, but then `regain` reads that session again.
            last = await self._look(connection, (), None)
            await self._regain(hub, last)
            self._cover(())
            self._is_asking = True
            self._backoff.reset()
            self._said = ""
            logger.info("polling", extra={"table": self._watch.table})
            while True:
                if time.monotonic() > checked + _CHECK_SECONDS:
                    await self._health.check(connection)
                    checked = time.monotonic()
                if not hub.sessions:
                    await self._sleep(connection, hub)
                    last = replace(last, snapshot=None)
                last = await self._tick(connection, hub, last)
        finally:
            # `close()` would wait for a peer that may be gone.
            connection.terminate()

    async def _sleep(self, connection: "Connection", hub: Hub) -> None:
        """Return when somebody reads."""
        self._is_asleep = True
        self._cover(())
        while not hub.sessions:
            await self._wanted.wait()
            self._wanted.clear()
            if connection.is_closed():
                raise DatabaseUnavailable("the connection was closed")
        self._is_asleep = False
        self._pace.hurry()

    async def _tick(self, connection: "Connection", hub: Hub, last: Look) -> Look:
        """Hand over what became visible since the last look, if it is of use, and pause."""
        self._begun += 1
        sessions = frozenset(hub.sessions)
        if self._covered is not None:
            self._covered &= sessions  # who left and comes back meanwhile is not among those that are asked for
        started = time.monotonic()
        look = await self._look(connection, sessions, last.snapshot)
        seconds = time.monotonic() - started
        hub.metrics.read("tick", len(look.states), seconds)
        if look.epoch == last.epoch and look.floor <= last.horizon:
            # In the order of their transactions, and with the cursor of the look before: a cut between two of them
            # must not lose the second.
            for number, state in enumerate(sorted(look.states, key=lambda state: (state.xid, state.version)), 1):
                hub.publish(state, last.horizon)
                if number % _TURN == 0:
                    await asyncio.sleep(0)  # readers are woken meanwhile, so that little waits for each of them
            hub.advance(look.horizon)
        else:
            # Transaction ids of two epochs may overlap, and what has gone may have been forgotten.
            self._cover(None)
            await self._regain(hub, look)
        self._ended = self._begun
        self._cover(sessions)
        await self._pause(self._pace.next_pause(found=bool(look.states), took_seconds=seconds))
        return look

    async def _regain(self, hub: Hub, look: Look) -> None:
        await hub.regain(look.horizon)
        place = hub.place_of("")
        if place is None or place.epoch != look.epoch:
            hub.truncated()  # a horizon means nothing in another epoch, so nobody may go on from this one
            raise DatabaseUnavailable("the epoch changed meanwhile")

    async def _look(self, connection: "Connection", sessions: Collection[str], since: str | None) -> Look:
        place, records = await self._fetch(connection, sessions, since)
        if place["epoch"] is None and not place["standby"]:
            with translated():
                await connection.execute(self._sql["begin_epoch"])
            place, records = await self._fetch(connection, sessions, since)
        if place["standby"]:
            raise ReadOnlyDatabase
        if place["epoch"] is None:
            raise DatabaseUnavailable("the epoch could not be begun")
        if not place["stamped"]:
            await self._health.check(connection)  # says which trigger it is
        return Look(
            snapshot=str(place["snapshot"]),
            horizon=int(str(place["horizon"])),
            epoch=str(place["epoch"]),
            floor=int(str(place["floor"] or 0)),
            states=tuple([state async for state, _ in states_in(self._watch, records)]),
        )

    async def _fetch(
        self, connection: "Connection", sessions: Collection[str], since: str | None
    ) -> "tuple[dict[str, object], list[asyncpg.Record]]":
        with translated():
            records = await connection.fetch(self._sql["look"], list(sessions), since, timeout=_LONGEST_TICK_SECONDS)
        place = next(record for record in records if record["kind"] == "place")
        return json.loads(place["document"]), records

    async def _pause(self, pause: Pause) -> None:
        await asyncio.sleep(pause.least_seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause.most_seconds - pause.least_seconds):
                await self._wanted.wait()
        self._wanted.clear()

    def _cover(self, sessions: Collection[str] | None) -> None:
        """Note which sessions need no tick before they are read, and have those who wait for one look again."""
        self._covered = None if sessions is None else frozenset(sessions)
        self._ticked.set()
        self._ticked = asyncio.Event()


class OrderedReader:
    """The reader of a hub, behind the poll source: what is read is never older than the last snapshot of a tick."""

    def __init__(self, reader: Reader, poller: Poller) -> None:
        self._reader = reader
        self._poller = poller

    async def __aenter__(self) -> object:
        return await self._reader.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await self._reader.__aexit__(*error)

    async def session(self, session: str, since: Cursor | None = None) -> Read:
        """Return all rows of a session; with `since` also the rows that have gone since."""
        await self._poller.attend((session,))
        return await self._reader.session(session, since)

    async def changes(self, sessions: Sequence[str], since: Cursor) -> Read:
        """Return what changed in some sessions since a cursor, or say that this cannot be known."""
        await self._poller.attend(sessions)
        return await self._reader.changes(sessions, since)
