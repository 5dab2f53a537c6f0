"""Delays that grow, with dice that are known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.backoff import Backoff


def test_delays_double_up_to_the_cap() -> None:
    backoff = Backoff(first_seconds=1, cap_seconds=8, random=lambda: 1.0)
    assert [backoff.next_seconds() for _ in range(6)] == [1, 2, 4, 8, 8, 8]


def test_a_success_starts_over() -> None:
    backoff = Backoff(first_seconds=1, cap_seconds=8, random=lambda: 1.0)
    backoff.next_seconds()
    backoff.next_seconds()
    backoff.reset()
    assert backoff.next_seconds() == 1


def test_the_smallest_delay_is_a_tenth_of_the_limit() -> None:
    backoff = Backoff(first_seconds=1, cap_seconds=8, random=lambda: 0.0)
    assert [backoff.next_seconds() for _ in range(3)] == pytest.approx([0.1, 0.2, 0.4])


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 5000))
def test_it_never_waits_longer_than_the_cap_and_never_gives_up(fallen: float, failures: int) -> None:
    backoff = Backoff(first_seconds=0.05, cap_seconds=0.5, random=lambda: fallen)
    for _ in range(failures):
        last = backoff.next_seconds()
    assert 0 < last <= 0.5
