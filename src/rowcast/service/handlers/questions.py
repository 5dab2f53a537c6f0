"""The handler `questions`: answers a question of the catalogue from the demo data.

It runs the SQL of the question, never that of a user, in a read-only transaction, as a role that may read the demo data
and nothing else, within limits of time, rows and bytes.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from functools import cache
from importlib.resources import files
from math import isfinite
from time import perf_counter
from typing import Any

from rowcast import DatabaseUnavailable
from rowcast.service.handlers import Answer, Connection, HandlerError, Job, QueryRecord, Statement
from rowcast.service.handlers.asking import read_request
from rowcast.service.handlers.catalogue import load_catalogue
from rowcast.service.handlers.question import Asked, plain

__all__ = ["Limits", "answer_question", "ask", "confine", "list_questions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one question may take.

    `response_bytes` bounds the whole answer as JSON in UTF-8.
    """

    rows: int = 5_000
    response_bytes: int = 1_048_576
    statement_timeout_ms: int = 30_000
    lock_timeout_ms: int = 2_000
    idle_timeout_ms: int = 10_000


DEFAULT_LIMITS = Limits()
ROWS_PER_FETCH = 500  # neither memory nor the event loop gets more at a time
TAIL_BYTES = 128  # kept free for what follows the rows

NOT_INSTALLED = "The demo data is not installed: run `rowcast demo-data`."
NOT_PERMITTED = "The demo data may not be read: run `rowcast demo-data` again, as the role that the worker connects as."

# What the user reads, by SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html). Before the question
# runs, an error can only mean that the role is missing, or that the worker is no member of it.
_HINTS_BEFORE = {"22023": NOT_INSTALLED, "42704": NOT_INSTALLED, "42501": NOT_PERMITTED}
_HINTS = {
    "3F000": NOT_INSTALLED,
    "42P01": NOT_INSTALLED,
    "42501": NOT_PERMITTED,
    "22012": "The question divided by zero.",
    "40001": "The question collided with another transaction. Ask again.",
    "40P01": "The question collided with another transaction. Ask again.",
    "53100": "The database has no room left to sort the rows. Ask for less.",
    "53200": "The database has no memory left. Ask for less, or later.",
    "53400": "The question needs more of the database than it grants. Ask for less.",
    "55P03": "The demo data is locked, perhaps because it is being installed. Ask again.",
    "57014": "The question was cancelled in the database. Ask again.",
}

_CONNECTION_LOST = {"57P01", "57P02", "57P03", "57P05", "25P03"}

# asyncpg names types as the catalogue pg_type does.
_TYPE_NAMES = {
    "bool": "boolean",
    "float4": "real",
    "float8": "double precision",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "timestamptz": "timestamp with time zone",
    "varchar": "character varying",
}


def list_questions() -> list[dict[str, Any]]:
    """List the catalogue as `GET /api/questions` returns it."""
    return [question.describe() for question in load_catalogue().values()]


async def answer_question(job: Job) -> Answer:
    """Answer a request that names a question of the catalogue.

    Raises `HandlerError` with a hint for the user if the request names no question, gives a parameter that is not
    acceptable, or the question fails; `DatabaseUnavailable` if the connection is lost meanwhile.
    """
    asked = read_request(job.text, load_catalogue())
    async with job.connect() as connection:
        return await ask(connection, asked)


