"""Cursors: text there and back, and what is not one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast import Cursor

EPOCHS = st.text("0123456789abcdef", min_size=16, max_size=16)
HORIZONS = st.integers(0, 2**64 - 1)


@given(EPOCHS, HORIZONS)
def test_a_cursor_reads_what_it_writes(epoch: str, horizon: int) -> None:
    cursor = Cursor(epoch, horizon)
    assert Cursor.parse(str(cursor)) == cursor


@given(st.text())
def test_whatever_is_read_is_spelt_the_same_way(text: str) -> None:
    cursor = Cursor.parse(text)
    assert cursor is None or str(cursor) == text


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "1.0123456789abcdef",
        "1.0123456789abcdef.",
        "1.0123456789abcdef.-1",
        "1.0123456789abcdef.007",
        "1.0123456789abcdef.12\n",
        "1.0123456789abcdef.12\0",
        "1.0123456789abcdef.٣",
        "1.0123456789ABCDEF.12",
        "1.0123456789abcde.12",
        "2.0123456789abcdef.12",
        f"1.0123456789abcdef.{2**64}",
        "1.0123456789abcdef.99999999999999999999",
        "1." + "9" * 10_000,
    ],
)
def test_what_cannot_be_understood_is_no_cursor(text: str) -> None:
    assert Cursor.parse(text) is None


def test_a_cursor_is_short_and_ascii() -> None:
    """It travels in `Last-Event-ID`, where long or non-ASCII values make browsers ask for permission first."""
    text = str(Cursor("f" * 16, 2**64 - 1))
    assert text.isascii()
    assert len(text) <= 128
