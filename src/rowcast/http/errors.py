"""Exceptions to answers: one table, one body."""

import random
import uuid
from collections.abc import Mapping

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from rowcast.errors import (
    BodyTooLarge,
    ConfigurationError,
    Conflict,
    CrossSite,
    DatabaseUnavailable,
    InvalidRequest,
    NotAcceptable,
    NotFound,
    RateLimited,
    RowcastError,
    Unauthorized,
    Unavailable,
)

__all__ = ["STATUS", "problem", "refusal"]

VARY = "Authorization, Cookie, Origin"

STATUS: Mapping[type[RowcastError], int] = {
    InvalidRequest: 400,
    Unauthorized: 401,
    CrossSite: 403,
    NotFound: 404,
    NotAcceptable: 406,
    Conflict: 409,
    BodyTooLarge: 413,
    RateLimited: 429,
    Unavailable: 503,
    DatabaseUnavailable: 503,
    ConfigurationError: 503,  # the operator has to act, as when a migration is missing; then it will work
}


def refusal(connection: HTTPConnection, error: RowcastError) -> Response:
    """Return the answer for `error`; what the table does not know is a 500 that gives nothing away."""
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    code = getattr(error, "reason", None) or {500: "internal", 503: "unavailable"}[status]
    public = (
        str(error)
        if hasattr(error, "reason")
        else {500: "Internal server error"}.get(status, "Temporarily unavailable")
    )
    return problem(connection, status, code, public)


def problem(connection: HTTPConnection, status: int, code: str, error: str) -> Response:
    """Return the one body that every error has: `{error, code, trace_id}`.

    The trace id is also the `X-Request-Id`. It is made here; one that a caller sends is not trusted.
    """
    trace_id = trace_id_of(connection)
    headers = {"X-Request-Id": trace_id, "Cache-Control": "no-store", "Vary": VARY, "X-Content-Type-Options": "nosniff"}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(random.randint(1, 10))  # noqa: S311 - spreads the callers, protects nothing
    return JSONResponse({"error": error, "code": code, "trace_id": trace_id}, status, headers)


def trace_id_of(connection: HTTPConnection) -> str:
    """Return the id of this exchange, the same for every call with the same connection."""
    trace_id: str = connection.scope.setdefault("rowcast.trace_id", uuid.uuid4().hex)
    return trace_id
