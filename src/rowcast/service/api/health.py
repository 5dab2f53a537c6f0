"""For the machines around it: is it alive, is it ready, what has it counted."""

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from rowcast import RowcastError
from rowcast.prometheus import CONTENT_TYPE
from rowcast.service.api.context import Services

__all__ = ["router"]

router = APIRouter(tags=["operation"])


@router.get("/livez")
async def live() -> dict[str, str]:
    """The loop turns; nothing else is asked, so that a database that is away restarts nobody."""
    return {"status": "ok"}


@router.get("/readyz")
async def ready(service: Services) -> Response:
    """200 when database and LISTEN are up and the process is not draining, else 503 that says what is not."""
    checks = {"database": await _database_answers(service), "listener": service.hub.is_live}
    checks["accepting"] = not service.hub.is_draining
    is_ready = all(checks.values())
    return JSONResponse({"status": "ready" if is_ready else "not ready", **checks}, 200 if is_ready else 503)


@router.get("/metrics")
async def metrics(service: Services) -> Response:
    """Counters and gauges in the text format of Prometheus."""
    render = getattr(service.hub.metrics, "render", None)
    return Response(render() if render is not None else b"", media_type=CONTENT_TYPE)


async def _database_answers(service: Services) -> bool:
    try:
        async with asyncio.timeout(2):
            await service.database.fetch("SELECT 1")
    except (RowcastError, TimeoutError):
        return False
    return True
