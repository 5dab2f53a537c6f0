"""Which table is watched, which of its columns matter, and what goes out about a row."""

import re
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from rowcast.errors import InvalidRequest, WatchError

__all__ = ["IdType", "Watch"]

IdType = Literal["uuid", "integer", "bigint", "text"]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})\Z")
_TEXT = re.compile(r"[\x21-\x7e]{1,64}\Z")
_RANGE = {"integer": 2**31, "bigint": 2**63}


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A table whose rows are delivered to the sessions they belong to.

    `table` may carry a schema (`app.report`). `key` is the column that names a row, `session` the one that says who
    is told about it. `status` is sent by its value and is `terminal` in the states listed. The columns in `presence`
    may be of any size and are sent only as `has_<column>`. The columns in `carried` are sent by value: integers,
    booleans, uuids and enums. A change of any of them is a new version of the row; other columns are not looked at.

    `name` (by default the table's) names everything: the events `<name>_update` and `<name>_removed`, the channel
    `<name>_update`, the trigger `<name>_status_update_trigger`.

    Raises `WatchError` for names that cannot be identifiers and for columns that are named twice.
    """

    table: str
    key: str
    session: str
    key_type: IdType = "uuid"
    session_type: IdType = "uuid"
    status: str | None = None
    terminal: tuple[str, ...] = ()
    presence: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    updated_at: str | None = "updated_at"
    name: str = ""

    def __post_init__(self) -> None:
        schema, _, table = self.table.rpartition(".")
        object.__setattr__(self, "name", self.name or table.lower())
        if not _NAME.match(self.name):
            raise WatchError(f"watch name {self.name!r}: use at most 31 of a-z, 0-9 and _, or pass a shorter `name`")
        for identifier in (*([schema] if schema else []), table, *self.columns):
            if not _IDENTIFIER.match(identifier):
                raise WatchError(f"{identifier!r} is not a plain SQL identifier")
        if len(set(self.columns)) != len(self.columns):
            raise WatchError(f"watch {self.name!r} names a column twice")
        if self.terminal and self.status is None:
            raise WatchError(f"watch {self.name!r} has terminal states but no `status` column")

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the table that the watch names."""
        named = (self.key, self.session, self.status, *self.presence, *self.carried, self.updated_at)
        return tuple(column for column in named if column is not None)

    @property
    def channel(self) -> str:
        """The PostgreSQL channel that changes are notified on."""
        return f"{self.name}_update"

    @property
    def probe_channel(self) -> str:
        """The PostgreSQL channel on which a listener talks to itself."""
        return f"{self.channel}_probe"

    @property
    def owner_channel(self) -> str:
        """The PostgreSQL channel that says when a session changed hands or is gone."""
        return f"{self.channel}_owner"

    @property
    def update_event(self) -> str:
        """The event that carries a new row state."""
        return f"{self.name}_update"

    @property
    def removed_event(self) -> str:
        """The event that says that a row is gone."""
        return f"{self.name}_removed"

    @property
    def collection(self) -> str:
        """The field that holds the rows in snapshots and polls: `requests` for the table `request`."""
        return f"{self.name}s"

    def parse_session(self, text: str) -> str:
        """Return the session id in the spelling PostgreSQL uses; raise `InvalidRequest` if it cannot be one."""
        return _parse_id(self.session_type, text, self.session)


def _parse_id(kind: IdType, text: str, field: str) -> str:
    if kind == "uuid" and _UUID.match(text):
        return str(UUID(text))
    if kind in _RANGE and _INTEGER.match(text) and -_RANGE[kind] <= int(text) < _RANGE[kind]:
        return str(int(text))
    if kind == "text" and _TEXT.match(text):
        return text
    raise InvalidRequest(f"{field} must be {'an' if kind == 'integer' else 'a'} {kind}")
