"""Every exception that Rowcast raises on purpose.

    RowcastError
    ├── ConfigurationError          the operator can cure it: a setting, a DSN, a key file, a missing migration
    │   └── WatchError              a `Watch` that cannot work, or that does not fit its table
    ├── DatabaseUnavailable         PostgreSQL cannot be reached or refuses us now; trying again may help
    │   └── ReadOnlyDatabase        a standby answered; only the primary has the snapshots that cursors need
    ├── Refused                     a caller asked for what it may not have; carries a stable `code`
    │   ├── Unauthorized            no, expired or bad credentials
    │   ├── CrossSite               a cookie was sent along by a page of another site
    │   ├── NotFound                unknown, deleted, or not the caller's: never told apart
    │   ├── InvalidRequest          malformed id, parameter or body
    │   ├── NotAcceptable           the caller does not accept `text/event-stream`
    │   ├── Conflict                an illegal transition, a full session, a reused idempotency key
    │   ├── BodyTooLarge            more than 64 KiB were sent
    │   ├── RateLimited             too often in too short a time
    │   │   └── TooManyStreams      the cap of one owner is reached
    │   └── Unavailable             draining, overloaded or switched off
    └── ProtocolError               bytes or names that would break a frame on the wire

The docstring of a refusal is what its caller reads, unless a more precise text is passed in.
"""

from typing import ClassVar

__all__ = [
    "BodyTooLarge",
    "ConfigurationError",
    "Conflict",
    "CrossSite",
    "DatabaseUnavailable",
    "InvalidRequest",
    "NotAcceptable",
    "NotFound",
    "ProtocolError",
    "RateLimited",
    "ReadOnlyDatabase",
    "Refused",
    "RowcastError",
    "TooManyStreams",
    "Unauthorized",
    "Unavailable",
    "WatchError",
]


class RowcastError(Exception):
    """Something went wrong in Rowcast."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or type(self).__name__).strip())


class ConfigurationError(RowcastError):
    """A setting is missing or wrong."""


class WatchError(ConfigurationError):
    """The watch does not describe a table that can be watched."""


class DatabaseUnavailable(RowcastError):
    """The database cannot be reached right now."""


class ReadOnlyDatabase(DatabaseUnavailable):
    """This is a standby. Point the DSN at the primary: a standby's snapshots list no running transactions."""


class Refused(RowcastError):
    """The request was refused."""

    code: ClassVar[str] = "refused"

    def __init__(self, message: str | None = None, *, code: str | None = None) -> None:
        super().__init__(message)
        self.reason = code or self.code


class Unauthorized(Refused):
    """Sign in, or present a valid token."""

    code = "unauthorized"


class CrossSite(Refused):
    """Requests from other sites are refused when they rely on a cookie."""

    code = "cross_site"


class NotFound(Refused):
    """Not found."""

    code = "not_found"


class InvalidRequest(Refused):
    """The request is malformed."""

    code = "invalid_request"


class NotAcceptable(Refused):
    """This resource is an event stream; accept text/event-stream."""

    code = "not_acceptable"


class Conflict(Refused):
    """The request conflicts with the current state."""

    code = "conflict"


class BodyTooLarge(Refused):
    """The body is too large; at most 64 KiB are read."""

    code = "body_too_large"


class RateLimited(Refused):
    """Too many requests; slow down."""

    code = "rate_limited"


class TooManyStreams(RateLimited):
    """Too many streams are open; close one, or poll."""

    code = "too_many_streams"


class Unavailable(Refused):
    """Temporarily unavailable; try again shortly."""

    code = "unavailable"


class ProtocolError(RowcastError):
    """A value does not fit the wire format."""
