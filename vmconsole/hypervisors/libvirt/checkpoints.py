"""Reading and removing checkpoints, with the ways out when their bitmaps are damaged."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import tostring

from vmconsole.errors import CommandFailed, VmconsoleError
from vmconsole.hypervisors.libvirt import names
from vmconsole.hypervisors.libvirt.facts import CheckpointFacts
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.hypervisors.libvirt.xml import parse, parse_checkpoint


def read_checkpoint(virsh: Virsh, uuid: str, name: str) -> CheckpointFacts:
    """Of a running guest. Raises VmconsoleError."""
    text = virsh.run("checkpoint-dumpxml", uuid, name, "--no-domain")
    found = parse_checkpoint(text)
    return CheckpointFacts(name=name, created=found.created, disks=found.disks, dirty={}, xml=text)


def ours(virsh: Virsh, uuid: str, repository: str) -> list[str]:
    """Names of the checkpoints vmconsole made on a guest for one repository."""
    listed = virsh.run("checkpoint-list", uuid, "--name").splitlines()
    return [name.strip() for name in listed if names.belongs_to(name.strip(), repository)]


def drop_checkpoints(virsh: Virsh, uuid: str, repository: str, keep: Iterable[str]) -> list[str]:
    """Remove our checkpoints of this repository but those to keep. Returns what went wrong.

    Bitmaps of checkpoints record independently, so that nothing is merged and any may go.
    """
    try:
        found = ours(virsh, uuid, repository)
    except VmconsoleError as error:
        return [error.message]
    kept, problems = set(keep), []
    for name in found:
        if name not in kept:
            try:
                drop_checkpoint(virsh, uuid, name)
            except VmconsoleError as error:
                problems.append(error.message)
    return problems


def drop_checkpoint(virsh: Virsh, uuid: str, name: str) -> None:
    """Remove one checkpoint and its bitmaps; for a damaged one, as much as there is.

    A bitmap that is gone from one disk (after a crash of QEMU, or a restore) makes libvirt refuse;
    removing the metadata alone would leave the bitmaps of the other disks recording for ever. So
    the checkpoint is described anew with just the disks that still have theirs, and deleted.
    Raises VmconsoleError.
    """
    try:
        virsh.run("checkpoint-delete", uuid, name)
    except CommandFailed as error:
        lower = error.stderr.lower()
        if "checkpoint not found" in lower or "no domain checkpoint" in lower:
            return
        if "not found in backing chain" not in lower:
            raise
        _drop_damaged(virsh, uuid, name)


def _drop_damaged(virsh: Virsh, uuid: str, name: str) -> None:
    text = virsh.run("checkpoint-dumpxml", uuid, name, "--no-domain", "--size")
    alive = set(parse_checkpoint(text).dirty)
    document = parse(text, "domaincheckpoint")
    disks = document.find("disks")
    for disk in list(disks if disks is not None else ()):
        disk.attrib.pop("size", None)
        if disks is not None and disk.get("name") not in alive:
            disks.remove(disk)
    for parent in document.findall("parent"):
        document.remove(parent)
    virsh.run("checkpoint-delete", uuid, name, "--metadata")
    if alive:
        again = tostring(document, encoding="unicode").encode()
        virsh.run("checkpoint-create", uuid, "/dev/stdin", "--redefine", stdin=again)
        virsh.run("checkpoint-delete", uuid, name)
