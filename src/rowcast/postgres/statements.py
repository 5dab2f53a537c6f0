"""Named statements from the package's `.sql` files, filled in for a watch."""

import re
from collections import ChainMap
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from rowcast.watch import Watch

__all__ = ["document", "load", "named_statements", "values_of"]

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"<<(\w+)>>")


def load(path: str, values: dict[str, str] | None = None) -> dict[str, str]:
    """Return the statements of a file below `postgres/sql` by name, in order, `<<placeholders>>` filled in.

    A placeholder that is none of `values` names an earlier statement of the file.
    """
    loaded: dict[str, str] = {}
    filled = ChainMap(values or {}, loaded)
    for name, statement in named_statements("rowcast.postgres", f"sql/{path}").items():
        loaded[name] = _PLACEHOLDER.sub(lambda match: filled[match[1]], statement)
    return loaded


@cache
def named_statements(package: str, path: str) -> Mapping[str, str]:
    """Return the statements of a `.sql` file of a package by name: each follows a line `-- name: <name>`."""
    text = files(package).joinpath(path).read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    return {name: body.strip().rstrip(";") for name, body in zip(parts[::2], parts[1::2], strict=True)}


def values_of(watch: Watch, *, concurrently: bool = True) -> dict[str, str]:
    """What the placeholders stand for. Every name was checked by `Watch` to be a plain identifier."""
    schema, _, table = watch.table.rpartition(".")
    schema_prefix = f'"{schema}".' if schema else ""
    wide = [_differs(column, "{0}.{1} IS DISTINCT FROM {2}.{1}") for column in watch.presence]
    return {
        "name": watch.name,
        "table": f'{schema_prefix}"{table}"',
        "schema_prefix": schema_prefix,
        "channel": watch.channel,
        "function": f"notify_{watch.name}_status_update",
        "trigger": f"{watch.name}_status_update_trigger",
        "triggers": ", ".join(f"('{name}')" for name in _triggers(watch)),
        "epoch": _epoch(watch.name, f'{schema_prefix}"{table}"'),
        "stamped": _stamped(watch, f'{schema_prefix}"{table}"'),
        "key": f'"{watch.key}"',
        "key_name": watch.key,
        "session": f'"{watch.session}"',
        "session_name": watch.session,
        "session_type": watch.session_type,
        "concurrently": "CONCURRENTLY" if concurrently else "",
        "wanted_columns": ", ".join(f"('{column}', '{role}')" for column, role in _roles(watch)),
        "touch": f'NEW."{watch.updated_at}" := clock_timestamp();' if watch.updated_at else "",
        "changed": "\n            OR ".join(_changed(watch)),
        "stamp_wide": _stamp_wide(watch, " OR ".join(wide)) if wide else "",
        "always_wide": f'ENABLE ALWAYS TRIGGER "~rowcast_{watch.name}_3_stamp_wide",' if wide else "",
    }


def document(watch: Watch, row: str) -> str:
    """The arguments of `json_build_object` for the row named `row` (`NEW` in a trigger): what goes on the wire."""
    fields = {watch.key: f'{row}."{watch.key}"::text', watch.session: f'{row}."{watch.session}"::text'}
    if watch.status is not None:
        fields[watch.status] = f'{row}."{watch.status}"::text'
    if watch.updated_at is not None:
        fields["updated_at"] = f'round(extract(epoch FROM {row}."{watch.updated_at}")::numeric, 3)'
    fields |= {f"has_{column}": f'{row}."{column}" IS NOT NULL' for column in watch.presence}
    fields |= {column: f'{row}."{column}"' for column in watch.carried}
    fields["version"] = f"{row}.rowcast_version"
    fields["terminal"] = "false"
    if watch.terminal:
        states = ", ".join("'" + state.replace("'", "''") + "'" for state in watch.terminal)
        fields["terminal"] = f'coalesce({row}."{watch.status}"::text IN ({states}), false)'
    return ", ".join(f"'{name}', {expression}" for name, expression in fields.items())


def _roles(watch: Watch) -> list[tuple[str, str]]:
    roles: list[tuple[str, str]] = [(watch.key, watch.key_type), (watch.session, watch.session_type)]
    roles += [(column, "presence") for column in watch.presence] + [(column, "carried") for column in watch.carried]
    roles += [(watch.status, "status")] if watch.status else []
    roles += [(watch.updated_at, "instant")] if watch.updated_at else []
    return roles


def _triggers(watch: Watch) -> list[str]:
    """The names of all triggers of the watch; one that is missing, and changes are not known to be changes."""
    stamps = ("1_keep", "2_stamp", *(["3_stamp_wide"] if watch.presence else []), "4_stamp_insert")
    told = ("", "_insert", "_delete", "_truncate")
    return [f"~rowcast_{watch.name}_{each}" for each in stamps] + [
        f"{watch.name}_status_update_trigger{each}" for each in told
    ]


def _epoch(name: str, table: str) -> str:
    """The name of the database's memory, as cursors carry it.

    Every start of the server begins an epoch, for it may have been started on older files: a copy that was made while
    it was stopped looks like the files that it had before.
    """
    remembered = f"rowcast.current_epoch('{name}', '{table}'::regclass)"
    return f"left(md5({remembered} || extract(epoch FROM pg_postmaster_start_time())), 16)"


def _stamped(watch: Watch, table: str) -> str:
    """Whether every trigger of the watch is there and fires."""
    wanted = _triggers(watch)
    names = ", ".join(f"'{name}'" for name in wanted)
    found = f"SELECT count(*) FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND tgname IN ({names})"  # noqa: S608
    return f"({found} AND tgenabled IN ('A', 'O')) = {len(wanted)}"


def _changed(watch: Watch) -> list[str]:
    """Conditions that cost little on every UPDATE.

    A wide value is compared only if its stored size differs or is small: comparing fetches both values whole, which
    made an UPDATE that left a 10 MB value alone a hundred times slower. What that misses, a value replaced by another
    of the same size, is caught by the trigger on `UPDATE OF` that column.
    """
    narrow = (watch.key, watch.session, *([watch.status] if watch.status else []), *watch.carried)
    by_value = [_differs(column, "{0}.{1} IS DISTINCT FROM {2}.{1}") for column in narrow]
    by_size = (
        "({0}.{1} IS NULL) <> ({2}.{1} IS NULL) OR (pg_column_size({0}.{1}) <> pg_column_size({2}.{1})"
        " OR pg_column_size({2}.{1}) <= 2000) AND {0}.{1} IS DISTINCT FROM {2}.{1}"
    )
    return by_value + [_differs(column, by_size) for column in watch.presence]


def _differs(column: str, template: str) -> str:
    return template.format("OLD", f'"{column}"', "NEW")


def _stamp_wide(watch: Watch, condition: str) -> str:
    name = f'"~rowcast_{watch.name}_3_stamp_wide"'
    columns = ", ".join(f'"{column}"' for column in watch.presence)
    return (
        f"DROP TRIGGER IF EXISTS {name} ON <<table>>;\n    "
        f"CREATE TRIGGER {name} BEFORE UPDATE OF {columns} ON <<table>> FOR EACH ROW\n        "
        f"WHEN ({condition})\n        EXECUTE FUNCTION rowcast.stamp_{watch.name}();"
    )
