"""A disk served by our server, for the tests of it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import nbd_rig as rig
import pytest

from vmconsole.disks.nbd.server import NbdServer
from vmconsole.disks.nbd.source import ExportSource, MappedSource

SIZE = 24 * rig.MIB + 512
BASE, DIRTY = "base:allocation", "qemu:dirty-bitmap:b0"
ALLOCATION = [
    (0, 4 * rig.MIB, 0),
    (4 * rig.MIB, 16 * rig.MIB, 3),
    (20 * rig.MIB, 4 * rig.MIB + 512, 0),
]
CHANGED = [(0, rig.MIB, 0), (rig.MIB, 64 * rig.KIB, 1), (rig.MIB + 64 * rig.KIB, SIZE - rig.MIB - 65536, 0)]


@pytest.fixture(scope="module")
def content() -> bytes:
    dice = random.Random(3)
    return dice.randbytes(4 * rig.MIB) + bytes(16 * rig.MIB) + dice.randbytes(4 * rig.MIB + 512)


@pytest.fixture
def exports(content: bytes) -> dict[str, ExportSource]:
    source = MappedSource(
        SIZE, lambda offset, length: content[offset : offset + length], {BASE: ALLOCATION, DIRTY: CHANGED}
    )
    return {"vda": source, "größe": MappedSource(4096, lambda _, length: b"x" * length)}


@pytest.fixture
def path(exports: dict[str, ExportSource], tmp_path: Path) -> Iterator[Path]:
    with NbdServer(exports, timeout=5) as server:
        place = tmp_path / "nbd"
        server.listen_unix(place)
        yield place
    assert not place.exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nbd-")]
