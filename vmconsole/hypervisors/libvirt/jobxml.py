"""Writing the XML of backup jobs and checkpoints, each on one line.

Shapes: https://libvirt.org/formatbackup.html, https://libvirt.org/formatcheckpoint.html. Disks that
are not listed take no part in either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring


@dataclass(frozen=True, slots=True)
class JobDisk:
    """file: scratch file (pull) or target file (push). base: checkpoint; empty for everything."""

    id: str
    file: str
    base: str = ""


def pull_job(socket: str, disks: Iterable[JobDisk]) -> str:
    """A job that shows the disks on a unix socket, one NBD export per disk, named like the disk."""
    job = Element("domainbackup", mode="pull")
    SubElement(job, "server", transport="unix", socket=socket)
    _disks(job, disks, "scratch")
    return _text(job)


def push_job(disks: Iterable[JobDisk]) -> str:
    """A job in which QEMU itself writes what changed into new qcow2 files."""
    job = Element("domainbackup", mode="push")
    _disks(job, disks, "target")
    return _text(job)


def checkpoint(name: str, disks: Iterable[str]) -> str:
    """Empty when no disk can record changes: libvirt makes no checkpoint without disks."""
    listed = list(disks)
    if not listed:
        return ""
    root = Element("domaincheckpoint")
    SubElement(root, "name").text = name
    found = SubElement(root, "disks")
    for disk in listed:
        SubElement(found, "disk", name=disk, checkpoint="bitmap")
    return _text(root)


def _disks(job: Element, disks: Iterable[JobDisk], kind: str) -> None:
    parent = SubElement(job, "disks")
    for disk in disks:
        element = SubElement(parent, "disk", name=disk.id, backup="yes", type="file")
        if disk.base:
            element.set("backupmode", "incremental")
            element.set("incremental", disk.base)
        else:
            element.set("backupmode", "full")
        if kind == "target":
            SubElement(element, "driver", type="qcow2")
        SubElement(element, kind, file=disk.file)


def _text(root: Element) -> str:
    """One line: ElementTree writes line ends inside attributes as character references."""
    return tostring(root, encoding="unicode").replace("\n", " ")
