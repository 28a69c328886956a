"""Noticing silence, without a network: the polls are counted, not the clock."""

from __future__ import annotations

import errno
import socket
import threading
from collections import deque
from contextlib import suppress

import pytest

from vmconsole.remote.ssh_socket import WatchedSocket


class Script:
    """A socket that does what it was told, then times out for ever."""

    def __init__(self) -> None:
        self.arrivals: deque[bytes | OSError] = deque()
        self.accepts: deque[int] = deque()
        self.closed = False

    def recv(self, size: int, /) -> bytes:
        if not self.arrivals:
            raise TimeoutError
        arrival = self.arrivals.popleft()
        if isinstance(arrival, OSError):
            raise arrival
        return arrival

    def send(self, data: bytes, /) -> int:
        if not self.accepts:
            raise TimeoutError
        return self.accepts.popleft()

    def settimeout(self, seconds: float | None, /) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def questions() -> list[int]:
    return []


@pytest.fixture
def watched(script: Script, questions: list[int]) -> WatchedSocket:
    """Patience for 30 polls."""
    socket = WatchedSocket(script, 3.0)
    socket.settimeout(0.1)
    socket.watch(lambda: questions.append(1))
    return socket


def polls(watched: WatchedSocket, count: int) -> None:
    for _ in range(count):
        with pytest.raises(TimeoutError):
            watched.recv(10)


def test_pieces_of_what_arrived(script: Script, watched: WatchedSocket) -> None:
    script.arrivals.append(b"abcdefgh")
    assert [watched.recv(3), watched.recv(3), watched.recv(3)] == [b"abc", b"def", b"gh"]


def test_end(script: Script, watched: WatchedSocket) -> None:
    script.arrivals.append(b"")
    assert watched.recv(3) == b""


def test_asks_once_then_gives_up(watched: WatchedSocket, questions: list[int]) -> None:
    polls(watched, 9)
    assert questions == []
    polls(watched, 3)
    assert questions == [1]
    polls(watched, 16)
    assert questions == [1]
    with pytest.raises(ConnectionAbortedError, match="no answer for 3 s"):
        polls(watched, 4)
    assert watched.silent


def test_an_answer_is_enough(script: Script, watched: WatchedSocket, questions: list[int]) -> None:
    for _ in range(5):
        polls(watched, 25)
        script.arrivals.append(b"x")
        assert watched.recv(1) == b"x"
    assert len(questions) == 5


def test_blocked_write_gives_up(watched: WatchedSocket) -> None:
    def write() -> None:
        for _ in range(32):
            with pytest.raises(TimeoutError):
                watched.send(b"x")

    with pytest.raises(ConnectionAbortedError):
        write()


def test_write_that_goes_on_does_not(script: Script, watched: WatchedSocket) -> None:
    for _ in range(5):
        for _ in range(25):
            with pytest.raises(TimeoutError):
                watched.send(b"x")
        script.accepts.append(1)
        assert watched.send(b"x") == 1


def test_verdict_of_the_kernel_is_not_a_poll(script: Script, watched: WatchedSocket) -> None:
    script.arrivals.append(OSError(errno.ETIMEDOUT, "Connection timed out"))
    with pytest.raises(ConnectionAbortedError):
        watched.recv(1)


def test_before_the_login_only_others_watch(script: Script) -> None:
    watched = WatchedSocket(script, 1.0)
    watched.settimeout(0.1)
    polls(watched, 100)
    assert not watched.silent


def test_impossible_length(watched: WatchedSocket) -> None:
    with pytest.raises(OSError, match="impossibly long"):
        watched.recv(0xFFFFFFFF)


def test_close(script: Script, watched: WatchedSocket) -> None:
    watched.close()
    assert script.closed


def test_close_wakes_the_thread_that_reads() -> None:
    ours, theirs = socket.socketpair()
    watched = WatchedSocket(ours, 300.0)
    watched.settimeout(60.0)
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        # The end of the stream, or a socket that is closed already: paramiko takes both for the end.
        with suppress(OSError):
            watched.recv(1)

    reader = threading.Thread(target=wait)
    reader.start()
    begun.wait(10)
    with theirs:
        watched.close()
        reader.join(30)
        assert not reader.is_alive()
