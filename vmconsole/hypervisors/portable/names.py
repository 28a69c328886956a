"""What a disk is called on the other kind of host: scsi0 and sda, virtio1 and vdb.

A disk keeps its bus and its number where it can, so that a guest finds it where it was. The names
matter: an archive holds disks/scsi0.raw, and that must go into what becomes sda.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import count

from vmconsole.errors import RestoreFailed
from vmconsole.hypervisors.portable.hardware import Bus, Disk, Drive
from vmconsole.hypervisors.portable.words import CONF_LIMITS

_LETTERS = re.compile(r"(?:vd|sd|hd|xvd|ub|fd)([a-z]{1,2})")
_NUMBER = re.compile(r"[a-z]+(0|[1-9]\d{0,2})")
_PREFIX: Mapping[Bus, str] = {Bus.VIRTIO: "vd", Bus.SCSI: "sd", Bus.SATA: "sd", Bus.IDE: "hd"}
_IDE_PLACES = 4
_ELSEWHERE: Mapping[Bus, tuple[Bus, ...]] = {
    Bus.VIRTIO: (Bus.VIRTIO, Bus.SCSI),
    Bus.SCSI: (Bus.SCSI, Bus.VIRTIO),
    Bus.SATA: (Bus.SATA, Bus.SCSI),
    Bus.IDE: (Bus.IDE, Bus.SATA, Bus.SCSI),
}
"""Where a disk goes when its own bus is full."""

Placed = Mapping[str, tuple[str, Bus]]
"""Old id → (new id, bus)."""


def position(name: str) -> int:
    """The number in a disk's name, from 0: 1 for sdb and for scsi1. 0 when there is none."""
    if match := _LETTERS.fullmatch(name):
        number = 0
        for letter in match[1]:
            number = number * 26 + ord(letter) - ord("a") + 1
        return number - 1
    match = _NUMBER.fullmatch(name)
    return int(match[1]) if match else 0


def letters(number: int) -> str:
    """a, b, …, z, aa, ab, … for 0, 1, …"""
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def domain_targets(things: Sequence[Disk | Drive], *, ide: bool) -> Placed:
    """Names as in libvirt. ide: the machine has IDE; without, such disks are SATA, as they are on q35."""
    placed: dict[str, tuple[str, Bus]] = {}
    taken: set[str] = set()
    displaced: list[tuple[Disk | Drive, Bus]] = []
    # SCSI and SATA share their letters: sda is for scsi0 first.
    for thing in sorted(things, key=_rank):
        bus = Bus.SATA if thing.bus is Bus.IDE and not ide else thing.bus
        number = position(thing.id)
        wanted = _PREFIX[bus] + letters(number)
        if wanted in taken or (bus is Bus.IDE and number >= _IDE_PLACES):
            displaced.append((thing, bus))
        else:
            taken.add(wanted)
            placed[thing.id] = wanted, bus
    for thing, bus in displaced:
        name = _free_target(bus, taken)
        if name is None:
            bus = Bus.SATA
            name = _free_target(bus, taken) or ""
        taken.add(name)
        placed[thing.id] = name, bus
    return placed


def conf_keys(things: Sequence[Disk | Drive]) -> Placed:
    """Names as in a Proxmox configuration. Raises RestoreFailed when there are more than it can have."""
    placed: dict[str, tuple[str, Bus]] = {}
    taken: set[tuple[Bus, int]] = set()
    displaced: list[Disk | Drive] = []
    for thing in things:
        wanted = thing.bus, position(thing.id)
        if wanted in taken or wanted[1] >= CONF_LIMITS[thing.bus]:
            displaced.append(thing)
        else:
            taken.add(wanted)
            placed[thing.id] = f"{thing.bus.value}{wanted[1]}", thing.bus
    for thing in displaced:
        found = _free_place(thing, taken)
        if found is None:
            raise RestoreFailed(
                f"The guest has {len(things)} disks and drives, more than a Proxmox guest can have.",
                hint="Restore its disks one by one with --to FOLDER.",
            )
        taken.add(found)
        placed[thing.id] = f"{found[0].value}{found[1]}", found[0]
    return placed


def _rank(thing: Disk | Drive) -> tuple[int, bool]:
    return {Bus.SATA: 1, Bus.IDE: 2}.get(thing.bus, 0), isinstance(thing, Drive)


def _free_target(bus: Bus, taken: Collection[str]) -> str | None:
    numbers = range(_IDE_PLACES) if bus is Bus.IDE else count()
    names = (_PREFIX[bus] + letters(number) for number in numbers)
    return next((name for name in names if name not in taken), None)


def _free_place(thing: Disk | Drive, taken: Collection[tuple[Bus, int]]) -> tuple[Bus, int] | None:
    buses = _ELSEWHERE[thing.bus]
    if isinstance(thing, Drive):
        buses = tuple(bus for bus in (*buses, Bus.SATA, Bus.IDE) if bus is not Bus.VIRTIO)
    free = (
        (bus, number) for bus in buses for number in range(CONF_LIMITS[bus]) if (bus, number) not in taken
    )
    return next(free, None)
