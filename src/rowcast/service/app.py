"""The composition: every part of the service is made here, from settings, and nowhere else."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from importlib.metadata import version
from importlib.resources import files
from uuid import UUID

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from rowcast import InvalidRequest, NotFound, RowcastError
from rowcast.http import (
    VARY,
    Admission,
    Authenticator,
    BodyLimit,
    GuestTokens,
    Issuer,
    PollSettings,
    Principal,
    SafeHeaders,
    SigningKey,
    StreamSettings,
    Tickets,
    cors_options,
    live_routes,
    problem,
    refusal,
)
from rowcast.postgres import postgres_hub
from rowcast.prometheus import PrometheusMetrics
from rowcast.service import api
from rowcast.service.api.auth import COOKIE
from rowcast.service.api.context import Service
from rowcast.service.api.openapi import describe, methods_of
from rowcast.service.api.rate import Rate
from rowcast.service.client_metrics import ClientMetrics
from rowcast.service.leases import end_lost_requests
from rowcast.service.logs import redact_access_log
from rowcast.service.rollout import LiveRollout
from rowcast.service.settings import Settings
from rowcast.service.store import REQUESTS, Queries, Requests, Sessions
from rowcast.service.store.database import Database
from rowcast.service.store.rollouts import Rollout, Rollouts
from rowcast.service.store.work import Work

__all__ = ["create_app"]

STREAM_PATH = "/api/sse/{session_id}"
POLL_PATH = "/api/session/{session_id}/requests"
_VERIFIED = "rowcast.principal"
_BEACONS_PER_MINUTE = 60

logger = logging.getLogger(__name__)

_HEADERS = {
    "Cache-Control": "private, no-cache",
    "Vary": VARY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
}


def create_app(settings: Settings) -> FastAPI:
    """Return the application; it opens connections when its lifespan begins, not before."""
    service = _service(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        redact_access_log()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(service.database)
            await stack.enter_async_context(service.hub.lifespan(app))
            work = Work(service.database, lease_seconds=settings.lease_seconds)
            with suppress(TimeoutError):  # what is switched off is off from the first request on
                await asyncio.wait_for(service.rollout.look(), 2)
            with suppress(TimeoutError):  # clients who come back after a restart would be refused until then
                await asyncio.wait_for(_until_live(service), 1)
            for following in (end_lost_requests(work), service.rollout.follow()):
                stack.callback(asyncio.create_task(following).cancel)
            # What is there by now stays. Looking through it again and again would hold up the loop for 0.1 s at a time.
            gc.collect()
            gc.freeze()
            yield

    app = FastAPI(
        title="Rowcast",
        version=version("rowcast"),
        summary="Commit a row in PostgreSQL, and every browser allowed to see it knows within milliseconds.",
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        middleware=_middleware(settings),
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.guest_rate = Rate(settings.guest_per_minute, "Too many guests from this address; wait a minute.")
    app.state.beacon_rate = Rate(_BEACONS_PER_MINUTE, "Too many measurements; send them in larger parts.")
    app.add_exception_handler(RowcastError, _answer_refusal)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_broken)
    for router in (api.sessions, api.requests, api.queries, api.auth, api.config, api.client_metrics, api.health):
        app.include_router(router)
    app.router.routes.extend(_live_routes(service))
    # Not a mount: that would match every path, and hide that a resource exists but not this method of it.
    app.router.default = StaticFiles(directory=str(files("rowcast.service") / "web"), html=True)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app


async def _until_live(service: Service) -> None:
    while not service.hub.is_live:  # noqa: ASYNC110 - it is waited for once, for a moment
        await asyncio.sleep(0.01)


def _service(settings: Settings) -> Service:
    database = Database(settings.database_url, max_connections=settings.database_connections)
    key = SigningKey.generate()
    if settings.signing_key_file is not None:
        # The first process to start makes the key; all others, and all later starts, find it.
        key = key.save(settings.signing_key_file)
    issuers = [Issuer(**issuer.model_dump()) for issuer in settings.issuers]
    registry = CollectorRegistry()
    hub = postgres_hub(
        settings.database_url,
        REQUESTS,
        listen_dsn=settings.listen_database_url or None,
        source=settings.source,
        metrics=PrometheusMetrics(registry),
        probe_seconds=settings.probe_seconds,
        sweep_seconds=settings.sweep_seconds,
        slowest_tick_seconds=settings.source_tick_max_ms / 1000,
    )
    return Service(
        settings=settings,
        hub=hub,
        database=database,
        sessions=Sessions(database),
        requests=Requests(database),
        queries=Queries(database),
        client_metrics=ClientMetrics(registry),
        rollout=LiveRollout(Rollouts(database), Rollout.of(settings), hub),
        authenticator=Authenticator(
            issuers=issuers,
            signing_key=key,
            accept_guests=settings.guest_enabled,
            cookie_name=COOKIE,
            allowed_origins=settings.allowed_origins,
        ),
        signing_key=key,
        guests=GuestTokens(key, ttl_seconds=settings.guest_ttl_seconds),
        admission=Admission(per_owner=settings.streams_per_owner, per_process=settings.streams_per_process),
        poll=PollSettings(
            open_interval_ms=settings.poll_interval_ms, terminal_interval_ms=settings.poll_idle_interval_ms
        ),
    )


def _live_routes(service: Service) -> list[Route]:
    settings = service.settings

    async def authorize(connection: HTTPConnection, session: str) -> Principal:
        is_stream = connection.scope["path"].startswith("/api/sse/") and not connection.scope["path"].endswith(
            "/ticket"
        )
        # An open stream asks again: the owner is looked up anew, but a ticket that has run out since is still good.
        principal: Principal | None = connection.scope.get(_VERIFIED)
        if principal is None and is_stream:
            principal = await service.authenticator.verify_any_token_or_ticket(connection, session=session)
        elif principal is None:
            principal = await service.authenticator.verify_any_token(connection)
        connection.scope[_VERIFIED] = principal
        await service.sessions.check_owner(principal.owner, UUID(session))
        return principal

    return list(
        live_routes(
            service.hub,
            authorize,
            stream_path=STREAM_PATH,
            poll_path=POLL_PATH,
            admission=service.admission,
            stream=StreamSettings(
                heartbeat_ms=settings.heartbeat_ms,
                max_age_seconds=settings.max_stream_age_seconds,
                write_timeout_seconds=settings.write_timeout_seconds,
                drain_seconds=settings.drain_seconds,
                recheck_seconds=settings.recheck_seconds,
            ),
            poll=service.poll,
            tickets=Tickets(service.signing_key, ttl_seconds=settings.ticket_ttl_seconds),
        )
    )


def _middleware(settings: Settings) -> list[Middleware]:
    middleware = [Middleware(SafeHeaders, headers=_HEADERS), Middleware(BodyLimit)]
    if settings.allowed_origins:
        middleware.insert(0, Middleware(CORSMiddleware, **cors_options(settings.allowed_origins)))
    return middleware


async def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, RowcastError)
    return refusal(request, error)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors())
    if any(item["loc"][0] == "body" for item in error.errors()):
        return problem(request, 422, "invalid_body", problems[:1000])
    return problem(request, 400, InvalidRequest.code, problems[:1000])


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    methods = methods_of(request.app, request.url.path)
    if error.status_code == 404 or (error.status_code == 405 and not methods):
        return refusal(request, NotFound())
    status = HTTPStatus(error.status_code)
    answer = problem(request, status, status.phrase.lower().replace(" ", "_"), str(error.detail))
    answer.headers.update(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        answer.headers["Allow"] = ", ".join(methods)
    return answer


async def _answer_broken(request: Request, error: Exception) -> Response:
    return problem(request, 500, "internal", "Internal server error")
