"""Streams are rolled out, and switched off, without a restart: operators set it, every server follows."""

import asyncio
import logging
import time

from rowcast import ConfigurationError, Hub, RowcastError
from rowcast.service.settings import Settings
from rowcast.service.store.database import Database
from rowcast.service.store.rollouts import Rollout, Rollouts

__all__ = ["LiveRollout", "change_rollout"]

EVERY_SECONDS = 2.0

logger = logging.getLogger(__name__)


class LiveRollout:
    """`now` is what counts in this process; open streams end that are not offered to their owner any more.

    While the database cannot be asked, all stays as it was.
    """

    def __init__(self, rollouts: Rollouts, default: Rollout, hub: Hub) -> None:
        self.now = default
        self._rollouts = rollouts
        self._default = default
        self._door = hub.door
        self._said = ""
        self._door.switch_streams(default.streams)

    async def follow(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """Look once."""
        try:
            self._change(await self._rollouts.get(self._default))
            self._said = ""
        except ConfigurationError as error:  # a server that is newer than the database, in the middle of a deployment
            if str(error) != self._said:
                logger.warning("the roll-out cannot be looked at", extra={"reason": str(error)})
            self._said = str(error)
        except RowcastError:
            pass  # the database is away, and says so elsewhere
        except Exception:
            logger.exception("the roll-out could not be looked at")  # and yet the next look must come

    def _change(self, now: Rollout) -> None:
        before, self.now = self.now, now
        if (now.streams, now.percent, now.salt) == (before.streams, before.percent, before.salt):
            return
        logger.info("the roll-out changed", extra={"streams": now.streams, "percent": now.percent, "salt": now.salt})
        self._door.switch_streams(now.streams)
        if now.streams:
            self._door.keep_streams(now.offers)


async def change_rollout(settings: Settings, share: str | None, *, salt: str | None = None) -> str:
    """Do as an operator says, and return what holds then, in words.

    `share` is a percentage, `on`, `off`, or `reset` to leave it to the settings; None changes nothing.
    Raises `ConfigurationError` for anything else.
    """
    if salt is not None and not 1 <= len(salt.encode()) <= 64:
        raise ConfigurationError("a salt has 1 to 64 bytes")
    if salt is not None and share in (None, "reset"):
        raise ConfigurationError("a salt is set together with a percentage, or with `on` or `off`")
    percent = None if share in (None, "on", "off", "reset") else _percent(share)
    async with Database(settings.database_url, max_connections=1, application_name="rowcast-rollout") as database:
        rollouts = Rollouts(database)
        if share == "reset":
            await rollouts.reset()
        elif share is not None:
            await rollouts.set(streams=share != "off" and percent != 0, percent=percent or None, salt=salt)
        now = await rollouts.get(Rollout.of(settings))
    return " ".join([_in_words(now, settings), *(["Servers follow within seconds."] if share else [])])


def _percent(share: str | None) -> float:
    try:
        percent = float(share or "")
    except ValueError:
        percent = -1.0
    if not (percent == 0 or 0.01 <= percent <= 100) or percent != round(percent, 2):
        raise ConfigurationError(
            f"{share!r} is no share of the users; give a percentage (0 to 100, two decimals), on, off or reset"
        )
    return percent


def _in_words(now: Rollout, settings: Settings) -> str:
    if not settings.sse_enabled:
        return "Streams are off: ROWCAST_SSE_ENABLED is false, and that beats what is set here."
    if not now.streams:
        said = "Streams are off: every client polls."
    elif now.percent is None:
        said = "Streams are on, for every user."
    else:
        said = f"Streams are on, for {now.percent:g} % of the users (salt {now.salt})."
    if now.changed_at is None:
        return f"{said} Nothing is set in the database; the settings decide."
    return f"{said} Set {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(now.changed_at))}."
