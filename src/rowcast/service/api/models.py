"""Bodies of the API, as its callers read and write them."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from rowcast.service.store.law import Status

__all__ = [
    "Alive", "ClientConfig", "ClientMeasurements", "GuestToken", "KeySet", "NewRequest", "NewSession", "Problem",
    "QueryMetadata", "Question", "Readiness", "RequestChange", "RequestCreated", "RequestDetail", "RequestState",
    "SessionBody", "SessionChange", "SessionPage", "SessionRows", "StreamTicket",
]  # fmt: skip


# PostgreSQL cannot store NUL in text.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Instant = Annotated[float, Field(description="Epoch seconds, rounded to milliseconds.")]
Uuid = Annotated[str, Field(json_schema_extra={"format": "uuid"})]


def _whole(value: object) -> object:
    """To JSON Schema 5.0 is an integer; pydantic's strict mode knows no such thing."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Body(BaseModel):
    """A body that callers send: unknown fields are refused, so that a typo is not a silent no-op."""

    model_config = ConfigDict(extra="forbid", strict=True, str_max_length=65_536)


class NewSession(Body):
    """What a session is called."""

    name: Annotated[Text, Field(max_length=200)] = ""
    tags: Annotated[list[Annotated[Text, Field(min_length=1, max_length=50)]], Field(max_length=20)] = []


class SessionChange(Body):
    """What to change about a session; what is not named stays."""

    name: Annotated[Text, Field(max_length=200)] | None = None
    tags: Annotated[list[Annotated[Text, Field(min_length=1, max_length=50)]], Field(max_length=20)] | None = None


class NewRequest(Body):
    """What to ask, and whom: `handler` is a name of the entry-point group `rowcast.handlers`."""

    request: Annotated[Text, Field(min_length=1)]
    handler: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")] = "questions"


class ClientMeasurement(Body):
    """One thing that a client has measured: milliseconds if the name ends with `_ms`, else a count."""

    name: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
    value: Annotated[float, Field(ge=0, le=86_400_000)]
    labels: Annotated[
        dict[Annotated[str, Field(max_length=32)], Annotated[str, Field(max_length=64)]], Field(max_length=4)
    ] = {}


class ClientMeasurements(Body):
    """What a client has measured since it last told."""

    metrics: Annotated[list[ClientMeasurement], Field(min_length=1, max_length=200)]


class RequestChange(Body):
    """A rating or review (null takes it back), or the wish to run again what has ended."""

    rating: Annotated[int, Field(ge=-1, le=5), BeforeValidator(_whole)] | None = None
    review: Annotated[Text, Field(max_length=4000)] | None = None
    retry: bool = False


class Problem(BaseModel):
    """The body of every error."""

    error: str
    code: str
    trace_id: str


class SessionBody(BaseModel):
    """A session."""

    session_id: Uuid
    name: str
    tags: list[str]
    created_at: Instant
    updated_at: Instant
    request_count: int


class SessionPage(BaseModel):
    """Some sessions, newest first; `next` is the `after` of the following page, or null at the end."""

    sessions: list[SessionBody]
    next: str | None


class RequestState(BaseModel):
    """What is told about a request by stream and poll."""

    request_id: Uuid
    session_id: Uuid
    status: Annotated[Status | str, Field(description="An open set: expect states you do not know.")]
    updated_at: Instant
    has_response: bool
    has_error: bool
    sequence_number: int
    version: Annotated[int, Field(ge=1, lt=2**53, description="Grows with every change of the row, within an epoch.")]
    terminal: Annotated[bool, Field(description="Nothing more will come, short of a retry.")]


class RequestCreated(RequestState):
    """A request that was just written."""

    request: str


class RequestDetail(RequestCreated):
    """A request with its answer."""

    handler: str
    response: str | None
    error: str | None
    rating: int | None
    review: str | None
    created_at: Instant
    query_ids: list[Uuid]


class RemovedRow(BaseModel):
    """A request that is gone."""

    request_id: Uuid
    version: int


class PollHint(BaseModel):
    """How often to ask, and how long a poll may be held."""

    interval_ms: int
    max_wait_s: int


class ClientConfig(BaseModel):
    """What a client should use now; a field that is null leaves the choice to the client."""

    protocol: Literal[1]
    transport: Literal["sse", "poll"]
    rollout_percent: float | None
    salt: str
    heartbeat_ms: int
    fallback: bool | None
    track_metrics: bool | None
    poll: PollHint


class SessionRows(BaseModel):
    """A session's requests: all of them (`full`), or what changed since the cursor of the query (`delta`)."""

    session_id: Uuid
    epoch: str
    cursor: str
    mode: Literal["full", "delta"]
    requests: list[RequestState]
    removed: list[RemovedRow]
    poll: PollHint


class StreamTicket(BaseModel):
    """Opens one session's stream without a header or cookie, for a short while, as often as the browser reconnects."""

    ticket: str
    url: str
    expires_at: Instant
    expires_in_ms: int


class GuestToken(BaseModel):
    """A guest's token; null when the cookie that was sent along is still good and was kept."""

    token: str | None
    expires_at: Instant


class Column(BaseModel):
    """A column of a result, with the name of its PostgreSQL type."""

    name: str
    type: str


class QueryMetadata(BaseModel):
    """Metadata of a query that a request ran."""

    query_id: Uuid
    request_id: Uuid
    sql: str
    columns: list[Column]
    row_count: int | None
    summary: str
    created_at: Instant
    duration_ms: int
    error: str | None


class Parameter(BaseModel):
    """A parameter of a question; the bounds are those of its type."""

    name: str
    type: str
    description: str
    required: bool
    default: int | float | bool | str | None = None
    minimum: int | float | str | None = None
    maximum: int | float | str | None = None
    minimum_length: int | None = None
    maximum_length: int | None = None
    choices: list[str] | None = None


class Question(BaseModel):
    """A question that the built-in handler can answer."""

    name: str
    title: str
    description: str
    parameters: list[Parameter]
    example: str


class PublicKey(BaseModel):
    """A public key (RFC 7517)."""

    kid: str
    kty: str
    crv: str
    x: str
    use: Literal["sig"]
    alg: Literal["EdDSA"]


class KeySet(BaseModel):
    """The public keys of the tokens issued here."""

    keys: list[PublicKey]


class Alive(BaseModel):
    """The process turns."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """All is there that requests need."""

    status: Literal["ready"]
    database: bool
    listener: bool
    accepting: bool
    source: Literal["notify", "poll"]
