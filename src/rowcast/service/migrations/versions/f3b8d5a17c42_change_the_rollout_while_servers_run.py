"""Let the roll-out of streams be changed, and switched off, while servers run."""

from rowcast.service.migrations.runner import execute, read

revision = "f3b8d5a17c42"
down_revision = "e41c7a90d2b6"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table; nothing else is touched."""
    execute(read("f3b8d5a17c42_up.sql"))


def downgrade() -> None:
    """Drop it."""
    execute(read("f3b8d5a17c42_down.sql"))
