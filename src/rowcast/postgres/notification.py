"""What the trigger says on the channel, read with distrust: any role of the database may forge it."""

import json
import re
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from rowcast.event import RowState
from rowcast.watch import Watch

__all__ = ["Notification", "parse", "parse_owner_change"]

_XID = re.compile(r"[0-9]{1,20}\Z")


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification: a new state, a session that has to be read again, or a table that was truncated."""

    kind: Literal["state", "reread", "truncated"]
    horizon: int
    state: RowState | None = None
    session: str | None = None


def parse(watch: Watch, payload: str) -> Notification:
    """Return what `payload` says. Raises ValueError for anything that the trigger would not have sent."""
    document = json.loads(payload)
    if not isinstance(document, dict):
        raise ValueError("not an object")
    if any(
        isinstance(value, dict | list) or (isinstance(value, float) and not isfinite(value))
        for value in document.values()
    ):
        raise ValueError("a value that the trigger does not send, and that might not fit a frame")
    horizon = document.pop("horizon", None)
    if not isinstance(horizon, str) or not _XID.match(horizon) or int(horizon) >= 2**64:
        raise ValueError("no horizon")
    if document.get("truncated") is True:
        return Notification("truncated", int(horizon))
    if document.get("reread") is True:
        session = document.get(watch.session)
        if not isinstance(session, str):
            raise ValueError("no session")
        return Notification("reread", int(horizon), session=session)
    removed = document.pop("removed", False) is True
    return Notification("state", int(horizon), state=RowState.from_document(watch, document, removed=removed))


def parse_owner_change(watch: Watch, payload: str) -> tuple[str | None, bool]:
    """Return which session has another owner, None for any, and whether it is gone. Raises ValueError."""
    document = json.loads(payload)
    if not isinstance(document, dict):
        raise ValueError("not an object")
    session = document.get(watch.session)
    if session is not None and not isinstance(session, str):
        raise ValueError("no session")
    return session, document.get("closed") is True
