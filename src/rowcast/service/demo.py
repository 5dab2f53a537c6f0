"""Everything on one machine: a database, the server, a worker, and data to ask questions about."""

import asyncio
import logging
import socket
from contextlib import ExitStack
from pathlib import Path

import typer

from rowcast import ConfigurationError
from rowcast.postgres import connect
from rowcast.postgres.embedded import EmbeddedPostgres
from rowcast.service import migrations
from rowcast.service.app import create_app
from rowcast.service.handlers.demo_data import install_demo_data, remove_demo_data
from rowcast.service.logs import configure_logs
from rowcast.service.serving import Server, bind, leave_within, server_config
from rowcast.service.settings import Settings, load_settings
from rowcast.service.worker import Worker

__all__ = ["change_demo_data", "run_demo"]

_STOP_SECONDS = 4.0


def run_demo(*, port: int, data: Path) -> None:
    """Run the demo until Ctrl-C or SIGTERM; nothing is left behind but the data directory.

    Uses ROWCAST_DATABASE_URL if it is set, else an embedded PostgreSQL. Raises `ConfigurationError`, and
    KeyboardInterrupt when it was interrupted before the server ran.
    """
    with ExitStack() as stack:
        chosen = load_settings(
            guest_enabled=True,
            port=port,
            signing_key_file=data / "signing-key.pem",
            drain_seconds=1,
            worker_grace_seconds=1,
        )
        configure_logs(chosen.log_format, level=logging.WARNING)
        listening = stack.enter_context(bind("127.0.0.1", port))
        _make(data)
        dsn = chosen.database_url
        if not dsn:
            dsn = stack.enter_context(EmbeddedPostgres(data / "postgres")).dsn()
        share = 100 if chosen.sse_rollout_percent is None else chosen.sse_rollout_percent
        settings = chosen.with_values(database_url=dsn, sse_rollout_percent=share)
        migrations.migrate(dsn)
        asyncio.run(change_demo_data(dsn))
        server = _AnnouncingServer(server_config(settings, create_app(settings)))
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(_run(settings, server, listening))


async def change_demo_data(dsn: str, *, remove: bool = False) -> bool:
    """Install or remove the demo data; say whether anything had to be done."""
    connection = await connect(dsn, application_name="rowcast-demo")
    try:
        return await (remove_demo_data if remove else install_demo_data)(connection)
    finally:
        await connection.close()


class _AnnouncingServer(Server):
    """Says where the page is once it can be opened."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            host, port = listening.getsockname()[:2]
            typer.echo(f"Rowcast is ready: http://{host}:{port}  (Ctrl-C stops it)")


async def _run(settings: Settings, server: Server, listening: socket.socket) -> None:
    stop = asyncio.Event()
    worker = asyncio.create_task(Worker(settings).run(stop))
    try:
        await server.serve(sockets=[listening])
    finally:
        leave_within(_STOP_SECONDS)
        stop.set()
        await worker


def _make(data: Path) -> None:
    try:
        data.mkdir(exist_ok=True, parents=True)
    except OSError as error:
        raise ConfigurationError(
            f"{data} cannot hold the demo's data ({error.strerror}); choose another with --data"
        ) from None
