"""Tickets: short-lived tokens for one session, for clients that can send neither header nor cookie.

`EventSource` cannot set headers, so its token would stand in the URL, and URLs end up in logs. A ticket may: it opens
one session for a minute. Browsers reconnect with the same URL, so it can be used again while it lasts.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from rowcast.errors import ConfigurationError
from rowcast.http.keys import SigningKey
from rowcast.http.principal import Principal
from rowcast.http.tokens import is_instant, refuse, text_claim

__all__ = ["Ticket", "Tickets"]

_AUDIENCE = "rowcast:ticket"
_TYP = "rowcast-ticket+jwt"
_MAX_OWNER_CHARACTERS = 512
_MAX_TTL_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A ticket, and when it ends in epoch seconds."""

    token: str
    expires_at: float


class Tickets:
    """Issues tickets and recognises them."""

    def __init__(
        self, signing_key: SigningKey, *, ttl_seconds: float = 60, clock: Callable[[], float] = time.time
    ) -> None:
        if not 0 < ttl_seconds <= _MAX_TTL_SECONDS:
            raise ConfigurationError(f"Tickets may last up to {_MAX_TTL_SECONDS} seconds, not {ttl_seconds}.")
        self._signing_key = signing_key
        self._ttl_seconds = ttl_seconds
        self._clock = clock

    def issue(self, principal: Principal, session: str) -> Ticket:
        """Return a ticket with which `principal` opens `session`.

        The caller has checked that the session is the principal's. Raises `Unauthorized` for a principal that came
        with a ticket, which could otherwise be renewed for ever, or whose own credentials have ended.
        """
        now = self._clock()
        if principal.via == "ticket":
            refuse("a ticket cannot get another ticket")
        if principal.expires_at is not None and principal.expires_at <= now:
            refuse("the ticket's parent has expired")
        expires_at = now + self._ttl_seconds
        if principal.expires_at is not None:
            expires_at = min(expires_at, principal.expires_at)
        claims = {
            "aud": _AUDIENCE,
            "sub": principal.owner,
            "session": session,
            "exp": expires_at,
            "parent_exp": principal.expires_at,
        }
        return Ticket(token=self._signing_key.sign(claims, typ=_TYP), expires_at=expires_at)

    def verify(self, token: str, session: str) -> Principal:
        """Return who may open `session` with this ticket, or raise `Unauthorized`.

        `expires_at` is the end of the credentials that the ticket was issued for, not of the ticket: the ticket opens
        the stream, they keep it open.
        """
        claims = self._signing_key.verify(token, audience=_AUDIENCE, typ=_TYP, now=self._clock())
        if claims.get("session") != session:
            refuse("a ticket for another session")
        parent_expires_at = claims.get("parent_exp")
        if parent_expires_at is not None and not is_instant(parent_expires_at):
            refuse("a ticket without its parent's expiry")
        owner = text_claim(claims, "sub", max_characters=_MAX_OWNER_CHARACTERS)
        return Principal(owner=owner, expires_at=parent_expires_at, via="ticket", session=session)
