import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.rollout import bucket_of, is_chosen

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "rollout.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['salt']}:{vector['user']}")
def test_a_user_is_in_the_same_bucket_everywhere(vector: dict[str, object]) -> None:
    assert bucket_of(str(vector["user"]), str(vector["salt"])) == vector["bucket"]


@given(st.text(), st.floats(0, 100), st.floats(0, 100))
def test_widening_never_takes_a_user_out(user: str, one: float, other: float) -> None:
    fewer, more = sorted((one, other))
    assert not is_chosen(user, "sse-v1", fewer) or is_chosen(user, "sse-v1", more)


def test_nobody_at_zero_and_everybody_at_a_hundred() -> None:
    users = [f"user-{number}" for number in range(1000)]
    assert not any(is_chosen(user, "sse-v1", 0) for user in users)
    assert all(is_chosen(user, "sse-v1", 100) for user in users)


def test_the_share_is_what_was_asked_for() -> None:
    chosen = sum(is_chosen(f"user-{number}", "sse-v1", 10) for number in range(20_000))
    assert 1_800 < chosen < 2_200
