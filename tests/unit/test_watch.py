"""What can be watched, and how everything about it is named."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast import InvalidRequest, Watch, WatchError


def watch(**changes: Any) -> Watch:
    return Watch(**({"table": "report", "key": "id", "session": "account"} | changes))


def test_everything_is_named_after_the_table() -> None:
    named = watch(table="app.Report")
    assert (named.name, named.channel, named.probe_channel) == ("report", "report_update", "report_update_probe")
    assert (named.update_event, named.removed_event, named.collection) == ("report_update", "report_removed", "reports")


def test_a_name_of_its_own_wins() -> None:
    assert watch(name="job").update_event == "job_update"


def test_columns_are_all_that_it_names() -> None:
    full = watch(status="state", presence=("body",), carried=("number",), updated_at=None)
    assert full.columns == ("id", "account", "state", "body", "number")


@pytest.mark.parametrize(
    "changes",
    [
        {"table": "report; DROP TABLE report"},
        {"table": 'a"b'},
        {"table": "a.b.c"},
        {"table": ""},
        {"key": "id text"},
        {"session": "id"},
        {"carried": ("number", "number")},
        {"terminal": ("done",)},
        {"name": "Capital"},
        {"name": "x" * 32},
        {"table": "x" * 32},
    ],
)
def test_what_could_not_work_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(WatchError):
        watch(**changes)


@pytest.mark.parametrize(
    ("kind", "text", "spelling"),
    [
        ("uuid", "0191E2C4-7B1F-7C3A-9D7E-1B2C3D4E5F60", "0191e2c4-7b1f-7c3a-9d7e-1b2c3d4e5f60"),
        ("integer", "-2147483648", "-2147483648"),
        ("integer", "0", "0"),
        ("bigint", "9223372036854775807", "9223372036854775807"),
        ("text", "user:42", "user:42"),
    ],
)
def test_a_session_is_spelt_as_postgresql_spells_it(kind: Any, text: str, spelling: str) -> None:
    assert watch(session_type=kind).parse_session(text) == spelling


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("uuid", "0191e2c47b1f7c3a9d7e1b2c3d4e5f60"),
        ("uuid", "{0191e2c4-7b1f-7c3a-9d7e-1b2c3d4e5f60}"),
        ("uuid", "0191e2c4-7b1f-7c3a-9d7e-1b2c3d4e5f60\n"),
        ("integer", "2147483648"),
        ("integer", "007"),
        ("integer", "1e3"),
        ("integer", "١"),
        ("bigint", "9223372036854775808"),
        ("text", ""),
        ("text", "two words"),
        ("text", "x" * 65),
        ("text", "naïve"),
    ],
)
def test_what_is_no_session_is_refused(kind: Any, text: str) -> None:
    with pytest.raises(InvalidRequest):
        watch(session_type=kind).parse_session(text)


@given(st.sampled_from(["uuid", "integer", "bigint", "text"]), st.text())
def test_any_text_is_a_session_or_refused_and_then_spelt_the_same(kind: Any, text: str) -> None:
    try:
        spelling = watch(session_type=kind).parse_session(text)
    except InvalidRequest:
        return
    assert watch(session_type=kind).parse_session(spelling) == spelling
