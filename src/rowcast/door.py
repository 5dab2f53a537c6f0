"""Who is let in, and who is asked to leave: for the whole process, all streams, or one session."""

from collections.abc import Callable
from typing import Literal

__all__ = ["Door", "Notice"]

Notice = Literal["drain", "switched_off", "owner", "closed"]
"""What a reader is told about itself: the process ends, streams are switched off, its session may have another owner,
or may be gone."""


class Door:
    """What new readers have to ask, and what the present ones are told; `tell` reaches those of a session, or all.

    `owner_changes` counts: whoever is being let in while it changes has to ask once more whose the session is.
    """

    def __init__(self, tell: Callable[[Notice, str | None], None]) -> None:
        self.is_draining = False
        self.serves_streams = True
        self.owner_changes = 0
        self.keeps: Callable[[str], bool] = _everybody
        self._tell = tell

    def drain(self) -> None:
        """Take no new readers, and have the present ones say goodbye. For a signal handler inside the loop."""
        self.is_draining = True
        self._tell("drain", None)

    def switch_streams(self, on: bool) -> None:
        """Serve streams, or have all end and take no new ones; polls go on."""
        was_on, self.serves_streams = self.serves_streams, on
        if was_on and not on:
            self.keep_streams(_nobody)

    def keep_streams(self, keeps: Callable[[str], bool]) -> None:
        """Have the streams end whose owner `keeps` says no to; polls go on, and who comes back is let in."""
        self.keeps = keeps
        self._tell("switched_off", None)

    def owner_changed(self, session: str | None, *, closed: bool = False) -> None:
        """Have the readers of a session, or of all, ask whether it is still theirs; `closed`: it is said to be gone."""
        self.owner_changes += 1
        self._tell("closed" if closed else "owner", session)


def _everybody(owner: str) -> bool:
    return True


def _nobody(owner: str) -> bool:
    return False
