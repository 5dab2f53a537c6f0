"""A database under examination: connections that end with the test, and ears that know when they heard everything."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import asyncpg

from rowcast import Metrics, Watch
from rowcast.postgres import PostgresReader

JOB = """
CREATE TYPE job_state AS ENUM ('waiting', 'running', 'done');
CREATE TABLE job (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    owner uuid NOT NULL DEFAULT gen_random_uuid(),
    state job_state NOT NULL DEFAULT 'waiting',
    result text,
    document jsonb,
    priority integer NOT NULL DEFAULT 0,
    note text,
    updated_at timestamptz NOT NULL DEFAULT now()
);
"""
JOBS = Watch(
    table="job",
    key="id",
    session="owner",
    status="state",
    terminal=("done",),
    presence=("result", "document"),
    carried=("priority",),
)


@dataclass
class Ear:
    """A connection that listens; `heard` returns what came since the last call, and nothing is under way then."""

    connection: Any
    channel: str
    payloads: list[str] = field(default_factory=list)
    fences: dict[str, "asyncio.Future[None]"] = field(default_factory=dict)

    def hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if fence := self.fences.pop(str(payload), None):
            fence.set_result(None)
        else:
            self.payloads.append(str(payload))

    async def raw(self) -> list[str]:
        """PostgreSQL delivers in the order of the queue: what was committed before the fence is here with it."""
        fence, arrived = str(uuid4()), asyncio.get_running_loop().create_future()
        self.fences[fence] = arrived
        await self.connection.execute("SELECT pg_notify($1, $2)", self.channel, fence)
        async with asyncio.timeout(20):
            await arrived
        payloads, self.payloads = self.payloads, []
        return payloads

    async def heard(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for payload in await self.raw()]


@dataclass
class Lab:
    """A database with a watched table, and connections to it that end with the test."""

    dsn: str
    watch: Watch
    main: Any = None
    opened: list[Any] = field(default_factory=list)

    async def connect(self, **settings: str) -> Any:
        connection = await asyncpg.connect(self.dsn, server_settings={"application_name": "test", **settings})
        self.opened.append(connection)
        return connection

    async def listen(self, channel: str | None = None) -> Ear:
        ear = Ear(await self.connect(), channel or self.watch.channel)
        await ear.connection.add_listener(ear.channel, ear.hear)
        return ear

    async def execute(self, statement: str, *arguments: object) -> str:
        return str(await self.main.execute(statement, *arguments))

    async def value(self, statement: str, *arguments: object) -> Any:
        return await self.main.fetchval(statement, *arguments)

    async def add(self, **columns: object) -> Any:
        """Insert a row and return its key."""
        names = ", ".join(f'"{name}"' for name in columns)
        values = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        what = f"({names}) VALUES ({values})" if columns else "DEFAULT VALUES"
        return await self.value(
            f'INSERT INTO {self.watch.table} {what} RETURNING "{self.watch.key}"', *columns.values()
        )

    async def set(self, key: object, assignments: str, *arguments: object) -> None:
        """Update one row; arguments are $2, $3, ..."""
        statement = f'UPDATE {self.watch.table} SET {assignments} WHERE "{self.watch.key}" = $1'
        assert await self.execute(statement, key, *arguments) == "UPDATE 1"

    async def row(self, key: object) -> Any:
        return await self.main.fetchrow(f'SELECT * FROM {self.watch.table} WHERE "{self.watch.key}" = $1', key)

    async def version(self, key: object) -> int:
        return int((await self.row(key))["rowcast_version"])

    async def tombstones(self, key: object) -> dict[str, int]:
        rows = await self.main.fetch(
            "SELECT session_id, version FROM rowcast.tombstone WHERE watch = $1 AND key = $2", self.watch.name, str(key)
        )
        return {row["session_id"]: row["version"] for row in rows}

    async def until_waiting(self, connection: Any) -> None:
        """Return when the backend of `connection` waits for a lock."""
        async with asyncio.timeout(20):
            while not await self.value("SELECT pg_blocking_pids($1) <> '{}'", connection.get_server_pid()):
                await asyncio.sleep(0.005)

    def reader(self, metrics: Metrics | None = None) -> PostgresReader:
        return PostgresReader(self.dsn, self.watch, metrics=metrics)


OpenLab = Callable[[str, Watch], Awaitable[Lab]]


@asynccontextmanager
async def laboratory() -> AsyncIterator[OpenLab]:
    """Open labs that end with the block."""
    opened: list[Lab] = []

    async def open_one(dsn: str, watch: Watch) -> Lab:
        lab = Lab(dsn, watch)
        opened.append(lab)
        lab.main = await lab.connect()
        return lab

    try:
        yield open_one
    finally:
        for lab in opened:
            for connection in lab.opened:
                connection.terminate()
