"""Guests cut at the same moment: nobody before all are frozen, nobody at all when one cannot be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from vmconsole.errors import GuestBusy, NotTogether, VmconsoleError
from vmconsole.runs.together import Part, Rendezvous


def meet(parts: dict[str, Callable[[Part], object]], budget: float = 5.0) -> dict[str, object]:
    """What each of them returned or raised."""
    whole = Rendezvous(list(parts), time.monotonic, budget)
    made: dict[str, object] = {}

    def play(name: str) -> None:
        part = whole.member(name)
        try:
            made[name] = parts[name](part)
        except VmconsoleError as error:
            part.gave_up(error)
            made[name] = error

    threads = [threading.Thread(target=play, args=(name,)) for name in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return made


def cut(part: Part) -> object:
    part.ready()
    part.frozen(12)
    part.cut()
    return part.result()


def test_all_are_cut_after_all_are_frozen() -> None:
    order: list[str] = []

    def noted(name: str) -> Callable[[Part], object]:
        def play(part: Part) -> object:
            part.ready()
            order.append("freeze")
            part.frozen(1)
            order.append("cut")
            part.cut()
            return part.result()

        return play

    made = meet({name: noted(name) for name in "abc"})
    assert order == ["freeze"] * 3 + ["cut"] * 3
    results = list(made.values())
    assert all(result == results[0] for result in results)
    assert results[0]["guests"] == ["a", "b", "c"]  # type: ignore[index]
    assert 0 <= results[0]["skew_ms"] < 5000  # type: ignore[index]


def test_nobody_is_cut_when_one_cannot_be_frozen() -> None:
    def hangs(part: Part) -> object:
        part.ready()
        return part.frozen(None)

    made = meet({"a": cut, "b": hangs, "c": cut})
    assert all(isinstance(error, NotTogether) for error in made.values())
    assert "b could not be frozen" in str(made["a"])


def test_nobody_is_frozen_when_one_is_busy() -> None:
    frozen: list[str] = []

    def busy(part: Part) -> object:
        raise GuestBusy("b is locked by a backup.")

    def play(part: Part) -> object:
        part.ready()
        frozen.append("a")
        return None

    made = meet({"a": play, "b": busy})
    assert frozen == []
    assert "b failed: b is locked by a backup." in str(made["a"])
    assert isinstance(made["b"], GuestBusy)


def test_nobody_waits_frozen_for_longer_than_the_budget() -> None:
    release = threading.Event()

    def late(part: Part) -> object:
        part.ready()
        release.wait(10)
        return part.frozen(1)

    def play(part: Part) -> object:
        part.ready()
        try:
            part.frozen(1)
        finally:
            release.set()
        return None

    made = meet({"a": play, "b": late}, budget=0.05)
    assert "b was not frozen within 0.05 s" in str(made["a"])
    assert isinstance(made["b"], NotTogether)


def test_a_cut_that_fails_after_the_others_fails_all() -> None:
    def fails(part: Part) -> object:
        part.ready()
        part.frozen(1)
        raise GuestBusy("no room")

    made = meet({"a": cut, "b": fails})
    assert isinstance(made["a"], NotTogether)


def test_a_guest_that_is_off_is_waited_for_by_nobody_and_not_in_the_skew() -> None:
    def off(part: Part) -> object:
        part.off()
        return part.result()

    made = meet({"a": cut, "b": off})
    assert made["a"] == made["b"] == {"guests": ["a", "b"], "skew_ms": 0.0}
