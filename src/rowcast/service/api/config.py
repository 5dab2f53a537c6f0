"""What a client should use now."""

from fastapi import APIRouter, Response

from rowcast.service.api.context import Caller, Services
from rowcast.service.api.models import ClientConfig, PollHint

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["operation"])


@router.head("/config", include_in_schema=False)
@router.get("/config")
async def get_config(response: Response, service: Services, caller: Caller) -> ClientConfig:
    """Say which transport the caller should use, and how; streams are offered to a share of the users only."""
    settings = service.settings
    rollout = service.rollout.now
    response.headers["Cache-Control"] = "private, max-age=30"
    return ClientConfig(
        protocol=1,
        transport="sse" if rollout.offers(caller.owner) else "poll",
        rollout_percent=rollout.percent if rollout.streams else 0,
        salt=rollout.salt,
        heartbeat_ms=settings.heartbeat_ms,
        fallback=settings.sse_fallback,
        track_metrics=settings.track_sse_metrics,
        poll=PollHint(
            interval_ms=service.poll.open_interval_ms,
            max_wait_s=service.poll.max_wait_seconds,
        ),
    )
