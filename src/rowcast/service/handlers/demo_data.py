"""The demo data: installing it and its role, and removing them.

Several processes may install at once, in one database or in several of a cluster: it happens once, the others wait.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files

from rowcast import ConfigurationError

from . import Connection, Row

__all__ = ["install_demo_data", "remove_demo_data"]

MARK = "Rowcast demo data, version "
MARKER = f"{MARK}1"  # as demo_data.sql writes it when everything is there
TABLES = 6

# SQLSTATEs. The role is a duplicate, or undefined, when another database creates or drops it at the same moment.
INSUFFICIENT_PRIVILEGE = "42501"
COLLISIONS = {"42710", "23505", "42704"}
ATTEMPTS = 5

FOREIGN_SCHEMA = (
    "This database has a schema demo that is not Rowcast's. It was left alone; the demo data needs that name."
)
STRONG_ROLE = (
    "The role rowcast_questions may log in, belongs to other roles or has attributes such as SUPERUSER. "
    "Questions run as this role: take those rights away, or drop it and let `rowcast demo-data` create it."
)
NOT_ALLOWED = (
    "The database does not let this role install or remove the demo data. Run `rowcast demo-data` as an administrator "
    "and then `GRANT rowcast_questions TO` the role of the worker; or let an administrator run `CREATE ROLE "
    "rowcast_questions NOLOGIN; GRANT rowcast_questions TO ...; GRANT CREATE ON DATABASE ... TO ...` for this role."
)


async def install_demo_data(connection: Connection) -> bool:
    """Install the demo data and the role that questions run as, and let the current role act as it.

    Does nothing if all of it is there; replaces another version. One transaction, about two seconds.

    Returns whether anything had to be done.
    Raises `ConfigurationError` if the schema `demo` belongs to somebody else, or the current role lacks a right.
    """
    with _rights_explained():
        for _ in range(ATTEMPTS - 1):
            try:
                return await _install(connection)
            except Exception as error:
                if getattr(error, "sqlstate", None) not in COLLISIONS:
                    raise
        return await _install(connection)


async def _install(connection: Connection) -> bool:
    async with connection.transaction():
        state = await _lock_and_look(connection)
        complete = state["marker"] == MARKER and state["tables"] == TABLES
        if complete and state["role_may_read"] and state["role_may_be_set"]:
            return False
        await connection.execute(_sql("demo_role"))  # first: a collision costs no work yet
        if not complete:
            await connection.execute("drop schema if exists demo cascade")
            await connection.execute(_sql("demo_data"))
        await connection.execute(_sql("demo_grants"))
    return True


async def remove_demo_data(connection: Connection) -> bool:
    """Remove the demo data, and the role unless another database of the cluster uses it.

    Returns whether there was anything to remove.
    Raises `ConfigurationError` if the schema `demo` belongs to somebody else, or the current role lacks a right.
    """
    with _rights_explained():
        async with connection.transaction():
            state = await _lock_and_look(connection)
            if not state["schema_exists"]:
                return False
            await connection.execute("drop schema demo cascade")
            await connection.execute(_sql("demo_role_drop"))
    return True


async def _lock_and_look(connection: Connection) -> Row:
    """Wait for anybody else who installs or removes, then say what there is.

    Raises `ConfigurationError` if what there is must not be touched.
    """
    await connection.execute(_sql("demo_lock"))
    (state,) = await connection.fetch(_sql("demo_state"))
    if state["schema_exists"] and not (state["marker"] or "").startswith(MARK):
        raise ConfigurationError(FOREIGN_SCHEMA)
    if state["role_may_too_much"]:
        raise ConfigurationError(STRONG_ROLE)
    return state


def _sql(name: str) -> str:
    return files(__package__).joinpath(f"{name}.sql").read_text(encoding="utf-8")


@contextmanager
def _rights_explained() -> Iterator[None]:
    """Turn a missing right into a `ConfigurationError` that names the cure."""
    try:
        yield
    except Exception as error:
        if getattr(error, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
            raise
        raise ConfigurationError(NOT_ALLOWED) from error
