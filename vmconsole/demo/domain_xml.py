"""The XML documents the demo host answers with, in libvirt's form.

https://libvirt.org/formatdomain.html, formatcheckpoint.html, formatbackup.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from vmconsole.demo.guests import Checkpoint, Guest, GuestDisk

EMULATOR = "/usr/bin/qemu-system-x86_64"
MACHINE = "pc-q35-10.0"
_TAGS = "https://vmconsole.example/1"


@dataclass(frozen=True, slots=True)
class JobDisk:
    """One disk of a backup job. base: checkpoint an increment starts from, or empty."""

    target: str
    scratch: str
    base: str
    index: int


def domain(guest: Guest, lib: Path, *, live: bool) -> str:
    """lib: the folder that holds the guests' socket folders."""
    live = live and guest.running
    identity = f" id='{guest.domain_id}'" if live else ""
    lines = [
        f"<domain type='kvm'{identity}>",
        f"  <name>{escape(guest.name)}</name>",
        f"  <uuid>{guest.uuid}</uuid>",
        *([f"  <title>{escape(guest.title)}</title>"] if guest.title else []),
        *_metadata(guest),
        f"  <memory unit='KiB'>{guest.memory * 1024}</memory>",
        f"  <currentMemory unit='KiB'>{guest.memory * 1024}</currentMemory>",
        "  <vcpu placement='static'>2</vcpu>",
        *(["  <resource>", "    <partition>/machine</partition>", "  </resource>"] if live else []),
        "  <os>",
        f"    <type arch='x86_64' machine='{MACHINE}'>hvm</type>",
        "    <boot dev='hd'/>",
        "  </os>",
        "  <features>",
        "    <acpi/>",
        "    <apic/>",
        "  </features>",
        "  <cpu mode='host-model' check='partial'/>",
        "  <clock offset='utc'/>",
        "  <on_poweroff>destroy</on_poweroff>",
        "  <on_reboot>restart</on_reboot>",
        "  <on_crash>destroy</on_crash>",
        "  <devices>",
        f"    <emulator>{EMULATOR}</emulator>",
    ]
    for number, disk in enumerate(guest.disks):
        lines += _disk(disk, number, live=live)
    lines += [
        "    <controller type='pci' index='0' model='pcie-root'/>",
        "    <controller type='virtio-serial' index='0'/>",
        "    <interface type='network'>",
        f"      <mac address='52:54:00:{guest.uuid[0:2]}:{guest.uuid[2:4]}:{guest.uuid[4:6]}'/>",
        "      <source network='default'/>",
        "      <model type='virtio'/>",
        "    </interface>",
        "    <serial type='pty'>",
        "      <target type='isa-serial' port='0'/>",
        "    </serial>",
        *(_agent_channel(guest, lib, live=live) if guest.agent else []),
        "    <memballoon model='virtio'/>",
        "  </devices>",
        "</domain>",
        "",
    ]
    return "\n".join(lines)


def _metadata(guest: Guest) -> Iterator[str]:
    if guest.tags:
        yield "  <metadata>"
        yield f'    <vmconsole:tags xmlns:vmconsole="{_TAGS}">{escape(",".join(guest.tags))}</vmconsole:tags>'
        yield "  </metadata>"


def _disk(disk: GuestDisk, number: int, *, live: bool) -> list[str]:
    path = str(disk.disk.path)
    index = f" index='{number + 1}'" if live else ""
    if disk.pool:
        kind = "volume"
        source = f"<source pool={quoteattr(disk.pool)} volume={quoteattr(disk.disk.path.name)}{index}/>"
    else:
        kind = "file"
        source = f"<source file={quoteattr(path)}{index}/>"
    return [
        f"    <disk type='{kind}' device='disk'>",
        f"      <driver name='qemu' type='{disk.disk.format}' discard='unmap'/>",
        f"      {source}",
        *(["      <backingStore/>"] if live else []),
        f"      <target dev='{disk.target}' bus='virtio'/>",
        *([f"      <alias name='virtio-disk{number}'/>"] if live else []),
        f"      <address type='pci' domain='0x0000' bus='0x{number + 4:02x}' slot='0x00' function='0x0'/>",
        "    </disk>",
    ]


