"""PostgreSQL: the listener, the reader, the SQL that makes a table watchable, and a hub that stands on them."""

from rowcast.hub import Hub
from rowcast.metrics import Metrics
from rowcast.postgres.connection import connect, create_pool, normalise_dsn, translated
from rowcast.postgres.ddl import Step, install_steps, uninstall_steps
from rowcast.postgres.listener import Listener
from rowcast.postgres.reader import PostgresReader
from rowcast.postgres.setup import install, uninstall
from rowcast.postgres.statements import named_statements
from rowcast.watch import Watch

__all__ = [
    "Listener",
    "PostgresReader",
    "Step",
    "connect",
    "create_pool",
    "install",
    "install_steps",
    "named_statements",
    "normalise_dsn",
    "postgres_hub",
    "translated",
    "uninstall",
    "uninstall_steps",
]


def postgres_hub(
    dsn: str,
    watch: Watch,
    *,
    listen_dsn: str | None = None,
    metrics: Metrics | None = None,
    probe_seconds: float = 5,
    sweep_seconds: float = 30,
    reader_connections: int = 4,
) -> Hub:
    """Return a hub for `watch` on PostgreSQL; nothing is opened before it is entered.

    One connection listens, at most `reader_connections` read. `listen_dsn` is the address to listen on, where `dsn`
    leads through a pooler; both must lead to the primary.
    """
    return Hub(
        watch,
        source=Listener(listen_dsn or dsn, watch, probe_seconds=probe_seconds),
        reader=PostgresReader(dsn, watch, max_connections=reader_connections, metrics=metrics),
        metrics=metrics,
        sweep_seconds=sweep_seconds,
    )
