"""The tables of the job queue, as pgqueuer itself declares them."""

from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment

__all__ = ["install_queue", "uninstall_queue"]


def install_queue() -> str:
    """Return one statement that installs the queue."""
    return _as_one(QueryBuilderEnvironment().build_install_query())


def uninstall_queue() -> str:
    """Return one statement that removes the queue."""
    return _as_one(QueryBuilderEnvironment().build_uninstall_query())


def _as_one(script: str) -> str:
    """Wrap several statements in one, for a driver that prepares what it runs."""
    return f"DO $queue$ BEGIN EXECUTE $script${script}$script$; END $queue$"
