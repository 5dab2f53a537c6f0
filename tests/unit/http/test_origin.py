import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from rowcast.errors import ConfigurationError, CrossSite
from rowcast.http.origin import check_same_site, cors_options, own_origin, parse_origins

ALLOWED = parse_origins(["https://listed.example"])
OWN, LISTED, FOREIGN = "http://app.example", "https://listed.example", "https://evil.example"

# Sec-Fetch-Site, Origin → may read, may change
MATRIX = [
    (None, None, True, False),
    (None, OWN, True, True),
    (None, LISTED, True, True),
    (None, FOREIGN, False, False),
    (None, "null", False, False),
    ("none", None, True, False),
    ("none", OWN, True, True),
    ("same-origin", None, True, True),
    ("same-origin", OWN, True, True),
    ("same-origin", FOREIGN, False, True),  # a proxy that rewrites Host; browsers send Origin here only when changing
    ("same-site", None, False, False),
    ("same-site", OWN, False, False),
    ("same-site", LISTED, True, True),
    ("same-site", FOREIGN, False, False),
    ("cross-site", None, False, False),
    ("cross-site", OWN, False, False),
    ("cross-site", LISTED, True, True),
    ("cross-site", FOREIGN, False, False),
    ("cross-site", "null", False, False),
    ("something-new", None, False, False),
]


def headers_of(site, origin):
    return {name: value for name, value in {"sec-fetch-site": site, "origin": origin}.items() if value is not None}


def passes(connection, *, via="cookie"):
    try:
        check_same_site(connection, via=via, allowed_origins=ALLOWED)
    except CrossSite:
        return False
    return True


@pytest.mark.parametrize(("site", "origin", "may_read", "may_change"), MATRIX)
def test_cookie(connect, site, origin, may_read, may_change):
    for method in ("GET", "HEAD", "OPTIONS"):
        assert passes(connect(method, headers_of(site, origin))) is may_read
    for method in ("POST", "PATCH", "PUT", "DELETE", "WHATEVER"):
        assert passes(connect(method, headers_of(site, origin))) is may_change


@pytest.mark.parametrize("via", ["bearer", "ticket"])
@pytest.mark.parametrize(("site", "origin", "may_read", "may_change"), MATRIX)
def test_header_and_ticket_are_not_sent_along(connect, via, site, origin, may_read, may_change):
    assert passes(
        connect(
            "POST",
            {**headers_of(site, origin), "content-type": "text/plain"},
        ),
        via=via,
    )


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, True),
        ({"content-length": "0"}, True),
        ({"content-type": "application/json", "content-length": "2"}, True),
        ({"content-type": "Application/JSON; charset=utf-8", "transfer-encoding": "chunked"}, True),
        ({"content-length": "2"}, False),
        ({"transfer-encoding": "chunked"}, False),
        ({"content-type": "text/plain", "content-length": "2"}, False),
        ({"content-type": "text/plain"}, False),
        ({"content-type": "application/x-www-form-urlencoded", "content-length": "2"}, False),
        ({"content-type": "multipart/form-data; boundary=application/json", "content-length": "2"}, False),
        ({"content-type": "text/plain, application/json", "content-length": "2"}, False),
        ({"content-type": "", "content-length": "2"}, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("origin", [OWN, LISTED])
def test_a_change_must_be_json(connect, headers, expected, origin):
    assert passes(connect("POST", {**headers, "origin": origin})) is expected


def test_doubled_headers(connect):
    for name, value, second in (
        ("origin", OWN, FOREIGN),
        ("sec-fetch-site", "same-origin", "cross-site"),
        ("origin", OWN, OWN),
    ):
        assert not passes(connect("GET", [(name, value), (name, second)]))
        assert not passes(connect("POST", [(name, value), (name, second)]))
    kinds = [("content-type", "application/json"), ("content-type", "text/plain")]
    assert not passes(connect("POST", [("origin", OWN), *kinds]))


@pytest.mark.parametrize(
    ("scheme", "host", "expected"),
    [
        ("http", "App.Example", "http://app.example"),
        ("http", "app.example:80", "http://app.example"),
        ("https", "app.example:443", "https://app.example"),
        ("https", "app.example:80", "https://app.example:80"),
        ("http", "app.example:08000", "http://app.example:8000"),
        ("http", "[::1]:8000", "http://[::1]:8000"),
        ("ws", "app.example", "http://app.example"),
        ("http", None, None),
        ("http", "", None),
        ("http", "a b", None),
        ("http", "a/b", None),
        ("http", "user@app.example", None),
        ("http", "app.example:٨٠", None),
        ("gopher", "app.example", None),
    ],
)
def test_own_origin(connect, scheme, host, expected):
    if host is not None and not host.isascii():
        host = host.encode().decode("latin-1")
    assert own_origin(connect(scheme=scheme, host=host)) == expected


def test_a_request_without_host_has_no_own_origin(connect):
    assert not passes(connect("POST", {"origin": "null"}, host=None))
    assert not passes(connect("POST", {"origin": ""}, host=None))


def test_a_request_with_two_hosts_has_no_own_origin(connect):
    assert own_origin(connect(headers={"host": "evil.example"})) is None


def test_scheme_and_port_are_part_of_the_origin(connect):
    assert not passes(connect("GET", {"origin": "https://app.example"}, scheme="http"))
    assert not passes(connect("GET", {"origin": "http://app.example:8080"}, scheme="http"))
    assert passes(connect("GET", {"origin": "http://app.example:80"}, scheme="http"))


def test_parse_origins():
    assert parse_origins(["HTTPS://App.Example:443/", " http://localhost:3000 "]) == {
        "https://app.example",
        "http://localhost:3000",
    }
    for text in (
        "*",
        "null",
        "",
        "app.example",
        "https://",
        "https://*.example",
        "https://a/b",
        "https://a?b",
        "ftp://a",
    ):
        with pytest.raises(ConfigurationError):
            parse_origins([text])


def test_cors_never_combines_a_wildcard_with_credentials():
    with pytest.raises(ConfigurationError):
        cors_options(["*"])


def test_cors_as_browsers_see_it():
    async def answer(_):
        return PlainTextResponse("")

    middleware = Middleware(CORSMiddleware, **cors_options([LISTED]))
    client = TestClient(Starlette(routes=[Route("/", answer)], middleware=[middleware]))
    asked = "authorization, last-event-id, if-none-match, idempotency-key, content-type"
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": asked}
    listed = client.options("/", headers={"origin": LISTED, **preflight})
    assert listed.status_code == 200
    assert listed.headers["access-control-allow-origin"] == LISTED
    assert listed.headers["access-control-allow-credentials"] == "true"
    assert client.options("/", headers={"origin": FOREIGN, **preflight}).status_code == 400
    assert "access-control-allow-origin" not in client.get("/", headers={"origin": FOREIGN}).headers
    exposed = client.get("/", headers={"origin": LISTED}).headers["access-control-expose-headers"]
    assert exposed == "ETag, Retry-After, X-Request-Id"
