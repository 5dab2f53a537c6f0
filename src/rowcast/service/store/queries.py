"""Metadata of the queries that requests ran."""

import json
from typing import Any
from uuid import UUID

from rowcast import NotFound
from rowcast.postgres import named_statements
from rowcast.service.store.database import Database

__all__ = ["Queries"]


class Queries:
    """The table `query`, read by the owner of the request."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = named_statements("rowcast.service.store", "sql/queries.sql")

    async def get(self, owner: str, query_id: UUID) -> dict[str, Any]:
        """Return the metadata of one query. Raises `NotFound`."""
        row = await self._database.fetch_one(self._sql["get"], owner, query_id)
        if row is None:
            raise NotFound
        return {**dict(row), "columns": json.loads(row["columns"])}
