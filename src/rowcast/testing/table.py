"""A watched table in memory: rows, transactions, tombstones, and the queue of notifications."""

import copy
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from rowcast.cursor import Cursor
from rowcast.errors import DatabaseUnavailable
from rowcast.event import RowState
from rowcast.hub import Read
from rowcast.watch import Watch

__all__ = ["MemoryTable", "MemoryTransaction", "Note"]


@dataclass(frozen=True, slots=True)
class Row:
    """A stored row. `values` holds the watched columns but for key and session."""

    session: str
    version: int
    xid: int
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Gone:
    """What is remembered of a row that left a session."""

    version: int
    xid: int


@dataclass(frozen=True, slots=True)
class Note:
    """One entry of the notification queue."""

    kind: Literal["state", "reread", "truncated", "probe"]
    horizon: int
    state: RowState | None = None
    session: str = ""


@dataclass(slots=True)
class Memory:
    """What a backup holds."""

    rows: dict[str, Row] = field(default_factory=dict)
    gone: dict[tuple[str, str], Gone] = field(default_factory=dict)
    next_xid: int = 1000
    floor: int = 0


class MemoryTable:
    """The `Reader` of a hub, over a table in memory with transactions.

    `gate` is awaited twice in every read, before and after its snapshot is taken: a test can hold it there and have
    other things happen meanwhile. While `is_available` is False, reads raise `DatabaseUnavailable`.
    """

    def __init__(self, watch: Watch, *, gate: Callable[[], Awaitable[None]] | None = None) -> None:
        self.watch = watch
        self.is_available = True
        self._gate = gate
        self._memory = Memory()
        self._epochs = 1
        self._running: dict[MemoryTransaction, None] = {}
        self._locks: dict[str, MemoryTransaction] = {}
        self.listeners: list[deque[Note]] = []

    # -- writing ------------------------------------------------------------------------------------------------------

    def begin(self, *, repeatable_read: bool = False) -> "MemoryTransaction":
        """Begin a transaction. With `repeatable_read` its notifications carry the horizon of its beginning."""
        transaction = MemoryTransaction(self, self.horizon if repeatable_read else None)
        self._running[transaction] = None
        return transaction

    def truncate(self) -> None:
        """Empty the table, which ends the epoch; raise RuntimeError if a transaction has written to it."""
        if self._locks:
            raise RuntimeError("a running transaction has written to the table")
        self._memory.rows.clear()
        self.rotate_epoch()
        self._notify([Note("truncated", self.horizon)])

    def rotate_epoch(self) -> None:
        """End the epoch, and tell nobody."""
        self._epochs += 1

    def purge(self) -> None:
        """Forget the rows that are gone; older cursors lead nowhere then."""
        memory = self._memory
        memory.floor = self.horizon
        memory.gone = {where: gone for where, gone in memory.gone.items() if gone.xid >= memory.floor}

    def backup(self) -> Memory:
        """Return what is committed, for `restore`."""
        return copy.deepcopy(self._memory)

    def restore(self, backup: Memory) -> None:
        """Go back to a backup, as after a crash or a restore: transactions and listeners end, and so does the epoch.

        Transaction ids and versions are used again, for other states.
        """
        for transaction in tuple(self._running):
            transaction.rollback()
        self.listeners.clear()
        self._memory = copy.deepcopy(backup)
        self.rotate_epoch()

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> str:
        """The name of the table's memory."""
        return f"{self._epochs:016x}"

    @property
    def horizon(self) -> int:
        """Every transaction below it has ended."""
        running = (transaction.xid for transaction in self._running if transaction.xid is not None)
        return min(running, default=self._memory.next_xid)

    def rows(self, session: str) -> dict[str, int]:
        """Return the committed rows of a session: key to version."""
        return {key: row.version for key, row in self._memory.rows.items() if row.session == session}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def session(self, session: str, since: Cursor | None = None) -> Read:
        """Return all rows of a session; with `since` also the rows that have gone since."""
        return await self._read((session,), since, full=True)

    async def changes(self, sessions: Sequence[str], since: Cursor) -> Read:
        """Return what changed in some sessions since a cursor, or say that this cannot be known (`usable`)."""
        return await self._read(sessions, since, full=False)

    async def _read(self, sessions: Sequence[str], since: Cursor | None, *, full: bool) -> Read:
        await self._pass()
        memory, watched = self._memory, set(sessions)
        states = [
            self._state(key, row)
            for key, row in memory.rows.items()
            if row.session in watched and (full or since is None or row.xid >= since.horizon)
        ]
        states += [
            self._removal(key, session, gone)
            for (session, key), gone in memory.gone.items()
            if session in watched and since is not None and gone.xid >= since.horizon
        ]
        usable = since is None or (since.epoch == self.epoch and memory.floor <= since.horizon <= memory.next_xid)
        read = Read(states=tuple(states), cursor=Cursor(self.epoch, self.horizon), full=full, usable=usable)
        await self._pass()
        return read

    async def _pass(self) -> None:
        if self._gate is not None:
            await self._gate()
        if not self.is_available:
            raise DatabaseUnavailable

    def _state(self, key: str, row: Row) -> RowState:
        watch, values = self.watch, row.values
        document: dict[str, object] = {watch.key: key, watch.session: row.session}
        if watch.status is not None:
            document[watch.status] = values.get(watch.status)
        document |= {f"has_{column}": values.get(column) is not None for column in watch.presence}
        document |= {column: values.get(column) for column in watch.carried}
        status = None if watch.status is None else values.get(watch.status)
        document |= {"version": row.version, "terminal": status in watch.terminal}
        return RowState.from_document(watch, document, xid=row.xid)

    def _removal(self, key: str, session: str, gone: Gone) -> RowState:
        document = {self.watch.key: key, self.watch.session: session, "version": gone.version}
        return RowState.from_document(self.watch, document, removed=True, xid=gone.xid)

    # -- for transactions and sources ---------------------------------------------------------------------------------

    def _notify(self, notes: Iterable[Note]) -> None:
        notes = list(notes)
        for queue in self.listeners:
            queue.extend(notes)


