"""Reads spread over several connections to the same export."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Final

from vmconsole.disks.nbd.client import IN_FLIGHT, REQUEST_SIZE, NbdClient
from vmconsole.disks.nbd.reading import Piece
from vmconsole.disks.nbd.wire import Stop
from vmconsole.errors import Cancelled, ProtocolError
from vmconsole.interfaces import UNHURRIED, Pace

_SHARE: Final = 8
"""A connection takes this many requests' worth of neighbouring bytes at a time."""
_QUEUED: Final = 4
"""Pieces per connection that wait for the consumer."""
_WORTH_ONE: Final = 64 * 1024 * 1024
"""Logging in over SSH takes as long as reading so many bytes over a connection that is there."""


class _Done:
    """Put into the queue by a connection that has nothing left; error is what ended it early."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Halt:
    """Stops the connections when the caller is cancelled, gives up, or one of them failed."""

    def __init__(self, outer: Stop | None) -> None:
        self._outer = outer
        self._halted = threading.Event()

    def set(self) -> None:
        self._halted.set()

    def check(self) -> None:
        if self._halted.is_set():
            raise Cancelled("The read was given up.")
        if self._outer is not None:
            self._outer.check()


class _Shares:
    """Ranges cut into shares, handed out to whichever connection asks next. Thread-safe."""

    def __init__(self, ranges: Iterable[tuple[int, int]], size: int) -> None:
        self._shares = _cut(ranges, size)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        while True:
            with self._lock:
                share = next(self._shares, None)
            if share is None:
                return
            yield share


def _cut(ranges: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    for offset, length in ranges:
        end = offset + length
        while offset < end:
            cut = min(end, offset - offset % size + size)
            yield offset, cut - offset
            offset = cut


def connections_for(length: int, most: int) -> int:
    """How many connections to open for reading so many bytes, when at most so many are allowed."""
    return max(1, min(most, 1 + length // _WORTH_ONE))


def read_many(
    clients: Sequence[NbdClient],
    ranges: Iterable[tuple[int, int]],
    *,
    request_size: int = REQUEST_SIZE,
    in_flight: int = IN_FLIGHT,
    cancel: Stop | None = None,
    pace: Pace = UNHURRIED,
) -> Generator[Piece, None, None]:
    """As NbdClient.read, over several connections, each with in_flight requests and a thread.

    Only the first is used when the server does not promise that all of them see the same disk.
    """
    first = clients[0]
    if any(client.size != first.size for client in clients):
        raise ProtocolError(
            f"The connections to the disk “{first.facts.name}” disagree about its size.",
            hint="The disk was resized, or the backup job changed, in between. Try again.",
            subject=first.facts.name,
        )
    if len(clients) == 1 or not all(client.can_multi_conn for client in clients):
        yield from first.read(
            ranges, request_size=request_size, in_flight=in_flight, cancel=cancel, pace=pace
        )
        return
    shares = _Shares(ranges, request_size * _SHARE)
    pieces: queue.Queue[Piece | _Done] = queue.Queue(_QUEUED * len(clients))
    halt = _Halt(cancel)
    threads = [
        threading.Thread(
            target=_work,
            args=(client, shares, pieces, halt, request_size, in_flight, pace),
            name="nbd-read",
        )
        for client in clients
    ]
    for thread in threads:
        thread.start()
    try:
        yield from _collect(pieces, len(threads))
    finally:
        halt.set()
        _drain(pieces, threads)


def _work(
    client: NbdClient,
    shares: _Shares,
    pieces: queue.Queue[Piece | _Done],
    halt: _Halt,
    request_size: int,
    in_flight: int,
    pace: Pace,
) -> None:
    error: BaseException | None = None
    try:
        for piece in client.read(
            shares, request_size=request_size, in_flight=in_flight, cancel=halt, pace=pace
        ):
            pieces.put(piece)
            halt.check()
    except BaseException as caught:  # noqa: BLE001 - it is raised again in the consumer's thread
        error = caught
    pieces.put(_Done(error))


def _collect(pieces: queue.Queue[Piece | _Done], working: int) -> Iterator[Piece]:
    while working:
        item = pieces.get()
        if isinstance(item, _Done):
            if item.error is not None:
                raise item.error
            working -= 1
        else:
            yield item


def _drain(pieces: queue.Queue[Piece | _Done], threads: Sequence[threading.Thread]) -> None:
    """Make room until every thread has ended; each of them notices the halt within half a second."""
    for thread in threads:
        while thread.is_alive():
            while not pieces.empty():
                pieces.get_nowait()
            thread.join(0.05)
