"""One connection that LISTENs for a whole process, and proves all the time that it still hears.

The proof is a probe: a notification to itself, on a channel of its own but through the same queue. One round trip
shows that LISTEN works (a pooler accepts it and swallows everything), and since the probe stands in line behind all
that was committed before, its horizon may be adopted when it arrives.
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from rowcast.backoff import Backoff
from rowcast.errors import ConfigurationError, DatabaseUnavailable, RowcastError
from rowcast.hub import Hub
from rowcast.postgres.connection import connect, is_direct, translated
from rowcast.postgres.health import Health
from rowcast.postgres.inbox import Inbox
from rowcast.postgres.notification import parse, parse_owner_change
from rowcast.watch import Watch

if TYPE_CHECKING:
    from rowcast.postgres.connection import Connection

__all__ = ["Listener"]

logger = logging.getLogger(__name__)

_FIRST_PROBE_SECONDS = 5.0
_MUTE_AFTER = 3
_PROBE = "SELECT pg_notify($1, pg_snapshot_xmin(pg_current_snapshot())::text || ' ' || $2)"


class Mute(ConfigurationError):
    """LISTEN was accepted, but nothing is heard: is there a pooler in transaction mode (such as PgBouncer) in between?

    Set ROWCAST_LISTEN_DATABASE_URL to a direct address of the primary.
    """

    def __init__(self) -> None:
        super().__init__(" ".join(str(self.__doc__).split()))


class NoAnswer(TimeoutError):
    """A probe could not even be sent: the database is slow, or gone; LISTEN may be well."""


class Listener:
    """The `Source` of a hub that hears what the trigger notifies.

    `probe_seconds` is both how often it probes and how long it waits for each probe; two misses in a row, and the
    connection is given up. `dsn` must lead to the primary without a pooler in transaction mode between.

    `ends_when_mute` has `run` end with `Mute` where LISTEN is accepted and nothing is heard, instead of trying again:
    at once if nothing ever was, and after three connections in a row if something was.
    """

    name = "notify"

    def __init__(self, dsn: str, watch: Watch, *, probe_seconds: float = 5, ends_when_mute: bool = False) -> None:
        self._dsn = dsn
        self._watch = watch
        self._probe_seconds = probe_seconds
        self._ends_when_mute = ends_when_mute
        self._unheard = _MUTE_AFTER - 1
        self._backoff = Backoff(first_seconds=0.05, cap_seconds=0.5, random=random.random)
        self._probes: dict[str, asyncio.Future[int]] = {}
        self._connection: Connection | None = None
        self._in_use = asyncio.Lock()
        self._hub: Hub | None = None
        self._health = Health(watch)
        self._said = ""

    async def run(self, hub: Hub) -> None:
        """Listen, and reconnect for ever. Raises `Mute` where it is to end with that."""
        self._hub = hub
        while True:
            try:
                await self._listen(hub)
            except Mute as error:
                self._unheard += 1
                if self._ends_when_mute and self._unheard >= _MUTE_AFTER:
                    raise
                logger.warning("the listener heard nothing", extra={"reason": str(error)})
            except RowcastError as error:
                if str(error) != self._said:  # it is tried again every half second
                    logger.warning("the listener lost the database", extra={"reason": str(error)})
                self._said = str(error)
            except Exception:
                logger.exception("the listener failed")
            finally:
                hub.lose()
            await asyncio.sleep(self._backoff.next_seconds())

    async def flush(self) -> None:
        """Send a probe and wait for it: whatever was committed before has been handed over then."""
        connection = self._connection
        if connection is None:
            raise DatabaseUnavailable("nothing is heard")
        try:
            await self._probe(connection)
        except TimeoutError:
            raise DatabaseUnavailable("a probe was not heard") from None

    async def _listen(self, hub: Hub) -> None:
        connection = await connect(self._dsn, application_name="rowcast-listener")
        gone = asyncio.Event()
        # Before anything is awaited: a connection that is closed meanwhile would never say so.
        connection.add_termination_listener(lambda _: gone.set())
        inbox = Inbox(getattr(connection, "_transport", None))
        try:
            with translated():
                await self._health.check(connection)
            await _hear(connection, self._watch.probe_channel, inbox, self._probe_returned)
            horizon = await self._first_probe(connection)
            self._unheard = 0
            # Only now: a pooler would keep what is listened to, and complain of every notification. What is committed
            # before this, `regain` reads.
            await _hear(connection, self._watch.channel, inbox, self._heard)
            await _hear(connection, self._watch.owner_channel, inbox, self._owner_changed)
            await hub.regain(horizon)
            self._connection = connection
            self._backoff.reset()
            self._said = ""
            logger.info("listening", extra={"channel": self._watch.channel})
            await self._keep_probing(connection, hub, gone)
        finally:
            self._connection = None
            inbox.close()  # before the hub is told of the loss: what was heard is handed over as such
            # `close()` would wait for a peer that may be gone, and `is_closed()` does not know.
            connection.terminate()

    async def _first_probe(self, connection: "Connection") -> int:
        """Send a probe and return its horizon once it is heard.

        Through a pooler it is sent on another connection. The server process that happens to run both LISTEN and the
        probe tells of it within the probe's own transaction, and that gets through; nothing after it would.
        """
        sender = connection
        try:
            if not await is_direct(connection):
                sender = await connect(self._dsn, application_name="rowcast-listener")
            return await self._probe(sender, min(self._probe_seconds, _FIRST_PROBE_SECONDS))
        except NoAnswer:
            raise DatabaseUnavailable("a probe could not be sent") from None
        except TimeoutError:
            raise Mute from None
        finally:
            if sender is not connection:
                sender.terminate()

    async def is_heard(self) -> bool:
        """Try on a connection of its own whether LISTEN works by now."""
        try:
            connection = await connect(self._dsn, application_name="rowcast-listener")
            try:
                await _hear(connection, self._watch.probe_channel, Inbox(), self._probe_returned)
                await self._first_probe(connection)
            finally:
                connection.terminate()
        except RowcastError as error:
            logger.debug("LISTEN still does not work", extra={"reason": str(error)})
            return False
        return True

    async def _keep_probing(self, connection: "Connection", hub: Hub, gone: asyncio.Event) -> None:
        misses = 0
        while misses < 2:
            with suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), self._probe_seconds)
                raise DatabaseUnavailable("the connection was closed")
            started = time.monotonic()
            try:
                horizon = await self._probe(connection)
                await self._check(connection)  # before the horizon claims what no trigger told
                hub.advance(horizon)
                hub.metrics.probed(time.monotonic() - started)
                misses = 0
            except TimeoutError:
                misses += 1
        raise DatabaseUnavailable("two probes in a row were not heard")

    async def _check(self, connection: "Connection") -> None:
        async with asyncio.timeout(self._probe_seconds), self._in_use:
            await self._health.check(connection)

    async def _probe(self, connection: "Connection", seconds: float | None = None) -> int:
        nonce = secrets.token_hex(8)
        is_sent = False
        heard: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._probes[nonce] = heard
        try:
            async with asyncio.timeout(seconds or self._probe_seconds):
                with translated():
                    async with self._in_use:
                        await connection.fetchval(_PROBE, self._watch.probe_channel, nonce)
                is_sent = True
                return await heard
        except TimeoutError:
            raise TimeoutError if is_sent else NoAnswer from None
        finally:
            del self._probes[nonce]

    def _probe_returned(self, payload: str) -> None:
        horizon, _, nonce = payload.partition(" ")
        heard = self._probes.get(nonce)
        if heard is not None and not heard.done():
            heard.set_result(int(horizon))

    def _owner_changed(self, payload: str) -> None:
        assert self._hub is not None
        try:
            session, closed = parse_owner_change(self._watch, payload)
        except (ValueError, RecursionError):
            self._hub.metrics.notification("malformed")
        else:
            self._hub.door.owner_changed(session, closed=closed)

    def _heard(self, payload: str) -> None:
        hub = self._hub
        assert hub is not None
        try:
            notification = parse(self._watch, payload)
        except (ValueError, RecursionError):
            hub.metrics.notification("malformed")
            logger.warning("a notification was not understood", extra={"channel": self._watch.channel})
            return
        if notification.state is not None:
            hub.publish(notification.state, notification.horizon)
        elif notification.session is not None:
            hub.reread(notification.session)
        else:
            hub.truncated()


async def _hear(connection: "Connection", channel: str, inbox: Inbox, take_in: Callable[[str], None]) -> None:
    """LISTEN, and have what is heard taken in through the inbox: one for all channels, which keeps their order."""

    def put(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        inbox.put(take_in, str(payload))

    with translated():
        await connection.add_listener(channel, put)
