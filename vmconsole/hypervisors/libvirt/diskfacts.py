"""From the disks of domain XML to facts: paths of volumes, sizes, formats, what can be tracked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.libvirt.facts import DiskFacts
from vmconsole.hypervisors.libvirt.images import MAX_SIZE, ImageFacts, parse_info
from vmconsole.hypervisors.libvirt.sections import MISSING, Section, collect
from vmconsole.hypervisors.libvirt.xml import DiskXml
from vmconsole.model.guest import Tracking
from vmconsole.remote.machine import Machine

BATCH = 200
"""Disks per remote command, so that the argument list stays short of what sshd takes."""

# qemu-img is told the format: a guest can write a qcow2 header with any backing file into its raw disk.
LOOK = r"""
uri=$1; shift
image() { # LABEL UUID DISK FORMAT PATH
    part "$1 image" qemu-img info -U -f "$4" --output=json --backing-chain -- "$5"
    [ "$status" = 0 ] || part "$1 block" virsh -c "$uri" domblkinfo "$2" "$3"
}
while [ $# -ge 7 ]; do
    n=$1; how=$2; uuid=$3; disk=$4; format=$5; first=$6; second=$7; shift 7
    case $how in
    path) image "$n" "$uuid" "$disk" "$format" "$first" ;;
    volume)
        part "$n path" virsh -c "$uri" vol-path --pool "$first" "$second"
        path=$(timeout 40 virsh -c "$uri" vol-path --pool "$first" "$second" 2>/dev/null </dev/null)
        image "$n" "$uuid" "$disk" "$format" "$path" ;;
    *) part "$n block" virsh -c "$uri" domblkinfo "$uuid" "$disk" ;;
    esac
done
part end true
"""


def look_at_disks(
    machine: Machine, uri: str, wanted: Sequence[tuple[str, DiskXml]]
) -> dict[tuple[str, str], DiskFacts]:
    """(uuid, disk id) → facts. A disk whose image cannot be looked at keeps size 0 and says so."""
    found: dict[tuple[str, str], DiskFacts] = {}
    for first in range(0, len(wanted), BATCH):
        batch = wanted[first : first + BATCH]
        args = [text for n, (uuid, disk) in enumerate(batch) for text in _question(n, uuid, disk)]
        if args:
            answers = collect(machine, LOOK, [uri, *args], timeout=60 + 5 * len(batch))
            if "end" not in answers:
                raise ProtocolError(f"{machine.name} stopped in the middle of listing its disks.")
        else:
            answers = {}
        for n, (uuid, disk) in enumerate(batch):
            found[uuid, disk.id] = _facts(disk, n, answers)
    return found


def _question(n: int, uuid: str, disk: DiskXml) -> list[str]:
    if disk.refusal and not disk.source:
        return []
    if disk.kind == "volume":
        return [str(n), "volume", uuid, disk.id, disk.format, disk.pool, disk.volume]
    if disk.kind in ("file", "block") and disk.source.startswith("/"):
        return [str(n), "path", uuid, disk.id, disk.format, disk.source, ""]
    return [str(n), "block", uuid, disk.id, "", "", ""]


def _facts(disk: DiskXml, n: int, answers: Mapping[str, Section]) -> DiskFacts:
    path = answers.get(f"{n} path", MISSING)
    facts = DiskFacts(
        id=disk.id,
        kind=disk.kind,
        source=path.text.strip("\n") if path.ok else disk.source,
        format=disk.format,
        size=0,
        iothread=disk.iothread,
        included=not disk.refusal,
        reason=disk.refusal,
    )
    image = answers.get(f"{n} image", MISSING)
    if image.ok:
        facts = _with_image(facts, parse_info(image.text))
    else:
        size, allocated = parse_block(answers.get(f"{n} block", MISSING).text)
        facts = replace(facts, size=size, allocated=allocated or size)
    return _judged(facts)


def _with_image(facts: DiskFacts, image: ImageFacts) -> DiskFacts:
    return replace(
        facts,
        size=image.size,
        allocated=image.allocated or image.size,
        compat=image.compat,
        chain=image.chain,
        bitmaps=image.bitmaps,
        internal_snapshots=image.internal_snapshots,
    )


def parse_block(text: str) -> tuple[int, int]:
    """(capacity, allocation) in bytes from `virsh domblkinfo`; zeros when it does not say."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        digits = value.strip()
        if colon and digits.isascii() and digits.isdigit() and len(digits) < 20:
            values[key.strip()] = int(digits)
    return min(values.get("Capacity", 0), MAX_SIZE), min(values.get("Allocation", 0), MAX_SIZE)


def _judged(facts: DiskFacts) -> DiskFacts:
    if not facts.included:
        return facts
    if facts.format != "qcow2":
        what = "raw disks" if facts.format == "raw" else f"{facts.format} images"
        return replace(facts, reason=f"{what} cannot record changes")
    if facts.kind not in ("file", "block", "volume"):
        return replace(facts, reason=f"{facts.kind} disks cannot record changes")
    if facts.compat == "0.10":
        return replace(
            facts,
            reason="qcow2 version 2 cannot record changes (guest off: qemu-img amend -o compat=1.1 IMAGE)",
        )
    return replace(facts, tracking=Tracking.BITMAP)
