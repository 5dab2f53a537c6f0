"""For the machines around it: is it alive, is it ready, what has it counted."""

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from rowcast import RowcastError
from rowcast.http import problem
from rowcast.postgres import diagnose
from rowcast.prometheus import CONTENT_TYPE
from rowcast.service.api.context import Services
from rowcast.service.api.models import Alive, Readiness
from rowcast.service.store import REQUESTS

__all__ = ["router"]

router = APIRouter(tags=["operation"])


@router.head("/livez", include_in_schema=False)
@router.get("/livez")
async def live() -> Alive:
    """The loop turns; nothing else is asked, so that a database that is away restarts nobody."""
    return Alive(status="ok")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", response_model=Readiness)
async def ready(request: Request, service: Services) -> Response:
    """200 when database and source are up and the process is not draining, else 503 that says what is not.

    `listener`: changes are heard of, from the `source` that is named.
    """
    trouble = await _trouble(service)
    checks = {"database": trouble is not None, "listener": service.hub.is_live and not trouble}
    checks["accepting"] = not service.hub.door.is_draining
    if all(checks.values()):
        return JSONResponse({"status": "ready", **checks, "source": service.hub.source.name})
    missing = ", ".join(name for name, is_good in checks.items() if not is_good)
    return problem(request, 503, "not_ready", f"Not ready: {missing}" + (f" ({trouble})" if trouble else ""))


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: Services) -> Response:
    """Counters and gauges in the text format of Prometheus."""
    render = getattr(service.hub.metrics, "render", None)
    return Response(render() if render is not None else b"", media_type=CONTENT_TYPE)


async def _trouble(service: Services) -> str | None:
    """Why the database cannot tell of changes; empty if it can, None when it does not even answer."""
    try:
        async with asyncio.timeout(2), service.database.connection() as connection:
            return await diagnose(connection, REQUESTS)
    except (RowcastError, TimeoutError):
        return None
