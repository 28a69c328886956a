"""The lockstep writer's rings, read from images: is this one instant of all the disks?

The writer in the guest (labtool.c) writes step N to the first disk, waits until the disk has it, then to
the second, and so on, then step N+1. Each disk has a ring of 64 slots of 4 KiB, 64 KiB apart, in its last
4 MiB; step N goes to slot N modulo 64, the number repeated over the whole slot. Hence, at any instant:
the newest step of an earlier disk is that of a later one or one more, every slot is of one piece, and a
ring holds the newest step and the 63 before it, none missing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lab.domain import RING_BYTES

SLOTS = 64
STRIDE = 65536
SLOT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Ring:
    """One disk's ring. problems: what cannot be if the image shows one instant; empty when whole."""

    newest: int
    problems: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return not self.problems


def read_ring(image: Path | str) -> Ring:
    """The ring of a raw image of a whole disk."""
    with Path(image).open("rb") as file:
        size = file.seek(0, 2)
        base = file.seek(size - RING_BYTES)
        data = file.read(RING_BYTES)
    if base < 0 or len(data) != RING_BYTES:
        raise ValueError(f"{image}: too small for a ring")
    return parse_ring(data)


def parse_ring(data: bytes) -> Ring:
    """The ring in RING_BYTES bytes."""
    problems, steps = [], []
    for slot in range(SLOTS):
        words = struct.unpack_from(f"<{SLOT_BYTES // 8}Q", data, slot * STRIDE)
        if len(set(words)) > 1:
            problems.append(f"slot {slot} is torn: {sorted(set(words))}")
        elif words[0] and words[0] % SLOTS != slot:
            problems.append(f"slot {slot} holds step {words[0]}")
        steps.append(words[0])
    newest = max(steps)
    expected = {step for step in range(newest - SLOTS + 1, newest + 1) if step > 0}
    missing = expected - set(steps)
    if missing:
        old = [steps[step % SLOTS] for step in sorted(missing)]
        problems.append(f"newest step {newest}, but missing {sorted(missing)} (their slots hold {old})")
    return Ring(newest, tuple(problems))


def check_lockstep(images: Sequence[Path | str], at_least: int = 0) -> list[Ring]:
    """The rings of a guest's disks, in the writer's order. Raises AssertionError unless they are whole, of
    one instant, and have reached the step at_least: a step known to be on the disks before the cut."""
    rings = [read_ring(image) for image in images]
    for image, ring in zip(images, rings, strict=True):
        assert ring.whole, f"{image}: {'; '.join(ring.problems)}"
    steps = [ring.newest for ring in rings]
    one_instant = all(a >= b for a, b in pairwise(steps)) and steps[0] - steps[-1] <= 1
    assert one_instant, f"the disks are not of one instant: steps {steps}"
    assert steps[-1] >= at_least, f"older than the cut: steps {steps}, at least {at_least} were written"
    return rings
