"""The SQL that makes a table watchable, and the SQL that takes it back.

Version 1 of the files is what migrations of released versions run, so it never changes: a change is a version 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rowcast.postgres.statements import document, load, values_of
from rowcast.watch import Watch

__all__ = ["Step", "install_steps", "owner_removal_steps", "owner_steps", "uninstall_steps"]


@dataclass(frozen=True, slots=True)
class Step:
    """Statements that belong together: one transaction, or none at all (`CREATE INDEX CONCURRENTLY` demands that)."""

    statements: tuple[str, ...]
    in_transaction: bool = True


def install_steps(watch: Watch, *, concurrently: bool = True) -> Sequence[Step]:
    """Return what makes the table of `watch` watchable; running it again changes nothing but the epoch.

    Locks on the table are asked for with a short time-out and again, so that writers never queue behind the
    migration for more than 0.2 s. `concurrently=False` builds the index in the transaction: for empty tables, and for
    partitioned ones, whose index PostgreSQL cannot build concurrently.
    """
    values = _values(watch, concurrently=concurrently)
    shared, own, begin = load("v1/install.sql"), load("v1/watch.sql", values), load("v1/steps.sql", values)
    return (
        Step((*shared.values(), own["check"], begin["lock"], own["columns"], own["register"])),
        _index_step(begin["drop_invalid_index"], own["index"], lock=begin["lock"], concurrently=concurrently),
        Step((own["stamp_function"], own["notify_function"], begin["lock"], own["triggers"], own["epoch"])),
    )


def uninstall_steps(watch: Watch, *, concurrently: bool = True) -> Sequence[Step]:
    """Return what takes triggers, columns, index and memory of `watch` away again."""
    values = _values(watch, concurrently=concurrently)
    own, begin = load("v1/unwatch.sql", values), load("v1/steps.sql", values)
    return (
        Step((begin["lock"], own["triggers"])),
        _index_step(own["index"], lock=begin["lock"], concurrently=concurrently),
        Step((begin["lock_to_leave"], own["columns"], load("v1/uninstall.sql")["everything"])),
    )


def owner_steps(watch: Watch, *, sessions: str, owner: str) -> Sequence[Step]:
    """Return what tells open streams at once that their session has another owner, or is gone.

    `sessions` is the table with one row a session, which may carry a schema; its id is in a column of the name that
    the watch uses, and `owner` is the column that says whose it is. Running it again changes nothing.
    """
    own = load("v1/owner.sql", _owner_values(watch, sessions, owner))
    return (Step((own["lock"], own["function"], own["triggers"])),)


def owner_removal_steps(watch: Watch, *, sessions: str, owner: str) -> Sequence[Step]:
    """Return what takes that away again."""
    own = load("v1/owner.sql", _owner_values(watch, sessions, owner))
    return (Step((own["lock"], own["remove"])),)


def _owner_values(watch: Watch, sessions: str, owner: str) -> dict[str, str]:
    # The other table is checked, and quoted, as a watched one is.
    values = values_of(Watch(table=sessions, key=watch.session, session=owner, name=watch.name, updated_at=None))
    return {
        "name": watch.name,
        "sessions": values["table"],
        "sessions_name": sessions,
        "session": values["key"],
        "session_name": watch.session,
        "owner": values["session"],
        "owner_channel": watch.owner_channel,
    }


def _index_step(*statements: str, lock: str, concurrently: bool) -> Step:
    """What is not done concurrently needs the lock, and must not queue for it."""
    return Step(statements, in_transaction=False) if concurrently else Step((lock, *statements))


def _values(watch: Watch, *, concurrently: bool) -> dict[str, str]:
    values = values_of(watch, concurrently=concurrently)
    values["document"] = document(watch, "NEW")
    values["stamp_wide"] = values["stamp_wide"].replace("<<table>>", values["table"])
    return values
