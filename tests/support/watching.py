"""The Python client at work: it follows in the background, and what it holds is compared with what the table holds."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from rowcast.client import Change, FetchToken, Live, Token, Transport, watch
from rowcast.http import GuestTokens

OWNER = "guest|follower"


@dataclass
class Table:
    """The table, changed as any process changes it."""

    connection: "asyncpg.Connection[asyncpg.Record]"
    session: uuid.UUID

    async def add(self) -> uuid.UUID:
        key: uuid.UUID = await self.connection.fetchval(
            "INSERT INTO request (session_id, request) VALUES ($1, 'x') RETURNING request_id", self.session
        )
        return key

    async def set(self, key: uuid.UUID, status: str) -> None:
        await self.connection.execute(
            "UPDATE request SET status = $2::text::request_status WHERE request_id = $1", key, status
        )

    async def remove(self, key: uuid.UUID) -> None:
        await self.connection.execute("DELETE FROM request WHERE request_id = $1", key)

    async def write(self, number: int, *keys: uuid.UUID) -> None:
        """Change rows one after the other, `number` times, each in a transaction of its own."""
        for turn in range(number):
            await self.connection.execute(
                "UPDATE request SET response = $2 WHERE request_id = $1", keys[turn % len(keys)], uuid.uuid4().hex
            )

    async def rows(self) -> dict[str, tuple[str, int]]:
        rows = await self.connection.fetch(
            "SELECT request_id::text, status::text, rowcast_version FROM request WHERE session_id = $1", self.session
        )
        return {row[0]: (row[1], row[2]) for row in rows}


@asynccontextmanager
async def table_of(dsn: str) -> AsyncIterator[Table]:
    connection = await asyncpg.connect(dsn)
    try:
        session = await connection.fetchval("INSERT INTO session (user_owner) VALUES ($1) RETURNING session_id", OWNER)
        yield Table(connection, session)
    finally:
        await connection.close()


@dataclass
class Watcher:
    """A client that follows in the background, and what it was told."""

    live: Live
    changes: list[Change] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)
    told_at: list[float] = field(default_factory=list)
    epochs: list[str] = field(default_factory=list)
    task: "asyncio.Task[None] | None" = None

    async def run(self) -> None:
        async for change in self.live:
            self.changes.append(change)
            if change.removed:
                del self.told[change.row["request_id"]]
            else:
                self.told[change.row["request_id"]] = change.row
            self.told_at.append(time.monotonic())
            self.epochs.append(self.live.epoch)

    def check_task(self) -> None:
        """Raise what ended the client, if anything has."""
        if self.task is not None and self.task.done():
            self.task.result()

    def check_versions(self) -> None:
        """No row was told twice, or in an older state than before."""
        newest: dict[tuple[str, str], int] = {}
        for change, epoch in zip(self.changes, self.epochs, strict=True):
            key, version = (epoch, change.row["request_id"]), change.row["version"]
            # A snapshot that does not name a row removes it without another version.
            assert version > newest.get(key, 0) or (change.removed and version == newest[key]), (key, version, newest)
            newest[key] = version

    def rows(self) -> dict[str, tuple[str, int]]:
        """What the changes that were told make; in the end that is what the client holds."""
        return {key: (row["status"], row["version"]) for key, row in self.told.items()}

    def is_told(self) -> bool:
        """Whether every change that the client knows of was told."""
        return self.told == dict(self.live.rows)


async def becomes(is_true: Callable[[], object], *, what: Callable[[], str] | str, within: float = 30) -> float:
    """Wait for a fact, which may have to be awaited itself; return how long that took."""
    began = time.monotonic()
    while True:
        fact = is_true()
        if await fact if isinstance(fact, Awaitable) else fact:
            return time.monotonic() - began
        said = what if isinstance(what, str) else what()
        assert time.monotonic() - began < within, f"waited {within} s in vain until {said}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def following(
    url: str, session: object, token: str | FetchToken | Token, transport: Transport = "auto"
) -> AsyncIterator[Watcher]:
    """Follow a session in the background for the length of the block; versions may only grow."""
    said: list[tuple[str, str]] = []
    async with watch(
        url,
        str(session),
        token=token,
        transport=transport,
        on_status=lambda live: said.append((live.status, live.reason)),
    ) as live:
        watcher = Watcher(live, said=said)
        watcher.task = asyncio.create_task(watcher.run())
        try:
            yield watcher
        finally:
            watcher.task.cancel()
            with suppress(asyncio.CancelledError):
                await watcher.task
        watcher.check_versions()


def token_of(server: Any) -> str:
    """Return a token of the one who owns all sessions here."""
    return GuestTokens(server.signing_key).issue_for(OWNER.partition("|")[2])[0]


async def converges(watcher: Watcher, table: Table, *, within: float = 30) -> float:
    """Wait until the client holds what the table holds; return how long that took."""

    async def is_equal() -> bool:
        watcher.check_task()
        return watcher.is_told() and watcher.rows() == await table.rows()

    try:
        return await becomes(is_equal, what="the client holds what the table holds", within=within)
    except AssertionError as error:
        raise AssertionError(f"{error}: {watcher.rows()} is not {await table.rows()}; {watcher.said[-20:]}") from None


async def settles(watcher: Watcher, *status: str, within: float = 30) -> float:
    """Wait until the client follows, or has one of these statuses; return how long that took."""
    wanted = status or ("live", "polling")

    def is_settled() -> bool:
        watcher.check_task()
        return watcher.live.status in wanted and watcher.is_told()

    return await becomes(is_settled, what=lambda: f"the client is {wanted}: {watcher.said}", within=within)


async def reconnects(watcher: Watcher, *, more_than: int = 0, within: float = 30) -> float:
    """Wait until the client has lost more streams than this, and is live again."""
    return await becomes(
        lambda: watcher.live.reconnects > more_than and watcher.live.status == "live",
        what="the client is live again",
        within=within,
    )
