"""Who is calling: a header, a ticket or a cookie in, a `Principal` or `Unauthorized` out.

Every refusal reads the same to the caller, so that nobody learns which part of a forged token was right. The reason is
logged at debug level, without the token.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import HTTPConnection

from rowcast.errors import ConfigurationError, Unauthorized
from rowcast.http.guest import GuestTokens, guest_cookie
from rowcast.http.issuers import Issuer
from rowcast.http.jwks import Fetch, JwksCache
from rowcast.http.keys import OWN_ISSUER, SigningKey, VerificationKey
from rowcast.http.origin import check_same_site, needs_secure_cookie, parse_origins
from rowcast.http.principal import Principal, Via
from rowcast.http.tickets import Tickets
from rowcast.http.tokens import Unverified, check_audience, check_times, read, refuse, text_claim

__all__ = [
    "LEEWAY_SECONDS",
    "Authenticator",
    "GuestTokens",
    "Issuer",
    "Principal",
    "Via",
    "guest_cookie",
    "needs_secure_cookie",
]

LEEWAY_SECONDS = 5
"""How far the clock of an issuer may be off."""

# Plain tokens, access tokens (RFC 9068) and nothing else: an issuer's other tokens (logout, DPoP) are not sign-ins.
_USER_TOKEN_TYPES = frozenset({None, "jwt", "at+jwt"})

_QUERY_NAMES_OF_TOKENS = frozenset(
    {"access_token", "auth_token", "authorization", "bearer", "id_token", "jwt", "refresh_token", "token"}
)


class KeySource(Protocol):
    """Where the keys of one issuer come from."""

    async def key(self, kid: str | None, *, algorithm: str) -> VerificationKey: ...


@dataclass(frozen=True, slots=True)
class StaticKey:
    """The one key of an issuer that publishes none. Its tokens may name it as they like."""

    verification_key: VerificationKey

    async def key(self, kid: str | None, *, algorithm: str) -> VerificationKey:
        """Return the key."""
        return self.verification_key


class Authenticator:
    """Turns the credentials of a request into a principal.

    `signing_key` is needed for tickets and guests; with `accept_guests=False` it is used for tickets alone.
    `allowed_origins` are the other origins whose pages may act with a visitor's cookie. `fetch` replaces the HTTP
    client for key sets, for example where a proxy is needed. Raises `ConfigurationError` when issuers cannot be told
    apart.
    """

    def __init__(
        self,
        *,
        issuers: Iterable[Issuer] = (),
        signing_key: SigningKey | None = None,
        accept_guests: bool = True,
        cookie_name: str = "rowcast_token",
        allowed_origins: Iterable[str] = (),
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuers: dict[str, tuple[Issuer, KeySource]] = {}
        aliases = set()
        for issuer in issuers:
            if issuer.alias in aliases or issuer.issuer in self._issuers:
                raise ConfigurationError(f"Two issuers share the alias {issuer.alias!r} or {issuer.issuer!r}.")
            aliases.add(issuer.alias)
            self._issuers[issuer.issuer] = issuer, _key_source(issuer, clock=clock, fetch=fetch)
        self._guests = GuestTokens(signing_key, clock=clock) if signing_key and accept_guests else None
        self._tickets = Tickets(signing_key, clock=clock) if signing_key else None
        self._cookie_name = cookie_name
        self._allowed_origins = parse_origins(allowed_origins)
        self._clock = clock

    async def verify_any_token(self, connection: HTTPConnection) -> Principal:
        """Return who sent this request, by its `Authorization: Bearer` header or else its cookie.

        The first that is present decides. Raises `Unauthorized`, or `CrossSite` when a cookie was sent along by a page
        of another site. Can be used as a FastAPI dependency as it is.
        """
        _refuse_tokens_in_query(connection)
        return await self._verify_header_or_cookie(connection)

    async def verify_any_token_or_ticket(self, connection: HTTPConnection, *, session: str) -> Principal:
        """Do the same for a route that opens `session`, where the query may hold a ticket in place of a cookie.

        `session` must come from the route. That is why this is a method of its own: FastAPI fills the parameters of a
        dependency from the query, and a caller who could name the session would make its ticket good everywhere.
        """
        _refuse_tokens_in_query(connection)
        tickets = connection.query_params.getlist("ticket")
        if not tickets or _bearer_tokens(connection):
            return await self._verify_header_or_cookie(connection)
        if self._tickets is None or len(tickets) > 1:
            refuse("tickets are not issued here, or several were sent")
        return self._tickets.verify(tickets[0], session)

    async def verify(self, token: str, *, via: Via = "bearer") -> Principal:
        """Return whose guest or user token this is, wherever it was found, or raise `Unauthorized`."""
        unverified = read(token)
        issued_by = unverified.claims.get("iss")
        if not isinstance(issued_by, str):
            refuse("no issuer")
        if issued_by == OWN_ISSUER:
            if self._guests is None:
                refuse("guests are not accepted here")
            return self._guests.verify(token, via=via)
        # The issuer is chosen before `kid` is looked at: one issuer's key must never vouch for another's users.
        issuer, keys = self._issuers.get(issued_by, (None, None))
        if issuer is None or keys is None:
            refuse("unknown issuer")
        return await self._verify_user(unverified, issuer, keys, via=via)

    async def _verify_user(self, unverified: Unverified, issuer: Issuer, keys: KeySource, *, via: Via) -> Principal:
        if unverified.algorithm not in issuer.algorithms:
            refuse("an algorithm that its issuer does not use")
        if unverified.typ not in _USER_TOKEN_TYPES:
            refuse("not a token for signing in")
        # Before the signature only what is cheap and local: a token that is no use whoever signed it fetches no keys.
        check_audience(unverified.claims, issuer.audiences)
        expires_at = check_times(unverified.claims, now=self._clock(), leeway_seconds=LEEWAY_SECONDS)
        subject = text_claim(unverified.claims, "sub")
        (await keys.key(unverified.kid, algorithm=unverified.algorithm)).verify(unverified)
        return Principal(owner=f"{issuer.alias}|{subject}", expires_at=expires_at, via=via)

    async def _verify_header_or_cookie(self, connection: HTTPConnection) -> Principal:
        bearer = _bearer_tokens(connection)
        if len(bearer) > 1:
            refuse("several Authorization headers")
        if bearer:
            return await self.verify(bearer[0])
        cookie = connection.cookies.get(self._cookie_name)
        if not cookie:
            refuse("no credentials")
        # First the page, then the token: a foreign page is refused alike whether its visitor is signed in or not.
        check_same_site(connection, via="cookie", allowed_origins=self._allowed_origins)
        return await self.verify(cookie, via="cookie")


def _key_source(issuer: Issuer, *, clock: Callable[[], float], fetch: Fetch | None) -> KeySource:
    if issuer.jwks_url is None:
        return StaticKey(issuer.static_key())
    return JwksCache(issuer.jwks_url, clock=clock, fetch=fetch)


def _bearer_tokens(connection: HTTPConnection) -> list[str]:
    """Return the tokens of all `Authorization: Bearer` headers; other schemes are not ours, and may be a proxy's."""
    parts = [value.strip().partition(" ") for value in connection.headers.getlist("authorization")]
    return [token.strip() for scheme, _, token in parts if scheme.lower() == "bearer"]


def _refuse_tokens_in_query(connection: HTTPConnection) -> None:
    if any(name.lower() in _QUERY_NAMES_OF_TOKENS for name in connection.query_params):
        raise Unauthorized(
            "A token in the URL ends up in logs: send it as Authorization: Bearer, or use a ticket.",
            code="token_in_query",
        )
