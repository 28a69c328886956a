"""What Proxmox and libvirt call the same things. Sources: qm.conf(5), libvirt's formatdomain.html."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vmconsole.hypervisors.portable.hardware import Bus, System

OSTYPES: Final[Mapping[str, System]] = {
    "other": System.OTHER,
    "l24": System.LINUX_OLD,
    "l26": System.LINUX,
    "solaris": System.SOLARIS,
    "w2k": System.WINDOWS_2000,
    "wxp": System.WINDOWS_XP,
    "w2k3": System.WINDOWS_2003,
    "wvista": System.WINDOWS_VISTA,
    "w2k8": System.WINDOWS_2008,
    "win7": System.WINDOWS_7,
    "win8": System.WINDOWS_8,
    "win10": System.WINDOWS_10,
    "win11": System.WINDOWS_11,
}
OSINFO: Final[Mapping[System, str]] = {
    System.LINUX_OLD: "http://libosinfo.org/linux/2016",
    System.LINUX: "http://libosinfo.org/linux/2022",
    System.SOLARIS: "http://oracle.com/solaris/11",
    System.WINDOWS_2000: "http://microsoft.com/win/2k",
    System.WINDOWS_XP: "http://microsoft.com/win/xp",
    System.WINDOWS_2003: "http://microsoft.com/win/2k3",
    System.WINDOWS_VISTA: "http://microsoft.com/win/vista",
    System.WINDOWS_2008: "http://microsoft.com/win/2k8",
    System.WINDOWS_7: "http://microsoft.com/win/7",
    System.WINDOWS_8: "http://microsoft.com/win/8",
    System.WINDOWS_10: "http://microsoft.com/win/10",
    System.WINDOWS_11: "http://microsoft.com/win/11",
}
_LATER_WINDOWS: Final[Mapping[str, System]] = {
    "2k3r2": System.WINDOWS_2003, "2k8r2": System.WINDOWS_7, "8.1": System.WINDOWS_8,
    "2k12": System.WINDOWS_8, "2k12r2": System.WINDOWS_8, "2k16": System.WINDOWS_10,
    "2k19": System.WINDOWS_10, "2k22": System.WINDOWS_11, "2k25": System.WINDOWS_11,
}  # fmt: skip
_LINUX = re.compile(
    r"https?://(?:[a-z]+\.)?(?:libosinfo\.org/linux|debian\.org|ubuntu\.com|redhat\.com|centos\.org|"
    r"fedoraproject\.org|opensuse\.org|suse\.com|archlinux\.org|almalinux\.org|rockylinux\.org|"
    r"alpinelinux\.org|gentoo\.org|nixos\.org|oracle\.com/ol|amazon\.com|linuxmint\.com|voidlinux\.org|"
    r"mageia\.org|guix\.gnu\.org|slackware\.com|altlinux\.org|elementary\.io|endlessos\.com)"
)

NIC_MODELS: Final = frozenset({
    "virtio", "e1000", "e1000e", "e1000-82540em", "e1000-82544gc", "e1000-82545em", "i82551", "i82557b",
    "i82559er", "ne2k_isa", "ne2k_pci", "pcnet", "rtl8139", "vmxnet3",
})  # fmt: skip
CACHES: Final = frozenset({"none", "writethrough", "writeback", "unsafe", "directsync"})
IOS: Final = frozenset({"native", "threads", "io_uring"})

SCSI_CONF: Final[Mapping[str, str]] = {
    "virtio-scsi": "virtio-scsi-pci", "lsi": "lsi", "lsi53c810": "lsi53c810", "megasas": "megasas",
    "pvscsi": "pvscsi",
}  # fmt: skip
SCSI_XML: Final[Mapping[str, str]] = {
    "virtio-scsi": "virtio-scsi", "lsi": "lsilogic", "megasas": "lsisas1078", "pvscsi": "vmpvscsi",
}  # fmt: skip
VGA_XML: Final[Mapping[str, str]] = {
    "std": "vga", "virtio": "virtio", "qxl": "qxl", "cirrus": "cirrus", "vmware": "vmvga", "none": "none",
}  # fmt: skip
SOUND_CONF: Final[Mapping[str, str]] = {"hda": "intel-hda", "ich9": "ich9-intel-hda", "ac97": "AC97"}
SOUND_XML: Final[Mapping[str, str]] = {"hda": "ich6", "ich9": "ich9", "ac97": "ac97"}
WATCHDOG_ACTIONS: Final = frozenset({"reset", "shutdown", "poweroff", "pause", "none"})
WATCHDOG_MODELS: Final = frozenset({"i6300esb", "ib700"})
SMBIOS: Final = ("manufacturer", "product", "version", "serial", "sku", "family")

VARIABLES: Final[Mapping[int, str]] = {540672: "4m", 131072: "2m"}
"""Size in bytes of a UEFI variable store → Proxmox's efitype."""
CONF_LIMITS: Final[Mapping[Bus, int]] = {Bus.VIRTIO: 16, Bus.SCSI: 31, Bus.SATA: 6, Bus.IDE: 4}

