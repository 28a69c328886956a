"""Which disks of which guests, on one line: `db=vdb, #scratch=scsi[1-9]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vmconsole.errors import ConfigError


def parse_disks(text: str) -> dict[str, list[str]]:
    """By guest, or by tag with a # before it. Raises ConfigError."""
    found: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        # A disk's name has no = in it, a guest's may.
        guest, equals, disk = (word.strip() for word in part.rpartition("="))
        if not (guest and equals and disk) or guest == "#":
            raise ConfigError(
                f'"{part}" does not say which disk of which guest.',
                hint="Write it as GUEST=DISK, or as #TAG=DISK for every guest with a tag: "
                "db=vdb, #scratch=scsi[1-9].",
            )
        words = found.setdefault(guest, [])
        if disk not in words:
            words.append(disk)
    return found


def write_disks(rules: Mapping[str, str | Sequence[str]]) -> str:
    """As parse_disks() reads it, with commas and no blanks between."""
    return ",".join(
        f"{guest}={disk}"
        for guest, disks in rules.items()
        for disk in ([disks] if isinstance(disks, str) else disks)
    )
