"""A session in the terminal."""

from typing import Literal
from uuid import UUID

from rich.console import Console
from rich.text import Text

from rowcast import ConfigurationError, InvalidRequest, NotFound
from rowcast.client import Change, Live, watch
from rowcast.http import GuestTokens, SigningKey
from rowcast.postgres import connect, translated
from rowcast.service.settings import Settings

__all__ = ["follow", "owner_token"]

_COLOURS = {"pending": "yellow", "in_progress": "cyan", "done": "green", "error": "red"}


async def follow(url: str, session: str, *, token: str, transport: Literal["auto", "sse", "poll"]) -> None:
    """Print every change of a session until interrupted."""
    console = Console(highlight=False, soft_wrap=True)

    def say(live: Live) -> None:
        console.print(Text(f"        {live.status}{live.reason and f': {live.reason}'}", style="dim"))

    console.print(Text(f"following {session} at {url}", style="dim"))
    async with watch(url, session, token=token, transport=transport, on_status=say) as live:
        async for change in live:
            console.print(_line(change))


def _line(change: Change) -> Text:
    row = change.row
    status = "removed" if change.removed else str(row.get("status", ""))
    number = f"#{row['sequence_number']}" if "sequence_number" in row else str(row.get("request_id", ""))
    lag = "" if change.lag_seconds is None else f"{max(0, change.lag_seconds) * 1000:.0f} ms"
    line = Text(f"{number:>6}  ")
    line.append(f"{status:<12}", style=_COLOURS.get(status, ""))
    line.append(f"{change.transport:<5} {lag:>8}", style="dim")
    return line


async def owner_token(settings: Settings, session: str) -> str:
    """Return a token of the session's owner, if that is a guest: whoever has the signing key may speak for guests.

    Raises `ConfigurationError` where there is no key, or the owner is somebody whose tokens are made elsewhere.
    """
    if settings.signing_key_file is None or not settings.database_url:
        raise ConfigurationError(
            "pass --token; or set ROWCAST_SIGNING_KEY_FILE and ROWCAST_DATABASE_URL as on the server, to follow a guest"
        )
    try:
        session_id = UUID(session)
    except ValueError:
        raise InvalidRequest("a session is named by a uuid") from None
    connection = await connect(settings.database_url, application_name="rowcast-tail")
    try:
        with translated():
            owner = await connection.fetchval("SELECT user_owner FROM session WHERE session_id = $1", session_id)
    finally:
        await connection.close()
    if owner is None:
        raise NotFound("there is no such session")
    alias, _, subject = str(owner).partition("|")
    if alias != "guest":
        raise ConfigurationError(f"the session belongs to a user of {alias}; pass their token with --token")
    token, _ = GuestTokens(SigningKey.from_file(settings.signing_key_file)).issue_for(subject)
    return token
