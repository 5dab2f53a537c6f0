"""Cursors: text there and back, and what is not one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast import Cursor

TAG = Cursor("0" * 16, 0).text("s").rpartition(".")[2]

EPOCHS = st.text("0123456789abcdef", min_size=16, max_size=16)
HORIZONS = st.integers(0, 2**64 - 1)


@given(EPOCHS, HORIZONS)
def test_a_cursor_reads_what_it_writes(epoch: str, horizon: int) -> None:
    cursor = Cursor(epoch, horizon)
    assert Cursor.parse(cursor.text("s"), "s") == cursor


@given(st.text())
def test_whatever_is_read_is_spelt_the_same_way(text: str) -> None:
    cursor = Cursor.parse(text, "s")
    assert cursor is None or cursor.text("s") == text


@pytest.mark.fault(25)
def test_a_cursor_is_good_for_its_own_session_only() -> None:
    assert Cursor.parse(Cursor("0" * 16, 7).text("a"), "b") is None


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "1.0123456789abcdef",
        "1.0123456789abcdef.",
        "1.0123456789abcdef.12",
        "1.0123456789abcdef.12.00000000",
        f"1.0123456789abcdef.-1.{TAG}",
        f"1.0123456789abcdef.007.{TAG}",
        f"1.0123456789abcdef.12.{TAG}\n",
        f"1.0123456789abcdef.12.{TAG}\0",
        f"1.0123456789abcdef.٣.{TAG}",
        f"1.0123456789ABCDEF.12.{TAG}",
        f"1.0123456789abcde.12.{TAG}",
        f"2.0123456789abcdef.12.{TAG}",
        f"1.0123456789abcdef.{2**64}.{TAG}",
        f"1.0123456789abcdef.99999999999999999999.{TAG}",
        "1." + "9" * 10_000,
    ],
)
def test_what_cannot_be_understood_is_no_cursor(text: str) -> None:
    assert Cursor.parse(text, "s") is None


def test_a_cursor_is_short_and_ascii() -> None:
    """It travels in `Last-Event-ID`, where long or non-ASCII values make browsers ask for permission first."""
    text = Cursor("f" * 16, 2**64 - 1).text("s")
    assert text.isascii()
    assert len(text) <= 128
