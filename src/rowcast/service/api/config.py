"""What a client should use now."""

from fastapi import APIRouter, Response

from rowcast import is_chosen
from rowcast.service.api.context import Caller, Services
from rowcast.service.api.models import ClientConfig, PollHint

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["operation"])


@router.head("/config", include_in_schema=False)
@router.get("/config")
async def get_config(response: Response, service: Services, caller: Caller) -> ClientConfig:
    """Say which transport the caller should use, and how; streams are offered to a share of the users only."""
    settings = service.settings
    percent = settings.sse_rollout_percent
    chosen = percent is None or is_chosen(caller.owner, settings.sse_salt, percent)
    response.headers["Cache-Control"] = "private, max-age=30"
    return ClientConfig(
        protocol=1,
        transport="sse" if settings.sse_enabled and chosen else "poll",
        rollout_percent=percent,
        salt=settings.sse_salt,
        heartbeat_ms=settings.heartbeat_ms,
        fallback=None,
        track_metrics=None,
        poll=PollHint(
            interval_ms=service.poll.open_interval_ms,
            max_wait_s=service.poll.max_wait_seconds,
        ),
    )
