"""Reads the state of sessions, rows and cursor from one snapshot."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from rowcast.cursor import Cursor
from rowcast.errors import DatabaseUnavailable, ReadOnlyDatabase
from rowcast.event import RowState
from rowcast.hub import Read
from rowcast.metrics import Metrics, NullMetrics
from rowcast.postgres.batches import Batches
from rowcast.postgres.connection import create_pool, translated
from rowcast.postgres.statements import document, load, values_of
from rowcast.watch import Watch

if TYPE_CHECKING:
    import asyncpg

    from rowcast.postgres.connection import Pool

__all__ = ["PostgresReader", "states_in"]

_NEVER = 2**64 - 1  # a horizon that nothing is behind of
_SLICE = 500  # rows; some 10 ms
_SESSIONS_WHOLE = 8  # up to 10,000 rows each
_SESSIONS_CHANGED = 200


@dataclass(frozen=True, slots=True)
class _Found:
    """What one statement read: `place`, its snapshot, and of each session the states with their documents."""

    place: Mapping[str, object]
    rows: Mapping[str, Sequence[tuple[RowState, str]]]

    def read(self, sessions: Iterable[str], since: Cursor | None, *, full: bool) -> Read:
        """Return some of the sessions, from a cursor on: the statement may have begun at an older one."""
        horizon = _NEVER if since is None else since.horizon
        rows = [
            (state, document)
            for session in sessions
            for state, document in self.rows.get(session, ())
            if state.xid >= horizon or (full and not state.removed)
        ]
        return Read(
            states=tuple(state for state, _ in rows),
            cursor=Cursor(_epoch_of(self.place, (document for _, document in rows)), int(str(self.place["horizon"]))),
            full=full,
            usable=since is None or _is_usable(since, self.place),
        )


class PostgresReader:
    """The `Reader` of a hub, on a small pool of its own.

    It must reach the primary that the listener listens on: a standby's snapshots list no running transactions, so
    their horizons promise too much. A standby is refused. Of many sessions that are asked for at the same time several
    are read by one statement.
    """

    def __init__(self, dsn: str, watch: Watch, *, max_connections: int = 4, metrics: Metrics | None = None) -> None:
        self._dsn = dsn
        self._watch = watch
        self._max_connections = max_connections
        self._metrics = metrics or NullMetrics()
        self._pool: Pool | None = None
        values = values_of(watch)
        values["document"] = document(watch, "r")
        self._sql = load("read.sql", values)
        at_once = max(1, max_connections // 2)
        self._whole = Batches(partial(self._find, "session"), at_once=at_once, sessions_each=_SESSIONS_WHOLE)
        self._changed = Batches(partial(self._find, "changes"), at_once=at_once, sessions_each=_SESSIONS_CHANGED)

    async def __aenter__(self) -> Self:
        self._pool = await create_pool(self._dsn, application_name="rowcast-reader", max_size=self._max_connections)
        return self

    async def __aexit__(self, *_: object) -> None:
        pool, self._pool = self._pool, None
        await self._whole.stop()
        await self._changed.stop()
        if pool is not None:
            pool.terminate()

    async def session(self, session: str, since: Cursor | None = None) -> Read:
        """Return all rows of a session; with `since` also the rows that have gone since."""
        found = await self._whole.read(session, _NEVER if since is None else since.horizon)
        return found.read((session,), since, full=True)

    async def changes(self, sessions: Sequence[str], since: Cursor) -> Read:
        """Return what changed in some sessions since a cursor, or say in `usable` that this cannot be known."""
        if len(sessions) == 1:
            found = await self._changed.read(sessions[0], since.horizon)
        else:
            found = await self._find("changes", dict.fromkeys(sessions, since.horizon))
        return found.read(sessions, since, full=False)

    async def _find(self, kind: str, horizons: Mapping[str, int]) -> _Found:
        started = time.monotonic()
        records, place = await self._fetch(kind, horizons)
        if place["epoch"] is None and not place["standby"]:
            await self._begin_epoch()
            records, place = await self._fetch(kind, horizons)
        if place["standby"]:
            raise ReadOnlyDatabase
        if place["epoch"] is None:
            raise DatabaseUnavailable("the epoch could not be begun")
        rows: dict[str, list[tuple[RowState, str]]] = {}
        async for state, told in states_in(self._watch, records):
            rows.setdefault(state.session, []).append((state, told))
        self._metrics.read(kind, len(records) - 1, time.monotonic() - started)
        return _Found(place, rows)

    async def _fetch(self, kind: str, horizons: Mapping[str, int]) -> "tuple[list[asyncpg.Record], dict[str, object]]":
        if self._pool is None:
            raise DatabaseUnavailable("the reader is closed")
        with translated():
            records = await self._pool.fetch(self._sql[kind], list(horizons), [str(each) for each in horizons.values()])
        place = next(record for record in records if record["kind"] == "place")
        return records, json.loads(place["document"])

    async def _begin_epoch(self) -> None:
        assert self._pool is not None
        with translated():
            await self._pool.execute(self._sql["begin_epoch"])


async def states_in(watch: Watch, records: "Iterable[asyncpg.Record]") -> AsyncIterator[tuple[RowState, str]]:
    """Yield the states that records of kind 'row' and 'gone' tell, with their documents as they were read.

    In slices, so that ten thousand rows do not hold up the loop.
    """
    for number, record in enumerate(records, 1):
        if (kind := record["kind"]) != "place":
            told, xid = record["document"], int(record["xid"])
            yield RowState.from_document(watch, json.loads(told), removed=kind == "gone", xid=xid), told
        if number % _SLICE == 0:
            await asyncio.sleep(0)


def _is_usable(since: Cursor, place: Mapping[str, object]) -> bool:
    """A cursor of another epoch, from the future, or from before the purged tombstones, cannot be caught up from.

    None can while a trigger is missing: what was changed since does not show.
    """
    floor, ceiling = int(str(place["floor"] or 0)), int(str(place["ceiling"]))
    return bool(place["stamped"]) and since.epoch == place["epoch"] and floor <= since.horizon <= ceiling


def _epoch_of(place: Mapping[str, object], documents: Iterable[str]) -> str:
    """The epoch of a read. While a trigger is missing, versions order nothing: each content is an epoch of its own.

    So a client that polls shows every change, and is not sent the same again.
    """
    epoch = str(place["epoch"])
    if place["stamped"]:
        return epoch
    return hashlib.sha256(json.dumps([epoch, sorted(documents)]).encode()).hexdigest()[:16]