CPU_MODELS: Final = frozenset({
    "486", "athlon", "phenom", "pentium", "pentium2", "pentium3", "coreduo", "core2duo", "kvm32",
    "kvm64", "qemu32", "qemu64", "Broadwell", "Broadwell-IBRS", "Broadwell-noTSX",
    "Broadwell-noTSX-IBRS", "Cascadelake-Server", "Cascadelake-Server-noTSX", "Conroe", "Cooperlake",
    "EPYC", "EPYC-Genoa", "EPYC-IBPB", "EPYC-Milan", "EPYC-Rome", "GraniteRapids", "Haswell",
    "Haswell-IBRS", "Haswell-noTSX", "Haswell-noTSX-IBRS", "Icelake-Client", "Icelake-Client-noTSX",
    "Icelake-Server", "Icelake-Server-noTSX", "IvyBridge", "IvyBridge-IBRS", "KnightsMill", "Nehalem",
    "Nehalem-IBRS", "Opteron_G1", "Opteron_G2", "Opteron_G3", "Opteron_G4", "Opteron_G5", "Penryn",
    "SandyBridge", "SandyBridge-IBRS", "SapphireRapids", "Skylake-Client", "Skylake-Client-IBRS",
    "Skylake-Client-noTSX-IBRS", "Skylake-Server", "Skylake-Server-IBRS", "Skylake-Server-noTSX-IBRS",
    "Westmere", "Westmere-IBRS",
})  # fmt: skip
"""QEMU's models that both know."""
CPU_FLAG: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")

MACHINE: Final = re.compile(
    r"(pc-q35|pc-i440fx|pc)-([0-9]{1,3}(?:\.[0-9]{1,3}){1,2})(?:\+pve[0-9]+)?(?:\.pxe)?"
)
VERSION: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){1,2}")
NAME: Final = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
"""What Proxmox calls a dns-name."""
NETWORK: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
"""Names of bridges and networks that can be printed anywhere."""
MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}")
SERIAL: Final = re.compile(r"[A-Za-z0-9_.+-]{1,20}")
TAG: Final = re.compile(r"[a-z0-9_][a-z0-9_+.-]{0,63}")

MAX_CPUS: Final = 4096
MAX_MEMORY: Final = 1 << 50
MIB: Final = 1 << 20


def system_of(osinfo: str) -> System | None:
    """What an id of libosinfo, such as http://debian.org/debian/12, means; None when it is not known."""
    for system, known in OSINFO.items():
        if osinfo == known:
            return system
    prefix = "http://microsoft.com/win/"
    if osinfo.startswith(prefix):
        return _LATER_WINDOWS.get(osinfo.removeprefix(prefix), System.WINDOWS_10)
    if "/solaris/" in osinfo or "illumos" in osinfo:
        return System.SOLARIS
    return System.LINUX if _LINUX.match(osinfo) else None


def machine_of(text: str) -> tuple[str, str, bool]:
    """(q35 or pc, version or empty, whether it was understood) of a machine type."""
    if text in ("q35", "pc"):
        return text, "", True
    match = MACHINE.fullmatch(text)
    if match:
        return ("q35" if match[1] == "pc-q35" else "pc"), match[2], True
    # Distributions name theirs after themselves: pc-q35-jammy, pc-i440fx-rhel7.6.0.
    return ("q35" if "q35" in text else "pc"), "", False


def dns_name(text: str) -> str:
    """A name that Proxmox takes, as close to the text as can be."""
    if len(text) <= 253 and NAME.fullmatch(text):
        return text
    labels = [re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")[:63].strip("-") for label in text.split(".")]
    return ".".join(label for label in labels if label)[:200].strip(".-") or "guest"
