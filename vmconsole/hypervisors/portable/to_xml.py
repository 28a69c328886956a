"""Printing neutral hardware as a libvirt domain. Shapes: https://libvirt.org/formatdomain.html.

The result is built as a tree, so that no text in it can become an element, and goes through the
same rewriting as an archived domain before libvirt sees it (libvirt/domainxml.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element, SubElement, tostring

from vmconsole.hypervisors.libvirt.xml import AGENT_CHANNEL, NAMESPACE
from vmconsole.hypervisors.portable import words
from vmconsole.hypervisors.portable.hardware import Bus, Disk, Drive, Firmware, Hardware, Nic
from vmconsole.hypervisors.portable.names import Placed, domain_targets
from vmconsole.hypervisors.portable.notes import Notes
from vmconsole.hypervisors.portable.plugs import plug_into_libvirt

_OSINFO = "http://libosinfo.org/xmlns/libvirt/domain/1.0"
_NOT_XML = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_XML_SERIAL = re.compile(r"[A-Za-z0-9_.+ -]{1,64}")


@dataclass(frozen=True, slots=True)
class Host:
    """What the host has. wanted: `networks` of its configuration (plugs.py). networks: libvirt's.

    bridges: of its kernel, at least those asked about.
    """

    wanted: Mapping[str, str] = field(default_factory=dict)
    networks: Collection[str] = ()
    bridges: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class DomainDraft:
    """document: the domain. disks: id in Hardware → target, such as vda."""

    document: bytes
    disks: Mapping[str, str]


def to_domain_xml(
    hardware: Hardware, host: Host, *, variables: bool = False
) -> tuple[DomainDraft, tuple[str, ...]]:
    """variables: its UEFI variables are restored, too. Disks and NVRAM have no place yet."""
    return _Printing(hardware, host, variables).print()


class _Printing:
    def __init__(self, hardware: Hardware, host: Host, variables: bool) -> None:
        self.hardware = hardware
        self.host = host
        self.variables = variables
        self.notes = Notes()
        self.domain = Element("domain", {"type": "kvm" if hardware.kvm else "qemu"})
        self.iothreads = 0

    def print(self) -> tuple[DomainDraft, tuple[str, ...]]:
        hardware, domain = self.hardware, self.domain
        things: list[Disk | Drive] = [*hardware.disks, *hardware.drives]
        placed = domain_targets(things, ide=hardware.machine != "q35")
        devices = Element("devices")
        for disk in hardware.disks:
            self._disk(devices, disk, placed)
        for drive in hardware.drives:
            target, bus = placed[drive.id]
            element = SubElement(devices, "disk", {"type": "file", "device": "cdrom"})
            SubElement(element, "target", {"dev": target, "bus": bus.value})
            SubElement(element, "readonly")
            _boot(element, drive.boot)
        self._controllers(devices, placed)
        for nic in hardware.nics:
            self._nic(devices, nic)
        self._other_devices(devices)
        self._identity()
        self._processor()
        if self.iothreads:
            SubElement(domain, "iothreads").text = str(self.iothreads)
        self._system()
        domain.append(devices)
        _number_boot_order(devices)
        disks = {disk.id: placed[disk.id][0] for disk in hardware.disks}
        return DomainDraft(tostring(domain, encoding="utf-8"), disks), self.notes.all

    def _identity(self) -> None:
        hardware, domain = self.hardware, self.domain
        SubElement(domain, "name").text = xml_text(hardware.name) or "guest"
        if hardware.genid:
            SubElement(domain, "genid")
        if description := xml_text(hardware.description).strip():
            SubElement(domain, "description").text = description
        metadata = Element("metadata")
        if hardware.system in words.OSINFO:
            info = SubElement(metadata, f"{{{_OSINFO}}}libosinfo")
            SubElement(info, f"{{{_OSINFO}}}os", {"id": words.OSINFO[hardware.system]})
        tags = [tag for tag in map(xml_text, hardware.tags) if tag and not re.search(r"[\s,]", tag)]
        if tags:
            SubElement(metadata, f"{{{NAMESPACE}}}tags").text = " ".join(tags)
        if len(metadata):
            domain.append(metadata)
        values = {key: xml_text(value).strip() for key, value in hardware.smbios if key in words.SMBIOS}
        if any(values.values()):
            system = SubElement(SubElement(domain, "sysinfo", {"type": "smbios"}), "system")
            for key, value in values.items():
                if value:
                    SubElement(system, "entry", {"name": key}).text = value

    def _processor(self) -> None:
        hardware, cpu, domain = self.hardware, self.hardware.cpu, self.domain
        memory = max(1, min(hardware.memory, words.MAX_MEMORY) // 1024)
        SubElement(domain, "memory", {"unit": "KiB"}).text = str(memory)
        if 0 < hardware.balloon < hardware.memory:
            self.notes.add(
                f"It could be asked to shrink to {hardware.balloon // words.MIB} MiB of memory while it ran; "
                "libvirt does not do that by itself."
            )
        vcpu = SubElement(domain, "vcpu", {"placement": "static"})
        vcpu.text = str(cpu.most)
        if 0 < cpu.cpus < cpu.most:
            vcpu.set("current", str(cpu.cpus))
        element = SubElement(domain, "cpu")
        if cpu.model in words.CPU_MODELS:
            element.attrib |= {"mode": "custom", "match": "exact", "check": "none"}
            SubElement(element, "model", {"fallback": "allow"}).text = cpu.model
        else:
            if cpu.model and cpu.model != "host":
                self.notes.add(
                    f"libvirt does not know the CPU model {cpu.model}: the guest gets the host's own."
                )
            element.set("mode", "host-passthrough" if cpu.model == "host" else "host-model")
        topology = {"sockets": str(cpu.sockets), "cores": str(cpu.cores), "threads": str(cpu.threads)}
        SubElement(element, "topology", topology)
        for name, on in cpu.flags:
            if words.CPU_FLAG.fullmatch(name):
                SubElement(element, "feature", {"policy": "optional" if on else "disable", "name": name})

    def _system(self) -> None:
        hardware, domain = self.hardware, self.domain
        system = SubElement(domain, "os")
        kind = SubElement(system, "type", {"arch": "x86_64", "machine": self._machine()})
        kind.text = "hvm"
        features = SubElement(domain, "features")
        SubElement(features, "acpi")
        SubElement(features, "apic")
        if hardware.firmware is Firmware.UEFI:
            system.set("firmware", "efi")
            if hardware.secure_boot:
                SubElement(
                    SubElement(system, "firmware"), "feature", {"enabled": "yes", "name": "secure-boot"}
                )
                if hardware.machine == "q35":
                    SubElement(features, "smm", {"state": "on"})
            if self.variables:
                SubElement(system, "nvram")
            else:
                self.notes.add("Its UEFI variables are not carried over: boot entries are made anew.")
        if domain.find("sysinfo") is not None:
            SubElement(system, "smbios", {"mode": "sysinfo"})
        clock = SubElement(domain, "clock", {"offset": hardware.clock.value})
        if hardware.system.windows:
            # What Proxmox gives a Windows guest by itself; without, its clock and idling suffer.
            hyperv = SubElement(features, "hyperv", {"mode": "custom"})
            SubElement(hyperv, "relaxed", {"state": "on"})
            SubElement(hyperv, "vapic", {"state": "on"})
            SubElement(hyperv, "spinlocks", {"state": "on", "retries": "8191"})
            SubElement(clock, "timer", {"name": "hypervclock", "present": "yes"})
        SubElement(clock, "timer", {"name": "rtc", "tickpolicy": "catchup"})
        SubElement(clock, "timer", {"name": "pit", "tickpolicy": "delay"})
        SubElement(clock, "timer", {"name": "hpet", "present": "no"})

    def _machine(self) -> str:
        q35 = self.hardware.machine == "q35"
        if words.VERSION.fullmatch(self.hardware.version):
            return f"{'pc-q35' if q35 else 'pc-i440fx'}-{self.hardware.version}"
        return "q35" if q35 else "pc"

    def _disk(self, devices: Element, disk: Disk, placed: Placed) -> None:
        target, bus = placed[disk.id]
        q35_sata = bus is Bus.SATA and disk.bus is Bus.IDE and self.hardware.machine == "q35"
        if bus is not disk.bus and not q35_sata:
            self.notes.add(
                f"Disk {disk.id} moves from {disk.bus.value} to {bus.value}: the guest needs that driver."
            )
        element = SubElement(devices, "disk", {"type": "file", "device": "disk"})
        driver = SubElement(element, "driver", {"name": "qemu", "type": "raw"})
        if disk.cache in words.CACHES:
            driver.set("cache", disk.cache)
        if disk.io in words.IOS:
            if disk.io == "native" and disk.cache not in ("none", "directsync"):
                self.notes.add(f"Disk {disk.id} used native I/O, which libvirt allows only with cache none.")
            else:
                driver.set("io", disk.io)
        if disk.discard:
            driver.set("discard", "unmap")
        if disk.detect_zeroes:
            driver.set("detect_zeroes", "unmap" if disk.discard else "on")
        if disk.iothread and bus is Bus.VIRTIO:
            self.iothreads += 1
            driver.set("iothread", str(self.iothreads))
        place = SubElement(element, "target", {"dev": target, "bus": bus.value})
        if disk.ssd and bus is not Bus.VIRTIO:
            place.set("rotation_rate", "1")
        if disk.readonly:
            SubElement(element, "readonly")
        if disk.serial:
            if _XML_SERIAL.fullmatch(disk.serial):
                SubElement(element, "serial").text = disk.serial
            else:
                self.notes.add(f"libvirt does not take the serial number {disk.serial!r} of disk {disk.id}.")
        _boot(element, disk.boot)

    def _controllers(self, devices: Element, placed: Placed) -> None:
        if not any(bus is Bus.SCSI for _, bus in placed.values()):
            return
        model = words.SCSI_XML.get(self.hardware.scsi, "lsilogic")
        if self.hardware.scsi == "lsi53c810":
            self.notes.add(
                "The SCSI controller LSI 53C810 becomes an LSI 53C895A: the guest needs its driver."
            )
        controller = SubElement(devices, "controller", {"type": "scsi", "index": "0", "model": model})
        on_scsi = [disk for disk in self.hardware.disks if placed[disk.id][1] is Bus.SCSI]
        if model == "virtio-scsi" and any(disk.iothread for disk in on_scsi):
            self.iothreads += 1
            SubElement(controller, "driver", {"iothread": str(self.iothreads)})

    def _nic(self, devices: Element, nic: Nic) -> None:
        plug = plug_into_libvirt(nic, self.host.wanted, self.host.networks, self.host.bridges, self.notes)
        card = SubElement(devices, "interface", {"type": plug.kind})
        if words.MAC.fullmatch(nic.mac):
            SubElement(card, "mac", {"address": nic.mac.lower()})
        if plug.kind != "user":
            SubElement(card, "source", {plug.kind: plug.name})
        model = nic.model if nic.model in words.NIC_MODELS else "e1000"
        if model != nic.model:
            self.notes.add(f"The network card {nic.id} ({nic.model}) becomes an e1000.")
        SubElement(card, "model", {"type": model})
        if not plug.connected:
            SubElement(card, "link", {"state": "down"})
        if 576 <= nic.mtu <= 65520:
            SubElement(card, "mtu", {"size": str(nic.mtu)})
        _boot(card, nic.boot)

    def _other_devices(self, devices: Element) -> None:
        hardware = self.hardware
        if hardware.agent:
            channel = SubElement(devices, "channel", {"type": "unix"})
            SubElement(channel, "target", {"type": "virtio", "name": AGENT_CHANNEL})
        if hardware.tablet:
            SubElement(devices, "input", {"type": "tablet", "bus": "usb"})
        for number in range(min(hardware.serials, 4)):
            port = SubElement(devices, "serial", {"type": "pty"})
            SubElement(port, "target", {"port": str(number)})
        if hardware.vga != "none":
            SubElement(devices, "graphics", {"type": "vnc"})
            if hardware.vga == "qxl":
                SubElement(devices, "graphics", {"type": "spice"})
            video = SubElement(devices, "video")
            SubElement(video, "model", {"type": words.VGA_XML.get(hardware.vga, "vga")})
        if hardware.sound in words.SOUND_XML:
            SubElement(devices, "sound", {"model": words.SOUND_XML[hardware.sound]})
        model, _, action = hardware.watchdog.partition(" ")
        if model in words.WATCHDOG_MODELS:
            action = action if action in words.WATCHDOG_ACTIONS else "reset"
            SubElement(devices, "watchdog", {"model": model, "action": action})
        SubElement(devices, "memballoon", {"model": "virtio"})
        if hardware.rng:
            rng = SubElement(devices, "rng", {"model": "virtio"})
            SubElement(rng, "backend", {"model": "random"}).text = "/dev/urandom"
        if hardware.tpm:
            old = hardware.tpm == "1.2"
            tpm = SubElement(devices, "tpm", {"model": "tpm-tis" if old else "tpm-crb"})
            SubElement(tpm, "backend", {"type": "emulator", "version": "1.2" if old else "2.0"})


def xml_text(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold."""
    return _NOT_XML.sub("", text)


def _number_boot_order(devices: Element) -> None:
    """libvirt wants each place once."""
    boots = sorted(devices.iterfind("*/boot"), key=lambda boot: int(boot.get("order", "0")))
    for place, boot in enumerate(boots, 1):
        boot.set("order", str(place))


def _boot(element: Element, place: int) -> None:
    if place > 0:
        SubElement(element, "boot", {"order": str(place)})
