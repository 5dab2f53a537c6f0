"""Keys: public ones that check other people's tokens, and our own that signs guest tokens and tickets."""

import json
import logging
import os
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from rowcast.errors import ConfigurationError
from rowcast.http import tokens

__all__ = ["ALGORITHMS", "OWN_ISSUER", "SigningKey", "VerificationKey"]

log = logging.getLogger(__name__)

OWN_ISSUER = "rowcast"

_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_MINIMUM_RSA_BITS = 2048  # RFC 7518, section 3.3
_CURVE_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

# Every algorithm that an issuer may use. HS* is missing on purpose: whoever can check such a token can forge one.
ALGORITHMS = _RSA_ALGORITHMS | frozenset(_CURVE_ALGORITHMS.values()) | {"EdDSA"}

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationKey:
    """A public key, its name, and the algorithms that its type allows.

    The token's header never decides how a key is used: that is how an RSA key in PEM once became an HMAC secret.
    """

    kid: str | None
    key: PublicKey
    algorithms: frozenset[str]

    @classmethod
    def from_pem(cls, pem: str) -> Self:
        """Read a public key; raise `ConfigurationError` for anything else, a private key above all."""
        if "PRIVATE KEY" in pem:
            raise ConfigurationError(
                "This is a private key. Tokens are checked with the public key (BEGIN PUBLIC KEY)."
            )
        try:
            key = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm) as failure:
            raise ConfigurationError("This is not a public key in PEM form (BEGIN PUBLIC KEY).") from failure
        algorithms = _algorithms_of(key)
        if not isinstance(key, PublicKey) or not algorithms:
            raise ConfigurationError("Use an RSA key of at least 2,048 bits, a P-256, P-384 or P-521 key, or Ed25519.")
        return cls(kid=None, key=key, algorithms=algorithms)

    @classmethod
    def from_jwk(cls, entry: object) -> Self | None:
        """Read one entry of a key set (RFC 7517); None if it is not a public signature key that we can use."""
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            return None
        kid, operations, algorithm = entry.get("kid"), entry.get("key_ops"), entry.get("alg")
        if operations is not None and not (isinstance(operations, list) and "verify" in operations):
            return None
        if kid is not None and not isinstance(kid, str):
            return None
        key = _read_jwk(entry)
        algorithms = _algorithms_of(key)
        if algorithm is not None:
            algorithms &= {algorithm} if isinstance(algorithm, str) else frozenset()
        return cls(kid=kid, key=key, algorithms=algorithms) if isinstance(key, PublicKey) and algorithms else None

    def verify(self, unverified: tokens.Unverified) -> Mapping[str, object]:
        """Check the signature and return the claims, or raise `Unauthorized`."""
        if unverified.algorithm not in self.algorithms:
            tokens.refuse("an algorithm that this key is not for")
        signature = jwt.PyJWS(algorithms=[unverified.algorithm])
        try:
            signature.decode_complete(unverified.token, self.key, algorithms=[unverified.algorithm])
        except (jwt.PyJWTError, ValueError):
            tokens.refuse("bad signature")
        return unverified.claims


class SigningKey:
    """Our own Ed25519 key, shared by all processes that serve the same users."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        raw = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._jwk = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)}
        # RFC 7638: the thumbprint is over exactly these members, sorted, without spaces.
        thumbprint = sha256(json.dumps(self._jwk, sort_keys=True, separators=(",", ":")).encode())
        self.kid = _base64url(thumbprint.digest())
        self._public = VerificationKey(kid=self.kid, key=private_key.public_key(), algorithms=frozenset({"EdDSA"}))

    @classmethod
    def generate(cls) -> Self:
        """Make a new key, known to nobody."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a PKCS #8 key in PEM form; raise `ConfigurationError` with the cure if that cannot be done."""
        cure = "Make one with: openssl genpkey -algorithm ed25519 -out FILE"
        try:
            private_key = load_pem_private_key(Path(path).read_bytes(), password=None)
        except OSError as failure:
            raise ConfigurationError(f"The signing key {path} cannot be read: {failure.strerror}. {cure}") from failure
        except TypeError as failure:
            raise ConfigurationError(f"The signing key {path} is encrypted; store it without a password.") from failure
        except (ValueError, UnsupportedAlgorithm) as failure:
            raise ConfigurationError(f"The signing key {path} is not a private key in PEM form. {cure}") from failure
        if not isinstance(private_key, Ed25519PrivateKey):
            raise ConfigurationError(f"The signing key {path} is not an Ed25519 key. {cure}")
        return cls(private_key)

    def save(self, path: str | Path) -> Self:
        """Write the key for its owner's eyes only, unless a key is there already; return the one that is there now.

        When several processes start at once, one wins and all go on with its key: the file appears under its name in
        one step and complete, or not at all. Raises `ConfigurationError` if the file cannot be written.
        """
        target = Path(path)
        pem = self._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            descriptor, draft = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # O_EXCL, mode 0600
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(pem)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(draft, target)  # unlike a rename, this fails if the name is taken
            finally:
                Path(draft).unlink()
        except FileExistsError:
            return self.from_file(target)
        except OSError as failure:
            raise ConfigurationError(f"The signing key {path} cannot be written: {failure.strerror}.") from failure
        return self

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the public half as a JSON Web Key Set."""
        return {"keys": [{**self._jwk, "kid": self.kid, "use": "sig", "alg": "EdDSA"}]}

    def sign(self, claims: Mapping[str, object], *, typ: str) -> str:
        """Return a token with these claims and our issuer."""
        headers = {"typ": typ, "kid": self.kid}
        return jwt.encode({**claims, "iss": OWN_ISSUER}, self._private_key, algorithm="EdDSA", headers=headers)

    def verify(self, token: str, *, audience: str, typ: str, now: float) -> Mapping[str, object]:
        """Return the claims of a token that this key signed for exactly this use, or raise `Unauthorized`.

        `now` is in epoch seconds. There is no leeway: whoever issued the token has our clock.
        """
        unverified = tokens.read(token)
        if unverified.kid != self.kid or unverified.typ != typ.lower() or unverified.claims.get("iss") != OWN_ISSUER:
            tokens.refuse("another key, use or issuer")
        claims = self._public.verify(unverified)
        tokens.check_audience(claims, {audience})
        tokens.check_times(claims, now=now, leeway_seconds=0)
        return claims


def _algorithms_of(key: object) -> frozenset[str]:
    if isinstance(key, RSAPublicKey):
        return _RSA_ALGORITHMS if key.key_size >= _MINIMUM_RSA_BITS else frozenset()
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVE_ALGORITHMS:
        return frozenset({_CURVE_ALGORITHMS[key.curve.name]})
    return frozenset({"EdDSA"}) if isinstance(key, Ed25519PublicKey) else frozenset()


def _read_jwk(entry: dict[str, object]) -> object:
    readers = {
        "RSA": jwt.algorithms.RSAAlgorithm.from_jwk,
        "EC": jwt.algorithms.ECAlgorithm.from_jwk,
        "OKP": jwt.algorithms.OKPAlgorithm.from_jwk,
    }
    read = readers.get(str(entry.get("kty")))
    try:
        return read(entry) if read else None
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm):
        return None  # one strange key must not lock out the others of its set


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
