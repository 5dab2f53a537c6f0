"""The safety sweep: reads the watched sessions by a cursor of its own, to find what nobody was told."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from rowcast.cursor import Cursor
from rowcast.event import RowState
from rowcast.feeds import Feeds
from rowcast.latest import LatestByRow
from rowcast.reading import Read, Reader

__all__ = ["Sweep"]


class Sweep:
    """Where the last sweep read, and what a sweep finds.

    `flush` returns once everything that was committed before the call has been handed over.
    """

    def __init__(self, feeds: Feeds, reader: Reader, flush: Callable[[], Awaitable[None]]) -> None:
        self._feeds = feeds
        self._reader = reader
        self._flush = flush
        self._since: Cursor | None = None

    def start_over(self) -> None:
        """Begin the next sweep at the place of the hub, not where the last one read."""
        self._since = None

    async def find(self, place: Cursor) -> Read:
        """Read what changed since the last sweep, or `place`, and return what no reader can have learnt."""
        bases = {session: feed.base for session in self._feeds.sessions if (feed := self._feeds.get(session))}
        read = await self._reader.changes(list(bases), self._since or place)
        await self._flush()  # what was read may have been on its way
        self._since = read.cursor
        missed = (state for state in read.states if self._was_missed(state, bases[state.session]))
        return replace(read, states=tuple(missed))

    def _was_missed(self, state: RowState, base: LatestByRow | None) -> bool:
        """Whether `state` is neither older than what the first reader read when it joined, nor part of it.

        What was handed out since then is left to the feed, which knows it. `base` is what the first reader had read
        when the sweep began: one that came later may know that a row has gone which the sweep still shows.
        """
        feed = self._feeds.get(state.session)
        if feed is None or base is None or feed.base is not base or feed.limit is not None:
            return False  # with a limit, it is being read again anyway
        return state.xid >= feed.base_horizon and base.is_news(state)
