"""Reads over several connections: errors, cancelling, giving up; no thread is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import nbd_rig as rig
import pytest

from vmconsole.disks.nbd.client import NbdClient
from vmconsole.disks.nbd.parallel import connections_for, read_many
from vmconsole.disks.nbd.protocol import ExportFlag
from vmconsole.errors import Cancelled, HostError, ProtocolError
from vmconsole.interfaces import Cancel

MANY = ExportFlag.HAS_FLAGS | ExportFlag.CAN_MULTI_CONN
SIZE = 64 * 1024


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "nbd-read"]


def clients(*answers: bytes, flags: int = MANY, size: int = SIZE, silent: bool = False) -> list[NbdClient]:
    return [rig.client(size, said, flags=flags, silent=silent, timeout=60) for said in answers]


def test_without_the_server_s_promise_one_connection_is_used() -> None:
    pair = clients(rig.data(1, 0, bytes(SIZE)), b"", flags=ExportFlag.HAS_FLAGS)
    assert [offset for offset, _ in read_many(pair, [(0, SIZE)])] == [0]


def test_connections_that_disagree() -> None:
    pair = [*clients(b""), *clients(b"", size=2 * SIZE)]
    with pytest.raises(ProtocolError, match="disagree"):
        list(read_many(pair, [(0, SIZE)]))


def test_the_first_error_ends_all_of_it() -> None:
    pair = clients(rig.error(1, 5), rig.error(1, 5))
    with pytest.raises(HostError, match="EIO"):
        list(read_many(pair, [(0, SIZE)], request_size=4096))


def test_an_error_of_one_does_not_wait_for_the_other() -> None:
    pair = [*clients(rig.error(1, 5)), *clients(b"", silent=True)]
    began = time.monotonic()
    with pytest.raises(HostError, match="EIO"):
        list(read_many(pair, [(0, SIZE)], request_size=4096))
    assert time.monotonic() - began < 10


def test_an_error_of_the_ranges_is_the_caller_s() -> None:
    def ranges() -> Iterator[tuple[int, int]]:
        plan: dict[str, list[tuple[int, int]]] = {}
        yield from plan["planning failed"]

    with pytest.raises(KeyError):
        list(read_many(clients(b"", b""), ranges()))


def test_cancelling() -> None:
    cancel = Cancel()
    cancel.set("stop it")
    with pytest.raises(Cancelled, match="stop it"):
        list(read_many(clients(b"", b"", silent=True), [(0, SIZE)], cancel=cancel))


def test_giving_up_in_the_middle() -> None:
    answers = b"".join(rig.data(at + 1, at * 1024, bytes(1024)) for at in range(8))
    rest = b"".join(rig.data(at + 1, (8 + at) * 1024, bytes(1024)) for at in range(8))
    pieces = read_many(clients(answers, rest, silent=True), [(0, SIZE)], request_size=1024, in_flight=8)
    assert next(pieces, None) is not None
    pieces.close()


@pytest.mark.parametrize(
    ("mebibytes", "most", "opened"), [(0, 4, 1), (63, 4, 1), (64, 4, 2), (9999, 4, 4), (9999, 0, 1)]
)
def test_another_connection_is_only_made_for_much_to_read(mebibytes: int, most: int, opened: int) -> None:
    assert connections_for(mebibytes * 1024 * 1024, most) == opened
