"""What a database looks like to pg_dump, and migrations run as an administrator runs them."""

import os
import subprocess
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config

from rowcast.postgres.embedded import find_binaries

ROOT = Path(__file__).parents[2]
VOLATILE = ("--", "\\restrict", "\\unrestrict")
FIRST, NOTIFY, OWNER, ROLLOUT = "c3a1d0f4b2e7", "b725927e9e64", "e41c7a90d2b6", "f3b8d5a17c42"

ROWCAST = [sys.executable, "-m", "rowcast.cli"]
ALEMBIC = [sys.executable, "-m", "alembic"]


def program(name: str) -> str:
    """A client program of the PostgreSQL that is tested."""
    return str(find_binaries(origin=os.environ.get("TEST_POSTGRES") or None).directory / name)  # type: ignore[arg-type]


def dump(dsn: str) -> list[str]:
    """The schema as pg_dump writes it, without comments and without Alembic's own table."""
    writing = [program("pg_dump"), "--schema-only", "--exclude-table=alembic_version", dsn]
    text = subprocess.run(writing, check=True, capture_output=True, text=True).stdout
    return [line for line in text.splitlines() if line and not line.startswith(VOLATILE)]


def environment(dsn: str | None) -> dict[str, str]:
    """The environment of a process that works on a database."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")}
    return inherited | ({} if dsn is None else {"ROWCAST_DATABASE_URL": dsn})


def run(arguments: list[str], dsn: str | None = None, *, text: str | None = None) -> str:
    """Run a program to its end and return what it wrote to stdout; fail if it fails."""
    result = subprocess.run(
        arguments, cwd=ROOT, env=environment(dsn), input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def migrate(dsn: str) -> str:
    """Run `rowcast migrate`."""
    return run([*ROWCAST, "migrate"], dsn)


def upgrade(dsn: str, revision: str = "head") -> None:
    """Do what `alembic upgrade` does, in this process. Must not be called from inside an event loop."""
    command.upgrade(_config(dsn), revision)


def downgrade(dsn: str, revision: str) -> None:
    """Do what `alembic downgrade` does, in this process. Must not be called from inside an event loop."""
    command.downgrade(_config(dsn), revision)


def _config(dsn: str) -> Config:
    config = Config(str(ROOT / "alembic.ini"))
    config.attributes["dsn"] = dsn
    return config
