"""Polling: the same rows and the same cursor as the stream, asked for again and again."""

import asyncio
import time

import httpx2

from rowcast.errors import ProtocolError
from rowcast.following.exchange import Answer, ask
from rowcast.following.knowledge import Knowledge
from rowcast.following.policy import Ended, Policy, Why
from rowcast.following.standing import Standing
from rowcast.following.token import Credentials

__all__ = ["Polling"]

_HOLD_SECONDS = 20
_INTERVAL_SECONDS = 1.0
_LEAST_SECONDS = 0.1
_MOST_SECONDS = 60.0


class Polling:
    """Polls into `knowledge`; whatever of it is cancelled in the middle has changed nothing."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        url: str,
        *,
        knowledge: Knowledge,
        policy: Policy,
        credentials: Credentials,
        standing: Standing,
    ) -> None:
        self._http = http
        self._url = url
        self._knowledge = knowledge
        self._policy = policy
        self._credentials = credentials
        self._standing = standing

    async def run(self) -> None:
        """Poll until cancelled. Raises `Unauthorized` and `NotFound`, which no retry cures."""
        while True:
            started = time.monotonic()
            wait_seconds = _HOLD_SECONDS if self._policy.holds_polls else 0
            answer = await self._ask(wait_seconds)
            if isinstance(answer, Ended):
                if answer.why is Why.UNAUTHORIZED:
                    await self._credentials.recover()
                    continue
                self._standing.become("reconnecting", answer.reason)
                await asyncio.sleep(self._policy.poll_failed(answer.floor_seconds, is_crowded=answer.is_crowded))
                continue
            is_news, interval_seconds = answer
            self._policy.poll_succeeded()
            self._standing.become("polling", self._standing.reason if self._standing.status == "polling" else "")
            await self._knowledge.until_told()
            if wait_seconds:
                # Held by the server as a rule; where something between answers at once, do not spin.
                interval_seconds = _LEAST_SECONDS if is_news else min(interval_seconds, _INTERVAL_SECONDS)
            else:
                interval_seconds = max(interval_seconds, self._policy.poll_floor_seconds)
            await asyncio.sleep(max(0.0, interval_seconds - (time.monotonic() - started)))

    async def run_beside_stream(self) -> None:
        """Poll for a stream that stays open but hears nothing new; what cannot be asked is left to the stream."""
        while True:
            answer = await self._ask(0, beside_stream=True)
            await asyncio.sleep(_INTERVAL_SECONDS if isinstance(answer, Ended) else max(answer[1], _INTERVAL_SECONDS))

    async def _ask(self, wait_seconds: int, *, beside_stream: bool = False) -> tuple[bool, float] | Ended:
        """Poll once; return whether there was news, and the interval in seconds; or why there was no answer."""
        knowledge = self._knowledge
        parameters = {"wait": str(wait_seconds)} | ({"cursor": knowledge.cursor} if knowledge.cursor else {})
        token = await self._credentials.current()
        answer = await ask(self._http, self._url, parameters, token, knowledge.etag, wait_seconds=wait_seconds)
        if not isinstance(answer, Answer):
            return answer
        self._credentials.accepted()
        if answer.body is None:
            return False, _INTERVAL_SECONDS
        if answer.date is not None:
            knowledge.clock.dated(answer.date)
        try:
            is_news, seconds = knowledge.take_answer(answer.body, answer.etag, beside_stream=beside_stream)
        except ProtocolError as error:
            return Ended(why=Why.NOT_UNDERSTOOD, reason=str(error))
        return is_news, min(max(seconds, _LEAST_SECONDS), _MOST_SECONDS)
