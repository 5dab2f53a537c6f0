"""Create the tables session, request and query, and the queue of jobs."""

from rowcast.service.migrations.queue import install_queue, uninstall_queue
from rowcast.service.migrations.runner import execute, read

revision = "c3a1d0f4b2e7"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything; the queue's tables are pgqueuer's own."""
    execute(read("c3a1d0f4b2e7_up.sql"))
    execute([install_queue()])


def downgrade() -> None:
    """Drop everything, with the data."""
    execute([uninstall_queue()])
    execute(read("c3a1d0f4b2e7_down.sql"))
