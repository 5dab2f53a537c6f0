"""The data of every event on a stream, for OpenAPI and for the schemas in the reference."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from rowcast.service.api.models import Instant, RequestState, Uuid

__all__ = ["EVENTS"]

Version = Annotated[int, Field(ge=1, lt=2**53)]
Milliseconds = Annotated[int, Field(ge=0)]
CursorText = Annotated[str, Field(pattern=r"^1\.[0-9a-f]{16}\.[0-9]+\.[0-9a-f]{8}$", description="Opaque to clients.")]


class Connected(BaseModel):
    """The stream is open."""

    session_id: Uuid
    timestamp: Instant
    protocol: Literal[1]
    stream_id: str
    epoch: str
    heartbeat_ms: Milliseconds
    mode: Literal["snapshot", "resume", "resync"]
    server_time: Instant


class RequestUpdate(RequestState):
    """A request changed: now, or since the position of a client that came back."""

    cause: Literal["live", "catchup"]


class RequestRemoved(BaseModel):
    """A request is gone."""

    request_id: Uuid
    session_id: Uuid
    version: Version


class Snapshot(BaseModel):
    """Requests of the session; the last part (`more` false) completes them."""

    session_id: Uuid
    epoch: str
    mode: Literal["full"]
    requests: Annotated[list[RequestState], Field(max_length=200)]
    part: Annotated[int, Field(ge=1)]
    more: bool


class Synced(BaseModel):
    """Everything up to the cursor has been sent."""

    cursor: CursorText
    server_time: Instant


class Heartbeat(BaseModel):
    """A sign of life after a silence."""

    server_time: Instant
    cursor: CursorText | None


class Resync(BaseModel):
    """The position is of no use; a full snapshot follows."""

    reason: Literal["bad_cursor", "epoch_changed", "slow_consumer", "truncated"]


class Degraded(BaseModel):
    """The database cannot be heard; poll meanwhile. Ends with `synced`."""

    reason: Literal["database"]
    since: Instant


class TokenExpiring(BaseModel):
    """The token runs out, and the stream with it: connect with a new one before."""

    expires_at: Instant
    in_ms: Milliseconds


class Goodbye(BaseModel):
    """The server ends the stream on purpose."""

    reason: Literal["drain", "max_age", "token_expired", "revoked", "slow_consumer", "switched_off", "session_closed"]
    resume: bool
    retry_ms: Milliseconds
    transport: Literal["poll"] | None = None


class StreamError(BaseModel):
    """Something broke; always the last event."""

    error: str
    session_id: Uuid
    code: str
    retryable: bool


EVENTS: dict[str, type[BaseModel]] = {
    "connected": Connected,
    "snapshot": Snapshot,
    "request_update": RequestUpdate,
    "request_removed": RequestRemoved,
    "synced": Synced,
    "heartbeat": Heartbeat,
    "resync": Resync,
    "degraded": Degraded,
    "token_expiring": TokenExpiring,
    "goodbye": Goodbye,
    "error": StreamError,
}
