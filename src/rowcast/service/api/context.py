"""What the endpoints share: one object, made by the composition and found on the application."""

import re
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Request
from starlette.exceptions import HTTPException

from rowcast import Hub, InvalidRequest
from rowcast.http import Admission, Authenticator, GuestTokens, PollSettings, Principal, SigningKey
from rowcast.service.client_metrics import ClientMetrics
from rowcast.service.rollout import LiveRollout
from rowcast.service.settings import Settings
from rowcast.service.store import Queries, Requests, Sessions
from rowcast.service.store.database import Database

__all__ = ["Caller", "PathId", "Service", "Services", "parse_uuid", "verify_any_token"]

_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts that the application is made of."""

    settings: Settings
    hub: Hub
    database: Database
    sessions: Sessions
    requests: Requests
    queries: Queries
    rollout: LiveRollout
    authenticator: Authenticator
    signing_key: SigningKey
    guests: GuestTokens
    admission: Admission
    poll: PollSettings
    client_metrics: ClientMetrics


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Services = Annotated[Service, Depends(_service)]


async def verify_any_token(request: Request, service: Services) -> Principal:
    """Return who is calling. Raises `Unauthorized`, `CrossSite`, or for a body that is not JSON a 415."""
    principal = await service.authenticator.verify_any_token(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and await request.body():
        raise HTTPException(415, "Send application/json.")
    return principal


Caller = Annotated[Principal, Depends(verify_any_token)]
PathId = Annotated[str, Path(json_schema_extra={"format": "uuid"})]


def parse_uuid(text: str, field: str) -> UUID:
    """Return the id that `text` spells. Raises `InvalidRequest`, which is a 400."""
    if not _UUID.match(text):
        raise InvalidRequest(f"{field} must be a uuid")
    return UUID(text)
