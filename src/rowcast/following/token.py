"""What a client proves itself with: a token that stays, or one that is fetched when it is needed."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from rowcast.errors import Unauthorized
from rowcast.following.policy import Pace
from rowcast.following.standing import Standing

__all__ = ["Credentials", "FetchToken", "NoToken", "Token"]

FetchToken = Callable[[], Awaitable[str]]

_FETCH_SECONDS = 30.0
_NEW_SECONDS = 60.0


class NoToken(Exception):
    """The token could not be fetched; trying again may help."""


class Token:
    """A token, fetched when it is first needed and again when it is refused or about to run out.

    However many streams share it, one fetch at a time is under way, and all of them wait for that one. `fetch` raises
    `Unauthorized` if there will be no token any more; whatever else it raises is tried again later.
    """

    def __init__(self, fetch: FetchToken) -> None:
        self._fetch: FetchToken | None = fetch
        self._value = ""
        self._fetching: asyncio.Task[str] | None = None
        self._waiting = 0

    @classmethod
    def fixed(cls, value: str) -> "Token":
        """Return a token that cannot be renewed; an empty one is not sent."""
        token = cls(_nothing)
        token._fetch, token._value = None, value
        return token

    @property
    def renewable(self) -> bool:
        """Whether there is anything to be hoped for once the token is refused."""
        return self._fetch is not None

    async def value(self) -> str:
        """Return the token, fetching the first one. Raises `NoToken` and `Unauthorized`."""
        return self._value if self._value or self._fetch is None else await self._shared_fetch()

    async def renewed(self, refused: str) -> str:
        """Return a token instead of `refused`: the one that somebody else has fetched by now, or a new one."""
        return self._value if self._value != refused else await self._shared_fetch()

    async def _shared_fetch(self) -> str:
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch_one())
        fetching = self._fetching
        self._waiting += 1
        try:
            # One who leaves does not take it from the others.
            return await asyncio.shield(fetching)
        finally:
            self._waiting -= 1
            if not self._waiting:
                fetching.cancel()
                self._fetching = None

    async def _fetch_one(self) -> str:
        if self._fetch is None:
            raise Unauthorized("the token is not accepted, or not any more")
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                self._value = await self._fetch()
        except Unauthorized:
            raise
        except TimeoutError:
            raise NoToken(f"no token came within {_FETCH_SECONDS:.0f} s") from None
        except Exception as error:
            # Somebody else's code: whatever broke there is no reason to give up here.
            raise NoToken(f"the token could not be fetched: {str(error) or type(error).__name__}") from error
        finally:
            self._fetching = None
        return self._value


class Credentials:
    """How one follower uses a token: it waits for one, and gives up when a new one is refused like the old."""

    def __init__(self, token: Token, standing: Standing) -> None:
        self.sent = ""
        self._token = token
        self._standing = standing
        self._renewed_at: float | None = None

    @property
    def renewable(self) -> bool:
        """Whether there is anything to be hoped for once the token is refused."""
        return self._token.renewable

    def accepted(self) -> None:
        """Note that the server takes the token."""
        self._renewed_at = None

    async def current(self) -> str:
        """Return the token to send, however long that takes. Raises `Unauthorized` where there will be none."""
        pace = Pace()
        while True:
            try:
                self.sent = await self._token.value()
            except NoToken as error:
                self._standing.become("authenticating", str(error))
                await asyncio.sleep(pace.next_seconds())
            else:
                return self.sent

    async def renew(self, refused: str) -> None:
        """Get another token, once. Raises `NoToken` and `Unauthorized`."""
        await self._token.renewed(refused)

    async def recover(self) -> None:
        """Get another token after a refusal, however long that takes.

        Raises `Unauthorized` if there will be none, or if the one that was refused is new itself.
        """
        refused, now = self.sent, time.monotonic()
        if not self.renewable or (self._renewed_at is not None and now - self._renewed_at < _NEW_SECONDS):
            raise Unauthorized("the token is not accepted, or not any more")
        pace = Pace()
        self._standing.become("authenticating", "the token is not accepted, or not any more")
        while True:
            try:
                await self.renew(refused)
            except NoToken as error:
                self._standing.become("authenticating", str(error))
                await asyncio.sleep(pace.next_seconds())
            else:
                self._renewed_at = time.monotonic()
                return


async def _nothing() -> str:
    return ""
