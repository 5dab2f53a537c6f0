"""Who is calling."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Principal", "Via"]

Via = Literal["bearer", "cookie", "ticket"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller whose credentials were verified, by this library or by the application that mounts it.

    `owner` is `issuer_alias|sub`: the alias keeps the subjects of two issuers apart. `expires_at` (epoch seconds) is
    when the credentials end, and with them every stream opened by them; None is never. `session` is set for a ticket
    only: the one session that it opens.
    """

    owner: str
    expires_at: float | None = None
    via: Via = "bearer"
    session: str | None = None
