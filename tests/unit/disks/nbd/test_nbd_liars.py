"""Whole sessions with damaged and with random answers."""

from __future__ import annotations

import contextlib

import nbd_rig as rig
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmconsole.disks.nbd.client import NbdClient
from vmconsole.errors import HostError, ProtocolError

SIZE = 4096
BASE, DIRTY = "base:allocation", "qemu:dirty-bitmap:b"


SOUND = (
    rig.status(1, 10, [(1024, 3), (3072, 0)], done=False)
    + rig.status(1, 11, [(4096, 1)])
    + rig.data(2, 1024, b"x" * 2000, done=False)
    + rig.hole(2, 3024, 1072, done=False)
    + rig.finished(2)
    + rig.simple(3)
    + rig.simple(4)
)


def session(answers: bytes, *, silent: bool) -> None:
    client: NbdClient = rig.client(SIZE, answers, contexts=(BASE, DIRTY), silent=silent, timeout=0.02)
    try:
        maps = client.block_status()
        for runs in maps.values():
            assert sum(length for _, length, _ in runs) == SIZE
        rig.collect(client.read([(1024, 3072)]), SIZE)
        client.write(0, b"a")
        client.flush()
    finally:
        client.abandon()


def test_the_sound_session() -> None:
    session(SOUND, silent=False)


@settings(deadline=3000, max_examples=400)
@given(st.data(), st.booleans())
def test_a_sound_session_with_damage(data: st.DataObject, silent: bool) -> None:
    said = bytearray(SOUND)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(said) - 1))
        match data.draw(st.sampled_from(["change", "remove", "insert", "cut"])):
            case "change":
                said[at] = data.draw(st.integers(0, 255))
            case "remove":
                del said[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                said[at:at] = data.draw(st.binary(max_size=40))
            case _:
                del said[at:]
        if not said:
            break
    with contextlib.suppress(ProtocolError, HostError):
        session(bytes(said), silent=silent)


@settings(deadline=3000, max_examples=200)
@given(st.binary(max_size=200))
def test_random_answers(answers: bytes) -> None:
    with pytest.raises((ProtocolError, HostError)):
        session(answers, silent=False)
