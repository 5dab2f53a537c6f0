"""PostgreSQL: the listener, the reader, the SQL that makes a table watchable, and a hub that stands on them."""

from rowcast.hub import Hub
from rowcast.metrics import Metrics
from rowcast.postgres.connection import connect, create_pool, normalise_dsn, translated
from rowcast.postgres.ddl import Step, install_steps, owner_removal_steps, owner_steps, uninstall_steps
from rowcast.postgres.health import diagnose
from rowcast.postgres.listener import Listener
from rowcast.postgres.poller import Poller
from rowcast.postgres.reader import PostgresReader
from rowcast.postgres.setup import install, uninstall
from rowcast.postgres.source import ListenOrPoll, SourceName, make_source
from rowcast.postgres.statements import named_statements
from rowcast.watch import Watch

__all__ = [
    "ListenOrPoll",
    "Listener",
    "Poller",
    "PostgresReader",
    "SourceName",
    "Step",
    "connect",
    "create_pool",
    "diagnose",
    "install",
    "install_steps",
    "make_source",
    "named_statements",
    "normalise_dsn",
    "owner_removal_steps",
    "owner_steps",
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
    source: SourceName = "notify",
    metrics: Metrics | None = None,
    probe_seconds: float = 5,
    sweep_seconds: float = 30,
    slowest_tick_seconds: float = 1,
    reader_connections: int = 4,
) -> Hub:
    """Return a hub for `watch` on PostgreSQL; nothing is opened before it is entered.

    One connection listens, at most `reader_connections` read. `listen_dsn` is the address to listen on, where `dsn`
    leads through a pooler; both must lead to the primary. With the source `poll`, or where nothing is heard, one
    connection asks for what changed, at least every `slowest_tick_seconds` while somebody reads.
    """
    return Hub(
        watch,
        source=make_source(
            source,
            dsn,
            watch,
            listen_dsn=listen_dsn,
            probe_seconds=probe_seconds,
            slowest_tick_seconds=slowest_tick_seconds,
        ),
        reader=PostgresReader(dsn, watch, max_connections=reader_connections, metrics=metrics),
        metrics=metrics,
        sweep_seconds=sweep_seconds,
    )
