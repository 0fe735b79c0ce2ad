"""An engine's silence, with a clock that a test turns."""

from collections.abc import Callable

import pytest

from bmqwen.serve.pool.watchdog import PARTS, Watchdog


class Clock:
    """Calls what is due, when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, Callable[[], None]]] = []

    def later(self, seconds: float, call: Callable[[], None]) -> "Alarm":
        entry = (self.now + seconds, call)
        self._due.append(entry)
        return Alarm(lambda: self._due.remove(entry))

    def turn(self, seconds: float) -> None:
        """Let time pass, in one go as on a machine that slept: each call that is due is made once."""
        self.now += seconds
        due = [entry for entry in self._due if entry[0] <= self.now + 1e-6]
        self._due = [entry for entry in self._due if entry not in due]
        for _, call in due:
            call()

    @property
    def idle(self) -> bool:
        return not self._due


class Alarm:
    """A call that can be forgotten."""

    def __init__(self, forget: Callable[[], None]) -> None:
        self.cancel = forget


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def barks() -> list[float]:
    return []


@pytest.fixture
def dog(clock: Clock, barks: list[float]) -> Watchdog:
    return Watchdog(100.0, lambda: barks.append(clock.now), clock.later)


def test_silence_is_noticed_once(dog: Watchdog, clock: Clock, barks: list[float]) -> None:
    dog.start()
    for _ in range(3 * PARTS):
        clock.turn(100.0 / PARTS)
        dog.start()
    assert barks[0] == pytest.approx(100.0)
    assert barks[1] >= 200.0  # started again, it waits as long again


def test_any_sign_of_life_restarts_the_time(dog: Watchdog, clock: Clock, barks: list[float]) -> None:
    dog.start()
    for _ in range(1000):
        clock.turn(30.0)
        dog.heard()
    assert barks == []
    for _ in range(PARTS):
        clock.turn(10.0)
    assert len(barks) == 1
    assert clock.idle


def test_an_engine_that_came_back_is_left_alone(dog: Watchdog, clock: Clock, barks: list[float]) -> None:
    dog.start()
    dog.start()
    clock.turn(50.0)
    dog.stop()
    dog.stop()
    assert clock.idle
    clock.turn(1000.0)
    assert barks == []


def test_a_server_that_slept_does_not_blame_its_engine(
    dog: Watchdog, clock: Clock, barks: list[float]
) -> None:
    dog.start()
    clock.turn(1e6)
    assert barks == []
