from __future__ import annotations

import random
import threading
import time

import pytest

from vmconsole.borg.engine.places import Places


def test_a_writer_is_alone_and_readers_share() -> None:
    places = Places()
    assert places.take("a")
    assert places.take("b")
    assert not places.take("a")
    assert places.share("a", object) is None
    places.leave("a")
    first = places.share("a", object)
    assert places.share("a", object) is first
    assert not places.take("a")
    closed: list[object] = []
    places.give_back("a", closed.append)
    assert not closed
    places.give_back("a", closed.append)
    assert closed == [first]
    assert places.take("a")


def test_an_opening_that_fails_leaves_the_place_free() -> None:
    places = Places()

    def fail() -> object:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        places.share("a", fail)
    assert places.take("a")


def test_never_two_at_once_however_many_come_and_go() -> None:
    places = Places()
    open_now: list[object] = []
    wrong: list[str] = []

    def make() -> object:
        if open_now:
            wrong.append("opened beside another")
        open_now.append(made := object())
        time.sleep(0.0002)
        return made

    def close(made: object) -> None:
        time.sleep(0.0002)
        open_now.remove(made)

    def come_and_go(seed: int) -> None:
        source = random.Random(seed)
        for _ in range(150):
            if source.random() < 0.2:
                if places.take("a"):
                    close(make())
                    places.leave("a")
            elif (made := places.share("a", make)) is not None:
                if made not in open_now:
                    wrong.append("given after it was closed")
                places.give_back("a", close)

    threads = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not open_now
    assert places.take("a")
