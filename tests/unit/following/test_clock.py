"""Lags by the server's clock, whatever the clocks of this machine and of the server say."""

from dataclasses import dataclass

import pytest

from rowcast.following.clock import ServerClock

TRUE = 1_700_000_000.0
"""What time it really is when a test begins; the database knows."""


@dataclass
class World:
    """Real time that passes, and how far the clocks of client and server are off."""

    now: float = TRUE
    client_off: float = 0.0
    server_off: float = 0.0

    def __post_init__(self) -> None:
        self.clock = ServerClock(wall=lambda: self.now + self.client_off, monotonic=lambda: self.now - TRUE + 5)

    def hear(self, *, late_seconds: float = 0.0) -> None:
        self.clock.heard(self.now - late_seconds + self.server_off)

    def lag(self, true_seconds: float) -> float:
        """What the client makes of a row that really took so long."""
        updated_at = self.now - true_seconds
        return self.clock.corrected(self.now + self.client_off - updated_at)


@pytest.mark.parametrize("client_off", [0, 0.03, -0.03, 3600, -3600, 1e6])
def test_a_client_whose_clock_is_wrong_tells_the_true_lag(client_off: float) -> None:
    world = World(client_off=client_off)
    world.hear(late_seconds=0.001)
    for true_seconds in (0.002, 0.5, 40):
        assert world.lag(true_seconds) == pytest.approx(true_seconds, abs=0.002)


@pytest.mark.parametrize("server_off", [3600, -3600])
def test_a_server_whose_clock_is_wrong_is_not_believed(server_off: float) -> None:
    world = World(server_off=server_off)
    world.hear()
    assert world.lag(0.02) == pytest.approx(0.02, abs=0.001)


def test_a_clock_that_is_set_while_it_is_followed_changes_nothing() -> None:
    world = World()
    world.hear()
    for world.client_off in (3600, -3600, 0):
        assert world.lag(0.02) == pytest.approx(0.02, abs=0.001)
    world.client_off = 3600
    for world.server_off in (50, -50):
        for _ in range(8):
            world.now += 5
            world.hear()
        assert world.lag(0.02) == pytest.approx(0.02 + world.server_off, abs=0.001)


def test_what_was_long_under_way_is_outweighed() -> None:
    world = World(client_off=60)
    world.hear()
    for late_seconds in (3, 0.2, 9):
        world.hear(late_seconds=late_seconds)
        assert world.lag(0.02) == pytest.approx(0.02, abs=0.001)


def test_without_a_word_of_the_server_the_own_clock_counts() -> None:
    assert World(client_off=60).lag(0.02) == pytest.approx(60.02)


def test_a_date_corrects_what_is_far_off_only() -> None:
    for client_off, lag in ((1.5, 1.52), (3600, 0.02)):
        world = World(client_off=client_off)
        world.clock.dated(world.now)
        assert world.lag(0.02) == pytest.approx(lag, abs=0.001)
    world.hear()
    world.clock.dated(world.now - 1)
    assert world.lag(0.02) == pytest.approx(0.02, abs=0.001)


@pytest.mark.parametrize("nonsense", [None, "1", [], True, 0, -1, 10**400, float("inf"), float("nan")])
def test_what_is_no_instant_says_nothing(nonsense: object) -> None:
    world = World()
    world.clock.heard(nonsense)
    assert world.lag(0.02) == pytest.approx(0.02)
