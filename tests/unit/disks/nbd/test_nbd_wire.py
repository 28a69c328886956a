"""Time limits that a slow liar cannot stretch, and streams of both kinds."""

from __future__ import annotations

import socket

import nbd_rig as rig
import pytest

from vmconsole.disks.nbd.wire import Wire
from vmconsole.errors import HostUnreachable


class Drip:
    """A stream that gives some bytes at a time, each time after so many seconds of a pretended clock."""

    def __init__(self, piece: int, seconds: float) -> None:
        self.now = 0.0
        self._piece = piece
        self._seconds = seconds

    def clock(self) -> float:
        return self.now

    def recv(self, size: int) -> bytes:
        self.now += self._seconds
        return bytes(min(size, self._piece))

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        raise TimeoutError

    def settimeout(self, seconds: float | None) -> None:
        pass

    def close(self) -> None:
        raise OSError("already")


def test_a_dripping_message_ends() -> None:
    drip = Drip(1, 10)
    wire = Wire(drip, 60, "vda", clock=drip.clock)
    with pytest.raises(HostUnreachable, match="did not answer for 60 seconds"):
        wire.receive(100)
    assert drip.now <= 80


def test_a_long_message_over_a_slow_line_is_waited_for() -> None:
    drip = Drip(16 * 1024, 10)
    wire = Wire(drip, 60, "vda", clock=drip.clock)
    assert len(wire.receive_buffer(rig.MIB)) == rig.MIB
    assert drip.now > 300


def test_a_limit_covers_several_messages() -> None:
    drip = Drip(1, 10)
    wire = Wire(drip, 60, "vda", clock=drip.clock)
    wire.limit(60)
    wire.receive(3)
    with pytest.raises(HostUnreachable):
        wire.receive(4)
    wire.limit(None)
    assert wire.receive(3) == bytes(3)


def test_a_peer_that_takes_nothing() -> None:
    wire = Wire(Drip(1, 1), 60, "vda")
    with pytest.raises(HostUnreachable, match="took no more data"):
        wire.send(b"x")
    wire.close()


@pytest.mark.parametrize("plain", [True, False])
def test_small_and_large_pieces_mix(plain: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = Wire(rig.Channel(ours) if plain else ours, 5, "vda")
        theirs.sendall(b"abc" + b"x" * 50_000 + b"yz" * 10)
        assert wire.receive(3) == b"abc"
        assert wire.receive_buffer(40_000) == b"x" * 40_000
        wire.discard(10_000)
        assert wire.receive(20) == b"yz" * 10
        theirs.close()
        assert not wire.wait()
        with pytest.raises(HostUnreachable, match="broke"):
            wire.receive(1)


def test_a_broken_socket_is_translated() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        wire = Wire(ours, 5, "vda")
        with pytest.raises(HostUnreachable, match="Broken pipe"):
            wire.send(bytes(10))
