"""Stream or poll, and how long to wait: with a clock of the test's own."""

import itertools

import pytest

from rowcast.following.policy import LIVELY_HEARTBEAT_MS, PROBE_SECONDS, Ended, Policy, Transport, Why


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def policy(transport: Transport = "auto", *, random: float = 0.5) -> tuple[Policy, Clock]:
    clock = Clock()
    return Policy(transport, random=lambda: random, clock=clock), clock


def ended(why: Why, **fields: float) -> Ended:
    return Ended(why=why, reason="x", **fields)  # type: ignore[arg-type]


CUT = ended(Why.BROKEN, lived_seconds=2.0)


def test_what_asks_for_a_transport_gets_it() -> None:
    assert policy("poll")[0].streams is False
    only_streams, _ = policy("sse")
    for why in Why:
        only_streams.note(ended(why))
    assert only_streams.streams
    assert not only_streams.probes


@pytest.mark.parametrize("why", [Why.NOT_A_STREAM, Why.BUSY, Why.SENT_TO_POLL])
def test_some_answers_mean_polling_at_once(why: Why) -> None:
    subject, _ = policy()
    subject.note(ended(why))
    assert not subject.streams


def test_twice_mute_means_polling_though_it_could_not_be_reached_between() -> None:
    subject, _ = policy()
    for why, streams in ((Why.MUTE, True), (Why.FAILED, True), (Why.MUTE, True), (Why.UNREACHABLE, True)):
        subject.note(ended(why))
        assert subject.streams is streams
    subject.note(ended(Why.MUTE))
    assert not subject.streams


def test_three_short_lives_ask_for_a_livelier_stream_and_three_more_mean_polling() -> None:
    subject, _ = policy()
    for _ in range(3):
        assert subject.heartbeat_ms is None
        subject.note(CUT)
    assert subject.heartbeat_ms == LIVELY_HEARTBEAT_MS
    for _ in range(3):
        assert subject.streams
        subject.note(ended(Why.BROKEN, lived_seconds=1.5, heartbeat_seconds=1))
    assert not subject.streams


@pytest.mark.parametrize("between", [ended(Why.GOODBYE), ended(Why.BROKEN, lived_seconds=60)])
def test_lives_that_end_well_or_late_begin_the_count_anew(between: Ended) -> None:
    subject, _ = policy()
    for each in (CUT, CUT, between, CUT, CUT):
        subject.note(each)
    assert subject.streams
    assert subject.heartbeat_ms is None


def test_a_server_that_is_not_there_is_no_reason_to_poll() -> None:
    subject, clock = policy()
    for _ in range(100):
        clock.now += subject.note(ended(Why.UNREACHABLE))
    assert subject.streams


def test_waits_grow_to_the_cap_and_never_beyond_half_the_outage() -> None:
    subject, clock = policy(random=0.99)
    went_away, waits = clock.now, []
    while clock.now - went_away < 600:
        wait = subject.note(ended(Why.UNREACHABLE))
        assert wait <= max(2.0, (clock.now - went_away) / 2)
        waits.append(wait)
        clock.now += wait
    assert waits == sorted(waits)
    assert 29 < waits[-1] <= 30


def test_a_long_life_makes_the_next_wait_short() -> None:
    subject, clock = policy(random=0.99)
    for _ in range(20):
        clock.now += subject.note(ended(Why.UNREACHABLE))
    assert subject.note(ended(Why.BROKEN, lived_seconds=11, synced_seconds=11)) <= 0.5


def test_whatever_cuts_short_lives_there_is_one_try_a_second() -> None:
    subject, _ = policy(random=0)
    subject.note(ended(Why.BROKEN, lived_seconds=0.1))
    assert subject.note(ended(Why.BROKEN, lived_seconds=0.1)) >= 0.9


@pytest.mark.parametrize("random", [0.0, 0.99])
def test_what_the_server_asks_for_is_a_floor(random: float) -> None:
    subject, _ = policy(random=random)
    assert 7 <= subject.note(ended(Why.GOODBYE, floor_seconds=7)) <= 7 * 1.4
    assert subject.poll_failed(9, is_crowded=False) == 9


def test_where_there_are_too_many_no_poll_is_held_and_the_floor_is_the_interval() -> None:
    subject, _ = policy()
    subject.note(Ended(why=Why.BUSY, reason="429", floor_seconds=4, is_crowded=True))
    assert (subject.holds_polls, subject.poll_floor_seconds) == (False, 4)
    subject, _ = policy()
    subject.note(Ended(why=Why.BUSY, reason="503", floor_seconds=4))
    assert subject.holds_polls


def test_probes_come_rarer_and_rarer_and_soon_where_it_will_pass() -> None:
    subject, _ = policy()
    subject.note(ended(Why.NOT_A_STREAM))
    seen = []
    for _ in range(7):
        seen.append(subject.seconds_to_probe())
        subject.probed(ended(Why.NOT_A_STREAM))
    assert seen == [*PROBE_SECONDS, 600, 600]
    subject, _ = policy()
    subject.note(ended(Why.BUSY))
    assert subject.seconds_to_probe() == 5
    subject.probed(ended(Why.UNREACHABLE))
    assert subject.seconds_to_probe() == 5
    subject.probed(ended(Why.BUSY))
    assert subject.seconds_to_probe() == 30
    subject.probed(None)
    assert subject.streams


def test_polls_that_fail_wait_longer_and_longer() -> None:
    subject, clock = policy()
    waits = []
    for _ in range(12):
        waits.append(subject.poll_failed(0, is_crowded=False))
        clock.now += waits[-1]
    assert all(earlier <= later for earlier, later in itertools.pairwise(waits))
    subject.poll_succeeded()
    assert subject.poll_failed(0, is_crowded=False) < 0.5


def test_what_is_to_start_over_or_has_another_token_does_so_at_once() -> None:
    subject, _ = policy()
    subject.note(ended(Why.NOT_A_STREAM))
    assert subject.note(ended(Why.STARTS_OVER)) == 0
    assert subject.streams
    assert subject.note(ended(Why.UNAUTHORIZED)) == 0
