"""The law of order against the most naive oracle there is."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from rowcast import LatestByRow, RowState
from rowcast.latest import Pending, newest_in_order


def state(key: str, version: int, *, removed: bool = False, xid: int = 0) -> RowState:
    return RowState("s", key, version, False, {"version": version}, removed, xid)


@dataclass(frozen=True)
class Item:
    state: RowState


KEYS = st.sampled_from("abcd")
STATES = st.lists(st.builds(state, KEYS, st.integers(1, 6)), max_size=30)


def newest(states: list[RowState]) -> dict[str, int]:
    return {key: max(s.version for s in states if s.key == key) for key in {s.key for s in states}}


@given(STATES, st.randoms())
def test_any_order_and_any_repetition_ends_the_same(states: list[RowState], dice: object) -> None:
    known, shuffled = LatestByRow(states), [*states, *states]
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    other = LatestByRow(shuffled)
    assert known._versions == other._versions == newest(states)
    assert len(known) == len(newest(states))


@given(STATES)
def test_what_was_applied_is_no_news(states: list[RowState]) -> None:
    known = LatestByRow(states)
    assert not any(known.is_news(s) or known.apply(s) for s in states)


@given(STATES)
def test_news_is_what_is_newer_than_all_before(states: list[RowState]) -> None:
    known = LatestByRow()
    for index, s in enumerate(states):
        assert known.apply(s) == (s.version > newest(states[:index]).get(s.key, 0))


@given(STATES)
def test_pending_keeps_the_newest_of_each_row(states: list[RowState]) -> None:
    pending: Pending[Item] = Pending()
    for s in states:
        pending.offer(Item(s))
    assert len(pending) == len(newest(states))
    assert {item.state.key: item.state.version for item in pending.drain()} == newest(states)
    assert len(pending) == 0
    assert not pending.drain()


@given(STATES)
def test_pending_drains_in_the_order_of_each_rows_newest_change(states: list[RowState]) -> None:
    pending: Pending[Item] = Pending()
    order: list[str] = []
    for index, s in enumerate(states):
        pending.offer(Item(s))
        if s.version > newest(states[:index]).get(s.key, 0):
            order = [*(key for key in order if key != s.key), s.key]
    assert [item.state.key for item in pending.drain()] == order


@given(st.lists(st.tuples(KEYS, st.booleans()), max_size=30))
def test_an_id_claims_nothing_that_has_not_been_sent(changes: list[tuple[str, bool]]) -> None:
    """Item n claims all changes before n. Cut the drain anywhere: what was claimed is sent, or was outdone later."""
    pending: Pending[Item] = Pending()
    versions: dict[str, int] = {}
    for number, (key, drained_before) in enumerate(changes, start=1):
        if drained_before:
            pending.drain()
            versions.clear()
        versions[key] = number
        pending.offer(Item(state(key, number)))
    sent: set[int] = set()
    for item in pending.drain():
        claimed = [version for version in versions.values() if version < item.state.version]
        assert set(claimed) <= sent
        sent.add(item.state.version)


@given(STATES, STATES)
def test_forgetting_leaves_what_is_news(waiting: list[RowState], told: list[RowState]) -> None:
    pending: Pending[Item] = Pending()
    for s in waiting:
        pending.offer(Item(s))
    pending.forget(LatestByRow(told))
    expected = {key: version for key, version in newest(waiting).items() if version > newest(told).get(key, 0)}
    assert {item.state.key: item.state.version for item in pending.drain()} == expected


def test_a_row_that_went_and_came_back_is_told_once_as_it_is_now() -> None:
    came_back, went = state("a", 8, xid=50), state("a", 7, removed=True, xid=40)
    assert newest_in_order([came_back, went]) == newest_in_order([went, came_back]) == (came_back,)


def test_changes_are_told_in_the_order_of_their_transactions() -> None:
    late, early = state("a", 2, xid=9), state("b", 5, xid=3)
    assert newest_in_order([late, early]) == (early, late)
