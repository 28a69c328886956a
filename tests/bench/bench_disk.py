"""The disk that is backed up in the benchmark, and what changes on it."""

from __future__ import annotations

import random
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.guest import Guest
from lab.waiting import wait_for

from vmconsole.disks.nbd.client import NbdClient

MIB = 1024 * 1024
PAGE = 4096
CLUSTER = 65536
"""A qcow2 cluster, which is also what one bit of its dirty bitmaps stands for."""
DATA_SHARE = 0.4
_WORDS = 20_000


@dataclass(frozen=True, slots=True)
class Change:
    """A write of the guest. random: of bytes that cannot be compressed, else of a pattern that can."""

    offset: int
    length: int
    random: bool


def make_disk(path: Path, size: int, seed: int = 1) -> list[tuple[int, int]]:
    """A sparse raw image, 40 % of it data: half of that random, half text that compresses to about a third.

    Returns the (offset, length) of the data.
    """
    dice = random.Random(seed)
    text = _text(dice)
    areas = list(_areas(dice, size))
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length in areas:
            file.seek(offset)
            for _ in range(length // MIB):
                file.write(dice.randbytes(MIB) if dice.random() < 0.5 else _scrambled(dice, text))
    return areas


def _areas(dice: random.Random, size: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < size:
        length = min(dice.choice((1, 4, 16, 64)) * MIB, size - position)
        if dice.random() < DATA_SHARE:
            yield position, length
        position += length


def _text(dice: random.Random) -> bytes:
    letters = "etaoinshrdlu"
    words = ["".join(dice.choices(letters, k=dice.randint(2, 9))) for _ in range(_WORDS)]
    text = " ".join(dice.choices(words, k=3 * MIB)).encode()
    return text[: 8 * MIB]


def _scrambled(dice: random.Random, text: bytes) -> bytes:
    """1 MiB of pages of the text in another order, each with a number of its own."""
    starts = [dice.randrange(0, len(text) - PAGE) for _ in range(MIB // PAGE)]
    return b"".join(dice.randbytes(8) + text[start + 8 : start + PAGE] for start in starts)


LONG = (16 * MIB,)
"""Pieces as they come from logs, downloads and dumps: long files, written from one end to the other."""
MIXED = (4 * MIB, MIB)
"""Pieces as they come from smaller files that are written anew; half of the bytes in each size."""
SCATTERED = (CLUSTER,)
"""Pieces as a database writes them: the least that a dirty bitmap knows of."""


def changes(
    size: int, areas: list[tuple[int, int]], seed: int, pieces: tuple[int, ...] = MIXED
) -> list[Change]:
    """Writes that touch 1 % of the disk's size; three in four where there was data, the others anywhere, at
    multiples of 64 KiB. In order, without overlap.
    """
    dice = random.Random(seed)
    taken: set[int] = set()
    made: list[Change] = []
    for length in pieces:
        for _ in range(max(1, size // 100 // len(pieces) // length)):
            offset = _place(dice, size, areas, length, taken)
            taken.update(range(offset // CLUSTER, (offset + length) // CLUSTER))
            made.append(Change(offset, length, dice.random() < 0.5))
    return sorted(made, key=lambda change: change.offset)


def _place(dice: random.Random, size: int, areas: list[tuple[int, int]], length: int, taken: set[int]) -> int:
    while True:
        start, room = (0, size)
        if dice.random() < 0.75:
            start, room = dice.choice(areas)
        if room < length:
            continue
        offset = start + dice.randrange(0, room - length + 1) // CLUSTER * CLUSTER
        if taken.isdisjoint(range(offset // CLUSTER, (offset + length) // CLUSTER)):
            return offset


def write_in_guest(guest: Guest, disk: str, writes: list[Change], seed: int) -> None:
    """Carry the writes out in the running guest, each followed by a flush: only that, and not `sync`, makes QEMU
    write a qcow2 image's tables."""
    for start in range(0, len(writes), 100):
        commands = [_command(disk, change, seed) for change in writes[start : start + 100]]
        guest.sh(" && ".join(commands), timeout=300)


def _command(disk: str, change: Change, seed: int) -> str:
    if not change.random:
        return f"labtool pattern /dev/{disk} {change.offset} {change.length} {seed}"
    return (
        f"dd if=/dev/urandom of=/dev/{disk} bs=65536 seek={change.offset // 65536} "
        f"count={change.length // 65536} conv=notrunc,fsync 2>/dev/null"
    )


def copy_writes(guest: Guest, disk: str, writes: list[Change], raw: Path) -> None:
    """Bring what the guest wrote into a raw image of its disk. The guest must have flushed."""
    path = raw.with_suffix(".nbd")
    image = f"driver=qcow2,force-share=on,file.filename={guest.images[disk]}"
    server = subprocess.Popen(["qemu-nbd", "-r", "-k", path, "-t", "-x", "d", "--image-opts", image])
    try:
        stream = socket.socket(socket.AF_UNIX)
        wait_for(lambda: _connected(stream, path), "qemu-nbd")
        with NbdClient.connect(stream, "d") as client, raw.open("r+b") as file:
            for offset, buffer in client.read((change.offset, change.length) for change in writes):
                file.seek(offset)
                file.write(buffer)
    finally:
        server.terminate()
        server.wait(10)
        path.unlink(missing_ok=True)


def _connected(stream: socket.socket, path: Path) -> bool:
    try:
        stream.connect(str(path))
    except OSError:
        return False
    return True
