import pytest

from rowcast.errors import ConfigurationError, Unauthorized
from rowcast.http.guest import GuestTokens, guest_cookie
from rowcast.http.keys import SigningKey
from rowcast.http.origin import needs_secure_cookie

KEY = SigningKey.generate()


def test_every_guest_is_somebody_else(clock):
    guests = GuestTokens(KEY, ttl_seconds=10, clock=clock)
    (token, guest), (_, other) = guests.issue(), guests.issue()
    assert guest.owner != other.owner
    assert guests.verify(token) == guest
    assert guests.verify(token, via="cookie").via == "cookie"
    clock.now += 10
    with pytest.raises(Unauthorized):
        guests.verify(token)


@pytest.mark.parametrize("ttl_seconds", [0, -1, float("nan")])
def test_impossible_lifetimes(ttl_seconds):
    with pytest.raises(ConfigurationError):
        GuestTokens(KEY, ttl_seconds=ttl_seconds)


def test_cookie():
    plain = guest_cookie("rowcast_token", "a.b-c_d", 60, secure=False)
    assert plain == "rowcast_token=a.b-c_d; Max-Age=60; Path=/; HttpOnly; SameSite=Lax"
    assert guest_cookie("__Host-t", "a", 60, secure=True).endswith("; SameSite=Lax; Secure")


@pytest.mark.parametrize(
    ("name", "token"), [("a;b", "x"), ("", "x"), ("a", "x; Domain=y"), ("a", "x\r\ny"), ("a", "é")]
)
def test_cookie_that_would_break_its_header(name, token):
    with pytest.raises(ConfigurationError):
        guest_cookie(name, token, 60, secure=True)


@pytest.mark.parametrize(
    ("scheme", "host", "expected"),
    [
        ("http", "localhost:8000", False),
        ("http", "127.0.0.1:8000", False),
        ("http", "127.8.0.1", False),
        ("http", "[::1]:8000", False),
        ("http", "demo.localhost", False),
        ("https", "localhost:8000", True),
        ("http", "app.example", True),
        ("http", "127.0.0.1.evil.example", True),
        ("http", "localhost.evil.example", True),
        ("http", "[::1", True),
        ("http", "", True),
        ("http", None, True),
    ],
)
def test_secure_except_on_loopback(connect, scheme, host, expected):
    assert needs_secure_cookie(connect(scheme=scheme, host=host)) is expected
