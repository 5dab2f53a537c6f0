"""Who is offered streams: what operators have set while servers run, over what the settings say."""

from dataclasses import dataclass

from rowcast import is_chosen
from rowcast.postgres import named_statements
from rowcast.service.settings import Settings
from rowcast.service.store.database import Database

__all__ = ["Rollout", "Rollouts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Whether streams are served, and which share of the users is offered them (None: all).

    `changed_at` (epoch seconds) is when an operator has set it; None says that only the settings speak.
    """

    streams: bool
    percent: float | None
    salt: str
    changed_at: float | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Rollout":
        """Return what the settings say."""
        return cls(streams=settings.sse_enabled, percent=settings.sse_rollout_percent, salt=settings.sse_salt)

    def offers(self, owner: str) -> bool:
        """Whether a user is offered streams."""
        return self.streams and (self.percent is None or is_chosen(owner, self.salt, self.percent))


class Rollouts:
    """The table `rollout`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = named_statements("rowcast.service.store", "sql/rollout.sql")

    async def get(self, default: Rollout) -> Rollout:
        """Return what is set, and `default` for the rest. Streams that a server's settings switch off stay off."""
        row = await self._database.fetch_one(self._sql["get"])
        if row is None:
            return default
        return Rollout(
            streams=default.streams and row["streams"],
            percent=default.percent if row["percent"] is None else row["percent"],
            salt=row["salt"] or default.salt,
            changed_at=row["changed_at"],
        )

    async def set(self, *, streams: bool, percent: float | None = None, salt: str | None = None) -> None:
        """Set it for all servers; what is None stays as it was."""
        await self._database.fetch(self._sql["set"], streams, percent, salt)

    async def reset(self) -> None:
        """Leave it to the settings again."""
        await self._database.fetch(self._sql["reset"])