def _agent_channel(guest: Guest, lib: Path, *, live: bool) -> list[str]:
    socket = lib / "channel" / "target" / guest.folder_name / "org.qemu.guest_agent.0"
    state = " state='connected'" if live else ""
    return [
        "    <channel type='unix'>",
        *([f"      <source mode='bind' path={quoteattr(str(socket))}/>"] if live else []),
        f"      <target type='virtio' name='org.qemu.guest_agent.0'{state}/>",
        "      <address type='virtio-serial' controller='0' bus='0' port='1'/>",
        "    </channel>",
    ]


def checkpoint(guest: Guest, point: Checkpoint, sizes: Mapping[str, int] | None, domain_text: str) -> str:
    """sizes: dirty bytes per disk whose bitmap is whole, with --size. domain_text: empty for --no-domain."""
    lines = [
        "<domaincheckpoint>",
        f"  <name>{escape(point.name)}</name>",
        f"  <creationTime>{point.created}</creationTime>",
        "  <disks>",
    ]
    for item in guest.disks:
        if item.target in point.disks:
            size = f" size='{sizes[item.target]}'" if sizes is not None and item.target in sizes else ""
            name = quoteattr(point.name)
            lines.append(f"    <disk name='{item.target}' checkpoint='bitmap' bitmap={name}{size}/>")
        else:
            lines.append(f"    <disk name='{item.target}' checkpoint='no'/>")
    lines.append("  </disks>")
    lines += [f"  {line}" for line in domain_text.splitlines()]
    return "\n".join([*lines, "</domaincheckpoint>", ""])


def backup(guest: Guest, socket: str, base: str, disks: Mapping[str, JobDisk]) -> str:
    """A running pull job."""
    lines = ["<domainbackup mode='pull'>"]
    if base:
        lines.append(f"  <incremental>{escape(base)}</incremental>")
    lines += [f"  <server transport='unix' socket={quoteattr(socket)}/>", "  <disks>"]
    for item in guest.disks:
        job = disks.get(item.target)
        if job is None:
            lines.append(f"    <disk name='{item.target}' backup='no'/>")
            continue
        how = "backupmode='full'"
        bitmap = ""
        if job.base:
            how = f"backupmode='incremental' incremental={quoteattr(job.base)}"
            bitmap = f" exportbitmap='backup-{item.target}'"
        lines += [
            f"    <disk name='{item.target}' backup='yes' type='file' {how} "
            f"exportname='{item.target}'{bitmap} index='{job.index}'>",
            "      <driver type='qcow2'/>",
            f"      <scratch file={quoteattr(job.scratch)}/>",
            "    </disk>",
        ]
    return "\n".join([*lines, "  </disks>", "</domainbackup>", ""])


def capabilities(backup_supported: bool = True) -> str:
    """What `virsh domcapabilities` says, as far as anybody here asks."""
    answer = "yes" if backup_supported else "no"
    return f"""<domainCapabilities>
  <path>{EMULATOR}</path>
  <domain>kvm</domain>
  <machine>{MACHINE}</machine>
  <arch>x86_64</arch>
  <vcpu max='4096'/>
  <iothreads supported='yes'/>
  <cpu>
    <mode name='host-passthrough' supported='yes'/>
    <mode name='host-model' supported='yes'/>
    <mode name='custom' supported='yes'>
      <model usable='yes' vendor='unknown'>qemu64</model>
      <model usable='yes' vendor='Intel'>Westmere</model>
    </mode>
  </cpu>
  <devices>
    <disk supported='yes'/>
  </devices>
  <features>
    <backingStoreInput supported='yes'/>
    <backup supported='{answer}'/>
  </features>
</domainCapabilities>
"""
