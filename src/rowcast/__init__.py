"""Commit a row in PostgreSQL, and every browser allowed to see it knows within milliseconds."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rowcast.cursor import Cursor
    from rowcast.errors import (
        BodyTooLarge,
        ConfigurationError,
        Conflict,
        CrossSite,
        DatabaseUnavailable,
        InvalidRequest,
        NotAcceptable,
        NotFound,
        ProtocolError,
        RateLimited,
        ReadOnlyDatabase,
        Refused,
        RowcastError,
        TooManyStreams,
        Unauthorized,
        Unavailable,
        WatchError,
    )
    from rowcast.event import RowState
    from rowcast.hub import Hub, Reader, Source
    from rowcast.latest import LatestByRow
    from rowcast.metrics import Metrics, NullMetrics
    from rowcast.rollout import bucket_of, is_chosen
    from rowcast.watch import Watch

_HOME = {
    "Cursor": "cursor",
    "Hub": "hub",
    "LatestByRow": "latest",
    "Metrics": "metrics",
    "NullMetrics": "metrics",
    "Reader": "hub",
    "RowState": "event",
    "Source": "hub",
    "Watch": "watch",
    "bucket_of": "rollout",
    "is_chosen": "rollout",
}

__all__ = [
    "BodyTooLarge",
    "ConfigurationError",
    "Conflict",
    "CrossSite",
    "Cursor",
    "DatabaseUnavailable",
    "Hub",
    "InvalidRequest",
    "LatestByRow",
    "Metrics",
    "NotAcceptable",
    "NotFound",
    "NullMetrics",
    "ProtocolError",
    "RateLimited",
    "ReadOnlyDatabase",
    "Reader",
    "Refused",
    "RowState",
    "RowcastError",
    "Source",
    "TooManyStreams",
    "Unauthorized",
    "Unavailable",
    "Watch",
    "WatchError",
    "bucket_of",
    "is_chosen",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'rowcast' has no attribute {name!r}")
    return getattr(import_module(f"rowcast.{_HOME.get(name, 'errors')}"), name)
