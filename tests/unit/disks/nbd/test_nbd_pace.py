"""Reads that are told how fast they may go."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import nbd_rig as rig
import pytest

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.client import NbdClient
from vmconsole.disks.nbd.parallel import read_many
from vmconsole.disks.nbd.protocol import ExportFlag
from vmconsole.errors import Cancelled, HostError
from vmconsole.interfaces import Cancel

BLOCK = 1024


class Slow:
    """A pace that says what it is told to; keeps what it was asked."""

    def __init__(self, wait: Callable[[int], float] = lambda length: 0.0, largest: int = 0) -> None:
        self._wait = wait
        self._largest = largest
        self._lock = threading.Lock()
        self.granted: list[int] = []
        self.came_in: list[tuple[int, float]] = []
        self.refused = 0

    def wait(self, length: int) -> float:
        with self._lock:
            seconds = self._wait(length)
            if seconds:
                self.refused += 1
            else:
                self.granted.append(length)
            return seconds

    def came(self, length: int, seconds: float) -> None:
        self.came_in.append((length, seconds))

    def took(self, length: int) -> None:
        pass

    def largest(self) -> int:
        return self._largest

    def limit(self) -> int:
        return 0


def answers(count: int) -> bytes:
    return b"".join(rig.data(at + 1, at * BLOCK, bytes([at]) * BLOCK) for at in range(count))


def test_every_request_is_asked_for_and_reported() -> None:
    pace = Slow()
    client = rig.client(4 * BLOCK, answers(4))
    pieces = list(client.read([(0, 4 * BLOCK)], request_size=BLOCK, pace=pace))
    assert [offset for offset, _ in pieces] == [0, BLOCK, 2 * BLOCK, 3 * BLOCK]
    assert pace.granted == [BLOCK] * 4
    assert [length for length, _ in pace.came_in] == [BLOCK] * 4
    assert all(0 < seconds < 5 for _, seconds in pace.came_in)


def test_held_back_with_nothing_under_way_it_sleeps_and_asks_again() -> None:
    turns = iter([0.01, 0.01, 0.0, 0.01, 0.0])
    pace = Slow(lambda length: next(turns))
    client = rig.client(2 * BLOCK, answers(2))
    began = time.monotonic()
    assert len(list(client.read([(0, 2 * BLOCK)], request_size=BLOCK, pace=pace))) == 2
    assert pace.refused == 3
    assert time.monotonic() - began >= 0.02  # two of them; a third held back while a reply was due


def test_held_back_it_goes_on_to_take_what_was_requested() -> None:
    """Three are granted, then nothing for a minute: the three come all the same, at once."""
    pace = Slow(lambda length: 60.0 if len(pace.granted) == 3 else 0.0)
    client = rig.client(8 * BLOCK, answers(8))
    pieces = client.read([(0, 8 * BLOCK)], request_size=BLOCK, pace=pace)
    began = time.monotonic()
    assert [next(pieces)[0] for _ in range(3)] == [0, BLOCK, 2 * BLOCK]
    assert time.monotonic() - began < 5
    pieces.close()


def test_held_back_it_can_be_stopped() -> None:
    cancel = Cancel()
    threading.Timer(0.1, cancel.set, ["enough"]).start()
    client = rig.client(BLOCK, answers(1))
    began = time.monotonic()
    with pytest.raises(Cancelled, match="enough"):
        list(client.read([(0, BLOCK)], pace=Slow(lambda length: 60.0), cancel=cancel))
    assert time.monotonic() - began < 5


def test_requests_are_no_larger_than_the_pace_wants() -> None:
    stream = rig.Script(rig.hello(1 << 20))
    client = NbdClient.connect(stream, "vda")
    stream.heard.clear()
    with pytest.raises(HostError):  # the script ends there
        list(client.read([(0, 8 * BLOCK)], request_size=4 * BLOCK, pace=Slow(largest=2 * BLOCK)))
    sent = bytes(stream.heard)[: 4 * protocol.REQUEST.size]
    assert [fields[-1] for fields in protocol.REQUEST.iter_unpack(sent)] == [2 * BLOCK] * 4


def test_what_is_given_up_is_given_back() -> None:
    pace = Slow()
    client = rig.client(4 * BLOCK, answers(1))
    with pytest.raises(HostError):
        list(client.read([(0, 4 * BLOCK)], request_size=BLOCK, pace=pace))
    assert sum(length for length, _ in pace.came_in) == sum(pace.granted)
    assert [seconds for _, seconds in pace.came_in[1:]] == [0.0] * 3


def test_a_slow_consumer_is_not_a_slow_host() -> None:
    pace = Slow()
    client = rig.client(4 * BLOCK, answers(4))
    for _ in client.read([(0, 4 * BLOCK)], request_size=BLOCK, pace=pace):
        time.sleep(0.1)
    assert max(seconds for _, seconds in pace.came_in) < 0.1


def test_what_is_owed_after_a_read_was_given_up_is_taken() -> None:
    """QEMU does not end a job, nor let the guest run, before it is rid of its answers."""
    ours, theirs = socket.socketpair()
    size = 16 << 20
    theirs.sendall(rig.hello(size) + rig.data(1, 0, bytes(BLOCK)))
    client = NbdClient.connect(ours, "vda")
    pieces = client.read([(0, size)], request_size=BLOCK)
    next(pieces)
    pieces.close()
    client.swallow()
    theirs.settimeout(10)
    theirs.sendall(bytes(size))
    client.abandon()
    theirs.close()
    assert not [thread for thread in _swallowing() if thread.join(5) or thread.is_alive()]


def _swallowing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "nbd-swallow"]


def test_several_connections_share_one_pace() -> None:
    flags = ExportFlag.HAS_FLAGS | ExportFlag.CAN_MULTI_CONN
    size = 64 * BLOCK
    pair = [rig.client(size, rig.error(1, 5), flags=flags) for _ in range(2)]
    pace = Slow()
    with pytest.raises(HostError, match="EIO"):
        list(read_many(pair, [(0, size)], request_size=BLOCK, pace=pace))
    assert sum(pace.granted) == sum(length for length, _ in pace.came_in)
