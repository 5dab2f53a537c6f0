"""Statements of a test against its database, as any other process would run them."""

import asyncio
from typing import Any

import asyncpg


def execute(dsn: str, statement: str, *arguments: Any) -> list[Any]:
    """Run one statement in a transaction of its own and return its rows."""

    async def run() -> list[Any]:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    return asyncio.run(run())


def value(dsn: str, statement: str, *arguments: Any) -> Any:
    """Return the one value that a statement returns."""
    return execute(dsn, statement, *arguments)[0][0]
