"""The watch of the service: requests, told to the session they belong to."""

from rowcast import Watch
from rowcast.service.store.law import TERMINAL

__all__ = ["REQUESTS"]

REQUESTS = Watch(
    table="request",
    key="request_id",
    session="session_id",
    status="status",
    terminal=TERMINAL,
    presence=("response", "error"),
    carried=("sequence_number",),
)
