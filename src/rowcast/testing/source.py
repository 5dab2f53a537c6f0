"""A source of changes in memory, which hears what a table notifies when it is told to."""

import asyncio
from collections import deque

from rowcast.errors import DatabaseUnavailable
from rowcast.hub import Hub
from rowcast.testing.table import MemoryTable, Note

__all__ = ["MemorySource"]


class MemorySource:
    """The `Source` of a hub, for a table in memory: what was committed waits until `deliver`."""

    name = "memory"

    def __init__(self, table: MemoryTable) -> None:
        self._table = table
        self._queue: deque[Note] = deque()
        self._hub: Hub | None = None

    @property
    def waiting(self) -> int:
        """How many notifications have not been delivered."""
        return len(self._queue)

    @property
    def is_listening(self) -> bool:
        """Whether what is committed now will be delivered."""
        return any(queue is self._queue for queue in self._table.listeners)

    async def run(self, hub: Hub) -> None:
        """Belong to `hub` until cancelled; `regain` begins to listen."""
        self._hub = hub
        await asyncio.Event().wait()

    async def flush(self) -> None:
        """Deliver what waits. Raises `DatabaseUnavailable` while the source is lost."""
        if not self.is_listening or not self._attached().is_live:
            raise DatabaseUnavailable("nothing is heard")
        self.deliver()

    def deliver(self, count: int | None = None) -> int:
        """Hand the oldest `count` notifications to the hub, or all; return how many that were."""
        hub, delivered = self._attached(), 0
        while self._queue and delivered != count:
            note = self._queue.popleft()
            delivered += 1
            if note.state is not None:
                hub.publish(note.state, note.horizon)
            elif note.kind == "reread":
                hub.reread(note.session)
            elif note.kind == "truncated":
                hub.truncated()
            else:
                hub.advance(note.horizon)
        return delivered

    def probe(self) -> None:
        """Queue a probe behind what waits; when it is delivered, the hub adopts its horizon."""
        if self.is_listening:
            self._queue.append(Note("probe", self._table.horizon))

    def lose(self) -> None:
        """Hear nothing any more: what waits, and what is committed from now on, is never delivered."""
        self._table.listeners = [queue for queue in self._table.listeners if queue is not self._queue]
        self._queue = deque()
        self._attached().lose()

    def listen(self) -> None:
        """Listen again, as yet without the hub being told: what is delivered before `regain` ends is held back."""
        if not self.is_listening:
            self._queue = deque()
            self._table.listeners.append(self._queue)

    async def regain(self) -> None:
        """Listen, and have the hub close the gap. Raises `DatabaseUnavailable`; the source is then still lost."""
        if self._hub is None:
            await asyncio.sleep(0)  # the hub's tasks are about to begin
        self.listen()
        self.deliver()
        await self._attached().regain(self._table.horizon)

    def _attached(self) -> Hub:
        if self._hub is None:
            raise RuntimeError("enter the hub first, and give its tasks a turn")
        return self._hub
