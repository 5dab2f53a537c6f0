"""What clients show against what SELECT shows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import asyncpg
from tests.soak.audit import Audit, Finding

from crowd import TRUTH, stripped

_ORIGINS = """
SELECT request_id::text AS key, 'transaction ' || rowcast_xid || ', version ' || rowcast_version AS origin FROM request
UNION ALL
SELECT key, 'gone from ' || session_id || ': transaction ' || xid || ', version ' || version || ', at ' || deleted_at
FROM rowcast.tombstone
"""

Rows = Mapping[str, Mapping[str, Any]]


class Showing(Protocol):
    """Whoever shows the rows of a session."""

    name: str
    session: str
    audit: Audit

    @property
    def rows(self) -> Rows:
        """The rows that it shows, by key."""

    @property
    def place(self) -> str:
        """Where it stands."""


async def stored_rows(dsn: str, sessions: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """What SELECT shows: session, request, and of it what a client may know."""
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        stored: dict[str, dict[str, dict[str, Any]]] = {session: {} for session in sessions}
        for row in await connection.fetch(TRUTH, list(sessions)):
            stored[row["session_id"]][row["request_id"]] = dict(row)
        return stored
    finally:
        connection.terminate()


def lost(clients: Iterable[Showing], stored: Mapping[str, Rows]) -> list[Finding]:
    """Every row that a client shows in another state than it is stored in, does not show, or should not show."""
    findings = []
    for client in clients:
        shown, wanted = stripped(client.rows), stored[client.session]  # type: ignore[arg-type]
        findings += [
            Finding(
                "lost", f"{client.name}, {client.place}", key, shown.get(key), wanted.get(key), client.audit.events()
            )
            for key in sorted(shown.keys() | wanted.keys())
            if shown.get(key) != wanted.get(key)
        ]
    return findings


async def explained(findings: Iterable[Finding], dsn: str) -> list[Finding]:
    """The same findings, with the transactions that made each row what it is: cursors are to be held to these."""
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        origins: dict[str, list[str]] = {}
        for row in await connection.fetch(_ORIGINS):
            origins.setdefault(row["key"], []).append(f"stored {row['key']}: {row['origin']}")
    finally:
        connection.terminate()
    return [replace(each, events=(*each.events, *origins.get(each.row, ()))) for each in findings]
