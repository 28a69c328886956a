"""Reading a Proxmox guest's configuration (qm.conf(5)) into neutral words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from vmconsole.errors import RestoreFailed
from vmconsole.hypervisors.portable import words
from vmconsole.hypervisors.portable.hardware import (
    Bus,
    Clock,
    Cpu,
    Disk,
    Drive,
    Firmware,
    Hardware,
    Nic,
    System,
)
from vmconsole.hypervisors.portable.notes import Notes
from vmconsole.hypervisors.proxmox import devices
from vmconsole.hypervisors.proxmox.guestconf import GuestConf, parse, vzdump_conf
from vmconsole.hypervisors.proxmox.properties import boolean, parse_properties, whole
from vmconsole.model.guest import GuestKind

_DISK = re.compile(r"(virtio|scsi|sata|ide)\d+")
_SILENT = frozenset({
    # what belongs to the old host, or says nothing about hardware
    "acpi", "autostart", "bootdisk", "cdrom", "cores", "description", "digest", "efidisk0", "freeze", "hotplug",
    "keephugepages", "keyboard", "kvm", "lock", "meta", "migrate_downtime", "migrate_speed", "parent",
    "protection", "reboot", "runningcpu", "runningmachine", "runningmanufacturer", "shares", "smp",
    "snaptime", "sockets", "startdate", "startup", "tdf", "template", "tpmstate0", "vcpus", "vmstate",
    "vmstatestorage", "name", "memory", "balloon", "cpu", "bios", "machine", "ostype", "localtime", "boot",
    "scsihw", "agent", "tablet", "rng0", "vga", "audio0", "watchdog", "smbios1", "vmgenid", "tags", "arch",
    "numa", "running-nets-host-mtu", "allow-ksm",
})  # fmt: skip
_CLOUDINIT = re.compile(
    r"ci(?:user|password|custom|type|upgrade)|ipconfig\d+|nameserver|searchdomain|sshkeys"
)
_REFUSED: Mapping[str, str] = {
    "args": "QEMU arguments (args) are not carried over: {}.",
    "hookscript": "Its hook script {} stays behind.",
    "onboot": "It was started with its node (onboot): set that again where it is wanted.",
    "hugepages": "Huge pages are not carried over.",
    "affinity": "Its processors were bound to {} of the node; that is not carried over.",
    "cpulimit": "The limit of {} processors' time (cpulimit) is not carried over.",
    "cpuunits": "Its share of processor time (cpuunits {}) is not carried over.",
    "amd-sev": "Memory encryption (AMD SEV) is not carried over.",
    "intel-tdx": "Memory encryption (Intel TDX) is not carried over.",
    "ivshmem": "Memory shared with its node (ivshmem) is not carried over.",
    "spice_enhancements": "SPICE enhancements are not carried over.",
}
_REFUSED_NUMBERED: Mapping[str, str] = {
    "hostpci": "The passed-through PCI device {0} ({1}) is not carried over.",
    "usb": "The USB device {0} ({1}) is not carried over.",
    "virtiofs": "The shared folder {0} ({1}) is not carried over.",
    "parallel": "The parallel port {0} ({1}) is not carried over.",
    "numa": "The NUMA layout {0} is not carried over.",
}


def from_qemu_conf(text: str) -> tuple[Hardware, tuple[str, ...]]:
    """The guest as it is in the first section, and what has no place in neutral words.

    Never fails on a line that is not understood. Raises RestoreFailed for a guest that is no PC.
    """
    printable = text.encode("utf-8", "replace").decode()
    # Without what vzdump adds for qmrestore, and what it leaves out.
    return _Reading(parse(vzdump_conf(printable, ()), GuestKind.VM)).read()


def variables_size(text: str) -> int:
    """Bytes of the UEFI variables that are on its efidisk0; 0 when it boots without."""
    values = parse(vzdump_conf(text, ()), GuestKind.VM).values
    if values.get("bios") != "ovmf" or "efidisk0" not in values:
        return 0
    efitype = parse_properties(values["efidisk0"], "file").get("efitype", "2m")
    return next((size for size, name in words.VARIABLES.items() if name == efitype), 0)


@dataclass
class _Reading:
    conf: GuestConf
    notes: Notes = field(default_factory=Notes)

    def read(self) -> tuple[Hardware, tuple[str, ...]]:
        conf = self.conf
        arch = self._word("arch") or "x86_64"
        if arch != "x86_64":
            raise RestoreFailed(
                f"{whole(conf.name) or 'The guest'} is a machine of architecture {arch[:20]!r}.",
                hint="Only x86_64 guests can be restored to another kind of host; its disks with --to FOLDER.",
            )
        machine, version, viommu = self._machine()
        boot = self._boot_order()
        system = words.OSTYPES.get(self._word("ostype"), System.OTHER)
        disks, drives = self._disks(boot)
        serials = self._serials()
        hardware = Hardware(
            name=conf.name,
            memory=self._memory(),
            cpu=self._cpu(),
            balloon=self._number("balloon", 0, 0, words.MAX_MEMORY // words.MIB) * words.MIB,
            firmware=Firmware.UEFI if self._word("bios") == "ovmf" else Firmware.BIOS,
            secure_boot=self._secure_boot(),
            machine=machine,
            version=version,
            system=system,
            clock=Clock.LOCAL if boolean(self._word("localtime"), default=system.windows) else Clock.UTC,
            disks=disks,
            drives=drives,
            nics=self._nics(boot),
            scsi=self._scsi(),
            agent=conf.agent.enabled,
            tablet=boolean(self._word("tablet"), default=True),
            rng=bool(self._word("rng0")),
            serials=serials,
            vga=self._vga(),
            tpm=self._tpm(),
            sound=self._sound(),
            watchdog=self._watchdog(),
            smbios=self._smbios(),
            genid=self._word("vmgenid") not in ("", "0"),
            kvm=boolean(self._word("kvm"), default=True),
            description=conf.current.description,
            tags=conf.tags,
        )
        if viommu:
            self.notes.add(f"The virtual IOMMU ({viommu}) is not carried over.")
        self._rest()
        return hardware, self.notes.all

    def _word(self, key: str) -> str:
        return whole(self.conf.values.get(key, "")).strip()

    def _number(self, key: str, default: int, least: int, most: int) -> int:
        text = self._word(key)
        if not re.fullmatch(r"\d{1,15}", text):
            return default
        return min(max(int(text), least), most)

    def _memory(self) -> int:
        text = parse_properties(self._word("memory"), "current").get("current", "")
        count = int(text) if re.fullmatch(r"\d{1,15}", text) else 512
        return min(max(count, 16) * words.MIB, words.MAX_MEMORY)

    def _cpu(self) -> Cpu:
        sockets = self._number("sockets", self._number("smp", 1, 1, words.MAX_CPUS), 1, words.MAX_CPUS)
        cores = self._number("cores", 1, 1, words.MAX_CPUS)
        if sockets * cores > words.MAX_CPUS:
            self.notes.add(f"{sockets} sockets of {cores} cores are more than can be: it gets one processor.")
            sockets = cores = 1
        cpus = self._number("vcpus", sockets * cores, 1, sockets * cores)
        options = parse_properties(self._word("cpu"), "cputype")
        model = options.get("cputype", "")
        if model and model != "host" and model not in words.CPU_MODELS:
            self.notes.add(
                f"The CPU model {model} is not known elsewhere: the guest gets the host's usual one."
            )
            model = ""
        flags = []
        for word in filter(None, options.get("flags", "").split(";")):
            name = word[1:] if word[0] in "+-" else word
            if words.CPU_FLAG.fullmatch(name) and not name.startswith(("hv-", "nested-virt")):
                flags.append((name, word[0] != "-"))
            else:
                self.notes.add(f"The CPU flag {word} is not carried over.")
        return Cpu(cpus, sockets, cores, 1, model, tuple(dict(flags).items()))

    def _machine(self) -> tuple[str, str, str]:
        options = parse_properties(self._word("machine"), "type")
        text = options.get("type", "pc")
        machine, version, known = words.machine_of(text)
        if not known:
            self.notes.add(f"The machine type {text} is not known: the newest {machine} is used.")
        return machine, version, options.get("viommu", "")

    def _secure_boot(self) -> bool:
        options = parse_properties(self._word("efidisk0"), "file")
        return boolean(options.get("pre-enrolled-keys", "")) and self._word("bios") == "ovmf"

    def _boot_order(self) -> Mapping[str, int]:
        """Key → place, from 1. Without an order: the old letters, disk, CD-ROM, network."""
        options = parse_properties(self._word("boot"), "legacy")
        if "order" in options:
            keys = [key for key in options["order"].split(";") if key]
        else:
            keys = [key for letter in options.get("legacy", "cdn") for key in self._of_letter(letter)]
        return {key: place for place, key in enumerate(dict.fromkeys(keys), 1)}

    def _of_letter(self, letter: str) -> list[str]:
        drives = [drive for drive in self.conf.drives if _DISK.fullmatch(drive.key)]
        match letter:
            case "c":
                hard = [drive.key for drive in drives if not drive.cdrom]
                named = self._word("bootdisk")
                order = {"ide": 0, "scsi": 1, "virtio": 2, "sata": 3}
                hard.sort(key=lambda key: (key != named, order[key.rstrip("0123456789")]))
                return hard[:1]
            case "d":
                return [drive.key for drive in drives if drive.cdrom and not drive.cloudinit]
            case "n":
                return [net.key for net in self.conf.nets]
            case _:
                return []

    def _disks(self, boot: Mapping[str, int]) -> tuple[tuple[Disk, ...], tuple[Drive, ...]]:
        disks, drives = [], []
        for drive in self.conf.drives:
            match = _DISK.fullmatch(drive.key)
            if match is None:
                continue
            bus = Bus(match[1])
            if drive.cloudinit:
                continue
            if drive.cdrom:
                if drive.volume not in ("none", ""):
                    self.notes.add(f"CD-ROM drive {drive.key} comes without its medium {drive.volume}.")
                drives.append(Drive(drive.key, bus, boot.get(drive.key, 0)))
            else:
                disks.append(self._disk(drive, bus, boot.get(drive.key, 0)))
        return tuple(disks), tuple(drives)

    def _disk(self, drive: devices.Drive, bus: Bus, boot: int) -> Disk:
        options = drive.options
        limits = [name for name in options if re.match(r"(?:iops|mbps|bps)", name)]
        if limits:
            self.notes.add(f"The I/O limits of disk {drive.key} are not carried over ({', '.join(limits)}).")
        for name in ("wwn", "model", "vendor", "product", "queues", "scsiblock", "cyls"):
            if name in options:
                self.notes.add(f"The option {name}={options[name]} of disk {drive.key} is not carried over.")
        cache, io = options.get("cache", ""), options.get("aio", "")
        return Disk(
            id=drive.key,
            bus=bus,
            size=drive.size,
            cache=cache if cache in words.CACHES else "",
            io=io if io in words.IOS else "",
            discard=options.get("discard") == "on",
            detect_zeroes=boolean(options.get("detect_zeroes", "")),
            ssd=boolean(options.get("ssd", "")),
            iothread=devices.has_iothread(drive, self.conf.values),
            readonly=boolean(options.get("ro", "")) and bus in (Bus.VIRTIO, Bus.SCSI),
            serial=unquote(whole(options.get("serial", "")), errors="replace"),
            boot=boot,
        )

    def _nics(self, boot: Mapping[str, int]) -> tuple[Nic, ...]:
        found = []
        for net in self.conf.nets:
            options = net.options
            if boolean(options.get("firewall", "")):
                self.notes.add("Proxmox's firewall rules stay behind: its network cards were behind them.")
            for name, what in (("rate", "rate limit"), ("trunks", "VLAN trunks"), ("queues", "queues")):
                if name in options:
                    self.notes.add(
                        f"The {what} ({options[name]}) of network card {net.key} are not carried over."
                    )
            model = net.model
            if model not in words.NIC_MODELS:
                self.notes.add(f"The network card {net.key} ({model or 'no model'}) becomes an e1000.")
                model = "e1000"
            tag, mtu = options.get("tag", ""), options.get("mtu", "")
            found.append(
                Nic(
                    id=net.key,
                    model=model,
                    network=whole(net.bridge),
                    mac=net.mac.upper() if words.MAC.fullmatch(net.mac) else "",
                    vlan=int(tag) if re.fullmatch(r"\d{1,4}", tag) and 0 < int(tag) < 4095 else 0,
                    connected=not boolean(options.get("link_down", "")),
                    # 1 means that of the bridge, which is what a card gets elsewhere anyway.
                    mtu=int(mtu) if re.fullmatch(r"\d{2,5}", mtu) and 576 <= int(mtu) <= 65520 else 0,
                    boot=boot.get(net.key, 0),
                )
            )
        return tuple(found)

    def _scsi(self) -> str:
        """Without a disk on it, what a new guest would get."""
        if not any(drive.key.startswith("scsi") for drive in self.conf.drives):
            return "virtio-scsi"
        text = self._word("scsihw") or "lsi"
        if text == "virtio-scsi-single":
            return "virtio-scsi"
        return next((neutral for neutral, name in words.SCSI_CONF.items() if name == text), "virtio-scsi")

    def _serials(self) -> int:
        ports = self.conf.numbered("serial")
        for key in ports:
            if self._word(key) != "socket":
                self.notes.add(
                    f"The serial port {key} was {self._word(key)} of its node; it is a console now."
                )
        return min(len(ports), 4)

    def _vga(self) -> str:
        options = parse_properties(self._word("vga"), "type")
        text = options.get("type", "")
        if text.startswith("serial"):
            return "none"
        if text in ("virtio-gl", "qxl2", "qxl3", "qxl4"):
            neutral = "virtio" if text == "virtio-gl" else "qxl"
            self.notes.add(f"The display {text} becomes a plain {neutral}.")
            return neutral
        return text if text in words.VGA_XML else ""

    def _tpm(self) -> str:
        if not self._word("tpmstate0"):
            return ""
        options = parse_properties(self._word("tpmstate0"), "file")
        return "2.0" if options.get("version") == "v2.0" else "1.2"

    def _sound(self) -> str:
        options = parse_properties(self._word("audio0"))
        return next((word for word, name in words.SOUND_CONF.items() if name == options.get("device")), "")

    def _watchdog(self) -> str:
        options = parse_properties(self._word("watchdog"), "model")
        if not options:
            return ""
        model, action = options.get("model", "i6300esb"), options.get("action", "")
        if model not in words.WATCHDOG_MODELS or (action and action not in words.WATCHDOG_ACTIONS):
            self.notes.add(f"The watchdog ({self._word('watchdog')}) is not carried over.")
            return ""
        return f"{model} {action}".strip()

    def _smbios(self) -> tuple[tuple[str, str], ...]:
        values = self.conf.smbios
        return tuple((key, values[key]) for key in words.SMBIOS if values.get(key))

    def _rest(self) -> None:
        """Everything that nobody has asked for is said."""
        if any(_CLOUDINIT.fullmatch(key) for key in self.conf.values) or any(
            drive.cloudinit for drive in self.conf.drives
        ):
            self.notes.add("Its cloud-init settings stay behind; what they did in the guest is on its disks.")
        for key in self.conf.values:
            note = self._refusal(key)
            if note and not (key == "onboot" and not boolean(self._word(key))):
                self.notes.add(note.format(key if "{0}" in note else self._word(key), self._word(key)))
        for line in self.conf.unclear:
            self.notes.add(f"A line of its configuration is not understood: {whole(line)[:100]}")

    def _refusal(self, key: str) -> str:
        """The sentence about a key that has no place; empty when it has one."""
        if key in _REFUSED:
            return _REFUSED[key]
        prefix = key.rstrip("0123456789")
        if key != prefix and prefix in _REFUSED_NUMBERED:
            return _REFUSED_NUMBERED[prefix]
        handled: tuple[Callable[[str], object], ...] = (
            _SILENT.__contains__,
            _DISK.fullmatch,
            _CLOUDINIT.fullmatch,
            re.compile(r"(?:net|serial|unused)\d+").fullmatch,
        )
        return "" if any(check(key) for check in handled) else "The setting {0} ({1}) is not carried over."
