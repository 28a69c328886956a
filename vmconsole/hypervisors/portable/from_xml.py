"""Reading a libvirt domain into neutral words. Shapes: https://libvirt.org/formatdomain.html."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from vmconsole.errors import RestoreFailed
from vmconsole.hypervisors.libvirt.devicexml import attribute
from vmconsole.hypervisors.libvirt.domainxml import parse_archived
from vmconsole.hypervisors.libvirt.xml import AGENT_CHANNEL, tags_of
from vmconsole.hypervisors.portable import words
from vmconsole.hypervisors.portable.domain_devices import Reader
from vmconsole.hypervisors.portable.hardware import Clock, Cpu, Firmware, Hardware, System
from vmconsole.hypervisors.portable.notes import Notes

_UNITS: Mapping[str, int] = {
    "b": 1, "bytes": 1, "KB": 10**3, "k": 1 << 10, "KiB": 1 << 10, "MB": 10**6, "M": 1 << 20, "MiB": 1 << 20,
    "GB": 10**9, "G": 1 << 30, "GiB": 1 << 30, "TB": 10**12, "T": 1 << 40, "TiB": 1 << 40,
}  # fmt: skip
_SILENT = frozenset({
    "name", "uuid", "genid", "title", "description", "metadata", "memory", "currentMemory", "maxMemory", "vcpu",
    "vcpus", "iothreads", "iothreadids", "defaultiothread", "features", "clock", "on_poweroff", "on_reboot",
    "on_crash", "on_lockfailure", "pm", "perf", "os", "devices", "cpu", "sysinfo", "resource", "seclabel",
    "bootloader",
})  # fmt: skip


def from_domain_xml(document: bytes) -> tuple[Hardware, tuple[str, ...]]:
    """The guest, and what has no place in neutral words.

    Raises RestoreFailed for a document that is no domain, or a guest that is no PC.
    """
    return _Reading(parse_archived(document)).read()


@dataclass
class _Reading:
    domain: Element
    notes: Notes = field(default_factory=Notes)

    def read(self) -> tuple[Hardware, tuple[str, ...]]:
        domain = self.domain
        name = domain.findtext("name", "").strip()
        self._check_kind(name)
        kind = domain.find("os/type")
        machine, version, known = words.machine_of(attribute(kind, "machine") or "pc")
        if not known:
            self.notes.add(
                f"The machine type {attribute(kind, 'machine')} is the old host's own: the newest {machine} is used."
            )
        devices = Reader(domain, self.notes)
        firmware, secure = self._firmware()
        memory = self._memory("memory") or 512 * words.MIB
        balloon = self._memory("currentMemory")
        hardware = Hardware(
            name=name,
            memory=memory,
            cpu=self._cpu(),
            balloon=balloon if balloon < memory else 0,
            firmware=firmware,
            secure_boot=secure,
            machine=machine,
            version=version,
            system=self._system(),
            clock=self._clock(),
            disks=devices.disks(),
            drives=devices.drives(),
            nics=devices.nics(),
            scsi=devices.scsi(),
            agent=any(
                attribute(channel.find("target"), "name") == AGENT_CHANNEL
                for channel in domain.iterfind("devices/channel")
            ),
            tablet=any(item.get("type") == "tablet" for item in domain.iterfind("devices/input")),
            rng=domain.find("devices/rng") is not None,
            serials=devices.serials(),
            vga=devices.vga(),
            tpm=devices.tpm(),
            sound=devices.sound(),
            watchdog=devices.watchdog(),
            smbios=self._smbios(),
            genid=domain.find("genid") is not None,
            kvm=domain.get("type", "kvm") == "kvm",
            description=self._description(),
            tags=tags_of(domain),
        )
        devices.say_rest()
        self._rest()
        return hardware, self.notes.all

    def _check_kind(self, name: str) -> None:
        kind = self.domain.find("os/type")
        arch = attribute(kind, "arch") or "x86_64"
        virtual = self.domain.get("type", "kvm")
        if arch not in ("x86_64", "i686") or virtual not in ("kvm", "qemu"):
            raise RestoreFailed(
                f"{name or 'The guest'} is a {virtual[:20]} guest of architecture {arch[:20]}.",
                hint="Only x86_64 guests can be restored to another kind of host; its disks with --to FOLDER.",
            )

    def _memory(self, tag: str) -> int:
        element = self.domain.find(tag)
        text = "" if element is None else (element.text or "").strip()
        if not re.fullmatch(r"\d{1,18}", text):
            return 0
        unit = _UNITS.get(attribute(element, "unit") or "KiB", 1 << 10)
        return min(int(text) * unit, words.MAX_MEMORY)

    def _cpu(self) -> Cpu:
        element = self.domain.find("vcpu")
        most = _count("1" if element is None else (element.text or ""))
        cpus = min(_count(attribute(element, "current") or str(most)), most)
        topology = self.domain.find("cpu/topology")
        sockets, cores, threads = most, 1, 1
        if topology is not None:
            parts = [_count(topology.get(name, "1")) for name in ("sockets", "dies", "clusters", "cores")]
            given = _count(topology.get("threads", "1"))
            if parts[0] * parts[1] * parts[2] * parts[3] * given == most:
                sockets, cores, threads = parts[0], parts[1] * parts[2] * parts[3], given
        cpu = self.domain.find("cpu")
        flags = {
            item.get("name", ""): item.get("policy", "require") not in ("disable", "forbid")
            for item in (cpu.findall("feature") if cpu is not None else ())
        }
        good = {name: on for name, on in flags.items() if words.CPU_FLAG.fullmatch(name)}
        return Cpu(cpus, sockets, cores, threads, self._model(cpu), tuple(good.items()))

    def _model(self, cpu: Element | None) -> str:
        mode = "" if cpu is None else cpu.get("mode", "custom")
        model = "" if cpu is None else cpu.findtext("model", "").strip()
        if mode in ("host-passthrough", "maximum"):
            return "host"
        if mode == "custom" and model:
            if model in words.CPU_MODELS:
                return model
            self.notes.add(f"The CPU model {model} is not known elsewhere: the guest gets the host's own.")
        return ""

    def _firmware(self) -> tuple[Firmware, bool]:
        """(firmware, secure boot)"""
        system = self.domain.find("os")
        loader = None if system is None else system.find("loader")
        path = "" if loader is None else (loader.text or "").strip()
        uefi = (
            attribute(system, "firmware") == "efi"
            or attribute(loader, "type") == "pflash"
            or "OVMF" in path
            or self.domain.find("os/nvram") is not None
        )
        asked = any(
            item.get("name") == "secure-boot" and item.get("enabled") == "yes"
            for item in self.domain.iterfind("os/firmware/feature")
        )
        if not uefi:
            return Firmware.BIOS, False
        return Firmware.UEFI, asked or attribute(loader, "secure") == "yes"

    def _system(self) -> System:
        for element in self.domain.iterfind("metadata//*"):
            if str(element.tag).endswith("}os") and "libosinfo" in str(element.tag):
                found = words.system_of(element.get("id", ""))
                if found:
                    return found
        windows = self.domain.find("features/hyperv") is not None
        return System.WINDOWS_10 if windows else System.OTHER

    def _clock(self) -> Clock:
        clock = self.domain.find("clock")
        offset = attribute(clock, "offset")
        if offset == "timezone":
            self.notes.add(
                f"Its clock ran in the time zone {attribute(clock, 'timezone')}; now in the host's local time."
            )
        local = offset in ("localtime", "timezone") or attribute(clock, "basis") == "localtime"
        return Clock.LOCAL if local else Clock.UTC

    def _smbios(self) -> tuple[tuple[str, str], ...]:
        entries = {
            entry.get("name", ""): (entry.text or "").strip()
            for entry in self.domain.iterfind("sysinfo/system/entry")
        }
        return tuple((key, entries[key]) for key in words.SMBIOS if entries.get(key))

    def _description(self) -> str:
        parts = (self.domain.findtext("title", "").strip(), self.domain.findtext("description", "").strip())
        return "\n".join(part for part in parts if part)

    def _rest(self) -> None:
        for part in self.domain:
            tag = str(part.tag)
            if tag not in _SILENT:
                self.notes.add(f"<{tag.rpartition('}')[2]}> of its definition is not carried over.")
        if self.domain.find("cpu/numa") is not None:
            self.notes.add("Its NUMA layout is not carried over.")
        if self.domain.find("maxMemory") is not None:
            self.notes.add("Memory that could be plugged in while it runs (maxMemory) is not carried over.")
        for name in ("kernel", "initrd", "dtb"):
            path = self.domain.findtext(f"os/{name}", "").strip()
            if path:
                self.notes.add(
                    f"It was booted with a {name} of its old host ({path}); now it boots from its disks."
                )


def _count(text: str) -> int:
    """A number of processors, at least 1."""
    return min(max(int(text), 1), words.MAX_CPUS) if re.fullmatch(r"\s*\d{1,9}\s*", text) else 1
