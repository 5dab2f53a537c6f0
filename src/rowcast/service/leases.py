"""Ends requests whose worker died, so that nothing is `in_progress` for ever."""

import asyncio
import logging

from rowcast import RowcastError
from rowcast.service.store.work import Work

__all__ = ["end_lost_requests"]

EVERY_SECONDS = 3.0

logger = logging.getLogger(__name__)


async def end_lost_requests(work: Work) -> None:
    """Look every few seconds, in every server and every worker: whichever is left does it."""
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        try:
            if ended := await work.end_lost():
                logger.warning("requests of a lost worker were ended", extra={"requests": ended})
            await work.forget_old_keys()
        except RowcastError:
            continue  # the database is away; the leases wait
        except Exception:
            logger.exception("lost requests could not be ended")  # and yet the next look must come
