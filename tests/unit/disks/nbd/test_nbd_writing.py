"""The client's writes: nothing that was lost is hidden."""

from __future__ import annotations

import contextlib

import nbd_rig as rig
import pytest

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.protocol import ExportFlag, ReplyType
from vmconsole.errors import HostError, HostUnreachable, NotPermitted, ProtocolError

SIZE = 4096


def test_writes_of_both_kinds_of_reply() -> None:
    client = rig.client(SIZE, rig.finished(2) + rig.simple(1) + rig.simple(3) + rig.simple(4))
    client.write(0, b"a" * 100)
    client.write(100, b"b")
    client.write_zeroes(512, 512)
    client.flush()
    client.close()


def test_a_lost_write_is_reported_by_everything_that_follows() -> None:
    client = rig.client(SIZE, rig.error(1, 28, b"disk full") + rig.simple(2))
    client.write(0, b"a")
    client.write(1, b"b")
    with pytest.raises(HostError, match=r"write 1 bytes at 0.*ENOSPC"):
        client.flush()
    with pytest.raises(HostError, match="ENOSPC"):
        client.write(2, b"c")
    with pytest.raises(HostError, match="ENOSPC"):
        client.close()
    client.close()


def test_close_reports_a_lost_write() -> None:
    client = rig.client(SIZE, rig.simple(1, 5))
    client.write(0, b"a")
    with pytest.raises(HostError, match="EIO"):
        client.close()


def test_close_reports_writes_that_were_never_answered() -> None:
    client = rig.client(SIZE)
    client.write(0, b"a")
    with pytest.raises(HostUnreachable):
        client.close()


def test_leaving_by_an_error_hides_nothing_and_waits_for_nothing() -> None:
    def work() -> None:
        with rig.client(SIZE, silent=True, timeout=60) as client:
            client.write(0, b"a")
            raise KeyError

    with pytest.raises(KeyError):
        work()


@pytest.mark.parametrize(
    "answers",
    [
        rig.simple(7),
        rig.simple(1) + rig.simple(1),
        rig.data(1, 0, b"x"),
        protocol.chunk(ReplyType.NONE, 1, 0, done=False),
        rig.error(1, 0),
    ],
)
def test_lies_in_answer_to_a_write(answers: bytes) -> None:
    client = rig.client(SIZE, answers)
    client.write(0, b"a")
    with pytest.raises(ProtocolError):
        client.flush()


def test_a_bounded_number_of_writes_is_under_way() -> None:
    client = rig.client(rig.MIB)
    written = 0
    with contextlib.suppress(HostUnreachable):
        for offset in range(1000):
            client.write(offset, b"a")
            written += 1
    assert 8 <= written < 64


def test_large_writes_are_cut() -> None:
    client = rig.client(rig.MIB, rig.simple(1) + rig.simple(2), sizes=(1, 4096, 512 * 1024))
    client.write(0, bytes(rig.MIB))
    client.close()


def test_zeros_are_sent_where_the_server_cannot_write_them_itself() -> None:
    client = rig.client(2 * rig.MIB, rig.simple(1) + rig.simple(2), flags=ExportFlag.HAS_FLAGS)
    client.write_zeroes(0, 2 * rig.MIB)
    client.flush()
    client.close()


def test_what_cannot_be_written() -> None:
    with pytest.raises(NotPermitted, match="read-only"):
        rig.client(SIZE, flags=ExportFlag.HAS_FLAGS | ExportFlag.READ_ONLY).write(0, b"a")
    with pytest.raises(HostError, match="whole blocks of 512"):
        rig.client(SIZE, sizes=(512, 4096, 1 << 20)).write(1, b"a")
    with pytest.raises(ValueError, match="outside"):
        rig.client(SIZE).write(SIZE, b"a")
