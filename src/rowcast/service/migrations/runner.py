"""How a migration runs the statements of its `.sql` file."""

from collections.abc import Iterable, Sequence

from alembic import op
from sqlalchemy import text

from rowcast.postgres import Step, named_statements

__all__ = ["execute", "execute_steps", "read"]


def read(name: str) -> list[str]:
    """Return the statements of a file in `migrations/sql`, in order."""
    return list(named_statements("rowcast.service.migrations", f"sql/{name}").values())


def execute(statements: Iterable[str]) -> None:
    """Run statements as they are written: a colon is a colon, not a parameter."""
    for statement in statements:
        op.execute(text(statement.replace(":", "\\:")))


def execute_steps(steps: Sequence[Step]) -> None:
    """Run each step in its own transaction, or in none where PostgreSQL demands that.

    Leaving the transaction commits what came before, so every step is written to be run again.
    """
    for step in steps:
        if step.in_transaction:
            execute(step.statements)
        else:
            with op.get_context().autocommit_block():
                execute(step.statements)
