"""Where a reader stands: the epoch of the database's memory, and a horizon in its stream of transactions."""

import re
from dataclasses import dataclass
from hashlib import blake2s
from typing import Self

__all__ = ["Cursor"]

_CURSOR = re.compile(r"1\.([0-9a-f]{16})\.(0|[1-9][0-9]{0,19})\.([0-9a-f]{8})\Z")
_LARGEST_XID = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """The reader has everything of every transaction whose id is below `horizon`.

    `epoch` is 16 hexadecimal digits that change whenever the database may have forgotten something (a crash, a
    restore, a TRUNCATE); versions and horizons of different epochs are never compared. `horizon` is an `xid8`.
    On the wire a cursor belongs to one session: whoever has seen all of one session has seen nothing of another. To
    clients the text is opaque.
    """

    epoch: str
    horizon: int

    def text(self, session: str) -> str:
        """Return how the cursor is spelled for a reader of a session."""
        return f"1.{self.epoch}.{self.horizon}.{_tag(session)}"

    @classmethod
    def parse(cls, text: str, session: str) -> Self | None:
        """Return the cursor that `text` spells, or None: what is not this session's means a full snapshot."""
        match = _CURSOR.match(text)
        if match is None or int(match[2]) > _LARGEST_XID or match[3] != _tag(session):
            return None
        return cls(match[1], int(match[2]))


def _tag(session: str) -> str:
    return blake2s(session.encode(), digest_size=4).hexdigest()
