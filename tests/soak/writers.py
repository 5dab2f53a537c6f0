"""Writers that never rest: transactions of any length, committed or not, through everything."""

import asyncio
import random
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg

from crowd import AWAY

_FEWEST, _MOST = 4, 14
_NEXT = {"pending": ("in_progress",), "in_progress": ("done", "error"), "done": ("pending",), "error": ("pending",)}
_PSQL_SECONDS = 20.0


class Undo(Exception):
    """A transaction, or a part of it, is to be rolled back."""


class Writer:
    """Changes requests of all sessions, one transaction after the other, on a connection of its own.

    `counts` has the changes that were committed, the transactions, and those that were rolled back, refused by the
    database, or cut off so that nobody knows.
    """

    def __init__(
        self, dsn: str, sessions: list[str], *, dice: random.Random, counts: Counter[str], psql: str | None = None
    ) -> None:
        self._dsn = dsn
        self._sessions = sessions
        self._dice = dice
        self._counts = counts
        self._psql = psql
        self._connection: Any = None
        self._gone: list[tuple[str, str]] = []

    async def run(self, stopping: asyncio.Event, *, pause_seconds: float) -> None:
        """Write until told to stop, with pauses of so many seconds on average."""
        try:
            while not stopping.is_set():
                try:
                    await self._write_once()
                except Undo:
                    self._counts["rolled back"] += 1
                except AWAY as error:
                    self._counts["cut off" if _is_cut_off(error) else "refused"] += 1
                    self._drop_connection()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), self._dice.expovariate(1 / pause_seconds))
        finally:
            self._drop_connection()

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _write_once(self) -> None:
        if self._connection is None:
            self._connection = await asyncpg.connect(self._dsn, timeout=5)
        if self._psql is not None and self._dice.random() < 0.25:
            changed = await self._write_by_psql(self._psql)
        else:
            changed = await self._write_transaction()
        self._counts["committed"] += 1
        self._counts["changes"] += changed

    async def _write_transaction(self) -> int:
        dice = self._dice
        holds_open = dice.random() < 0.06
        isolation = "repeatable_read" if dice.random() < 0.1 else "read_committed"
        changed = 0
        async with self._connection.transaction(isolation=isolation):
            await self._connection.execute("SET LOCAL lock_timeout = '2s'; SET LOCAL rowcast.retry = 'on'")
            for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 5))):
                changed += await self._take_step()
                if holds_open:
                    await asyncio.sleep(dice.uniform(0, 2.5))
            if dice.random() < 0.08:
                raise Undo
        return changed

    async def _take_step(self) -> int:
        """Take one step, or take it and then back again, by savepoint."""
        if self._dice.random() > 0.1:
            return await self._step()
        with suppress(Undo):
            async with self._connection.transaction():
                await self._step()
                raise Undo
        return 0

    async def _step(self) -> int:
        """Change something of one session; return how many rows that were."""
        session = self._dice.choice(self._sessions)
        rows = await self._connection.fetch(
            "SELECT request_id::text AS id, status::text FROM request WHERE session_id = $1::text::uuid ORDER BY 1",
            session,
        )
        if len(rows) < _FEWEST:
            return await self._insert(session, None)
        row = self._dice.choice(rows)
        (step,) = self._dice.choices(_STEPS, _WEIGHTS)
        if step is Writer._insert and len(rows) > _MOST:
            step = Writer._delete
        return await step(self, session, row)

    async def _execute(self, statement: str, *arguments: object) -> int:
        return int((await self._connection.execute(statement, *arguments)).rpartition(" ")[2])

    async def _respond(self, session: str, row: Any) -> int:
        # Every other time there is a response already, or none still, and only its content is another.
        text = self._dice.choice((None, "", "📦" * self._dice.randint(1, 50), str(self._dice.random())))
        column = self._dice.choice(("response", "response", "error"))
        return await self._execute(
            f"UPDATE request SET {column} = $2 WHERE request_id = $1::text::uuid", row["id"], text
        )

    async def _move_on(self, session: str, row: Any) -> int:
        status = self._dice.choice(_NEXT[row["status"]])
        # Somebody else may have been faster.
        return await self._execute(
            """UPDATE request SET status = $3::text::request_status
                WHERE request_id = $1::text::uuid AND status = $2::text::request_status""",
            row["id"], row["status"], status,
        )  # fmt: skip

    async def _rate(self, session: str, row: Any) -> int:
        """A change that nobody watches."""
        rating = self._dice.randint(-1, 5)
        await self._execute("UPDATE request SET rating = $2 WHERE request_id = $1::text::uuid", row["id"], rating)
        return 0

    async def _answer_all(self, session: str, row: Any) -> int:
        return await self._execute(
            "UPDATE request SET response = $2 WHERE session_id = $1::text::uuid", session, str(self._dice.random())
        )

    async def _insert(self, session: str, row: Any) -> int:
        return await self._execute("INSERT INTO request (session_id, request) VALUES ($1::text::uuid, 'x')", session)

    async def _delete(self, session: str, row: Any) -> int:
        self._gone = [*self._gone[-20:], (row["id"], session)]
        return await self._execute("DELETE FROM request WHERE request_id = $1::text::uuid", row["id"])

    async def _bring_back(self, session: str, row: Any) -> int:
        """Give a key that went a new row, in its old session or in another; it may not be gone after all."""
        if not self._gone:
            return 0
        key, its_session = self._dice.choice(self._gone)
        return await self._execute(
            """INSERT INTO request (request_id, session_id, request) VALUES ($1::text::uuid, $2::text::uuid, 'x')
                ON CONFLICT (request_id) DO NOTHING""",
            key, self._dice.choice((session, its_session)),
        )  # fmt: skip

    async def _move_away(self, session: str, row: Any) -> int:
        target = self._dice.choice(self._sessions)
        return await self._execute(
            """WITH target AS (
                UPDATE session SET last_sequence_number = last_sequence_number + 1
                WHERE session_id = $2::text::uuid RETURNING last_sequence_number
            )
            UPDATE request SET session_id = $2::text::uuid, sequence_number = target.last_sequence_number
            FROM target WHERE request_id = $1::text::uuid""",
            row["id"], target,
        )  # fmt: skip

    async def _write_by_psql(self, psql: str) -> int:
        """The same from another language, in a process of its own, with a part that is taken back."""
        session, number = self._dice.choice(self._sessions), self._dice.random()
        rows = f"request WHERE session_id = '{session}' ORDER BY request_id LIMIT 1"
        script = f"""
            BEGIN; SET LOCAL lock_timeout = '2s';
            UPDATE request SET response = '{number}' WHERE request_id = (SELECT request_id FROM {rows});
            SAVEPOINT before; DELETE FROM request WHERE session_id = '{session}'; ROLLBACK TO before;
            INSERT INTO request (session_id, request) VALUES ('{session}', 'by psql');
            DELETE FROM request WHERE request_id = (SELECT request_id FROM {rows}); COMMIT;"""
        process = await asyncio.create_subprocess_exec(
            psql, "-qX", "-v", "ON_ERROR_STOP=1", "-c", "SELECT 1", "-f", "-", self._dsn,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_PSQL_SECONDS):
                await process.communicate(script.encode())
        except BaseException:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            raise asyncpg.InterfaceError("psql failed")
        return 3


def _is_cut_off(error: BaseException) -> bool:
    """Whether the connection went, so that nobody knows whether the transaction was committed."""
    return not isinstance(error, asyncpg.PostgresError) or isinstance(
        error, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError
    )


Step = Callable[[Writer, str, Any], Awaitable[int]]
_STEPS_AND_WEIGHTS: dict[Step, int] = {
    Writer._respond: 40, Writer._move_on: 25, Writer._insert: 11, Writer._delete: 5, Writer._bring_back: 3,
    Writer._move_away: 5, Writer._rate: 6, Writer._answer_all: 2,
}  # fmt: skip
_STEPS, _WEIGHTS = tuple(_STEPS_AND_WEIGHTS), tuple(_STEPS_AND_WEIGHTS.values())
