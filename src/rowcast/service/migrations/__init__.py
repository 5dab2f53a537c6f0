"""Migrations of the service's database, without `alembic.ini`."""

import asyncio
import re
from importlib.resources import files
from typing import TYPE_CHECKING

from rowcast import ConfigurationError
from rowcast.postgres import connect, translated

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["is_migrated", "migrate", "newest_revisions", "print_sql"]

_REVISION = re.compile(r"^(down_)?revision = [\"'](\w+)[\"']", re.MULTILINE)


def migrate(dsn: str) -> bool:
    """Bring a database to the newest revision; say whether anything had to be done.

    Any number of processes may call this at once: one works, the others wait. Looks first, so that a start-up with
    nothing to do costs one query and no lock. Must not be called from inside an event loop.
    Raises `ConfigurationError` or `DatabaseUnavailable`.
    """
    if asyncio.run(is_migrated(dsn)):
        return False
    _upgrade(dsn)
    return True


async def is_migrated(dsn: str) -> bool:
    """Whether the database is at the newest revision. Raises `ConfigurationError` or `DatabaseUnavailable`."""
    connection = await connect(dsn, application_name="rowcast-migrate")
    try:
        with translated():
            if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
                return False
            rows = await connection.fetch("SELECT version_num FROM alembic_version")
    finally:
        await connection.close()
    return {row["version_num"] for row in rows} == newest_revisions()


def newest_revisions() -> set[str]:
    """Return the revisions that no other builds on, as alembic's `heads` does."""
    revisions: set[str] = set()
    followed: set[str] = set()
    for file in (files("rowcast.service") / "migrations" / "versions").iterdir():
        if file.name.endswith(".py"):
            for down, revision in _REVISION.findall(file.read_text(encoding="utf-8")):
                (followed if down else revisions).add(revision)
    return revisions - followed


def print_sql() -> None:
    """Print what an administrator has to run, for databases that this program may not change."""
    _upgrade("", sql=True)


def _upgrade(dsn: str, *, sql: bool = False) -> None:
    # Half a second to import, and at nearly every start there is nothing to do.
    from alembic import command  # noqa: PLC0415
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415

    try:
        command.upgrade(_config(dsn), "head", sql=sql)
    except DBAPIError as error:
        # The driver's own error comes wrapped twice; its first line says what is wrong.
        cause = str(error.orig).partition("\n")[0].rpartition(">: ")[2]
        raise ConfigurationError(f"the migration failed, and can be run again: {cause}") from error


def _config(dsn: str) -> "Config":
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(files("rowcast.service") / "migrations"))
    config.attributes["dsn"] = dsn
    return config
