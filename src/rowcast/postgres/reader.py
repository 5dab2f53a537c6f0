"""Reads the state of sessions, rows and cursor from one snapshot."""

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from rowcast.cursor import Cursor
from rowcast.errors import DatabaseUnavailable, ReadOnlyDatabase
from rowcast.event import RowState
from rowcast.hub import Read
from rowcast.metrics import Metrics, NullMetrics
from rowcast.postgres.connection import create_pool, translated
from rowcast.postgres.statements import document, load, values_of
from rowcast.watch import Watch

if TYPE_CHECKING:
    import asyncpg

    from rowcast.postgres.connection import Pool

__all__ = ["PostgresReader", "state_of"]

_SLICE = 500  # rows; some 10 ms


class PostgresReader:
    """The `Reader` of a hub, on a small pool of its own.

    It must reach the primary that the listener listens on: a standby's snapshots list no running transactions, so
    their horizons promise too much. A standby is refused.
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

    async def __aenter__(self) -> Self:
        self._pool = await create_pool(self._dsn, application_name="rowcast-reader", max_size=self._max_connections)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def session(self, session: str, since: Cursor | None = None) -> Read:
        """Return all rows of a session; with `since` also the rows that have gone since."""
        horizon = None if since is None else str(since.horizon)
        return await self._read("session", since, session, horizon)

    async def changes(self, sessions: Sequence[str], since: Cursor) -> Read:
        """Return what changed in some sessions since a cursor, or say in `resync` why that cannot be known."""
        return await self._read("changes", since, list(sessions), str(since.horizon))

    async def _read(self, kind: str, since: Cursor | None, *arguments: object) -> Read:
        started = time.monotonic()
        records, place = await self._fetch(kind, *arguments)
        if place["epoch"] is None and not place["standby"]:
            await self._begin_epoch()
            records, place = await self._fetch(kind, *arguments)
        if place["standby"]:
            raise ReadOnlyDatabase
        if place["epoch"] is None:
            raise DatabaseUnavailable("the epoch could not be begun")
        states = await self._states(records)
        read = Read(
            states=states,
            cursor=Cursor(_epoch_of(place, records), int(str(place["horizon"]))),
            full=kind == "session",
            usable=since is None or _is_usable(since, place),
        )
        self._metrics.read(kind, len(states), time.monotonic() - started)
        return read

    async def _fetch(self, kind: str, *arguments: object) -> "tuple[list[asyncpg.Record], dict[str, object]]":
        if self._pool is None:
            raise DatabaseUnavailable("the reader is closed")
        with translated():
            records = await self._pool.fetch(self._sql[kind], *arguments)
        place = next(record for record in records if record["kind"] == "place")
        return records, json.loads(place["document"])

    async def _begin_epoch(self) -> None:
        assert self._pool is not None
        with translated():
            await self._pool.execute(self._sql["begin_epoch"])

    async def _states(self, records: "list[asyncpg.Record]") -> tuple[RowState, ...]:
        """Take the states out of what was read, in slices, so that ten thousand rows do not hold up the loop."""
        states: list[RowState] = []
        for start in range(0, len(records), _SLICE):
            if start:
                await asyncio.sleep(0)
            part = records[start : start + _SLICE]
            states += [state_of(self._watch, record) for record in part if record["kind"] != "place"]
        return tuple(states)


def state_of(watch: Watch, record: "asyncpg.Record") -> RowState:
    """Return the state that a record of kind 'row' or 'gone' tells."""
    gone = record["kind"] == "gone"
    return RowState.from_document(watch, json.loads(record["document"]), removed=gone, xid=int(record["xid"]))


def _is_usable(since: Cursor, place: dict[str, object]) -> bool:
    """A cursor of another epoch, from the future, or from before the purged tombstones, cannot be caught up from.

    None can while a trigger is missing: what was changed since does not show.
    """
    floor, ceiling = int(str(place["floor"] or 0)), int(str(place["ceiling"]))
    return bool(place["stamped"]) and since.epoch == place["epoch"] and floor <= since.horizon <= ceiling


def _epoch_of(place: dict[str, object], records: "list[asyncpg.Record]") -> str:
    """The epoch of a read. While a trigger is missing, versions order nothing: each content is an epoch of its own.

    So a client that polls shows every change, and is not sent the same again.
    """
    epoch = str(place["epoch"])
    if place["stamped"]:
        return epoch
    content = sorted(record["document"] for record in records if record["kind"] != "place")
    return hashlib.sha256(json.dumps([epoch, content]).encode()).hexdigest()[:16]
