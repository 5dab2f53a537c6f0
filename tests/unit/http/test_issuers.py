import pytest

from rowcast.errors import ConfigurationError
from rowcast.http.issuers import Issuer
from rowcast.http.keys import SigningKey

URL = "https://idp.example/jwks.json"


@pytest.mark.parametrize(
    "changes",
    [
        {"alias": ""},
        {"alias": "a|b"},
        {"alias": "a\nb"},
        {"alias": "a" * 65},
        {"alias": "guest"},
        {"issuer": ""},
        {"issuer": "rowcast"},
        {"audience": ""},
        {"audience": ()},
        {"audience": ("api", "")},
        {"algorithms": ()},
        {"algorithms": ("HS256",)},
        {"algorithms": ("RS256", "HS256")},
        {"algorithms": ("none",)},
        {"jwks_url": None},
        {"jwks_url": "http://idp.example/jwks.json"},
        {"jwks_url": "http://127.0.0.1/jwks.json"},
        {"jwks_url": "http://idp.example/jwks.json", "allow_loopback_http": True},
        {"jwks_url": "http://127.0.0.1.evil.example/", "allow_loopback_http": True},
        {"jwks_url": "file:///etc/passwd"},
        {"jwks_url": "https://"},
        {"jwks_url": "https://idp.example:port/"},
        {"jwks_url": "https://[::1/"},
        {"jwks_url": "https://idp.example/a b"},
        {"jwks_url": "https://idp.example/a\r\nb"},
        {"public_key": "x"},
    ],
    ids=str,
)
def test_refused(changes):
    with pytest.raises(ConfigurationError):
        Issuer(**{"alias": "idp", "issuer": "https://idp.example/", "audience": "api", "jwks_url": URL, **changes})


def test_accepted():
    Issuer("idp", issuer="https://idp.example/", audience="api", jwks_url=URL)
    for host in ("127.0.0.1:8080", "localhost", "[::1]:8080"):
        Issuer("idp", issuer="x", audience="api", jwks_url=f"http://{host}/keys", allow_loopback_http=True)
    assert Issuer("idp", issuer="x", audience=("a", "b"), jwks_url=URL).audiences == {"a", "b"}


def test_public_keys(idp, make_idp, tmp_path):
    def issuer(pem, *algorithms):
        return Issuer("idp", issuer="x", audience="api", public_key=pem, algorithms=algorithms or ("RS256",))

    issuer(idp.pem)
    issuer(make_idp(algorithm="EdDSA").pem, "EdDSA")
    with pytest.raises(ConfigurationError, match="choose algorithms"):
        issuer(idp.pem, "HS256")
    with pytest.raises(ConfigurationError, match="fits none"):
        issuer(idp.pem, "ES256")
    with pytest.raises(ConfigurationError, match="not a public key"):
        issuer("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    SigningKey.generate().save(tmp_path / "key.pem")
    with pytest.raises(ConfigurationError, match="private key"):
        issuer((tmp_path / "key.pem").read_text())
