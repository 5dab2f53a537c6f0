"""Where browsers tell what they have measured: what a server cannot see is what its users feel."""

from fastapi import APIRouter, Request, Response

from rowcast import NotFound
from rowcast.service.api.context import Caller, Services
from rowcast.service.api.models import ClientMeasurements

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["operation"])


@router.post("/client-metrics", status_code=204)
async def take_client_metrics(
    body: ClientMeasurements, request: Request, service: Services, caller: Caller
) -> Response:
    """Count what a client has measured; 404 where `ROWCAST_TRACK_SSE_METRICS` is false."""
    if service.settings.track_sse_metrics is False:
        raise NotFound
    request.app.state.beacon_rate.check(caller.owner)
    for measured in body.metrics:
        service.client_metrics.take(measured.name, measured.value, measured.labels)
    return Response(status_code=204)
