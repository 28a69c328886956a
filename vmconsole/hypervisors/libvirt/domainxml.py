"""The archived domain: what it asks of a host, and how it is rewritten for a new life.

`config/libvirt.xml` may be years old, from another host, or planted. It is parsed without DTD and
entities, with a cap on size and depth, and only known elements survive. Devices are in
devicexml.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError, SubElement, tostring

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from vmconsole.errors import RestoreFailed
from vmconsole.hypervisors.libvirt.devicexml import NewDisk, Offers, Say, attribute, pick, rewrite_devices

MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 100

_KEPT = frozenset(
    [
        "title",
        "description",
        "metadata",
        "memory",
        "currentMemory",
        "maxMemory",
        "vcpu",
        "vcpus",
        "iothreads",
        "iothreadids",
        "defaultiothread",
        "features",
        "clock",
        "on_poweroff",
        "on_reboot",
        "on_crash",
        "on_lockfailure",
        "pm",
        "perf",
        "keywrap",
        "launchSecurity",
        "memoryBacking",
    ]
)
_SILENTLY_NEW = frozenset({"name", "uuid", "devices", "seclabel", "resource", "genid", "os", "sysinfo"})
_BOOT_FILES = ("loader", "kernel", "initrd", "dtb", "bios", "shim")
_FAMILIES = (
    (re.compile(r"pc-q35-"), "q35"),
    (re.compile(r"pc-(i440fx-)?"), "pc"),
    (re.compile(r"virt-"), "virt"),
    (re.compile(r"pseries-"), "pseries"),
    (re.compile(r"s390-ccw-virtio-"), "s390-ccw-virtio"),
)


@dataclass(frozen=True, slots=True)
class Wants:
    """What the archived domain refers to; the host is asked which of it is there.

    virtual: `kvm`, `qemu` or another domain type. disks: targets of its hard disks. devices: names
    of bridges and network cards. files: boot files (loader, kernel …). media: CD-ROM and floppy images.
    """

    virtual: str
    arch: str
    machine: str
    emulator: str
    disks: tuple[str, ...]
    networks: frozenset[str]
    devices: frozenset[str]
    filters: frozenset[str]
    files: frozenset[str]
    media: frozenset[str]
    nvram: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the restored guest is. nvram: path of its own NVRAM file, empty when none was restored."""

    name: str
    uuid: str
    nvram: str = ""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A document for `virsh define`, and what could not be carried over.

    networks: libvirt networks it is attached to.
    """

    document: bytes
    notes: tuple[str, ...]
    networks: frozenset[str]


def parse_archived(document: bytes) -> Element:
    """The archived domain. Raises RestoreFailed when it is not one."""
    if len(document) > MAX_BYTES:
        raise _unreadable(f"it is larger than {MAX_BYTES // 1024**2} MiB")
    try:
        domain: Element = ElementTree.fromstring(document, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError, RecursionError) as error:
        raise _unreadable(str(error)) from error
    if domain.tag != "domain":
        raise _unreadable(f"it is a <{domain.tag}>, not a <domain>")
    if _deeper_than(domain, MAX_DEPTH):
        raise _unreadable("it is nested too deeply")
    return domain


def wants(domain: Element) -> Wants:
    """What the domain refers to outside of itself."""
    kind = domain.find("os/type")
    drives = [disk for disk in domain.iterfind("devices/disk") if disk.get("device") in ("cdrom", "floppy")]
    cards = list(domain.iterfind("devices/interface"))
    return Wants(
        virtual=domain.get("type", "kvm"),
        arch=attribute(kind, "arch") or "x86_64",
        machine=attribute(kind, "machine") or "pc",
        emulator=domain.findtext("devices/emulator", "").strip(),
        disks=tuple(
            attribute(disk.find("target"), "dev")
            for disk in domain.iterfind("devices/disk")
            if disk.get("device", "disk") == "disk"
        ),
        networks=frozenset(_sources(cards, "network")),
        devices=frozenset({*_sources(cards, "bridge"), *_sources(cards, "dev")}),
        filters=frozenset(rule.get("filter", "") for card in cards for rule in card.findall("filterref")),
        files=frozenset(
            path for name in _BOOT_FILES for item in domain.iterfind(f"os/{name}") if (path := _text(item))
        ),
        media=frozenset(path for drive in drives if (path := attribute(drive.find("source"), "file"))),
        nvram=domain.find("os/nvram") is not None,
    )


def family(machine: str) -> str:
    """The alias that means the newest machine of the same kind; empty when the kind is unknown."""
    return next((alias for pattern, alias in _FAMILIES if pattern.match(machine)), "")


def rewrite(domain: Element, identity: Identity, disks: Mapping[str, NewDisk], offers: Offers) -> Rewritten:
    """A new domain from the archived one: new name and uuid, its own disks, nothing of the old host."""
    notes: list[str] = []

    def say(note: str) -> None:
        clean = "".join(char if char.isprintable() else "?" for char in note)[:500]
        if clean not in notes:
            notes.append(clean)

    new = Element("domain", {"type": offers.virtual})
    SubElement(new, "name").text = identity.name
    SubElement(new, "uuid").text = identity.uuid
    for part in domain:
        _carry_over(part, new, offers, say)
    _operating_system(domain, new, identity, offers, say)
    if domain.find("genid") is not None:
        # A restored copy must know that it is another machine (Windows domain controllers do).
        SubElement(new, "genid")
    _sysinfo(domain, new, identity, say)
    if domain.find("devices/interface/mac") is not None:
        say("Network cards get new MAC addresses, so that the original and the copy can both run.")
    new.append(rewrite_devices(domain.findall("devices"), disks, offers, say))
    used = frozenset(
        attribute(card.find("source"), "network")
        for card in new.iterfind("devices/interface")
        if card.get("type") == "network"
    )
    return Rewritten(tostring(new, encoding="utf-8"), tuple(notes), used)


def _carry_over(part: Element, new: Element, offers: Offers, say: Say) -> None:
    tag = str(part.tag)
    rules: dict[str, Callable[[Element, Offers, Say], Element | None]] = {
        "cpu": _cpu,
        "cputune": _pinning,
        "numatune": _pinning,
        "vcpu": _vcpu,
    }
    if tag in rules:
        kept = rules[tag](part, offers, say)
        if kept is not None:
            new.append(kept)
    elif tag in _KEPT:
        new.append(deepcopy(part))
    elif tag not in _SILENTLY_NEW:
        say(f"Left out: <{tag.rpartition('}')[2]}>, which reaches into the host or is not known.")


def _cpu(part: Element, offers: Offers, say: Say) -> Element | None:
    mode = part.get("mode", "custom")
    if offers.virtual == "qemu" and mode in ("host-passthrough", "host-model", "maximum"):
        say(f"CPU mode {mode} needs KVM, which this host cannot give: the guest gets QEMU's default CPU.")
        return None
    model = part.findtext("model", "").strip()
    if mode == "custom" and model and offers.models and model not in offers.models:
        say(
            f"CPU model {model} is not available on this host: "
            "change it (virsh edit) if the guest does not start."
        )
    return deepcopy(part)


def _pinning(part: Element, offers: Offers, say: Say) -> Element | None:
    """CPU and memory placement describes the old host's processors; it is kept where it can hold."""
    for item in part.iter():
        if _beyond(item.get("cpuset", ""), offers.processors) or item.tag in ("cachetune", "memorytune"):
            say(f"<{part.tag}> names processors of the old host and was left out.")
            return None
    return deepcopy(part)


