"""Clients on raw sockets, which can leave at any byte and come back from where they stood."""

import asyncio
import json
import random
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from tests.soak.audit import Audit
from tests.soak.clients import Client, Way

from crowd import AWAY
from follower import Follower

_REFUSALS = (401, 403, 404)


class AuditedFollower(Follower):
    """A client on raw sockets, which tells an audit what it does."""

    def __init__(self, url: str, token: str, session: str, audit: Audit) -> None:
        super().__init__(url, token, session)
        self._audit = audit

    def _take(self, text: str) -> None:
        if "event: connected\n" in text:
            self._audit.connected(json.loads(text.partition("data: ")[2])["epoch"])
        elif "event: snapshot\n" in text and '"part":1,' in text:
            self._audit.snapshot()
        elif "event: error\n" in text:
            self._audit.note(text)
            return  # it is the last frame; what comes next is told by the next connection
        super()._take(text)

    def _take_answer(self, body: dict[str, Any]) -> None:
        self._audit.polled(body["mode"])
        super()._take_answer(body)

    def _choose_epoch(self, epoch: str) -> None:
        self._audit.enter_epoch(epoch)
        super()._choose_epoch(epoch)

    def _is_news(self, row: dict[str, Any]) -> bool:
        is_news = super()._is_news(row)
        if is_news:
            self._audit.applied(row["request_id"], row["version"], removed="status" not in row)
        else:
            self._audit.recognised(row["request_id"], row["version"])
        return is_news


class Raw(Client):
    """A client on raw sockets, which can leave at any byte and keeps rows and cursor for its next life."""

    def __init__(self, name: str, way: Way, session: str, dice: random.Random) -> None:
        super().__init__(name, way, session, dice)
        self._follower = AuditedFollower(way.url, way.token, session, self.audit)

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        return self._follower.rows

    @property
    def place(self) -> str:
        return f"at {self._follower.cursor}, last status {self._follower.status}"

    async def run(self) -> None:
        while True:
            status = 0
            try:
                status = await self._live()
            except AWAY as error:
                self.audit.note(f"away: {type(error).__name__} {error}")
            if status in _REFUSALS:
                raise PermissionError(f"the server answered {status}")
            await asyncio.sleep(self._pause_seconds())

    @abstractmethod
    async def _live(self) -> int:
        """Live once, and return the status that the server answered last."""

    @abstractmethod
    def _pause_seconds(self) -> float:
        """How long to be away."""

    async def _stream(self, *, cut_after: int | None = None, seconds: float | None = None, query: str = "") -> int:
        ends_at = None if seconds is None else time.monotonic() + seconds
        self._follower.status = 0
        await self._follower.follow(
            cut_after=cut_after,
            until=lambda: ends_at is not None and time.monotonic() > ends_at,
            by_header=not query or self._dice.random() < 0.5,
            query=query,
        )
        self.audit.note(f"stream ended {self.place}")
        return self._follower.status

    async def _poll(self, *, wait: int = 0) -> int:
        status = await self._follower.poll(delta=self._dice.random() < 0.5, wait=wait)
        self.audit.note(f"polled {status} {self.place}")
        return status


class EventSource(Raw):
    """A page that knows nothing of the protocol but its last id, and has no watchdog."""

    async def _live(self) -> int:
        return await self._stream()

    def _pause_seconds(self) -> float:
        return self._dice.uniform(0.5, 1.5)


class Resuming(Raw):
    """It is cut at any byte, or leaves, and comes back from where it stood."""

    async def _live(self) -> int:
        if self._dice.random() < 0.5:
            return await self._stream(cut_after=int(self._dice.uniform(100, 30_000)), query="proto=1")
        return await self._stream(seconds=self._dice.uniform(0, 10), query="proto=1")

    def _pause_seconds(self) -> float:
        return self._dice.choice((0.0, self._dice.uniform(0, 1), self._dice.uniform(0, 6)))


class Polling(Raw):
    """It asks now and then, for everything or for what has changed."""

    async def _live(self) -> int:
        return await self._poll()

    def _pause_seconds(self) -> float:
        return self._dice.uniform(0.4, 1.5)


class HandingOver(Raw):
    """It streams for a while, then polls for a while, and so on, with one store and one cursor."""

    async def _live(self) -> int:
        if self._dice.random() < 0.5:
            return await self._stream(seconds=self._dice.uniform(0, 6), query="proto=1")
        status = 0
        for _ in range(self._dice.randint(1, 4)):
            status = await self._poll(wait=self._dice.choice((0, 1, 3)))
        return status

    def _pause_seconds(self) -> float:
        return self._dice.uniform(0, 0.5)
