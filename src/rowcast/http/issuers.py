"""Whose tokens are accepted, and on what terms."""

from dataclasses import KW_ONLY, dataclass
from urllib.parse import urlsplit

from rowcast.errors import ConfigurationError
from rowcast.http.keys import ALGORITHMS, OWN_ISSUER, VerificationKey
from rowcast.http.origin import is_loopback

__all__ = ["GUEST_ALIAS", "Issuer"]

GUEST_ALIAS = "guest"
_MAX_ALIAS_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Issuer:
    """An identity provider: tokens whose `iss` is `issuer`, made for `audience`, signed with one of its keys.

    `alias` is the first part of `Principal.owner`, so it must never change once rows carry it. The keys come from
    `jwks_url` (HTTPS; plain HTTP only to this machine, and only with `allow_loopback_http`) or are one `public_key`
    in PEM form. `audience` may be several. Raises `ConfigurationError` when something does not fit.
    """

    alias: str
    _: KW_ONLY
    issuer: str
    audience: str | tuple[str, ...]
    jwks_url: str | None = None
    public_key: str | None = None
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    allow_loopback_http: bool = False

    def __post_init__(self) -> None:
        """Refuse what could not be told apart, or could be forged."""
        alias = self.alias
        if not alias or "|" in alias or not alias.isprintable() or len(alias) > _MAX_ALIAS_CHARACTERS:
            raise ConfigurationError(f"The alias {alias!r} must be 1 to 64 printable characters without '|'.")
        if alias == GUEST_ALIAS or self.issuer == OWN_ISSUER:
            raise ConfigurationError(f"The alias {GUEST_ALIAS!r} and the issuer {OWN_ISSUER!r} are our own guests'.")
        if not self.issuer or not self.audiences or not all(self.audiences):
            raise ConfigurationError(f"Issuer {alias!r} needs an issuer and an audience.")
        if not self.algorithms or not ALGORITHMS.issuperset(self.algorithms):
            raise ConfigurationError(f"Issuer {alias!r}: choose algorithms from {', '.join(sorted(ALGORITHMS))}.")
        if (self.jwks_url is None) == (self.public_key is None):
            raise ConfigurationError(f"Issuer {alias!r} needs either a jwks_url or a public_key.")
        if self.jwks_url is not None:
            self._check_url(self.jwks_url)
        elif not self.static_key().algorithms.intersection(self.algorithms):
            raise ConfigurationError(f"Issuer {alias!r}: its public key fits none of {', '.join(self.algorithms)}.")

    @property
    def audiences(self) -> frozenset[str]:
        """What a token's `aud` may be."""
        return frozenset({self.audience} if isinstance(self.audience, str) else self.audience)

    def static_key(self) -> VerificationKey:
        """Return the key of an issuer that has no `jwks_url`."""
        return VerificationKey.from_pem(self.public_key or "")

    def _check_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            scheme, host, _ = parts.scheme, parts.hostname or "", parts.port
        except ValueError:
            scheme, host = "", ""
        if not host or not (scheme == "https" or (scheme == "http" and self.allow_loopback_http and is_loopback(host))):
            raise ConfigurationError(f"Issuer {self.alias!r}: jwks_url must start with https://, not {url!r}.")
        if not url.isascii() or any(character <= " " for character in url):
            raise ConfigurationError(f"Issuer {self.alias!r}: jwks_url {url!r} must be plain ASCII without spaces.")
