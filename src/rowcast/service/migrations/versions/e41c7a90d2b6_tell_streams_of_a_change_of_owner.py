"""Tell open streams at once that their session has another owner, or is gone."""

from rowcast.postgres import owner_removal_steps, owner_steps
from rowcast.service.migrations.runner import execute_steps
from rowcast.service.migrations.versions.b725927e9e64_add_request_status_notify_trigger import WATCH

revision = "e41c7a90d2b6"
down_revision = "b725927e9e64"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add triggers to the table session; whoever writes it waits for a moment at most."""
    execute_steps(owner_steps(WATCH, sessions="session", owner="user_owner"))


def downgrade() -> None:
    """Take them away; streams then learn of it when they next ask."""
    execute_steps(owner_removal_steps(WATCH, sessions="session", owner="user_owner"))
