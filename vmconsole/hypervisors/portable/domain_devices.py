"""Reading the devices of a libvirt domain into neutral words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree.ElementTree import Element

from vmconsole.hypervisors.libvirt.devicexml import attribute
from vmconsole.hypervisors.libvirt.xml import AGENT_CHANNEL
from vmconsole.hypervisors.portable import words
from vmconsole.hypervisors.portable.hardware import Bus, Disk, Drive, Nic
from vmconsole.hypervisors.portable.notes import Notes

_SCSI: Mapping[str, str] = {
    "virtio-scsi": "virtio-scsi", "virtio-transitional": "virtio-scsi", "virtio-non-transitional": "virtio-scsi",
    "lsilogic": "lsi", "auto": "lsi", "": "lsi", "lsisas1078": "megasas", "vmpvscsi": "pvscsi",
}  # fmt: skip
_VGA: Mapping[str, str] = {name: neutral for neutral, name in words.VGA_XML.items()} | {"bochs": "std"}
_SOUND: Mapping[str, str] = {"ich6": "hda", "ich7": "hda", "ich9": "ich9", "ac97": "ac97"}
_WATCHDOG: Mapping[str, str] = {"i6300esb": "i6300esb", "ib700": "ib700"}
_SOURCES: Mapping[str, str] = {"network": "network", "bridge": "bridge", "direct": "dev"}
_SILENT = frozenset({
    "emulator", "disk", "controller", "interface", "serial", "console", "input", "graphics", "video", "sound",
    "audio", "memballoon", "watchdog", "rng", "tpm", "panic", "hub", "redirdev", "redirfilter", "channel",
})  # fmt: skip


class Reader:
    """The devices of one domain; notes gets what has no place."""

    def __init__(self, domain: Element, notes: Notes) -> None:
        self._domain = domain
        self._notes = notes
        self._targets: set[str] = set()
        self._hard = [
            disk for disk in domain.iterfind("devices/disk") if disk.get("device", "disk") == "disk"
        ]
        self._optical = [disk for disk in domain.iterfind("devices/disk") if disk.get("device") == "cdrom"]
        self._cards = list(domain.iterfind("devices/interface"))
        self._order = self._boot_order()

    def disks(self) -> tuple[Disk, ...]:
        return tuple(disk for element in self._hard if (disk := self._disk(element)))

    def drives(self) -> tuple[Drive, ...]:
        found = []
        for element in self._optical:
            target = attribute(element.find("target"), "dev")
            if not target or target in self._targets:
                continue
            self._targets.add(target)
            source = element.find("source")
            medium = "" if source is None else next(iter(source.attrib.values()), "")
            if medium:
                self._notes.add(f"CD-ROM drive {target} comes without its medium {medium}.")
            found.append(Drive(target, self._bus(element, target), self._order.get(id(element), 0)))
        return tuple(found)

    def nics(self) -> tuple[Nic, ...]:
        found = []
        for number, card in enumerate(self._cards):
            nic = self._nic(card, f"{number + 1}")
            if nic is not None:
                found.append(nic)
        return tuple(found)

    def scsi(self) -> str:
        """The model of the controllers; where there are several, that of the first."""
        models = [item.get("model", "") for item in self._domain.iterfind("devices/controller[@type='scsi']")]
        if not models:
            return "lsi" if any(self._is_scsi(disk) for disk in self._hard) else "virtio-scsi"
        neutral = [_SCSI.get(model, "") for model in models]
        if not neutral[0]:
            self._notes.add(
                f"The SCSI controller {models[0]} becomes an LSI one: the guest needs its driver to boot."
            )
        if len(set(neutral)) > 1:
            self._notes.add(f"Its SCSI controllers ({', '.join(models)}) all become alike.")
        return neutral[0] or "lsi"

    def serials(self) -> int:
        ports = self._domain.findall("devices/serial")
        for port in ports:
            if port.get("type", "pty") not in ("pty", "null"):
                self._notes.add(
                    f"A serial port was {port.get('type')} {attribute(port.find('source'), 'path')} of its old "
                    "host; it is a console now."
                )
        return min(len(ports), 4)

    def vga(self) -> str:
        model = attribute(self._domain.find("devices/video/model"), "type")
        if not model:
            return "none" if self._headless() else ""
        if model not in _VGA:
            self._notes.add(f"The display {model} becomes a standard VGA.")
        return _VGA.get(model, "std")

    def tpm(self) -> str:
        backend = self._domain.find("devices/tpm/backend")
        if backend is None:
            return ""
        if backend.get("type") != "emulator":
            self._notes.add("Its TPM belongs to the old host and is left out.")
            return ""
        return "1.2" if backend.get("version") == "1.2" else "2.0"

    def sound(self) -> str:
        model = attribute(self._domain.find("devices/sound"), "model")
        if model and model not in _SOUND:
            self._notes.add(f"The sound card {model} becomes an ICH9 one.")
        return _SOUND.get(model, "ich9") if model else ""

    def watchdog(self) -> str:
        element = self._domain.find("devices/watchdog")
        model, action = attribute(element, "model"), attribute(element, "action") or "reset"
        if not model or model == "itco":
            return ""
        if model not in _WATCHDOG or action not in words.WATCHDOG_ACTIONS:
            self._notes.add(f"The watchdog ({model}, {action}) is not carried over.")
            return ""
        return f"{model} {action}"

    def say_rest(self) -> None:
        """Every device that nobody has asked for."""
        for device in self._domain.iterfind("devices/*"):
            tag = str(device.tag).rpartition("}")[2]
            if tag == "disk" and device.get("device", "disk") not in ("disk", "cdrom"):
                target = attribute(device.find("target"), "dev")
                self._notes.add(f"The {device.get('device')} {target} is not carried over.")
            elif tag == "channel":
                self._say_channel(device)
            elif tag not in _SILENT:
                parts = [device.get(name, "") for name in ("mode", "type", "model")]
                self._notes.add(
                    " ".join(word for word in ("The device", tag, *parts) if word) + " stays behind."
                )

    def _say_channel(self, channel: Element) -> None:
        name = attribute(channel.find("target"), "name")
        if channel.get("type") != "spicevmc" and name not in (AGENT_CHANNEL, "com.redhat.spice.0"):
            self._notes.add(f"The channel {name or channel.get('type', '')} is not carried over.")

    def _headless(self) -> bool:
        return not any(self._domain.find(f"devices/{tag}") is not None for tag in ("graphics", "video"))

    def _boot_order(self) -> dict[int, int]:
        """Device → place, from 1: as the devices say, else as `<os><boot dev=…>` does."""
        everything = [*self._hard, *self._optical, *self._cards]
        said = {
            id(item): int(order)
            for item in everything
            if re.fullmatch(r"\d{1,4}", order := attribute(item.find("boot"), "order"))
        }
        if said:
            return said
        ordered: list[Element] = []
        for boot in self._domain.iterfind("os/boot"):
            match boot.get("dev"):
                case "hd":
                    ordered += self._hard[:1]
                case "cdrom":
                    ordered += self._optical
                case "network":
                    ordered += self._cards
        return {id(item): place for place, item in enumerate(ordered, 1)}

    def _is_scsi(self, disk: Element) -> bool:
        return attribute(disk.find("target"), "bus") == "scsi"

    def _bus(self, element: Element, target: str) -> Bus:
        text = attribute(element.find("target"), "bus") or {"vd": "virtio", "hd": "ide", "sd": "scsi"}.get(
            target[:2], "ide"
        )
        try:
            return Bus(text)
        except ValueError:
            self._notes.add(f"Disk {target} moves from {text} to SATA: the guest needs that driver.")
            return Bus.SATA

    def _disk(self, element: Element) -> Disk | None:
        target = attribute(element.find("target"), "dev")
        if not target or target in self._targets:
            self._notes.add(f"A disk without a name of its own ({target or '?'}) is left out.")
            return None
        self._targets.add(target)
        for part, what in (
            ("iotune", "I/O limits"), ("shareable", "sharing with other guests"), ("wwn", "WWN"),
            ("vendor", "vendor name"), ("product", "product name"), ("geometry", "geometry"),
            ("blockio", "block sizes"), ("transient", "throwing away of changes"),
        ):  # fmt: skip
            if element.find(part) is not None:
                self._notes.add(f"The {what} of disk {target} is not carried over.")
        if element.find("encryption") is not None or element.find("source/encryption") is not None:
            self._notes.add(f"Disk {target} was encrypted (LUKS) on its old host; the restored disk is not.")
        driver = element.find("driver")
        bus = self._bus(element, target)
        cache, io = attribute(driver, "cache"), attribute(driver, "io")
        return Disk(
            id=target,
            bus=bus,
            cache=cache if cache in words.CACHES else "",
            io=io if io in words.IOS else "",
            discard=attribute(driver, "discard") == "unmap",
            detect_zeroes=attribute(driver, "detect_zeroes") in ("on", "unmap"),
            ssd=attribute(element.find("target"), "rotation_rate") == "1",
            iothread=self._iothread(driver, bus),
            readonly=element.find("readonly") is not None,
            serial=element.findtext("serial", "").strip(),
            boot=self._order.get(id(element), 0),
        )

    def _iothread(self, driver: Element | None, bus: Bus) -> bool:
        if bus is Bus.SCSI:
            return any(
                item.get("iothread")
                for item in self._domain.iterfind("devices/controller[@type='scsi']/driver")
            )
        return bus is Bus.VIRTIO and bool(attribute(driver, "iothread"))

    def _nic(self, card: Element, number: str) -> Nic | None:
        kind = card.get("type", "")
        source = card.find("source")
        if kind not in (*_SOURCES, "user"):
            self._notes.add(
                f"Network card {number} ({kind or 'of no type'}) reaches into its host and is left out."
            )
            return None
        for part, what in (
            ("bandwidth", "rate limit"),
            ("filterref", "network filter"),
            ("script", "script"),
        ):
            if card.find(part) is not None:
                self._notes.add(f"The {what} of network card {number} is not carried over.")
        tags = [tag.get("id", "") for tag in card.iterfind("vlan/tag")]
        if len(tags) > 1 or attribute(card.find("vlan"), "trunk") == "yes":
            self._notes.add(
                f"The VLAN trunk of network card {number} ({', '.join(tags)}) is not carried over."
            )
            tags = []
        vlan = int(tags[0]) if tags and re.fullmatch(r"\d{1,4}", tags[0]) else 0
        mtu = attribute(card.find("mtu"), "size")
        return Nic(
            id=number,
            model=self._nic_model(attribute(card.find("model"), "type"), number),
            network=(attribute(source, _SOURCES[kind]) or "?") if kind in _SOURCES else "",
            mac=self._mac(card),
            vlan=vlan if 0 < vlan < 4095 else 0,
            connected=attribute(card.find("link"), "state") != "down",
            mtu=int(mtu) if re.fullmatch(r"\d{2,5}", mtu) and 576 <= int(mtu) <= 65520 else 0,
            boot=self._order.get(id(card), 0),
        )

    def _mac(self, card: Element) -> str:
        mac = attribute(card.find("mac"), "address")
        return mac.upper() if words.MAC.fullmatch(mac) else ""

    def _nic_model(self, model: str, number: str) -> str:
        if model.startswith("virtio"):
            return "virtio"
        if model and model not in words.NIC_MODELS:
            self._notes.add(f"Network card {number} ({model}) becomes an e1000.")
            return "e1000"
        return model or "rtl8139"
