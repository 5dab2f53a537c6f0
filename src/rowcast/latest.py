"""Newest version per row: the one place that decides what is news and what is not."""

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from rowcast.event import RowState

__all__ = ["LatestByRow", "Pending", "newest_in_order"]


class LatestByRow:
    """What one reader knows of the rows it watches.

    Bounded by the number of rows, not by the number of updates: a newer version of a row replaces the older one.
    Good for one epoch; a reader that changes the epoch starts a new one.
    """

    __slots__ = ("_versions",)

    def __init__(self, states: Iterable[RowState] = ()) -> None:
        self._versions: dict[str, int] = {}
        for state in states:
            self.apply(state)

    def apply(self, state: RowState) -> bool:
        """Keep `state` if it is newer than what is known of its row; say whether it was news."""
        if not self.is_news(state):
            return False
        self._versions[state.key] = state.version
        return True

    def is_news(self, state: RowState) -> bool:
        """Say whether `state` is newer than what is known of its row."""
        return state.version > self._versions.get(state.key, 0)

    def __len__(self) -> int:
        return len(self._versions)


def newest_in_order(states: Iterable[RowState]) -> tuple[RowState, ...]:
    """Return the newest of the states of each row of a session, in the order of their transactions.

    A read brings a row and its tombstone when the row went and came back; told in the wrong order, a reader that does
    not compare versions would take a living row for gone.
    """
    newest: dict[str, RowState] = {}
    for state in states:
        known = newest.get(state.key)
        if known is None or known.version < state.version:
            newest[state.key] = state
    return tuple(sorted(newest.values(), key=lambda state: (state.xid, state.version)))


class HasState(Protocol):
    """Something about one state of one row."""

    @property
    def state(self) -> RowState: ...


T = TypeVar("T", bound=HasState)


class Pending(Generic[T]):
    """What waits for one reader: at most one item per row, in the order of each row's newest change.

    A newer state goes to the end of the line, it does not take the older one's place: there its cursor would claim
    that states still waiting behind it had been sent, and a cut between them would lose those.
    """

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: dict[str, T] = {}

    def offer(self, item: T) -> None:
        """Queue `item`, in place of an older state of its row; an older state than the queued one changes nothing."""
        queued = self._items.get(item.state.key)
        if queued is None or queued.state.version < item.state.version:
            self._items.pop(item.state.key, None)
            self._items[item.state.key] = item

    def forget(self, known: LatestByRow) -> None:
        """Drop what is not news to a reader that knows `known`."""
        self._items = {key: item for key, item in self._items.items() if known.is_news(item.state)}

    def clear(self) -> None:
        """Drop everything."""
        self._items.clear()

    def drain(self) -> list[T]:
        """Take everything, oldest change first."""
        items = list(self._items.values())
        self._items.clear()
        return items

    def __len__(self) -> int:
        return len(self._items)
