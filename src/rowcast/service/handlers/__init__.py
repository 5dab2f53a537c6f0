"""What a handler is given and what it returns.

A handler is an async function `(job: Job) -> Answer`, published under the entry-point group `rowcast.handlers`.
The worker runs it, writes its answer to the request's row, and the trigger tells the browsers.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from rowcast import RowcastError

__all__ = ["Answer", "Connection", "Handler", "HandlerError", "Job", "QueryRecord"]


class Row(Protocol):
    """One row of a result; values by name, or all in order."""

    def __getitem__(self, column: str, /) -> Any: ...

    def values(self) -> Iterable[Any]: ...


class ColumnType(Protocol):
    """The PostgreSQL type of a column."""

    @property
    def name(self) -> str: ...


class Column(Protocol):
    """One column of a result."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> ColumnType: ...


class Cursor(Protocol):
    """An open result, read piece by piece."""

    async def fetch(self, n: int, /) -> Sequence[Row]: ...


class Statement(Protocol):
    """A prepared statement: its columns are known before it runs."""

    def get_attributes(self) -> Sequence[Column]: ...

    def cursor(self, *args: object) -> Awaitable[Cursor]: ...


class Connection(Protocol):
    """The part of an asyncpg connection that handlers use; a real one is what they get."""

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str: ...  # noqa: ASYNC109

    async def fetch(self, query: str, *args: object, timeout: float | None = None) -> Sequence[Row]: ...  # noqa: ASYNC109

    async def prepare(self, query: str) -> Statement: ...

    def transaction(self, *, readonly: bool = False) -> AbstractAsyncContextManager[object]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request to answer.

    `connect` opens a connection to the application's database for the time of an `async with`.
    """

    request_id: UUID
    session_id: UUID
    text: str
    connect: Callable[[], AbstractAsyncContextManager[Connection]]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRecord:
    """Metadata of a query that a handler ran, kept in the table `query`.

    `columns` are `{"name", "type"}` pairs in order; `duration_ms` is the time the database took.
    """

    sql: str
    columns: tuple[Mapping[str, str], ...] = ()
    row_count: int | None = None
    summary: str = ""
    duration_ms: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a handler made of a request: the text of the response, and the queries it ran."""

    response: str
    queries: tuple[QueryRecord, ...] = field(default=())


class HandlerError(RowcastError):
    """The request cannot be answered.

    The text is shown to the user who asked, so it must name the cure and nothing internal.
    """

    def __init__(self, message: str | None = None, *, queries: tuple[QueryRecord, ...] = ()) -> None:
        super().__init__(message)
        self.queries = queries


Handler = Callable[[Job], Awaitable[Answer]]
