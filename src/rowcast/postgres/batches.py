"""Reads of one session each: what is asked for while enough others are under way shares the next."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from rowcast.errors import DatabaseUnavailable
from rowcast.tasks import Tasks

__all__ = ["Batches"]

T = TypeVar("T")


class _Batch(Generic[T]):
    """Sessions that are to be read together, each from the oldest horizon that was asked for."""

    def __init__(self) -> None:
        self.horizons: dict[str, int] = {}
        self.answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()


class Batches(Generic[T]):
    """Runs at most `at_once` reads, of at most `sessions_each`; who asks meanwhile waits for the next one.

    Nobody is given a read that began before they asked: a reader that has registered must not be shown less than was
    committed by then. A thousand clients that come back at once cost some tens of reads, not a thousand.
    """

    def __init__(self, read: Callable[[Mapping[str, int]], Awaitable[T]], *, at_once: int, sessions_each: int) -> None:
        self._read = read
        self._free = at_once
        self._sessions_each = sessions_each
        self._waiting: deque[_Batch[T]] = deque()
        self._batch_of: dict[str, _Batch[T]] = {}
        self._tasks = Tasks()

    async def read(self, session: str, horizon: int) -> T:
        """Return a read that has the session, from `horizon` or an older one. Raises what the read raises."""
        batch = self._batch_of.get(session)
        if batch is None:
            if not self._waiting or len(self._waiting[-1].horizons) >= self._sessions_each:
                self._waiting.append(_Batch())
            batch = self._batch_of[session] = self._waiting[-1]
        batch.horizons[session] = min(horizon, batch.horizons.get(session, horizon))
        self._start()
        return await asyncio.shield(batch.answer)  # who leaves must not take it from the others

    async def stop(self) -> None:
        """End what is under way; those who wait are told that the database cannot be asked any more."""
        for batch in self._waiting:
            _close(batch.answer)
        self._waiting.clear()
        self._batch_of.clear()
        await self._tasks.stop()

    def _start(self) -> None:
        while self._waiting and self._free:
            self._free -= 1
            batch = self._waiting.popleft()
            for session in batch.horizons:
                del self._batch_of[session]
            self._tasks.spawn(self._run(batch))

    async def _run(self, batch: _Batch[T]) -> None:
        try:
            batch.answer.set_result(await self._read(batch.horizons))
        except Exception as error:
            batch.answer.set_exception(error)
        finally:
            _close(batch.answer)
            self._free += 1
            self._start()


def _close(answer: "asyncio.Future[T]") -> None:
    if not answer.done():
        answer.set_exception(DatabaseUnavailable("the reader is closed"))
