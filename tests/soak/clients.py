"""Clients that follow a session through everything, by `rowcast.client`, and show what they were told."""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.soak.audit import Audit, AuditedStore

from rowcast.client import FetchToken, Transport, watch
from rowcast.watch import Watch

REQUESTS = Watch(table="request", key="request_id", session="session_id", status="status", terminal=("done", "error"))


@dataclass(frozen=True, slots=True)
class Way:
    """How the server is reached: its address by some road, a token that lasts, and a source of tokens that do not."""

    url: str
    token: str
    fetch_token: FetchToken


class Client(ABC):
    """One client: who it is, what it shows, and what an audit has seen of it."""

    def __init__(self, name: str, way: Way, session: str, dice: random.Random) -> None:
        self.name = name
        self.session = session
        self.audit = Audit(name)
        self._way = way
        self._dice = dice

    @property
    @abstractmethod
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """The rows that it shows, by key."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it stands, for whoever has to find the cause of something."""

    @abstractmethod
    async def run(self) -> None:
        """Follow for ever."""


class Watching(Client):
    """A client of `rowcast.client`. What it shows is what the changes make that it was told."""

    transport: Transport = "auto"

    def __init__(self, name: str, way: Way, session: str, dice: random.Random) -> None:
        super().__init__(name, way, session, dice)
        self._token = way.token if dice.random() < 0.5 else way.fetch_token
        self._told: dict[str, Mapping[str, Any]] = {}
        self._place = ""

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        return self._told

    @property
    def place(self) -> str:
        return self._place

    async def run(self) -> None:
        async with watch(
            self._way.url, self.session, token=self._token, transport=self.transport, on_status=self._note
        ) as live:
            live._follower.knowledge.store = AuditedStore(REQUESTS, self.audit)  # before anything is followed
            async for change in live:
                self._place = f"{live.status} at {live.cursor}"
                if change.removed:
                    del self._told[change.row["request_id"]]
                else:
                    self._told[change.row["request_id"]] = change.row

    def _note(self, live: Any) -> None:
        self._place = f"{live.status} at {live.cursor}"
        self.audit.note(f"{live.status} {live.reason} at {live.cursor}")


class WatchingStreams(Watching):
    """It streams, whatever happens."""

    transport = "sse"


class WatchingPolls(Watching):
    """It has the server hold its polls."""

    transport = "poll"