def _vcpu(part: Element, offers: Offers, say: Say) -> Element:
    new = deepcopy(part)
    if _beyond(new.get("cpuset", ""), offers.processors):
        say("The processors' cpuset names processors of the old host and was left out.")
        del new.attrib["cpuset"]
    return new


def _beyond(cpuset: str, processors: int) -> bool:
    numbers = [int(word[:6]) for word in re.findall(r"[0-9]+", cpuset)]
    return processors > 0 and any(number >= processors for number in numbers)


def _operating_system(domain: Element, new: Element, identity: Identity, offers: Offers, say: Say) -> None:
    old = domain.find("os")
    if old is None:
        old = Element("os")
    system = pick(old, ("firmware",), ("boot", "bootmenu", "smbios", "firmware"))
    kind = old.find("type")
    SubElement(
        system, "type", {"arch": attribute(kind, "arch") or "x86_64", "machine": offers.machine}
    ).text = _text(kind) or "hvm"
    missing = False
    for name in _BOOT_FILES:
        for item in old.findall(name):
            path = _text(item)
            if not path or path in offers.files:
                system.append(deepcopy(item))
            else:
                missing = missing or name == "loader"
                say(f"The boot file {path} ({name}) is not on this host and was left out.")
    if old.find("kernel") is not None:
        system.extend(deepcopy(item) for item in old.findall("cmdline"))
        say(f"The guest boots a kernel from the host: {old.findtext('kernel', '').strip()}")
    if missing and attribute(old.find("loader"), "type") == "pflash":
        system.set("firmware", "efi")
        say("The guest's UEFI firmware file is not on this host: libvirt chooses a suitable one.")
    _nvram(old, system, identity, say)
    new.append(system)


def _nvram(old: Element, system: Element, identity: Identity, say: Say) -> None:
    item = old.find("nvram")
    if item is None:
        return
    if not identity.nvram:
        say("The UEFI variables (NVRAM) are not in the restore point: boot entries are made anew.")
        return
    SubElement(system, "nvram", {k: v for k, v in item.attrib.items() if k == "format"}).text = identity.nvram


def _sysinfo(domain: Element, new: Element, identity: Identity, say: Say) -> None:
    for item in domain.findall("sysinfo"):
        if item.get("type") != "smbios":
            say("Left out: <sysinfo> of a kind other than smbios.")
            continue
        copy = deepcopy(item)
        for entry in copy.iterfind("system/entry"):
            if entry.get("name") == "uuid":
                entry.text = identity.uuid
        new.append(copy)


def _sources(cards: list[Element], name: str) -> Iterator[str]:
    return (value for card in cards if (value := attribute(card.find("source"), name)))


def _text(element: Element | None) -> str:
    return "" if element is None else (element.text or "").strip()


def _deeper_than(domain: Element, limit: int) -> bool:
    level = [domain]
    for _ in range(limit):
        level = [child for parent in level for child in parent]
        if not level:
            return False
    return True


def _unreadable(why: str) -> RestoreFailed:
    return RestoreFailed(
        f"The archived domain definition (config/libvirt.xml) cannot be used: {why}.",
        hint="The disks can still be restored one by one: vmconsole restore --disk …",
    )
