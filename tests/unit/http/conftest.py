"""Real keys, hand-made tokens, a clock that stands still, and a real HTTP server for key sets."""

import hashlib
import hmac
import http.server
import json
import ssl
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from starlette.requests import HTTPConnection

NOW = 1_800_000_000.0


class FakeClock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class IdentityProvider:
    """Somebody else's keys, and tokens made with them."""

    kid: str = "key-1"
    issuer: str = "https://idp.example/"
    algorithm: str = "RS256"
    private_key: Any = None

    def __post_init__(self) -> None:
        if self.private_key is None:
            self.private_key = {
                "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
                "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
                "EdDSA": ed25519.Ed25519PrivateKey.generate,
            }[self.algorithm]()

    @property
    def pem(self) -> str:
        return self.private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def jwk(self, **changes: Any) -> dict[str, Any]:
        to_jwk = jwt.get_algorithm_by_name(self.algorithm).to_jwk
        entry = json.loads(to_jwk(self.private_key.public_key()))
        entry.pop("key_ops", None)
        return {**entry, "kid": self.kid, "use": "sig", **changes}

    def claims(self, **changes: Any) -> dict[str, Any]:
        claims = {"iss": self.issuer, "aud": "api", "sub": "auth0|123", "exp": NOW + 3600, "iat": NOW, **changes}
        return {name: value for name, value in claims.items() if value is not ...}

    def token(self, *, headers: Mapping[str, Any] | None = None, **changes: Any) -> str:
        header = {"alg": self.algorithm, "typ": "JWT", "kid": self.kid, **(headers or {})}
        header = {name: value for name, value in header.items() if value is not ...}
        return forge(header, self.claims(**changes), key=self.private_key)


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(header: Mapping[str, Any], claims: Any, *, key: Any = None, hmac_secret: bytes | None = None) -> str:
    """Make a token as an attacker would: any header, any claims, signed with whatever is at hand."""
    signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
    if hmac_secret is not None:
        signature = hmac.digest(hmac_secret, signed.encode(), hashlib.sha256)
    elif key is not None:
        algorithm = jwt.get_algorithm_by_name({"RSA": "RS256", "Ell": "ES256", "Ed2": "EdDSA"}[_kind(key)])
        signature = algorithm.sign(signed.encode(), key)
    else:
        signature = b""
    return f"{signed}.{base64url(signature)}"


def _kind(key: Any) -> str:
    names = {rsa.RSAPrivateKey: "RSA", ec.EllipticCurvePrivateKey: "Ell", ed25519.Ed25519PrivateKey: "Ed2"}
    return next(name for kind, name in names.items() if isinstance(key, kind))


def connect(
    method: str = "GET",
    headers: Mapping[str, str] | list[tuple[str, str]] = (),  # type: ignore[assignment]
    *,
    query: str = "",
    scheme: str = "http",
    host: str | None = "app.example",
) -> HTTPConnection:
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    if host is not None:
        pairs.append(("host", host))
    return HTTPConnection(
        {
            "type": "http",
            "method": method,
            "scheme": scheme,
            "path": "/api/sse/x",
            "query_string": query.encode(),
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
            "server": ("127.0.0.1", 8000),
        }
    )


class QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that does not trust us, or hangs up, is what some tests want."""


@dataclass
class JwksServer:
    """What the identity provider's web server does, and how often it was asked."""

    url: str = ""
    document: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    before_answer: Callable[[], object] = lambda: None
    drip_seconds: float = 0
    certificate: Path = Path()

    @property
    def hits(self) -> int:
        return len(self.paths)

    def serve(self, *providers: IdentityProvider) -> None:
        self.document = json.dumps({"keys": [provider.jwk() for provider in providers]}).encode()


@pytest.fixture
def jwks_server() -> Iterator[JwksServer]:
    with serving() as server:
        yield server


@pytest.fixture
def tls_jwks_server(tmp_path: Path) -> Iterator[JwksServer]:
    """The same over HTTPS, with a certificate of its own that nobody trusts unless told to."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    path = tmp_path / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with serving(context) as server:
        server.certificate = path
        yield server


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[JwksServer]:
    state = JwksServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.paths.append(self.path)
            state.before_answer()
            with suppress(OSError):  # the client hung up, as some tests mean it to
                self.send_response(state.status)
                for name, value in state.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if state.drip_seconds:
                    for byte in state.document:
                        self.wfile.write(bytes([byte]))
                        time.sleep(state.drip_seconds)
                self.wfile.write(state.document)

        def log_message(self, *_: object) -> None:
            pass

    server = QuietServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    state.url = f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{server.server_port}/jwks.json"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session", name="forge")
def forge_fixture() -> Callable[..., str]:
    return forge


@pytest.fixture(scope="session", name="connect")
def connect_fixture() -> Callable[..., HTTPConnection]:
    return connect


@pytest.fixture(scope="session")
def make_idp() -> type[IdentityProvider]:
    return IdentityProvider


@pytest.fixture(scope="session")
def idp() -> IdentityProvider:
    return IdentityProvider()


@pytest.fixture(scope="session")
def other_idp() -> IdentityProvider:
    return IdentityProvider(issuer="https://other.example/")
