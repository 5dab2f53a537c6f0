"""Tell every watcher when a request changes: columns, triggers, function, indexes, tombstones and epoch."""

from rowcast import Watch
from rowcast.postgres import Step, install_steps, uninstall_steps
from rowcast.service.migrations.runner import execute_steps, read

revision = "b725927e9e64"
down_revision = "c3a1d0f4b2e7"
branch_labels = None
depends_on = None

# As it was on the day of this revision; the service's own may grow.
WATCH = Watch(
    table="request",
    key="request_id",
    session="session_id",
    status="status",
    terminal=("done", "error"),
    presence=("response", "error"),
    carried=("sequence_number",),
)


def upgrade() -> None:
    """Install under running writers: no rewrite, short locks, indexes built concurrently."""
    execute_steps([*install_steps(WATCH), _index_step("b725927e9e64_up.sql")])


def downgrade() -> None:
    """Take everything away again; polling goes on to work."""
    execute_steps([_index_step("b725927e9e64_down.sql"), *uninstall_steps(WATCH)])


def _index_step(name: str) -> Step:
    return Step(tuple(read(name)), in_transaction=False)
