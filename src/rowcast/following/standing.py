"""How it stands with what is followed, in one word and one line."""

from collections.abc import Callable
from typing import Literal

__all__ = ["Standing", "Status"]

Status = Literal["connecting", "live", "degraded", "polling", "reconnecting", "authenticating"]


class Standing:
    """Status and reason; `on_change` is called when either is another."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.status: Status = "connecting"
        self.reason = ""
        self._on_change = on_change

    def become(self, status: Status, reason: str = "") -> None:
        """Note where it stands now."""
        if (status, reason) != (self.status, self.reason):
            self.status, self.reason = status, reason
            self._on_change()
