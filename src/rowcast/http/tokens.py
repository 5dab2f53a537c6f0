"""One token in compact form: what it must look like and what it must say before anyone looks for its key.

Reading proves nothing; only `VerificationKey.verify` (keys.py) does. The rules are those of RFC 8725 (JWT best current
practices). PyJWT checks signatures; times and audiences are checked here, by the clock that is passed in.
"""

import json
import logging
import re
import unicodedata
from base64 import urlsafe_b64decode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeGuard

from rowcast.errors import Unauthorized

__all__ = [
    "MAX_SUBJECT_CHARACTERS",
    "MAX_TOKEN_BYTES",
    "Unverified",
    "check_audience",
    "check_times",
    "is_instant",
    "read",
    "refuse",
    "text_claim",
]

log = logging.getLogger(__name__)

MAX_TOKEN_BYTES = 8192
MAX_SUBJECT_CHARACTERS = 255

# Three parts, none empty: an unsigned token (`alg: none`) does not even parse.
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

# Headers by which a token would bring its own key along, or ask for rules that we do not know.
_REFUSED_HEADERS = frozenset({"b64", "crit", "jku", "jwk", "x5u"})

# Cc and Cs would break logs and UTF-8; Zl and Zp are line ends to some readers.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})

_END_OF_YEAR_9999 = 253_402_300_800


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """A well-formed token that nobody has vouched for yet. `typ` is in lower case and without `application/`."""

    token: str
    algorithm: str
    kid: str | None
    typ: str | None
    claims: Mapping[str, object]


def refuse(reason: str) -> NoReturn:
    """Raise `Unauthorized` with the one text that every caller sees; `reason` is for the log, and names no secrets."""
    log.debug("token refused: %s", reason)
    raise Unauthorized


def read(token: str) -> Unverified:
    """Take a token apart without believing it; raise `Unauthorized` if it is not well-formed."""
    if len(token) > MAX_TOKEN_BYTES:
        refuse("too long")
    if not _COMPACT.fullmatch(token):
        refuse("not a compact token")
    header_part, claims_part, _ = token.split(".")
    header, claims = _json_object(header_part), _json_object(claims_part)
    if not _REFUSED_HEADERS.isdisjoint(header):
        refuse("a header that is never accepted")
    algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str):
        refuse("no algorithm")
    if not (kid is None or isinstance(kid, str)) or not (typ is None or isinstance(typ, str)):
        refuse("kid or typ is not text")
    if typ is not None:
        typ = typ.lower().removeprefix("application/")  # RFC 7515, section 4.1.9
    return Unverified(token=token, algorithm=algorithm, kid=kid, typ=typ, claims=claims)


def check_audience(claims: Mapping[str, object], audiences: Collection[str]) -> None:
    """Require that the token was made for one of `audiences` (RFC 7519, section 4.1.3)."""
    meant_for = claims.get("aud")
    for audience in meant_for if isinstance(meant_for, list) else [meant_for]:
        if isinstance(audience, str) and audience in audiences:
            return
    refuse("wrong audience")


def check_times(claims: Mapping[str, object], *, now: float, leeway_seconds: float) -> float:
    """Require `exp`, obey `nbf`, and return `exp` in epoch seconds. `iat` is ignored, as RFC 7519 allows."""
    expires_at, not_before = claims.get("exp"), claims.get("nbf")
    if not is_instant(expires_at):
        refuse("no expiry")
    if now >= expires_at + leeway_seconds:
        refuse("expired")
    if not_before is not None and not (is_instant(not_before) and not_before <= now + leeway_seconds):
        refuse("not valid yet")
    return float(expires_at)


def text_claim(claims: Mapping[str, object], name: str, *, max_characters: int = MAX_SUBJECT_CHARACTERS) -> str:
    """Return the claim `name`: printable text of 1 to `max_characters` characters."""
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= max_characters:
        refuse(f"{name} is missing or too long")
    if any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in value):
        refuse(f"{name} holds control characters")
    return value


def is_instant(value: object) -> TypeGuard[float]:
    """Say whether `value` is a point in time. Python's JSON also has NaN and Infinity, which would never expire."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _END_OF_YEAR_9999


def _json_object(part: str) -> Mapping[str, object]:
    try:
        value = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode())
    except (ValueError, RecursionError):  # RecursionError: a few kilobytes of `[` are enough
        refuse("not base64url of JSON")
    if not isinstance(value, dict):
        refuse("not a JSON object")
    return value
