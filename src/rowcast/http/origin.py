"""Which pages may act with a visitor's cookie: this origin's own, and those that are listed.

A cookie is sent along by whoever makes the browser ask; a header or a ticket is not. So only cookies are checked here.
`Sec-Fetch-Site` and `Origin` are set by the browser and cannot be set by a page (Fetch standard, "forbidden headers").
"""

import ipaddress
import re
from collections.abc import Collection, Iterable
from typing import TypedDict

from starlette.requests import HTTPConnection

from rowcast.errors import ConfigurationError, CrossSite
from rowcast.http.principal import Via

__all__ = [
    "ALLOW_HEADERS",
    "ALLOW_METHODS",
    "EXPOSE_HEADERS",
    "CorsOptions",
    "check_same_site",
    "cors_options",
    "is_loopback",
    "needs_secure_cookie",
    "own_origin",
    "parse_origins",
]

ALLOW_METHODS = ("GET", "POST", "PATCH", "DELETE")
ALLOW_HEADERS = ("Authorization", "Last-Event-ID", "If-None-Match", "Idempotency-Key", "Content-Type")
EXPOSE_HEADERS = ("ETag", "Retry-After", "X-Request-Id")

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[^\s/?#@:*\[\]\\]+)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HTTP_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class CorsOptions(TypedDict):
    """The arguments of Starlette's `CORSMiddleware`."""

    allow_origins: list[str]
    allow_credentials: bool
    allow_methods: list[str]
    allow_headers: list[str]
    expose_headers: list[str]
    max_age: int


def check_same_site(connection: HTTPConnection, *, via: Via, allowed_origins: Collection[str]) -> None:
    """Raise `CrossSite` if a request that relies on a cookie may have been made by a page of another site.

    `allowed_origins` comes from `parse_origins`. Reading needs the absence of a bad sign, since old browsers and plain
    navigation send none; changing something needs a good one, and JSON, which a form cannot send.
    """
    if via != "cookie":
        return
    sites, origins = connection.headers.getlist("sec-fetch-site"), connection.headers.getlist("origin")
    if len(sites) > 1 or len(origins) > 1:
        raise CrossSite
    site = sites[0] if sites else None
    origin = _normal(origins[0]) if origins else None
    listed = origin is not None and origin in allowed_origins
    own = origin is not None and origin == own_origin(connection)
    is_safe = connection.scope.get("method", "GET") in _SAFE_METHODS

    if not listed and site not in {None, "same-origin", "none"}:
        raise CrossSite
    if is_safe:
        if origins and not (own or listed):
            raise CrossSite
        return
    if not (own or listed or site == "same-origin"):
        raise CrossSite
    if not _sends_json_or_nothing(connection):
        raise CrossSite("Requests that rely on a cookie must send application/json.")


def own_origin(connection: HTTPConnection) -> str | None:
    """Return the origin under which the client reached us: scheme and `Host`, in their normal form."""
    hosts = connection.headers.getlist("host")
    scheme = _HTTP_SCHEMES.get(connection.scope.get("scheme", "http"))
    return _normal(f"{scheme}://{hosts[0]}") if len(hosts) == 1 else None


def parse_origins(origins: Iterable[str]) -> frozenset[str]:
    """Bring configured origins into their normal form; raise `ConfigurationError` for `*`, `null` and paths."""
    parsed = set()
    for text in origins:
        origin = _normal(text.strip().removesuffix("/"))
        if origin is None:
            raise ConfigurationError(
                f"{text!r} is not an origin such as https://app.example.com; wildcards are refused."
            )
        parsed.add(origin)
    return frozenset(parsed)


def cors_options(allowed_origins: Iterable[str], *, max_age_seconds: int = 600) -> CorsOptions:
    """Return what `CORSMiddleware` needs. Credentials are allowed, therefore `*` is not."""
    return {
        "allow_origins": sorted(parse_origins(allowed_origins)),
        "allow_credentials": True,
        "allow_methods": list(ALLOW_METHODS),
        "allow_headers": list(ALLOW_HEADERS),
        "expose_headers": list(EXPOSE_HEADERS),
        "max_age": max_age_seconds,
    }


def is_loopback(host: str) -> bool:
    """Say whether a host name, without port, is this machine."""
    name = host.lower().strip("[]").removesuffix(".")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")  # RFC 6761, section 6.3


def needs_secure_cookie(connection: HTTPConnection) -> bool:
    """Say whether a cookie must be `Secure`: always, except over plain HTTP to this very machine."""
    reached = _ORIGIN.fullmatch(own_origin(connection) or "")
    return reached is None or reached[1] == "https" or not is_loopback(reached[2])


def _normal(text: str) -> str | None:
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        return None
    scheme, host, port = match.groups()
    is_default = port is None or int(port) == _DEFAULT_PORTS[scheme]
    return f"{scheme}://{host}" if is_default else f"{scheme}://{host}:{int(port)}"


def _sends_json_or_nothing(connection: HTTPConnection) -> bool:
    headers = connection.headers
    content_types = headers.getlist("content-type")
    if not content_types:
        # No type: then no body either, which HTTP/1.1 would have announced in one of two ways.
        return headers.get("content-length", "0").strip() == "0" and "transfer-encoding" not in headers
    return [kind.partition(";")[0].strip().lower() for kind in content_types] == ["application/json"]
