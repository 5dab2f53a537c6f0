import pytest

from rowcast.postgres.pace import Pace


def pauses(pace: Pace, *found: bool, took: float = 0) -> list[float]:
    return [pace.next_pause(found=one, took_seconds=took).most_seconds for one in found]


def test_pauses_double_while_nothing_is_found() -> None:
    pace = Pace(quickest_seconds=0.005, slowest_seconds=0.1)
    assert pauses(pace, *[False] * 7) == pytest.approx([0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.1])


def test_what_is_found_makes_them_short() -> None:
    pace = Pace(quickest_seconds=0.005, slowest_seconds=1)
    pauses(pace, *[False] * 20)
    assert pauses(pace, True, True, False) == pytest.approx([0.005, 0.005, 0.01])


def test_to_hurry_makes_them_short() -> None:
    pace = Pace(quickest_seconds=0.005, slowest_seconds=1)
    pauses(pace, *[False] * 20)
    pace.hurry()
    assert pauses(pace, False) == pytest.approx([0.005])


def test_a_tick_that_takes_long_is_followed_by_a_pause_three_times_as_long() -> None:
    pace = Pace(quickest_seconds=0.005, slowest_seconds=0.05)
    pause = pace.next_pause(found=True, took_seconds=0.1)
    assert pause.least_seconds == pause.most_seconds == pytest.approx(0.3)
    quick = pace.next_pause(found=True, took_seconds=0.001)
    assert (quick.least_seconds, quick.most_seconds) == (pytest.approx(0.003), 0.005)


def test_a_tick_that_was_held_up_is_not_made_up_for() -> None:
    pause = Pace(slowest_seconds=1).next_pause(found=True, took_seconds=4.1)
    assert (pause.least_seconds, pause.most_seconds) == (1, 1)


def test_the_cap_holds_for_the_shortest_pause_too() -> None:
    assert pauses(Pace(quickest_seconds=0.005, slowest_seconds=0.002), True, False) == [0.002, 0.002]
