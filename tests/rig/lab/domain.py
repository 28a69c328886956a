"""What a guest of the lab is made of, and its domain XML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

MIB = 1024 * 1024
RING_BYTES = 4 * MIB
"""The last bytes of every disk belong to the lockstep writer; file systems end before them."""

HOSTILE_NAMES = (
    "a\"b' & <c> [red]d",
    "$(id)`id`;id|id\\",
    "--help",
    "7",
    " tab\tand spaces ",
    "del\x7f next\x85 line\u2028 rtl\u202e",
    "d8f6a6f0-0000-4000-8000-000000000001",
    "x" * 247,
)
"""Guest names that libvirt 9.0 takes. It refuses the empty name, `/`, newlines, other control characters
below U+0020 than the tab, `.` and `..`, and more than 247 bytes (its own file is NAME.xml.new). A name of
20 letters with two bytes each does not start: the path of the agent's socket gets too long."""


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One disk. id: vda, vdb, … (virtio) or sda, … (virtio-scsi). size: bytes, a multiple of 4096.

    format: qcow2, raw or qcow2-v2 (which cannot keep bitmaps). fs: ext4 (mounted by the guest at
    /mnt/ID) or None. content: relative path -> bytes, put into the file system before the first boot.
    file_name: name of the image file, for hostile names; made up otherwise.
    iothread: number of the I/O thread that serves it. error_policy: for writes and reads.
    """

    id: str
    size: int = 64 * MIB
    format: str = "qcow2"
    fs: str | None = None
    content: Mapping[str, bytes] = field(default_factory=dict)
    file_name: str = ""
    iothread: int | None = None
    detect_zeroes: str = "off"
    error_policy: str = ""

    def __post_init__(self) -> None:
        if self.size % 4096 or self.size < 2 * RING_BYTES:
            raise ValueError(
                f"disk {self.id}: the size must be a multiple of 4096, at least {2 * RING_BYTES}"
            )
        if self.format not in {"qcow2", "qcow2-v2", "raw"} or self.fs not in {None, "ext4"}:
            raise ValueError(f"disk {self.id}: format {self.format} or file system {self.fs} is not known")
        if self.content and not self.fs:
            raise ValueError(f"disk {self.id}: content needs a file system")

    @property
    def driver(self) -> str:
        return "raw" if self.format == "raw" else "qcow2"

    @property
    def ring(self) -> int:
        """Where the lockstep writer's ring begins, in bytes."""
        return self.size - RING_BYTES


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """A guest. agent: whether it has an agent channel. agent_program: what answers there at boot, as
    `lab-agent` takes it: real, none, or fake,KEY=VALUE,…. lockstep: disks the writer starts on at boot.
    memory in bytes. devices_xml: more devices, as they are. iothreads: how many I/O threads exist.
    """

    name: str
    uuid: str
    disks: tuple[DiskSpec, ...] = (DiskSpec("vda"),)
    agent: bool = True
    agent_program: str = "real"
    lockstep: tuple[str, ...] = ()
    memory: int = 192 * MIB
    iothreads: int = 0
    title: str = ""
    devices_xml: str = ""

    def disk(self, disk: str) -> DiskSpec:
        return next(spec for spec in self.disks if spec.id == disk)


def domain_xml(
    spec: GuestSpec, kernel: Path, initrd: Path, images: Mapping[str, Path], console_log: Path
) -> str:
    """The domain. Emulated on purpose: a /dev/kvm that is there need not be one that works."""
    return f"""<domain type='qemu'>
  <name>{escape(spec.name)}</name>
  <uuid>{spec.uuid}</uuid>{_title(spec)}
  <memory unit='b'>{spec.memory}</memory>
  <vcpu>1</vcpu>{_iothreads(spec)}
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{escape(str(kernel))}</kernel>
    <initrd>{escape(str(initrd))}</initrd>
    <cmdline>{escape(_cmdline(spec))}</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    {_devices(spec, images)}
    <controller type='usb' model='none'/>
    <serial type='pty'><log file={quoteattr(str(console_log))} append='off'/><target port='0'/></serial>
    <serial type='pty'><target port='1'/></serial>
    <memballoon model='virtio'><stats period='5'/></memballoon>
    {spec.devices_xml}
  </devices>
</domain>
"""


def _title(spec: GuestSpec) -> str:
    return f"\n  <title>{escape(spec.title)}</title>" if spec.title else ""


def _iothreads(spec: GuestSpec) -> str:
    return f"\n  <iothreads>{spec.iothreads}</iothreads>" if spec.iothreads else ""


def _cmdline(spec: GuestSpec) -> str:
    words = ["console=ttyS0", "quiet", "rdinit=/init", "panic=-1", f"lab.agent={spec.agent_program}"]
    if spec.lockstep:
        words.append("lab.lockstep=" + ",".join(ring_argument(spec.disk(disk)) for disk in spec.lockstep))
    return " ".join(words)


def ring_argument(disk: DiskSpec) -> str:
    """DEVICE:OFFSET, as the lockstep writer in the guest takes it."""
    return f"/dev/{disk.id}:{disk.ring}"


def _devices(spec: GuestSpec, images: Mapping[str, Path]) -> str:
    parts = [_disk(disk, images[disk.id]) for disk in spec.disks]
    if any(disk.id.startswith("sd") for disk in spec.disks):
        parts.append("<controller type='scsi' index='0' model='virtio-scsi'/>")
    if spec.agent:
        parts.append("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>")
    return "\n    ".join(parts)


def _disk(disk: DiskSpec, image: Path) -> str:
    driver = f"<driver name='qemu' type='{disk.driver}' discard='unmap'"
    if disk.detect_zeroes != "off":
        driver += f" detect_zeroes='{disk.detect_zeroes}'"
    if disk.iothread is not None:
        driver += f" iothread='{disk.iothread}'"
    if disk.error_policy:
        driver += f" error_policy='{disk.error_policy}' rerror_policy='{disk.error_policy}'"
    bus = "scsi" if disk.id.startswith("sd") else "virtio"
    source = f"<source file={quoteattr(str(image))}/>"
    return f"<disk type='file' device='disk'>{driver}/>{source}<target dev='{disk.id}' bus='{bus}'/></disk>"
