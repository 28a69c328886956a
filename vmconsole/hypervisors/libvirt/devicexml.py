"""Rewriting a domain's devices for another life: what is kept, what is replaced, what is left out.

Everything is allow-listed: a device, an attribute or a child element that is not known to be
harmless on a foreign host is left out, and said. The document may come from an attacker, and
libvirt carries it out as root: host folders, devices, scripts, and files must not be reached
through it. Shapes: https://libvirt.org/formatdomain.html.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element, SubElement

LOOPBACK = "127.0.0.1"
FALLBACK_NETWORK = "default"
AS_IT_WAS = frozenset({
    "controller", "sound", "video", "memballoon", "watchdog", "panic", "iommu", "hub", "redirfilter",
    "redirdev", "input", "crypto",
})  # fmt: skip
_INPUTS = frozenset({"mouse", "tablet", "keyboard"})
_DRIVER = frozenset({
    "name", "cache", "error_policy", "rerror_policy", "io", "ioeventfd", "event_idx", "copy_on_read",
    "discard", "detect_zeroes", "discard_no_unref", "iothread", "queues", "queue_size", "iommu", "ats",
    "packed", "page_per_vq",
})  # fmt: skip
_DISK_PARTS = (
    "target", "iotune", "serial", "wwn", "vendor", "product", "geometry", "blockio", "boot", "address",
)  # fmt: skip
_NIC_PARTS = ("model", "boot", "address", "link", "bandwidth", "mtu", "vlan", "virtualport", "port")
_PLAIN_PARTS = (
    "address", "master", "model", "target", "stats", "codec", "boot", "resolution", "acceleration",
    "usbdev",
)  # fmt: skip
_RANDOM = frozenset({"/dev/urandom", "/dev/random", "/dev/hwrng"})


@dataclass(frozen=True, slots=True)
class NewDisk:
    """Where a restored disk lives. kind: `file` or `block`."""

    path: str
    format: str
    kind: str = "file"


@dataclass(frozen=True, slots=True)
class Offers:
    """What the host has of what the archived domain refers to.

    virtual: domain type to use, `kvm` or `qemu`. emulator: path, empty for libvirt's own choice.
    networks: name → active. devices: network devices (bridges, cards). files: those of
    Wants.files that are there. media: those of Wants.media that are volumes of a storage pool.
    models: CPU models the host can give. processors: how many the host has, 0 when unknown.
    """

    virtual: str
    machine: str
    emulator: str = ""
    networks: Mapping[str, bool] = field(default_factory=dict)
    devices: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    media: frozenset[str] = frozenset()
    filters: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    tpm: bool = False
    processors: int = 0


Say = Callable[[str], None]


def rewrite_devices(
    old: Iterable[Element], disks: Mapping[str, NewDisk], offers: Offers, say: Say
) -> Element:
    """One new `<devices>` from all old ones. say() receives what could not be carried over."""
    new = Element("devices")
    if offers.emulator:
        SubElement(new, "emulator").text = offers.emulator
    seen: set[str] = set()
    for device in (device for devices in old for device in devices):
        if device.tag == "disk":
            target = attribute(device.find("target"), "dev")
            kept = None if target in seen else _disk(device, target, disks, offers, say)
            seen.add(target)
        else:
            kept = _device(device, offers, say)
        if kept is not None:
            new.append(kept)
    return new


def attribute(element: Element | None, name: str) -> str:
    return "" if element is None else element.get(name, "")


def pick(element: Element, attributes: Iterable[str], parts: Iterable[str] = ()) -> Element:
    """A copy with only those attributes and child elements."""
    copy = Element(element.tag, {name: element.attrib[name] for name in attributes if name in element.attrib})
    copy.extend(deepcopy(part) for name in parts for part in element.findall(name))
    return copy


def _disk(
    old: Element, target: str, disks: Mapping[str, NewDisk], offers: Offers, say: Say
) -> Element | None:
    device = old.get("device", "disk")
    if device in ("cdrom", "floppy"):
        return _drive(old, target, device, offers, say)
    place = disks.get(target)
    if place is None:
        say(f"Disk {target or '?'} is not in the restore point and was left out.")
        return None
    new = pick(old, ("model",))
    new.attrib |= {"type": place.kind, "device": "disk"}
    driver = _disk_driver(old)
    driver.set("type", place.format)
    new.append(driver)
    SubElement(new, "source", {"dev" if place.kind == "block" else "file": place.path})
    new.extend(deepcopy(part) for name in _DISK_PARTS for part in old.findall(name))
    if old.find("encryption") is not None or old.find("source/encryption") is not None:
        say(f"Disk {target} was encrypted (LUKS) on its old host; the restored disk is not.")
    if old.find("transient") is not None:
        say(f"Disk {target} was transient; the restored disk keeps its changes.")
    return new


def _drive(old: Element, target: str, device: str, offers: Offers, say: Say) -> Element:
    source = old.find("source")
    medium = attribute(source, "file") if old.get("type") == "file" else ""
    new = pick(old, ())
    new.attrib |= {"type": "file", "device": device}
    driver = _disk_driver(old)
    driver.set("type", "raw")
    new.append(driver)
    if medium and medium in offers.media:
        SubElement(new, "source", {"file": medium})
    elif source is not None and (source.attrib or len(source)):
        name = medium or next(iter(source.attrib.values()), "its medium")
        say(f"{device} {target}: {name} is not in a storage pool of this host; the drive is empty.")
    new.extend(deepcopy(part) for name in ("target", "boot", "address") for part in old.findall(name))
    SubElement(new, "readonly")
    return new


def _disk_driver(old: Element) -> Element:
    driver = old.find("driver")
    return Element("driver", {"name": "qemu"}) if driver is None else pick(driver, _DRIVER)


def _device(old: Element, offers: Offers, say: Say) -> Element | None:
    tag = old.tag
    if tag == "emulator":
        return None
    if tag in AS_IT_WAS:
        return _plain(old, say)
    match tag:
        case "interface":
            return _interface(old, offers, say)
        case "serial" | "parallel" | "console":
            return _line(old, say)
        case "channel":
            return _channel(old, say)
        case "graphics":
            return _graphics(old, say)
        case "audio":
            return _audio(old)
        case "rng":
            return _rng(old)
        case "tpm":
            return _tpm(old, offers, say)
        case "vsock":
            return _vsock(old)
        case "memory":
            return _memory(old, say)
        case "smartcard":
            return _smartcard(old, say)
        case _:
            say(_left_out(old))
            return None


def _left_out(old: Element) -> str:
    source = old.find("source")
    detail = "" if source is None else " ".join(source.attrib.values())
    kind = old.get("type", "")
    words = " ".join(word for word in (str(old.tag).rpartition("}")[2], kind, detail) if word)
    return f"Left out: {words}. It reaches into the host; add it again by hand if it is wanted."


def _plain(old: Element, say: Say) -> Element | None:
    if old.tag == "input" and old.get("type") not in _INPUTS:
        say(_left_out(old))
        return None
    if old.tag in ("redirdev", "crypto") and old.get("type", "spicevmc") not in ("spicevmc", "qemu"):
        say(_left_out(old))
        return None
    new = pick(old, old.attrib, _PLAIN_PARTS)
    for acceleration in new.findall("acceleration"):
        acceleration.attrib.pop("rendernode", None)
    if old.tag in ("controller", "iommu", "memballoon"):
        new.extend(deepcopy(driver) for driver in old.findall("driver"))
    if old.tag == "crypto":
        SubElement(new, "backend", {"model": "builtin"})
    return new


def _interface(old: Element, offers: Offers, say: Say) -> Element | None:
    kind = old.get("type", "")
    source = old.find("source")
    name = attribute(source, {"network": "network", "bridge": "bridge", "direct": "dev"}.get(kind, "-"))
    new = pick(old, (), _NIC_PARTS)
    new.set("type", kind)
    for script in old.findall("script"):
        say(f"Left out: the script {script.get('path', '')} of a network card.")
    if kind == "user":
        return new
    present = name in offers.networks if kind == "network" else name in offers.devices
    if kind not in ("network", "bridge", "direct") or not name or not present:
        return _unplugged(new, kind, name, offers, say)
    place = SubElement(new, "source")
    for key in ("network", "bridge", "dev", "mode", "portgroup"):
        if source is not None and key in source.attrib:
            place.set(key, source.attrib[key])
    for rule in old.findall("filterref"):
        if rule.get("filter", "") in offers.filters:
            new.append(deepcopy(rule))
        else:
            _cut_link(new)
            say(
                f"The network filter {rule.get('filter', '')} is not on this host: "
                f"the card on {name} is restored with its link down (virsh domif-setlink … up)."
            )
    return new


def _unplugged(new: Element, kind: str, name: str, offers: Offers, say: Say) -> Element | None:
    """A card whose network is missing: it keeps its slot, but nothing is connected by guess."""
    what = f"{kind or 'network'} {name}".strip()
    if FALLBACK_NETWORK not in offers.networks:
        say(f"{what} is not on this host: the network card was left out.")
        return None
    for part in (*new.findall("virtualport"), *new.findall("vlan"), *new.findall("port")):
        new.remove(part)
    new.set("type", "network")
    SubElement(new, "source", {"network": FALLBACK_NETWORK})
    _cut_link(new)
    say(
        f"{what} is not on this host: its card is attached to the network {FALLBACK_NETWORK!r} with the "
        f"link down. Choose a network (virsh edit), then: virsh domif-setlink GUEST CARD up"
    )
    return new


def _cut_link(card: Element) -> None:
    for link in card.findall("link"):
        card.remove(link)
    SubElement(card, "link", {"state": "down"})


def _line(old: Element, say: Say) -> Element:
    kind = old.get("type", "pty")
    if kind not in ("pty", "null"):
        say(
            f"{old.tag} of type {kind} {attribute(old.find('source'), 'path')} is a pty now.".replace(
                "  ", " "
            )
        )
    new = pick(old, (), ("target", "address"))
    new.set("type", "null" if kind == "null" else "pty")
    return new


def _channel(old: Element, say: Say) -> Element | None:
    kind = old.get("type", "")
    if kind not in ("unix", "spicevmc", "pty", "null", "qemu-vdagent"):
        say(_left_out(old))
        return None
    new = pick(old, ("type",), ("target", "address"))
    for target in new.findall("target"):
        target.attrib.pop("state", None)
    return new


def _graphics(old: Element, say: Say) -> Element | None:
    kind = old.get("type", "")
    if kind == "egl-headless":
        return Element("graphics", {"type": kind})
    if kind not in ("vnc", "spice"):
        say(_left_out(old))
        return None
    listens = {old.get("listen", "")} | {item.get("address", "") for item in old.findall("listen")}
    abroad = sorted(listens - {"", LOOPBACK, "localhost", "::1"})
    if abroad:
        # Its password may not be in the archive; listening there would then be open to everybody.
        say(f"The {kind} console listened on {', '.join(abroad)}; now on {LOOPBACK} only.")
    new = pick(
        old, ("keymap", "sharePolicy"), ("image", "jpeg", "zlib", "playback", "streaming", "clipboard")
    )
    new.attrib |= {"type": kind, "port": "-1", "autoport": "yes", "listen": LOOPBACK}
    return new


def _audio(old: Element) -> Element:
    kind = old.get("type", "none")
    return Element("audio", {"id": old.get("id", "1"), "type": kind if kind == "spice" else "none"})


def _rng(old: Element) -> Element:
    new = pick(old, ("model",), ("rate", "address"))
    backend = old.find("backend")
    if attribute(backend, "model") == "builtin":
        SubElement(new, "backend", {"model": "builtin"})
        return new
    path = (backend.text or "").strip() if backend is not None else ""
    SubElement(new, "backend", {"model": "random"}).text = path if path in _RANDOM else "/dev/urandom"
    return new


def _tpm(old: Element, offers: Offers, say: Say) -> Element | None:
    backend = old.find("backend")
    if attribute(backend, "type") != "emulator":
        say(f"The TPM ({attribute(backend, 'type') or 'unknown'}) belongs to the old host and was left out.")
        return None
    if not offers.tpm:
        say("This host has no TPM emulator (apt install swtpm): the guest is restored without its TPM.")
        return None
    say(
        "The TPM starts empty: its state is not in the restore point. "
        "Disk encryption bound to it (BitLocker) asks for the recovery key."
    )
    new = pick(old, ("model",), ("address",))
    state = SubElement(new, "backend", {"type": "emulator"})
    if backend is not None and "version" in backend.attrib:
        state.set("version", backend.attrib["version"])
    return new


def _vsock(old: Element) -> Element:
    new = pick(old, ("model",), ("address",))
    SubElement(new, "cid", {"auto": "yes"})
    return new


def _memory(old: Element, say: Say) -> Element | None:
    if old.get("model") != "dimm" or old.find("source/path") is not None:
        say(_left_out(old))
        return None
    return pick(old, ("model", "access"), ("target", "address"))


def _smartcard(old: Element, say: Say) -> Element | None:
    if old.get("mode") != "passthrough" or old.get("type") != "spicevmc":
        say(_left_out(old))
        return None
    return pick(old, ("mode", "type"), ("address",))
