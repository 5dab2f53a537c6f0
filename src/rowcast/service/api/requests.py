"""Requests: ask, read with the answer, rate, retry, delete."""

import re
import time
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import JSONResponse

from rowcast import InvalidRequest, NotFound
from rowcast.http import answer, etag_of, hold, is_unchanged, trace_id_of, wait_of
from rowcast.service.api.context import Caller, PathId, Services, parse_uuid
from rowcast.service.api.models import NewRequest, RequestChange, RequestCreated, RequestDetail
from rowcast.service.api.openapi import CONDITIONAL
from rowcast.service.store import REQUESTS
from rowcast.service.store.law import TERMINAL
from rowcast.service.store.requests import UNCHANGED

if TYPE_CHECKING:
    import asyncpg

__all__ = ["router"]

router = APIRouter(prefix="/api/request", tags=["requests"])

_Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]
_Number = Annotated[str, Path(json_schema_extra={"pattern": "^[1-9][0-9]{0,9}$"})]
# One path cannot have two names in OpenAPI, so both are `id` there.
_Session = Annotated[str, Path(alias="id", description="The session to ask in.", json_schema_extra={"format": "uuid"})]
_Request = Annotated[str, Path(alias="id", description="The request.", json_schema_extra={"format": "uuid"})]

_NUMBER = re.compile(r"[1-9][0-9]{0,9}\Z")


@router.post("/{id}", status_code=201, response_model=RequestCreated)
async def create_request(
    request: Request,
    service: Services,
    caller: Caller,
    session_id: _Session,
    body: NewRequest,
    idempotency_key: _Key = None,
) -> Response:
    """Ask something; a worker answers. The same `Idempotency-Key` with the same body asks only once."""
    session = parse_uuid(session_id, "session_id")
    row, _ = await service.requests.create(
        caller.owner, session, text=body.request, handler=body.handler, idempotency_key=idempotency_key
    )
    headers = {"Location": f"/api/request/{session}/{row['sequence_number']}", "X-Request-Id": trace_id_of(request)}
    return JSONResponse(_state(row) | {"request": row["request"]}, 201, headers)


@router.head("/{session_id}/{sequence_number}", include_in_schema=False)
@router.get("/{session_id}/{sequence_number}", response_model=RequestDetail, openapi_extra=CONDITIONAL)
async def get_request(
    request: Request,
    service: Services,
    caller: Caller,
    session_id: PathId,
    sequence_number: _Number,
) -> Response:
    """Read one request with its response or error; `ETag`, 304 and `wait` as for the whole session."""
    started = time.monotonic()
    session = parse_uuid(session_id, "session_id")
    if not _NUMBER.match(sequence_number):
        raise InvalidRequest("sequence_number must be a positive integer")
    number = int(sequence_number)
    if number >= 2**31:
        raise NotFound
    wait = wait_of(request, service.poll)

    async def load() -> "asyncpg.Record":
        return await service.requests.get(caller.owner, session, number)

    def is_news(row: "asyncpg.Record") -> bool:
        return not is_unchanged(request, _etag(row))

    row = await hold(
        service.hub, str(session), request, seconds=wait if "if-none-match" in request.headers else 0,
        admission=service.admission, owner=caller.owner, load=load, is_news=is_news,
    )  # fmt: skip
    news = is_news(row)
    service.hub.metrics.polled("full" if news else "unchanged", time.monotonic() - started)
    return answer(request, _detail(row) if news else None, _etag(row))


@router.patch("/{id}", response_model=RequestDetail)
async def change_request(
    request: Request, service: Services, caller: Caller, request_id: _Request, body: RequestChange
) -> Response:
    """Rate or review a request, or run again one that has ended."""
    row = await service.requests.change(
        caller.owner,
        parse_uuid(request_id, "request_id"),
        rating=body.rating if "rating" in body.model_fields_set else UNCHANGED,
        review=body.review if "review" in body.model_fields_set else UNCHANGED,
        retry=body.retry,
    )
    return answer(request, _detail(row), _etag(row))


@router.delete("/{id}", status_code=204)
async def delete_request(service: Services, caller: Caller, request_id: _Request) -> Response:
    """Delete a request; its watchers are told."""
    await service.requests.delete(caller.owner, parse_uuid(request_id, "request_id"))
    return Response(status_code=204)


def _state(row: "asyncpg.Record") -> dict[str, Any]:
    return {
        REQUESTS.key: str(row["request_id"]),
        REQUESTS.session: str(row["session_id"]),
        "status": row["status"],
        "updated_at": row["updated_epoch"],
        "has_response": row["response"] is not None,
        "has_error": row["error"] is not None,
        "sequence_number": row["sequence_number"],
        "version": row["rowcast_version"],
        "terminal": row["status"] in TERMINAL,
    }


def _detail(row: "asyncpg.Record") -> dict[str, Any]:
    more = {name: row[name] for name in ("request", "handler", "response", "error", "rating", "review")}
    query_ids = [str(query_id) for query_id in row["query_ids"]]
    return _state(row) | more | {"created_at": row["created_epoch"], "query_ids": query_ids}


def _etag(row: "asyncpg.Record") -> str:
    # The version says it all, as long as the triggers are there that count it.
    told = (row["status"], row["response"] is None, row["error"] is None, row["rating"], row["review"])
    return etag_of(str(row["request_id"]), row["rowcast_version"], row["updated_epoch"], *told)
