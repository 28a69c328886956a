"""Guests cut at the same moment: nobody before all are frozen, nobody at all when one cannot be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from vmconsole.errors import Cancelled, GuestBusy, NotTogether, VmconsoleError
from vmconsole.interfaces import Cancel
from vmconsole.runs.together import Part, Rendezvous


def meet(
    parts: dict[str, Callable[[Part], object]], budget: float = 5.0, cancel: Cancel | None = None
) -> dict[str, object]:
    """What each of them returned or raised."""
    whole = Rendezvous(list(parts), time.monotonic, budget, cancel or Cancel())
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


def test_what_the_freeze_itself_took_is_part_of_the_budget() -> None:
    release = threading.Event()

    def late(part: Part) -> object:
        part.ready()
        release.wait(30)
        return part.frozen(1)

    def play(part: Part) -> object:
        part.ready()
        began = time.monotonic()
        try:
            part.frozen(29_900)
        finally:
            release.set()
            assert time.monotonic() - began < 10
        return None

    assert "not frozen within 30 s" in str(meet({"a": play, "b": late}, budget=30)["a"])


def test_who_waits_notices_within_a_second_that_the_run_was_cancelled() -> None:
    """Before ready, while frozen, and after the cut; everybody says Cancelled, not that somebody was late."""
    for stage in (1, 2, 3):
        cancel = Cancel()
        moments: list[float] = []
        ended = threading.Event()

        def waits(
            part: Part, stage: int = stage, moments: list[float] = moments, ended: threading.Event = ended
        ) -> object:
            steps = [part.ready, lambda: part.frozen(1), part.cut, part.result]
            try:
                for step in steps[: stage + 1]:
                    step()
            finally:
                moments.append(time.monotonic())
                ended.set()
            return None

        def cancels(
            part: Part,
            stage: int = stage,
            cancel: Cancel = cancel,
            moments: list[float] = moments,
            ended: threading.Event = ended,
        ) -> object:
            for step in (part.ready, lambda: part.frozen(1))[: stage - 1]:
                step()
            moments.append(time.monotonic())
            cancel.set()
            # Where it is stuck: it reaches nothing more, and tells nobody.
            ended.wait(30)
            return None

        made = meet({"a": waits, "b": cancels}, budget=60, cancel=cancel)
        assert isinstance(made["a"], Cancelled), (stage, made)
        assert moments[1] - moments[0] < 1.0


def test_what_becomes_of_one_after_all_were_cut_is_its_own_affair() -> None:
    failed = threading.Event()

    def broken(part: Part) -> object:
        cut(part)
        try:
            raise GuestBusy("The stream broke.")
        except GuestBusy as error:
            part.gave_up(error)
            failed.set()
            raise

    def slow(part: Part) -> object:
        part.ready()
        part.frozen(1)
        part.cut()
        failed.wait(10)
        return part.result()

    made = meet({"a": slow, "b": broken})
    assert made["a"]["guests"] == ["a", "b"]  # type: ignore[index]
    assert isinstance(made["b"], GuestBusy)


def test_who_was_never_cut_does_not_pass_for_it() -> None:
    made = meet({"a": cut, "b": lambda part: part.result()})
    assert isinstance(made["b"], NotTogether)
    assert "without a cut" in str(made["a"])
