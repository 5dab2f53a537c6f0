"""How the truth is read: the rows of some sessions, with the cursor that goes with them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

from rowcast.cursor import Cursor
from rowcast.event import ResyncReason, RowState
from rowcast.latest import newest_in_order

__all__ = ["Joined", "Read", "Reader"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Rows of some sessions and the cursor that goes with them, from one snapshot.

    `full`: these are all rows. `usable` is False when the cursor that was asked from leads nowhere: the rows are then
    not all that was missed.
    """

    states: tuple[RowState, ...]
    cursor: Cursor
    full: bool
    usable: bool = True


class Reader(Protocol):
    """How the hub reads the truth. `rowcast.postgres.PostgresReader` is one, `rowcast.testing.MemoryTable` another.

    Every method raises `DatabaseUnavailable` when the truth cannot be had.
    """

    async def __aenter__(self) -> object: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def session(self, session: str, since: Cursor | None = None) -> Read:
        """Return all rows of a session; with `since` also the rows that have gone since."""

    async def changes(self, sessions: Sequence[str], since: Cursor) -> Read:
        """Return what changed in some sessions since a cursor, or say that this cannot be known (`usable`)."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What a reader that has joined must be sent first; `resync` says why it is everything, if it asked for less."""

    read: Read
    resync: ResyncReason | None

    @classmethod
    def after(cls, read: Read, resync: ResyncReason | None) -> Self:
        """Return what of a read is sent: of each row the newest; of all rows, those that are there."""
        states = newest_in_order(read.states)
        if read.full:
            states = tuple(state for state in states if not state.removed)
        return cls(replace(read, states=states), resync)
