"""Reading libvirt's XML: domains, checkpoints, backup jobs.

The text comes from a foreign machine and partly from guests' owners: it is parsed with defusedxml
(no DTD, no entities), capped in size, and anything unreadable is a ProtocolError. Text that virsh
printed around the document (warnings) is ignored.
Shapes: https://libvirt.org/formatdomain.html, formatcheckpoint.html, formatbackup.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from vmconsole.errors import ProtocolError

MAX_XML = 8 * 1024 * 1024
NAMESPACE = "https://vmconsole.example/1"
AGENT_CHANNEL = "org.qemu.guest_agent.0"
MAX_TAGS = 64
MAX_DISKS = 1024

_HAS_A_BLOCK_NODE = {"file", "block", "network", "volume", "nvme"}


@dataclass(frozen=True, slots=True)
class DiskXml:
    """A `<disk>`. id: target device. source: path, `protocol:name`, or empty.

    pool, volume: for disks of kind `volume`, whose path libvirt must be asked for.
    refusal: why it cannot or must not be backed up; empty when it can.
    """

    id: str
    kind: str
    source: str
    format: str
    bus: str = ""
    pool: str = ""
    volume: str = ""
    iothread: bool = False
    encrypted: bool = False
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class DomainXml:
    """A `<domain>`. domain_id: -1 when it does not run. agent: its channel is connected.

    agent_folder: the last part of the folder of the agent's socket, `domain-<id>-<name>`.
    """

    uuid: str
    name: str
    domain_id: int
    title: str
    tags: tuple[str, ...]
    disks: tuple[DiskXml, ...]
    agent: bool
    has_agent_channel: bool
    agent_folder: str
    nvram: str
    tpm: bool
    passthrough: bool


@dataclass(frozen=True, slots=True)
class CheckpointXml:
    """A `<domaincheckpoint>`. dirty: bytes, only for disks whose bitmap is whole (with --size)."""

    name: str
    created: int
    disks: tuple[str, ...]
    dirty: dict[str, int]


def parse(text: str, root: str) -> Element:
    """The document whose root element is `root`. Raises ProtocolError."""
    begin = text.find(f"<{root}")
    end = text.rfind(f"</{root}>")
    if begin < 0 or end < begin:
        raise ProtocolError(f"libvirt did not answer with a <{root}> document.")
    document = text[begin : end + len(root) + 3]
    if len(document) > MAX_XML:
        raise ProtocolError(f"The <{root}> document is larger than {MAX_XML // 1024**2} MiB.")
    try:
        element: Element = ElementTree.fromstring(document, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError, RecursionError) as error:
        raise ProtocolError(f"The <{root}> document from libvirt cannot be read: {error}.") from error
    if element.tag != root:
        raise ProtocolError(f"libvirt answered with <{element.tag}> instead of <{root}>.")
    return element


def parse_domain(text: str) -> DomainXml:
    """Raises ProtocolError when it is not a domain with a name and a uuid."""
    domain = parse(text, "domain")
    name, uuid = domain.findtext("name", ""), domain.findtext("uuid", "").strip()
    if not name or not uuid:
        raise ProtocolError("A domain document from libvirt has no name or no uuid.")
    channel = _agent_channel(domain)
    target = None if channel is None else channel.find("target")
    path = "" if channel is None else _attribute(channel.find("source"), "path")
    return DomainXml(
        uuid=uuid,
        name=name,
        domain_id=_number(domain.get("id"), -1),
        title=domain.findtext("title", ""),
        tags=tags_of(domain),
        disks=tuple(_disks(domain)),
        agent=_attribute(target, "state") == "connected",
        has_agent_channel=channel is not None,
        agent_folder=path.split("/")[-2] if path.count("/") >= 2 else "",
        nvram=_nvram(domain),
        tpm=domain.find("devices/tpm") is not None,
        passthrough=domain.find("devices/hostdev") is not None,
    )


def parse_checkpoint(text: str) -> CheckpointXml:
    checkpoint = parse(text, "domaincheckpoint")
    disks, dirty = [], {}
    for disk in checkpoint.iterfind("disks/disk"):
        name = disk.get("name", "")
        if name and disk.get("checkpoint") == "bitmap":
            disks.append(name)
            size = _number(disk.get("size"), -1)
            if size >= 0:
                dirty[name] = size
    return CheckpointXml(
        name=checkpoint.findtext("name", ""),
        created=_number(checkpoint.findtext("creationTime"), 0),
        disks=tuple(disks),
        dirty=dirty,
    )


def backup_socket(text: str) -> str:
    """The socket of a pull job, or the first target file of a push job; empty when it has none."""
    job = parse(text, "domainbackup")
    server = job.find("server")
    if server is not None:
        return server.get("socket", "")
    return next((target.get("file", "") for target in job.iterfind("disks/disk/target")), "")


def backup_files(text: str) -> list[str]:
    """Scratch and target files of a running backup job."""
    job = parse(text, "domainbackup")
    found = [*job.iterfind("disks/disk/scratch"), *job.iterfind("disks/disk/target")]
    return [item.get("file", "") for item in found if item.get("file")]


def _disks(domain: Element) -> Iterator[DiskXml]:
    threaded = {
        controller.get("index", "")
        for controller in domain.iterfind("devices/controller")
        if controller.get("type") == "scsi" and _has_iothread(controller)
    }
    for count, disk in enumerate(domain.iterfind("devices/disk")):
        target = disk.find("target")
        if count >= MAX_DISKS:
            raise ProtocolError(f"A domain document from libvirt has more than {MAX_DISKS} disks.")
        if target is None or not target.get("dev"):
            continue
        source = disk.find("source")
        kind = disk.get("type", "")
        path = _source(kind, source)
        controller = _attribute(disk.find("address"), "controller")
        yield DiskXml(
            id=target.get("dev", ""),
            kind=kind,
            source=path,
            format=_attribute(disk.find("driver"), "type") or "raw",
            bus=target.get("bus", ""),
            pool=_attribute(source, "pool"),
            volume=_attribute(source, "volume"),
            iothread=_has_iothread(disk) or (target.get("bus") == "scsi" and controller in threaded),
            encrypted=disk.find("encryption") is not None or disk.find("source/encryption") is not None,
            refusal=_refusal(disk, kind, path),
        )


def _source(kind: str, source: Element | None) -> str:
    if source is None:
        return ""
    if kind == "network":
        return f"{source.get('protocol', '')}:{source.get('name', '')}"
    if kind == "volume":
        return f"{source.get('pool', '')}/{source.get('volume', '')}"
    return source.get("file") or source.get("dev") or source.get("dir") or source.get("path") or ""


def _refusal(disk: Element, kind: str, source: str) -> str:
    device = disk.get("device", "disk")
    if device in ("cdrom", "floppy"):
        return {"cdrom": "CD-ROM", "floppy": "floppy"}[device]
    if device == "lun":
        return "SCSI passthrough (lun): QEMU does not see its blocks"
    for flag, reason in (
        ("shareable", "shared with other guests (shareable)"),
        ("transient", "transient: its changes are thrown away at power-off"),
        ("readonly", "read-only"),
    ):
        if disk.find(flag) is not None:
            return reason
    if kind not in _HAS_A_BLOCK_NODE:
        return f"disks of type {kind or 'unknown'} are outside QEMU's block layer"
    return "" if source else "no medium"


def _has_iothread(element: Element) -> bool:
    driver = element.find("driver")
    return driver is not None and (driver.get("iothread") is not None or driver.find("iothreads") is not None)


def _agent_channel(domain: Element) -> Element | None:
    for channel in domain.iterfind("devices/channel"):
        if _attribute(channel.find("target"), "name") == AGENT_CHANNEL:
            return channel
    return None


def tags_of(domain: Element) -> tuple[str, ...]:
    """From `<metadata>`: a `tags` element of ours or of nobody's namespace; from the title: `#word`."""
    found: list[str] = []
    metadata = domain.find("metadata")
    for element in metadata.iter() if metadata is not None else ():
        if element.tag in ("tags", f"{{{NAMESPACE}}}tags"):
            found += (element.text or "").replace(",", " ").split()
    found += [word[1:] for word in domain.findtext("title", "").split() if word.startswith("#")]
    return tuple(dict.fromkeys(tag[:64] for tag in found if tag))[:MAX_TAGS]


def _nvram(domain: Element) -> str:
    nvram = domain.find("os/nvram")
    if nvram is None:
        return ""
    return (nvram.text or "").strip() or _attribute(nvram.find("source"), "file")


def _attribute(element: Element | None, name: str) -> str:
    return "" if element is None else element.get(name, "")


def _number(text: str | None, default: int) -> int:
    """Decimal digits only, at most 19 of them: int() takes far more, and takes its time."""
    digits = (text or "").strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else default
