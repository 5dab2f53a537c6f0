"""Everything on one machine: a database, the server, a worker, and data to ask questions about."""

import asyncio
import logging
from contextlib import ExitStack
from pathlib import Path

import typer
import uvicorn

from rowcast.postgres import connect
from rowcast.postgres.embedded import EmbeddedPostgres
from rowcast.service import migrations
from rowcast.service.app import create_app
from rowcast.service.handlers.demo_data import install_demo_data, remove_demo_data
from rowcast.service.logs import configure_logs
from rowcast.service.serving import bind, server_config
from rowcast.service.settings import Settings, load_settings
from rowcast.service.worker import Worker

__all__ = ["change_demo_data", "run_demo"]


def run_demo(*, port: int, data: Path) -> None:
    """Run the demo until it is told to stop; nothing is left behind but the data directory.

    Uses ROWCAST_DATABASE_URL if it is set, else an embedded PostgreSQL. Raises `ConfigurationError`.
    """
    with ExitStack() as stack:
        listening = stack.enter_context(bind("127.0.0.1", port))
        data.mkdir(exist_ok=True)
        chosen = load_settings(guest_enabled=True, port=port, signing_key_file=data / "signing-key.pem")
        configure_logs(chosen.log_format, level=logging.WARNING)
        dsn = chosen.database_url
        if not dsn:
            server = stack.enter_context(EmbeddedPostgres(data / "postgres"))
            dsn = server.dsn()
        settings = chosen.with_values(database_url=dsn)
        migrations.migrate(dsn)
        asyncio.run(change_demo_data(dsn))
        asyncio.run(_run(settings, listening))


async def change_demo_data(dsn: str, *, remove: bool = False) -> bool:
    """Install or remove the demo data; say whether anything had to be done."""
    connection = await connect(dsn, application_name="rowcast-demo")
    try:
        return await (remove_demo_data if remove else install_demo_data)(connection)
    finally:
        await connection.close()


class _AnnouncingServer(uvicorn.Server):
    """Says where the page is once it can be opened."""

    async def startup(self, sockets: "list[object] | None" = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if sockets:
            host, port = sockets[0].getsockname()[:2]  # type: ignore[attr-defined]
            typer.echo(f"Rowcast is ready: http://{host}:{port}  (Ctrl-C stops it)")


async def _run(settings: Settings, listening: object) -> None:
    stop = asyncio.Event()
    worker = asyncio.create_task(Worker(settings, grace_seconds=3).run(stop))
    server = _AnnouncingServer(server_config(settings, create_app(settings)))
    try:
        await server.serve(sockets=[listening])  # type: ignore[list-item]
    finally:
        stop.set()
        await worker
