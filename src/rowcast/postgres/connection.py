"""Connections to PostgreSQL: the DSN as people write it, names that `pg_stat_activity` shows, and clear refusals."""

import re
import shlex
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import asyncpg

from rowcast.errors import ConfigurationError, DatabaseUnavailable

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

__all__ = ["OLDEST_POSTGRES", "connect", "create_pool", "is_direct", "normalise_dsn", "translated"]

OLDEST_POSTGRES = 14
_DRIVER = re.compile(r"postgres(?:ql)?(?:\+\w+)?://")
_PORT = re.compile(r":([^:,\]]+)(?:,|$)")
_UNREADABLE = (
    "the DSN cannot be read; write it as postgresql://user:password@host:5432/name, "
    "with %-escapes for any of :/?#[]@ in the password"
)


def normalise_dsn(dsn: str) -> str:
    """Return `dsn` as the URI that asyncpg reads.

    Accepts libpq URIs, the URLs of SQLAlchemy (`postgresql+asyncpg://`), and libpq's `key=value` form.
    Raises `ConfigurationError` for anything else; the message never repeats the DSN, which may hold a password.
    """
    text = dsn.strip()
    if match := _DRIVER.match(text):
        return _checked("postgresql://" + text[match.end() :])
    if "://" not in text and "=" in text:
        try:
            pairs = dict(part.split("=", 1) for part in shlex.split(text))
        except ValueError:
            raise ConfigurationError(_UNREADABLE) from None
        return _checked(_uri(pairs))
    raise ConfigurationError(_UNREADABLE)


def _checked(uri: str) -> str:
    """Return `uri` if it can be taken apart; asyncpg would say what it stumbled over, which may be the password."""
    try:
        parts = urlsplit(uri)
        listed = ",".join(parse_qs(parts.query).get("port", [])).split(",")
        ports = [int(port) for port in (*_PORT.findall(parts.netloc.rpartition("@")[2]), *listed) if port]
    except ValueError:
        raise ConfigurationError(_UNREADABLE) from None
    if not all(0 < port < 65536 for port in ports):
        raise ConfigurationError(_UNREADABLE)
    return uri


def _uri(pairs: Mapping[str, str]) -> str:
    rest = dict(pairs)
    user, password = rest.pop("user", ""), rest.pop("password", "")
    database = rest.pop("dbname", "")
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    return f"postgresql://{login}{'@' if login else ''}/{quote(database, safe='')}?{urlencode(rest)}"


async def connect(dsn: str, *, application_name: str, timeout_seconds: float = 10) -> "Connection":
    """Open one connection. Raises `DatabaseUnavailable` or `ConfigurationError`, each with its cure."""
    with translated():
        connection = await _Opening()(
            normalise_dsn(dsn), timeout=timeout_seconds, server_settings={"application_name": application_name}
        )
    _keep_alive(connection)
    return connection


async def create_pool(
    dsn: str, *, application_name: str, max_size: int, command_timeout_seconds: float | None = 30
) -> "Pool":
    """Return a pool that opens its first connection when it is first used: a server starts without a database."""
    return await asyncpg.create_pool(
        normalise_dsn(dsn),
        connect=_Opening(),
        min_size=0,
        max_size=max_size,
        timeout=10,
        command_timeout=command_timeout_seconds,
        max_inactive_connection_lifetime=60,
        server_settings={"application_name": application_name},
    )


class _Opening:
    """Opens connections as asyncpg does, but without prepared statements where a pooler is in between.

    A pooler in transaction mode lends a server process for one transaction. A statement prepared in it is not there
    the next time, or is there already, prepared by somebody else. Elsewhere they are kept: a read takes a quarter of
    the time then.
    """

    def __init__(self) -> None:
        self._is_direct = True

    async def __call__(self, *arguments: Any, **options: Any) -> "Connection":
        if self._is_direct:
            connection: Connection = await asyncpg.connect(*arguments, **options)
            if (found := connection.get_server_version().major) < OLDEST_POSTGRES:
                connection.terminate()
                raise ConfigurationError(f"PostgreSQL {found} is too old: {OLDEST_POSTGRES} or newer is needed")
            if await is_direct(connection):
                return connection
            connection.terminate()
            self._is_direct = False
        return await asyncpg.connect(*arguments, **options, statement_cache_size=0)


async def is_direct(connection: "Connection") -> bool:
    """Say whether a server process is this connection's alone: a pooler tells its clients a process id of its own."""
    told = connection.get_server_pid()
    # Without arguments nothing is prepared, and what is returned is only how many rows there were.
    return await connection.execute(f"SELECT FROM pg_backend_pid() AS pid WHERE pid = {told:d}") == "SELECT 1"


@contextmanager
def translated() -> Iterator[None]:
    """Turn what asyncpg and the sockets raise into Rowcast's own exceptions, with the cure in the message."""
    try:
        yield
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise ConfigurationError(f"PostgreSQL refused the login: {error}") from error
    except asyncpg.InvalidCatalogNameError as error:
        raise ConfigurationError(f"{error}; create it with createdb, or correct the DSN") from error
    except (
        asyncpg.UndefinedTableError,
        asyncpg.UndefinedFunctionError,
        asyncpg.UndefinedColumnError,
        asyncpg.InvalidSchemaNameError,
    ) as error:
        raise ConfigurationError(f"the database is not migrated ({error}); run `rowcast migrate`") from error
    except asyncpg.ClientConfigurationError as error:
        raise ConfigurationError(f"the DSN cannot be used: {error}") from error
    except asyncpg.ReadOnlySQLTransactionError as error:
        raise DatabaseUnavailable(f"the database takes no writes: {error}") from error
    except (
        OSError,
        TimeoutError,
        asyncpg.PostgresConnectionError,
        asyncpg.InterfaceError,
        asyncpg.OperatorInterventionError,
        asyncpg.InsufficientResourcesError,
        asyncpg.PostgresSystemError,
        asyncpg.ObjectNotInPrerequisiteStateError,  # the database lets nobody in while it is replaced
        asyncpg.InvalidCachedStatementError,  # a migration ran meanwhile
        asyncpg.InternalClientError,  # what asyncpg says between the server's last word and the end of the connection
    ) as error:
        raise DatabaseUnavailable(f"PostgreSQL cannot be reached: {str(error) or type(error).__name__}") from error


def _keep_alive(connection: "Connection") -> None:
    """Let the kernel notice a peer that vanished: asyncpg has no option for it."""
    transport: Any = getattr(connection, "_transport", None)
    link = transport.get_extra_info("socket") if transport is not None else None
    if link is None or link.family not in (socket.AF_INET, socket.AF_INET6):
        return
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
