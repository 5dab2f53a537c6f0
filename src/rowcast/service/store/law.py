"""What a request's status may become. The database enforces the same; a test holds the two equal."""

from typing import Literal, get_args

__all__ = ["RETRIES", "STATUSES", "TERMINAL", "TRANSITIONS", "Status"]

Status = Literal["pending", "in_progress", "done", "error"]

STATUSES: tuple[Status, ...] = get_args(Status)

TRANSITIONS: frozenset[tuple[Status, Status]] = frozenset(
    {
        ("pending", "in_progress"),
        ("in_progress", "done"),
        ("in_progress", "error"),
    }
)

RETRIES: frozenset[tuple[Status, Status]] = frozenset({("done", "pending"), ("error", "pending")})
"""Only when it is asked for: in SQL with `SET LOCAL rowcast.retry = 'on'`."""

TERMINAL: tuple[Status, ...] = ("done", "error")