class MemoryTransaction:
    """A transaction; as a context manager it commits, or rolls back when the block raises.

    Writing a row that another transaction has written and not ended raises RuntimeError, where PostgreSQL would wait.
    """

    def __init__(self, table: MemoryTable, horizon: int | None) -> None:
        self.xid: int | None = None
        self._table = table
        self._horizon = horizon
        self._rows: dict[str, Row | None] = {}
        self._gone: dict[tuple[str, str], Gone] = {}
        self._notes: list[Note] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self in self._table._running:
            self.commit() if kind is None else self.rollback()

    def insert(self, key: str, session: str, **values: object) -> None:
        """Insert a row; its version is above whatever the key had before."""
        xid = self._lock(key)
        if self._row(key) is not None:
            raise ValueError(f"the key {key!r} exists")
        self._put(key, Row(session, self._first_version(key, xid), xid, values))

    def update(self, key: str, *, session: str | None = None, **values: object) -> None:
        """Change a row, or move it to another session. What changes nothing is no new version."""
        xid, row = self._lock(key), self._existing(key)
        changed = {**row.values, **values}
        if changed == row.values and session in (None, row.session):
            return
        if session not in (None, row.session):
            self._leave(key, row)
        self._put(key, Row(session or row.session, row.version + 1, xid, changed))

    def delete(self, key: str) -> None:
        """Delete a row."""
        self._lock(key)
        self._leave(key, self._existing(key))
        self._rows[key] = None

    def reread(self, session: str) -> None:
        """Replace the notification of the last change by the one that only says that a session changed."""
        assert self._notes
        self._notes[-1] = Note("reread", self._notes[-1].horizon, session=session)

    def commit(self) -> None:
        """Make everything visible at once, and queue the notifications."""
        table, memory = self._table, self._table._memory
        for key, row in self._rows.items():
            if row is None:
                memory.rows.pop(key, None)
            else:
                memory.rows[key] = row
        memory.gone |= self._gone
        self._end()
        table._notify(self._notes)

    def rollback(self) -> None:
        """Undo everything."""
        self._end()

    def _end(self) -> None:
        self._table._running.pop(self)
        self._table._locks = {key: owner for key, owner in self._table._locks.items() if owner is not self}

    def _lock(self, key: str) -> int:
        if self not in self._table._running:
            raise RuntimeError("the transaction has ended")
        if self._table._locks.setdefault(key, self) is not self:
            raise RuntimeError(f"another transaction has written the row {key!r}")
        if self.xid is None:
            self.xid = self._table._memory.next_xid
            self._table._memory.next_xid += 1
        return self.xid

    def _row(self, key: str) -> Row | None:
        return self._rows[key] if key in self._rows else self._table._memory.rows.get(key)

    def _existing(self, key: str) -> Row:
        row = self._row(key)
        if row is None:
            raise ValueError(f"no row has the key {key!r}")
        return row

    def _first_version(self, key: str, xid: int) -> int:
        """Above what the key had before, even if that was purged; the transaction id stands in for the clock."""
        remembered = {**self._table._memory.gone, **self._gone}
        return 1 + max([xid << 10, *(gone.version for (_, other), gone in remembered.items() if other == key)])

    def _put(self, key: str, row: Row) -> None:
        self._rows[key] = row
        self._tell(self._table._state(key, row))

    def _leave(self, key: str, row: Row) -> None:
        assert self.xid is not None
        gone = Gone(row.version + 1, self.xid)
        self._gone[row.session, key] = gone
        self._tell(self._table._removal(key, row.session, gone))

    def _tell(self, state: RowState) -> None:
        horizon = self._table.horizon if self._horizon is None else self._horizon
        self._notes.append(Note("state", horizon, state=state))
