"""All clients of a run: how many there are of each kind, and who has given up."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence

from tests.soak.clients import Client, Watching, WatchingPolls, WatchingStreams, Way
from tests.soak.raw import EventSource, HandingOver, Polling, Resuming

KINDS: Mapping[type[Client], int] = {
    Watching: 5, WatchingStreams: 4, WatchingPolls: 2, EventSource: 2, Resuming: 3, Polling: 2, HandingOver: 2
}  # fmt: skip


class Audience:
    """All clients, and what has become of them."""

    def __init__(self, clients: list[Client]) -> None:
        self.clients = clients
        self._tasks = {client.name: asyncio.create_task(client.run()) for client in clients}

    @classmethod
    def of(cls, number: int, *, seed: int, ways: Sequence[Way], sessions: Sequence[str]) -> "Audience":
        """Let so many clients come, of all kinds, by any road, to any session."""
        dice = random.Random(f"{seed} clients")
        deck = [kind for kind, copies in KINDS.items() for _ in range(copies)]
        made = []
        for count in range(number):
            kind, road = deck[count % len(deck)], dice.randrange(len(ways))
            name = f"{kind.__name__} {count} on road {road}"
            own_dice = random.Random(f"{seed} client {count}")
            made.append(kind(name, ways[road], dice.choice(sessions), own_dice))
        return cls(made)

    def counts(self) -> Counter[str]:
        """What all of them have counted."""
        return sum((client.audit.counts for client in self.clients), Counter())

    def ended(self) -> dict[str, BaseException | None]:
        """Those who have given up, and why; nobody should."""
        return {
            name: None if task.cancelled() else task.exception() for name, task in self._tasks.items() if task.done()
        }

    async def leave(self) -> None:
        """Have everybody leave."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
