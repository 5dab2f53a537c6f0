"""What is heard is taken in in its order, and a burst of it holds up nobody."""

import asyncio
import itertools

import pytest

from rowcast.postgres.inbox import MOST_WAITING, TURN, Inbox

pytestmark = pytest.mark.anyio


class Transport(asyncio.ReadTransport):
    """Notes whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True
        self.has_closed = False

    def is_closing(self) -> bool:
        return self.has_closed

    def pause_reading(self) -> None:
        assert self.reads
        assert not self.has_closed
        self.reads = False

    def resume_reading(self) -> None:
        assert not self.reads
        assert not self.has_closed
        self.reads = True


async def turn() -> None:
    await asyncio.sleep(0)


async def test_what_comes_alone_is_taken_in_at_once() -> None:
    inbox, taken = Inbox(), list[str]()
    for number in range(3):
        inbox.put(taken.append, str(number))
        assert taken[-1] == str(number)
        await turn()
        await turn()
    assert len(inbox) == 0


async def test_a_burst_takes_many_turns_of_the_loop_and_keeps_its_order() -> None:
    """Whatever channel it came by: a probe's horizon claims all that was heard before it."""
    inbox, states, probes = Inbox(), list[int](), list[int]()
    for number in range(TURN * 5 + 1):
        inbox.put(lambda payload: states.append(int(payload)), str(number))
    inbox.put(lambda _: probes.append(len(states)), "")
    assert len(states) == TURN
    seen = [TURN]
    while len(inbox):
        await turn()
        inbox.put(lambda payload: states.append(int(payload)), str(TURN * 5 + len(seen)))
        seen.append(len(states))
    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= TURN
    assert states == sorted(states)
    assert probes == [TURN * 5 + 1]


async def test_what_follows_in_the_same_turn_has_the_rest_of_its_share() -> None:
    """The callbacks of one read are all run in one turn, and so is the inbox's own, in between."""
    inbox, taken = Inbox(), list[str]()
    inbox.put(taken.append, "first")
    for number in range(3 * TURN):
        asyncio.get_running_loop().call_soon(inbox.put, taken.append, str(number))
    await turn()
    assert len(taken) <= TURN + 1
    while len(inbox):
        await turn()
    assert taken == ["first", *map(str, range(3 * TURN))]


async def test_what_cannot_be_taken_in_costs_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    inbox, taken = Inbox(), list[str]()
    for number in range(TURN * 2):
        inbox.put([taken.append, lambda _: 1 / 0][number % 2], str(number))  # type: ignore[list-item]
    while len(inbox):
        await turn()
    assert taken == [str(number) for number in range(0, TURN * 2, 2)]
    assert len([record for record in caplog.records if "could not be taken in" in record.message]) == TURN


async def test_while_much_waits_nothing_is_read() -> None:
    transport, taken = Transport(), list[str]()
    inbox = Inbox(transport)
    for number in range(TURN + MOST_WAITING):
        inbox.put(taken.append, str(number))
    assert transport.reads
    inbox.put(taken.append, "one more")
    inbox.put(taken.append, "under way")
    assert not transport.reads
    while len(inbox):
        assert not transport.reads
        await turn()
    assert transport.reads
    assert len(taken) == TURN + MOST_WAITING + 2


async def test_what_was_heard_before_the_end_is_taken_in_and_nothing_after_it() -> None:
    """The hub must hear of a loss behind what was heard, and of nothing that an old connection says later."""
    transport, taken = Transport(), list[str]()
    inbox = Inbox(transport)
    for number in range(TURN + MOST_WAITING + 1):
        inbox.put(taken.append, str(number))
    transport.has_closed = True
    inbox.close()
    assert taken == [str(number) for number in range(TURN + MOST_WAITING + 1)]
    inbox.put(taken.append, "late")
    await turn()
    await turn()
    assert "late" not in taken
    assert len(inbox) == 0


async def test_a_connection_that_has_closed_is_not_told_to_read() -> None:
    transport, taken = Transport(), list[str]()
    inbox = Inbox(transport)
    for number in range(TURN + MOST_WAITING + 1):
        inbox.put(taken.append, str(number))
    transport.has_closed = True
    while len(inbox):
        await turn()
    assert len(taken) == TURN + MOST_WAITING + 1
