"""A client for scripts and the terminal: one store, two transports, one rule of versions.

    async with watch("http://127.0.0.1:8000", session, token=token) as live:
        async for change in live:
            print(change.row)

Needs `httpx2`, which comes with `rowcast[server]`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from rowcast.errors import ConfigurationError
from rowcast.following.follower import Follower
from rowcast.following.policy import Transport
from rowcast.following.standing import Status
from rowcast.following.token import FetchToken, Token
from rowcast.store import Change
from rowcast.tasks import ended
from rowcast.watch import Watch

__all__ = ["Change", "FetchToken", "Live", "Status", "Token", "Transport", "watch"]

_DEFAULT_WATCH = Watch(
    table="request", key="request_id", session="session_id", status="status", terminal=("done", "error")
)


class Live:
    """The state of one session as this client knows it; iterate it to be told of every change, for ever.

    `rows` are the rows by key, `status` is what the connection is doing, `reason` why it is not live. Iterating
    reconnects by itself, from where it stood, and polls where streams do not get through. It ends with `Unauthorized`
    or `NotFound`, which no retry cures. What it was told is read from the server no faster than it is iterated.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._following: asyncio.Task[None] | None = None

    @property
    def status(self) -> Status:
        """What the connection is doing."""
        return self._follower.standing.status

    @property
    def reason(self) -> str:
        """Why it is not live; empty if it is."""
        return self._follower.standing.reason

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """The rows as they are known now, by key."""
        return self._follower.knowledge.store.rows

    @property
    def cursor(self) -> str:
        """How far the rows reach; the next connection begins there."""
        return self._follower.knowledge.cursor

    @property
    def epoch(self) -> str:
        """The epoch that the rows belong to."""
        return self._follower.knowledge.store.epoch

    @property
    def stale(self) -> int:
        """How many states came that were no news."""
        return self._follower.knowledge.store.stale

    @property
    def skipped(self) -> int:
        """How many events and answers came that made no sense."""
        return self._follower.knowledge.skipped

    @property
    def reconnects(self) -> int:
        """How many streams have ended, or could not be opened."""
        return self._follower.reconnects

    async def __aiter__(self) -> AsyncIterator[Change]:
        knowledge = self._follower.knowledge
        if self._following is None:
            self._following = asyncio.create_task(self._follower.run())
        while True:
            if change := knowledge.next():
                yield change
            elif self._following.done():
                self._following.result()  # raises: it does not end otherwise
                return
            else:
                stirred = asyncio.create_task(knowledge.until_stirred())
                try:
                    await asyncio.wait({stirred, self._following}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    stirred.cancel()

    async def _leave(self) -> None:
        if self._following is not None:
            await ended(self._following)


@asynccontextmanager
async def watch(
    url: str,
    session: str,
    *,
    token: str | FetchToken | Token | None = None,
    transport: Transport = "auto",
    table: Watch = _DEFAULT_WATCH,
    poll_path: str = "/api/session/{session_id}/requests",
    on_status: Callable[[Live], None] = lambda _: None,
) -> AsyncIterator[Live]:
    """Follow a session of the service at `url`; nothing is sent before the result is iterated.

    `token` goes into the Authorization header, never into the URL. An async callable is asked for one when it is
    needed, and again when it is refused or about to run out; sessions that are followed side by side share a `Token`,
    so that it is renewed once for all. `on_status` is called when `status` or `reason` changes. Raises
    `ConfigurationError` if `url` is no address of a web server.
    """
    try:
        address = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ConfigurationError(f"the address cannot be read: {error}") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigurationError(f"{url} is no address of a service; it begins with http:// or https://")
    if not isinstance(token, Token):
        token = Token(token) if callable(token) else Token.fixed(token or "")
    base = url.rstrip("/")
    # A redirect is followed; its target gets the token only where it is the same origin.
    async with httpx2.AsyncClient(follow_redirects=True) as http:
        follower = Follower(
            http,
            stream_url=f"{base}/api/sse/{session}",
            poll_url=base + poll_path.format(session_id=session),
            watch=table,
            token=token,
            transport=transport,
            on_status=lambda: on_status(live),
        )
        live = Live(follower)
        try:
            yield live
        finally:
            await live._leave()
