"""Installing a watch on a live database, for applications without migrations of their own."""

from rowcast.postgres.connection import connect
from rowcast.postgres.ddl import Step, install_steps, uninstall_steps
from rowcast.watch import Watch

__all__ = ["install", "uninstall"]


async def install(dsn: str, watch: Watch, *, concurrently: bool = True) -> None:
    """Make the table of `watch` watchable. Safe under load and safe to repeat; it begins a new epoch."""
    await _run(dsn, *install_steps(watch, concurrently=concurrently))


async def uninstall(dsn: str, watch: Watch, *, concurrently: bool = True) -> None:
    """Take everything away that `install` added."""
    await _run(dsn, *uninstall_steps(watch, concurrently=concurrently))


async def _run(dsn: str, *steps: Step) -> None:
    connection = await connect(dsn, application_name="rowcast-setup")
    try:
        for step in steps:
            if step.in_transaction:
                async with connection.transaction():
                    for statement in step.statements:
                        await connection.execute(statement)
            else:
                for statement in step.statements:
                    await connection.execute(statement)
    finally:
        await connection.close()
