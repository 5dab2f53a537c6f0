"""Sessions: create, list, read, rename, delete."""

import base64
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from rowcast import InvalidRequest
from rowcast.service.api.context import Caller, PathId, Services, parse_uuid
from rowcast.service.api.models import NewSession, SessionBody, SessionChange, SessionPage
from rowcast.service.store.sessions import Session

__all__ = ["router"]

router = APIRouter(prefix="/api/session", tags=["sessions"])


@router.post("", status_code=201)
async def create_session(service: Services, caller: Caller, body: NewSession | None = None) -> SessionBody:
    """Create a session of the caller's own."""
    wanted = body or NewSession()
    return _body(await service.sessions.create(caller.owner, name=wanted.name, tags=wanted.tags))


@router.head("", include_in_schema=False)
@router.get("")
async def list_sessions(
    service: Services, caller: Caller, limit: Annotated[int, Query(ge=1, le=100)] = 50, after: str | None = None
) -> SessionPage:
    """List the caller's sessions, newest first; `after` is the `next` of the page before."""
    page = await service.sessions.list(caller.owner, limit=limit, after=_unpack(after) if after else None)
    following = _pack(page.sessions[-1]) if page.more else None
    return SessionPage(sessions=[_body(session) for session in page.sessions], next=following)


@router.head("/{session_id}", include_in_schema=False)
@router.get("/{session_id}")
async def get_session(service: Services, caller: Caller, session_id: PathId) -> SessionBody:
    """Read one session."""
    return _body(await service.sessions.get(caller.owner, parse_uuid(session_id, "session_id")))


@router.patch("/{session_id}")
async def change_session(service: Services, caller: Caller, session_id: PathId, body: SessionChange) -> SessionBody:
    """Rename or retag a session."""
    changed = parse_uuid(session_id, "session_id")
    return _body(await service.sessions.change(caller.owner, changed, name=body.name, tags=body.tags))


@router.delete("/{session_id}", status_code=204)
async def delete_session(service: Services, caller: Caller, session_id: PathId) -> Response:
    """Delete a session with all its requests."""
    await service.sessions.delete(caller.owner, parse_uuid(session_id, "session_id"))
    return Response(status_code=204)


def _body(session: Session) -> SessionBody:
    return SessionBody(
        session_id=str(session.session_id),
        name=session.name,
        tags=session.tags,
        created_at=round(session.created_at.timestamp(), 3),
        updated_at=round(session.updated_at.timestamp(), 3),
        request_count=session.request_count,
    )


def _pack(last: Session) -> str:
    microseconds = round(last.created_at.timestamp() * 1_000_000)
    return base64.urlsafe_b64encode(f"{microseconds}.{last.session_id}".encode()).decode().rstrip("=")


def _unpack(text: str) -> tuple[datetime, UUID]:
    try:
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
        microseconds, _, session_id = decoded.partition(".")
        return datetime.fromtimestamp(int(microseconds) / 1_000_000, UTC), UUID(session_id)
    except (ValueError, OverflowError, OSError):
        raise InvalidRequest("after must be the `next` of an earlier page") from None
