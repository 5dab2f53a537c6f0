"""Which source is in use, and when it changes."""

import asyncio
from collections.abc import Callable

import pytest

from rowcast import Hub, Watch
from rowcast.postgres import Listener, ListenOrPoll, Poller, make_source
from rowcast.postgres.listener import Mute
from rowcast.testing import MemoryTable

pytestmark = pytest.mark.anyio

WATCH = Watch(table="report", key="id", session="account", session_type="text")


class Ear(Listener):
    """A listener that is heard when the test says so."""

    def __init__(self) -> None:
        super().__init__("postgresql:///nowhere", WATCH, ends_when_mute=True)
        self.hears = asyncio.Event()
        self.tries = 0

    async def _listen(self, hub: Hub) -> None:
        if not self.hears.is_set():
            raise Mute
        self._unheard = 0
        await hub.regain(1)
        while self.hears.is_set():
            await asyncio.sleep(0)
        raise OSError("lost")

    async def is_heard(self) -> bool:
        self.tries += 1
        return self.hears.is_set()


class Asker(Poller):
    """A poll source that finds nothing."""

    def __init__(self) -> None:
        super().__init__("postgresql:///nowhere", WATCH)
        self.is_running = False

    async def run(self, hub: Hub) -> None:
        self.is_running = True
        try:
            await hub.regain(1)
            await asyncio.Event().wait()
        finally:
            hub.lose()
            self.is_running = False

    async def flush(self) -> None:
        """Nothing is under way."""


async def until(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not is_true():
            await asyncio.sleep(0.001)


def complaints(caplog: pytest.LogCaptureFixture) -> int:
    return len([record for record in caplog.records if record.message.startswith("nothing is heard")])


async def test_mute_means_polling_until_it_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    ear, asker = Ear(), Asker()
    source = ListenOrPoll(ear, asker, retry_seconds=0.005)
    async with Hub(WATCH, source=source, reader=MemoryTable(WATCH)) as hub:
        await until(lambda: hub.is_live)
        assert source.name == "poll"
        await until(lambda: ear.tries > 3)
        assert source.name == "poll"
        assert complaints(caplog) == 1
        assert "ROWCAST_LISTEN_DATABASE_URL" in caplog.records[0].__dict__["reason"]
        ear.hears.set()
        await until(lambda: source.name == "notify" and hub.is_live)
        assert not asker.is_running
    assert complaints(caplog) == 1


async def test_a_listener_that_was_heard_may_be_mute_for_a_moment(caplog: pytest.LogCaptureFixture) -> None:
    ear, asker = Ear(), Asker()
    source = ListenOrPoll(ear, asker, retry_seconds=0.005)
    ear.hears.set()
    async with Hub(WATCH, source=source, reader=MemoryTable(WATCH)) as hub:
        await until(lambda: hub.is_live)
        ear.hears.clear()
        await until(lambda: ear._unheard == 1)
        ear.hears.set()
        await until(lambda: hub.is_live)
        assert source.name == "notify"
        assert not complaints(caplog)
        ear.hears.clear()  # and stays so
        await until(lambda: source.name == "poll")
        assert complaints(caplog) == 1


async def test_names() -> None:
    assert make_source("poll", "postgresql:///a", WATCH).name == "poll"
    assert make_source("notify", "postgresql:///a", WATCH).name == "notify"
