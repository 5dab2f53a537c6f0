"""Migrations of the service's database, without `alembic.ini`."""

import asyncio
from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from rowcast.postgres import connect

__all__ = ["is_migrated", "migrate", "print_sql"]


def migrate(dsn: str) -> bool:
    """Bring a database to the newest revision; say whether anything had to be done.

    Any number of processes may call this at once: one works, the others wait. Looks first, so that a start-up with
    nothing to do costs one query and no lock. Must not be called from inside an event loop.
    """
    if asyncio.run(is_migrated(dsn)):
        return False
    command.upgrade(_config(dsn), "head")
    return True


async def is_migrated(dsn: str) -> bool:
    """Whether the database is at the newest revision."""
    connection = await connect(dsn, application_name="rowcast-migrate")
    try:
        if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
            return False
        revisions = {row["version_num"] for row in await connection.fetch("SELECT version_num FROM alembic_version")}
    finally:
        await connection.close()
    return revisions == set(ScriptDirectory.from_config(_config(dsn)).get_heads())


def print_sql() -> None:
    """Print what an administrator has to run, for databases that this program may not change."""
    command.upgrade(_config(""), "head", sql=True)


def _config(dsn: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("rowcast.service") / "migrations"))
    config.attributes["dsn"] = dsn
    return config
