"""Whether changes can be heard of at all: this is the primary, and every trigger of the watch is in its place."""

from typing import TYPE_CHECKING

from rowcast.errors import ConfigurationError, DatabaseUnavailable, ReadOnlyDatabase, RowcastError
from rowcast.postgres.connection import translated
from rowcast.postgres.statements import load, values_of
from rowcast.watch import Watch

if TYPE_CHECKING:
    import asyncpg

    from rowcast.postgres.connection import Connection

__all__ = ["Health", "diagnose"]


class Health:
    """What one process has seen of the triggers, from one check to the next.

    Changes that were made while a trigger was away carry no new version and no transaction, so no catch-up finds them.
    When the triggers are back, the epoch that was begun before is therefore ended, and every client starts over.
    """

    def __init__(self, watch: Watch) -> None:
        self._sql = load("health.sql", values_of(watch))
        self._marks: str | None = None
        self._epoch: str | None = None
        self._doubted: str | None = None

    async def check(self, connection: "Connection") -> None:
        """Return if every change is notified and every change since the last check was.

        Raises `ReadOnlyDatabase` on a standby, `ConfigurationError` while a trigger is missing, and once, after they
        were replaced between two checks, `DatabaseUnavailable`: the source has to be taken up anew.
        """
        with translated():
            found = await connection.fetchrow(self._sql["triggers"])
        assert found is not None
        if found["standby"]:
            raise ReadOnlyDatabase
        if found["missing"]:
            self._doubted, self._marks = self._epoch or found["epoch"], None
            raise _missing(found)
        replaced = self._marks is not None and found["marks"] != self._marks
        if replaced:
            self._doubted = self._epoch
        if self._doubted is not None:
            # Other processes have seen the same; the first of them ends it, and an installation does so by itself.
            with translated():
                await connection.execute(self._sql["end_epoch"], self._doubted)
            self._doubted = None
        self._marks, self._epoch = found["marks"], found["epoch"]
        if replaced:
            raise DatabaseUnavailable("the triggers were replaced")


async def diagnose(connection: "Connection | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]", watch: Watch) -> str:
    """Say why changes of `watch` cannot be heard of on this database; the empty string if they can."""
    try:
        with translated():
            found = await connection.fetchrow(load("health.sql", values_of(watch))["triggers"])
    except RowcastError as error:
        return str(error)
    assert found is not None
    if found["standby"]:
        return str(ReadOnlyDatabase())
    return str(_missing(found)) if found["missing"] else ""


def _missing(found: "asyncpg.Record") -> ConfigurationError:
    return ConfigurationError(f"trigger missing ({', '.join(found['missing'])}); run `rowcast migrate`")
