"""The OpenAPI document: what FastAPI knows, and the routes and events that it does not."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from rowcast.service.api.events import EVENTS
from rowcast.service.api.models import Problem, SessionRows, StreamTicket

__all__ = ["describe"]

_REFUSALS = {
    "400": "malformed id or parameter", "401": "no, expired or bad token", "403": "cross-site request on a cookie",
    "404": "unknown, deleted or not yours", "405": "method not allowed", "413": "body over 64 KiB",
    "422": "body invalid", "429": "too many", "503": "draining, overloaded or database away",
}  # fmt: skip
_SCHEMA = "#/components/schemas/{model}"
_SESSION = {"name": "session_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}


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
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"] = {**operation["responses"], **_refusals()}
        app.openapi_schema = document
    return app.openapi_schema


def _refusals() -> dict[str, Any]:
    body = {"application/json": {"schema": {"$ref": _SCHEMA.format(model="Problem")}}}
    return {status: {"description": text, "content": body} for status, text in _REFUSALS.items()}


def _json(model: str, description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": _SCHEMA.format(model=model)}}},
    }


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _live_paths() -> dict[str, Any]:
    cursor = _query("cursor", {"type": "string"}, "Where the caller stands; a bad one leads to everything.")
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
            _query(
                "hb", {"type": "integer", "minimum": 0, "maximum": 999_999_999}, "Wanted heartbeat in milliseconds."
            ),
            _query("proto", {"type": "string"}, "The protocol the client knows: `1`."),
            _query("until", {"type": "string"}, "`terminal`: answer 204 when all is terminal."),
            _query("ticket", {"type": "string"}, "In place of a header or cookie."),
        ],
        "responses": {
            "200": {"description": "The stream", "content": {"text/event-stream": {"itemSchema": events}}},
            "204": {"description": "Nothing to wait for"},
            "406": _json("Problem", "text/event-stream is not accepted"),
        },
    }
    poll = {
        "summary": "Poll a session",
        "operationId": "poll_session",
        "tags": ["live"],
        "parameters": [
            _SESSION,
            cursor,
            _query("wait", {"type": "integer", "minimum": 0, "maximum": 25}, "Seconds to hold an unchanged answer."),
            {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}},
        ],
        "responses": {"200": _json("SessionRows", "The rows"), "304": {"description": "Unchanged"}},
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
