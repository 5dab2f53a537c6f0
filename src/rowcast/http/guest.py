"""Guests: visitors without an account, who still own what they start."""

import re
import time
from collections.abc import Callable
from uuid import uuid4

from rowcast.errors import ConfigurationError
from rowcast.http.issuers import GUEST_ALIAS
from rowcast.http.keys import SigningKey
from rowcast.http.principal import Principal, Via
from rowcast.http.tokens import check_times, text_claim

__all__ = ["GuestTokens", "guest_cookie"]

_AUDIENCE = "rowcast:guest"
_TYP = "rowcast-guest+jwt"
_COOKIE_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_COOKIE_VALUE = re.compile(r"[A-Za-z0-9_.-]*")


class GuestTokens:
    """Issues guest tokens and recognises them."""

    def __init__(
        self, signing_key: SigningKey, *, ttl_seconds: float = 86_400, clock: Callable[[], float] = time.time
    ) -> None:
        if not ttl_seconds > 0:
            raise ConfigurationError(f"Guest tokens must last longer than {ttl_seconds} seconds.")
        self._signing_key = signing_key
        self._ttl_seconds = ttl_seconds
        self._clock = clock

    def issue(self) -> tuple[str, Principal]:
        """Return a token for a guest who was never seen before, and that guest."""
        return self.issue_for(str(uuid4()))

    def issue_for(self, subject: str) -> tuple[str, Principal]:
        """Return a token for a guest who is known already, for tools of the operator who holds the key."""
        expires_at = self._clock() + self._ttl_seconds
        token = self._signing_key.sign({"aud": _AUDIENCE, "sub": subject, "exp": expires_at}, typ=_TYP)
        return token, Principal(owner=f"{GUEST_ALIAS}|{subject}", expires_at=expires_at, via="bearer")

    def verify(self, token: str, *, via: Via = "bearer") -> Principal:
        """Return the guest whose token this is, or raise `Unauthorized`."""
        now = self._clock()
        claims = self._signing_key.verify(token, audience=_AUDIENCE, typ=_TYP, now=now)
        expires_at = check_times(claims, now=now, leeway_seconds=0)
        return Principal(owner=f"{GUEST_ALIAS}|{text_claim(claims, 'sub')}", expires_at=expires_at, via=via)


def guest_cookie(name: str, token: str, max_age_seconds: int, *, secure: bool) -> str:
    """Return the value of a `Set-Cookie` header that scripts cannot read and that other sites' forms do not send."""
    if not _COOKIE_NAME.fullmatch(name) or not _COOKIE_VALUE.fullmatch(token):
        raise ConfigurationError(f"{name!r} cannot be the name of a cookie, or its value is not a token.")
    cookie = f"{name}={token}; Max-Age={max_age_seconds}; Path=/; HttpOnly; SameSite=Lax"
    return f"{cookie}; Secure" if secure else cookie
