"""The OpenAPI document: what FastAPI knows, and the routes, events and refusals that it does not."""

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from rowcast.service.api.events import EVENTS
from rowcast.service.api.models import Problem, SessionRows, StreamTicket

__all__ = ["CONDITIONAL", "describe", "methods_of"]

_REFUSALS = {
    "400": "malformed id or parameter", "401": "no, expired or bad token", "403": "cross-site request on a cookie",
    "404": "unknown, deleted or not yours", "409": "in conflict with the present state", "413": "body over 64 KiB",
    "415": "body is not JSON", "422": "body invalid", "429": "too many; see Retry-After",
    "503": "draining, overloaded or database away; see Retry-After",
}  # fmt: skip
# Open to everybody, so that nobody is refused for who they are.
_PUBLIC = ("become_guest", "get_public_keys", "get_questions", "live", "ready", "metrics")
_LIMITED = ("become_guest", "get_request", "poll_session", "follow_session", "take_client_metrics")
_CONFLICTING = ("create_request", "change_request")

_SCHEMA = "#/components/schemas/{model}"
_UUID = {"type": "string", "format": "uuid"}
_SESSION = {"name": "session_id", "in": "path", "required": True, "schema": _UUID}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


_WAIT = _query("wait", {"type": "integer", "minimum": 0, "maximum": 25}, "Seconds to hold an answer that is unchanged.")
_IF_NONE_MATCH = {
    "name": "If-None-Match", "in": "header", "schema": {"type": "string"}, "description": "The `ETag` that is known.",
}  # fmt: skip
_ETAG = {"ETag": {"description": "Names this state.", "schema": {"type": "string"}}}
CONDITIONAL: dict[str, Any] = {
    "parameters": [_WAIT, _IF_NONE_MATCH],
    "responses": {"200": {"headers": _ETAG}, "304": {"description": "Unchanged", "headers": _ETAG}},
}
"""What OpenAPI should know of an answer that is held and compared."""


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        models: list[type[BaseModel]] = [Problem, SessionRows, StreamTicket, *EVENTS.values()]
        schemas = document["components"].setdefault("schemas", {})
        for model in models:
            schema = model.model_json_schema(ref_template=_SCHEMA, mode="serialization")
            schemas |= schema.pop("$defs", {})
            schemas[model.__name__] = schema
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        document["paths"] |= _live_paths()
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": "rowcast_token"},
        }
        document["security"] = [{"bearer": []}, {"cookie": []}]
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _complete(path, operation)
        app.openapi_schema = document
    return app.openapi_schema


def methods_of(app: FastAPI, path: str) -> list[str]:
    """Return the methods that `path` has, for the header `Allow`; none if there is no such resource."""
    methods: set[str] = set()
    for template, operations in describe(app)["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            methods |= {method.upper() for method in operations}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def _complete(path: str, operation: dict[str, Any]) -> None:
    """Add what an operation may refuse, and who may call it."""
    name = operation["operationId"]
    parameters, has_body = operation.get("parameters", []), "requestBody" in operation
    statuses = {"503"}
    if name in _PUBLIC:
        operation["security"] = []
    else:
        statuses |= {"401", "403"}
    if parameters:
        statuses |= {"400"}
    if "{" in path:
        statuses |= {"404"}
    if name == "become_guest":
        statuses |= {"403", "404"}
    if name == "take_client_metrics":
        statuses |= {"404"}
    if has_body:
        statuses |= {"400", "413", "415", "422"}
    if name in _LIMITED:
        statuses |= {"429"}
    if name in _CONFLICTING:
        statuses |= {"409"}
    responses = operation["responses"]
    responses.pop("422", None)
    body = {"application/json": {"schema": {"$ref": _SCHEMA.format(model="Problem")}}}
    responses |= {status: {"description": _REFUSALS[status], "content": body} for status in sorted(statuses)}


def _json(model: str, description: str, **more: Any) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": _SCHEMA.format(model=model)}}},
        **more,
    }


def _live_paths() -> dict[str, Any]:
    cursor = _query("cursor", {"type": "string"}, "Where the caller stands; a bad one leads to everything.")
    # OpenAPI 3.2 calls the schema of one event `itemSchema`.
    events = {"oneOf": [{"$ref": _SCHEMA.format(model=model.__name__)} for model in EVENTS.values()]}
    stream = {
        "summary": "Follow a session",
        "operationId": "follow_session",
        "tags": ["live"],
        "description": "Server-Sent Events: " + ", ".join(f"`{name}`" for name in EVENTS) + ".",
        "parameters": [
            _SESSION,
            {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}, "description": "Beats `cursor`."},
            cursor,
            _query("hb", {"type": "integer", "minimum": 0, "maximum": 999_999_999},
                   "Wanted heartbeat in milliseconds; brought between 1,000 and 60,000."),
            _query("proto", {"type": "string"}, "The protocol the client knows: `1`."),
            _query("until", {"type": "string"}, "`terminal`: answer 204 when all is terminal."),
            _query("ticket", {"type": "string"}, "In place of a header or cookie."),
        ],
        "responses": {
            "200": {"description": "The stream", "content": {"text/event-stream": {"itemSchema": events}}},
            "204": {"description": "Nothing to wait for"},
            "406": _json("Problem", "text/event-stream is not accepted"),
        },
    }  # fmt: skip
    poll = {
        "summary": "Poll a session",
        "operationId": "poll_session",
        "tags": ["live"],
        "parameters": [_SESSION, cursor, _WAIT, _IF_NONE_MATCH],
        "responses": {
            "200": _json("SessionRows", "The rows", headers=_ETAG),
            "304": {"description": "Unchanged", "headers": _ETAG},
        },
    }
    ticket = {
        "summary": "Get a ticket for the stream",
        "operationId": "create_ticket",
        "tags": ["live"],
        "parameters": [_SESSION],
        "responses": {"201": _json("StreamTicket", "The ticket")},
    }
    return {
        "/api/sse/{session_id}": {"get": stream},
        "/api/sse/{session_id}/ticket": {"post": ticket},
        "/api/session/{session_id}/requests": {"get": poll},
    }
