"""Which source of changes a hub gets, and the one that falls back from listening to asking."""

import asyncio
import logging
from typing import Literal

from rowcast.hub import Hub, Source
from rowcast.postgres.listener import Listener, Mute
from rowcast.postgres.poller import Poller
from rowcast.watch import Watch

__all__ = ["ListenOrPoll", "SourceName", "make_source"]

SourceName = Literal["notify", "poll"]

logger = logging.getLogger(__name__)


def make_source(
    name: SourceName,
    dsn: str,
    watch: Watch,
    *,
    listen_dsn: str | None = None,
    probe_seconds: float = 5,
    slowest_tick_seconds: float = 1,
) -> Source:
    """Return the source of a name: `notify` listens, and asks where it is not heard; `poll` asks. Opens nothing."""
    poller = Poller(dsn, watch, slowest_seconds=slowest_tick_seconds)
    if name == "poll":
        return poller
    listener = Listener(listen_dsn or dsn, watch, probe_seconds=probe_seconds, ends_when_mute=True)
    return ListenOrPoll(listener, poller)


class ListenOrPoll:
    """The `Source` of a hub that listens, and polls as long as LISTEN is accepted but mute, as behind a pooler.

    While it polls it tries every `retry_seconds` whether it is heard by now, and then listens again. Each change of the
    source is a loss and its end, as when the database was away: the gap between is closed by the same read.
    `listener` has to end when it is mute.
    """

    def __init__(self, listener: Listener, poller: Poller, *, retry_seconds: float = 60) -> None:
        self._listener = listener
        self._poller = poller
        self._retry_seconds = retry_seconds
        self._current: Listener | Poller = listener

    @property
    def name(self) -> str:
        """The name of the source that is in use."""
        return self._current.name

    async def run(self, hub: Hub) -> None:
        """Listen if that is heard, else poll, until cancelled."""
        while True:
            self._current = self._listener
            try:
                await self._listener.run(hub)
            except Mute as error:
                logger.warning("nothing is heard; polling instead", extra={"reason": str(error)})
            self._current = self._poller
            polling = asyncio.create_task(self._poller.run(hub))
            try:
                await self._until_heard()
            finally:
                polling.cancel()
                await asyncio.wait([polling])

    async def flush(self) -> None:
        """Return once everything that was committed before the call has been handed over, or cannot be."""
        await self._current.flush()

    async def _until_heard(self) -> None:
        while True:
            await asyncio.sleep(self._retry_seconds)
            if await self._listener.is_heard():
                return