async def ask(connection: Connection, asked: Asked, *, limits: Limits = DEFAULT_LIMITS) -> Answer:
    """Run a question on a connection that is in no transaction, and leave none behind.

    Cancelling the task cancels the query in the database too.

    Raises as `answer_question` does; an error of the database comes with the record of its query.
    """
    question = asked.question
    hints: Mapping[str, str] = _HINTS_BEFORE
    columns: tuple[Mapping[str, str], ...] = ()
    began = perf_counter()
    try:
        # The database bounds each fetch, this bounds their sum.
        async with asyncio.timeout(limits.statement_timeout_ms / 1000 + 1), connection.transaction(readonly=True):
            await confine(connection, limits)
            hints = {**_HINTS, **question.hints}
            statement = await connection.prepare(question.sql)
            columns = _columns(statement)
            head = _encode(
                {
                    "title": question.title,
                    "question": question.name,
                    "parameters": {name: plain(value) for name, value in asked.arguments.items()},
                    "columns": columns,
                }
            )
            budget = limits.response_bytes - len(head.encode()) - TAIL_BYTES
            rows, truncated = await _read_rows(statement, asked, most_rows=limits.rows, most_bytes=budget)
    except Exception as error:
        duration_ms = _milliseconds_since(began)
        sqlstate = _sqlstate(error)
        if sqlstate is None:
            raise
        if sqlstate.startswith("08") or sqlstate in _CONNECTION_LOST:
            raise DatabaseUnavailable from error
        if sqlstate == "57014" and duration_ms >= limits.statement_timeout_ms:
            hint = (
                f"The question took longer than {limits.statement_timeout_ms / 1000:g} s and was stopped. Ask for less."
            )
        else:
            hint = hints.get(sqlstate, f"The question failed in the database (SQLSTATE {sqlstate}).")
        failed = QueryRecord(sql=question.sql, columns=columns, summary="failed", duration_ms=duration_ms, error=hint)
        raise HandlerError(hint, queries=(failed,)) from error
    duration_ms = _milliseconds_since(began)
    tail = _encode({"row_count": len(rows), "truncated": truncated, "duration_ms": duration_ms})
    count = f"{'first ' if truncated else ''}{len(rows):,} {'row' if len(rows) == 1 else 'rows'}"
    return Answer(
        response=f'{head[:-1]},"rows":[{",".join(rows)}],{tail[1:]}',
        queries=(
            QueryRecord(
                sql=question.sql,
                columns=columns,
                row_count=len(rows),
                summary=f"{count} in {duration_ms:,} ms",
                duration_ms=duration_ms,
            ),
        ),
    )


async def confine(connection: Connection, limits: Limits) -> None:
    """Confine the transaction that is open on a connection: what it may see, and for how long."""
    timeouts = (limits.statement_timeout_ms, limits.lock_timeout_ms, limits.idle_timeout_ms)
    await connection.fetch(_confinement(), *(str(timeout_ms) for timeout_ms in timeouts))


@cache
def _confinement() -> str:
    return files(__package__).joinpath("confine.sql").read_text(encoding="utf-8")


async def _read_rows(statement: Statement, asked: Asked, *, most_rows: int, most_bytes: int) -> tuple[list[str], bool]:
    """Read rows as JSON until the result or a limit ends; say whether a limit did."""
    cursor = await statement.cursor(*asked.arguments.values())
    encoded: list[str] = []
    size = 0
    while rows := await cursor.fetch(ROWS_PER_FETCH):
        for row in rows:
            line = _encode([_json_value(value) for value in row.values()])
            size += len(line.encode()) + 1
            if len(encoded) == most_rows or size > most_bytes:
                return encoded, True
            encoded.append(line)
    return encoded, False


def _columns(statement: Statement) -> tuple[Mapping[str, str], ...]:
    """Name the columns of a result and their types, the types as SQL spells them."""
    return tuple(
        {"name": column.name, "type": _TYPE_NAMES.get(column.type.name, column.type.name)}
        for column in statement.get_attributes()
    )


def _json_value(value: object) -> Any:
    """Turn a value from the database into what JSON has, losing nothing.

    A number that a JavaScript number cannot hold exactly becomes a string.
    """
    match value:
        case None | bool() | str():
            return value
        case int() | float() | Decimal():
            return _json_number(value)
        case date() | time():
            return value.isoformat()
        case list():
            return [_json_value(element) for element in value]
        case _:
            return str(value)


def _json_number(value: float | Decimal) -> int | float | str:
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    number = float(value)
    # repr() writes the shortest text that means this double, so equality says that no digit was lost.
    if not isfinite(number) or (isinstance(value, Decimal) and Decimal(repr(number)) != value):
        return str(value)
    return int(number) if isinstance(value, Decimal) and number.is_integer() else number


def _encode(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _milliseconds_since(began: float) -> int:
    return round((perf_counter() - began) * 1000)


def _sqlstate(error: BaseException | None) -> str | None:
    """Find the SQLSTATE of what the database reported, if it was the database.

    When the connection is lost, the rollback fails too; what came first tells why.
    """
    while error is not None:
        if isinstance(error, TimeoutError):
            return "57014"
        if isinstance(sqlstate := getattr(error, "sqlstate", None), str):
            return sqlstate
        error = error.__context__
    return None
