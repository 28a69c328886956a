"""libvirt domains to neutral words and back."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from portable_samples import CLOUD_CONF, HOSTILE, WINDOWS_CONF, WINDOWS_XML, any_hardware, good_hardware

from vmconsole.errors import RestoreFailed
from vmconsole.hypervisors.libvirt.domainxml import parse_archived
from vmconsole.hypervisors.portable.from_conf import from_qemu_conf
from vmconsole.hypervisors.portable.from_xml import from_domain_xml
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
from vmconsole.hypervisors.portable.names import letters, position
from vmconsole.hypervisors.portable.to_xml import Host, to_domain_xml

GIB = 1 << 30
HOST = Host(networks=frozenset({"default", "lan"}), bridges=frozenset({"vmbr0", "vmbr1", "br20"}))


def test_a_windows_server() -> None:
    hardware, notes = from_domain_xml(WINDOWS_XML)
    text = "\n".join(notes)

    assert hardware.name == "files server"
    assert (hardware.memory, hardware.balloon) == (16 * GIB, 8 * GIB)
    assert hardware.cpu == Cpu(4, 2, 2, 2, "Skylake-Server", (("aes", True), ("pcid", False)))
    assert (hardware.firmware, hardware.secure_boot) == (Firmware.UEFI, True)
    assert (hardware.machine, hardware.version) == ("q35", "7.2")
    assert hardware.system is System.WINDOWS_11
    assert hardware.clock is Clock.LOCAL
    assert hardware.disks == (
        Disk("vda", Bus.VIRTIO, cache="writeback", discard=True, iothread=True, serial="C-DRIVE", boot=1),
        Disk("sdb", Bus.SCSI, cache="none", io="native", ssd=True),
    )
    assert hardware.drives == (Drive("sdc", Bus.SATA, 2),)
    assert hardware.nics == (
        Nic("1", "virtio", "lan", "52:54:00:11:22:33", boot=3),
        Nic("2", "e1000e", "ovs0", "52:54:00:11:22:34", 20, connected=False),
    )
    assert (hardware.scsi, hardware.vga, hardware.tpm, hardware.sound) == (
        "virtio-scsi",
        "qxl",
        "2.0",
        "ich9",
    )
    assert hardware.watchdog == "i6300esb reset"
    assert hardware.smbios == (("manufacturer", "Dell Inc."),)
    assert hardware.description == "File server\nsecond <floor>"
    assert hardware.tags == ("prod", "windows")
    assert hardware.agent
    assert hardware.genid
    for said in ("hostdev", "commandline", "cputune", "floppy fda", "I/O limits", "win.iso"):
        assert said in text, said
    assert all(note.endswith(".") for note in notes)


@pytest.mark.parametrize(
    ("inside", "check"),
    [
        ("", lambda hw: hw.memory == GIB // 2 and hw.cpu.cpus == 1),
        ("<memory unit='MiB'>100</memory>", lambda hw: hw.memory == 100 << 20),
        ("<memory>1e9</memory><vcpu>-4</vcpu>", lambda hw: hw.memory == GIB // 2),
        ("<vcpu>3</vcpu><cpu><topology sockets='2' cores='2'/></cpu>", lambda hw: hw.cpu.sockets == 3),
        ("<cpu mode='host-passthrough'/>", lambda hw: hw.cpu.model == "host"),
        ("<cpu mode='host-model'/>", lambda hw: hw.cpu.model == ""),
        ("<cpu><model>HAL-9000</model></cpu>", lambda hw: hw.cpu.model == ""),
        ("<os><type machine='pc-q35-jammy'>hvm</type></os>", lambda hw: (hw.machine, hw.version) == ("q35", "")),
        ("<os><loader>/usr/share/OVMF/OVMF.fd</loader></os>", lambda hw: hw.firmware is Firmware.UEFI),
        ("<clock offset='variable' basis='localtime'/>", lambda hw: hw.clock is Clock.LOCAL),
        ("<features><hyperv/></features>", lambda hw: hw.system is System.WINDOWS_10),
        (
            "<os><boot dev='hd'/><boot dev='network'/></os><devices><disk><target dev='vda' bus='virtio'/></disk>"
            "<disk><target dev='vdb' bus='virtio'/></disk><interface type='user'/></devices>",
            lambda hw: [d.boot for d in hw.disks] == [1, 0] and hw.nics[0].boot == 2 and hw.nics[0].network == "",
        ),
        (
            "<devices><disk><target dev='sda' bus='usb'/></disk><disk><target dev='sda' bus='sata'/></disk></devices>",
            lambda hw: [(d.id, d.bus) for d in hw.disks] == [("sda", Bus.SATA)],
        ),
        (
            "<devices><disk device='lun'><target dev='sda' bus='scsi'/></disk>"
            "<interface type='bridge'/></devices>",
            lambda hw: hw.disks == () and hw.nics[0].network == "?",
        ),
        (
            "<devices><controller type='scsi' model='virtio-scsi'><driver iothread='1'/></controller>"
            "<disk><target dev='sda' bus='scsi'/></disk></devices>",
            lambda hw: hw.disks[0].iothread,
        ),
        (
            "<devices><disk><target dev='sda' bus='scsi'/></disk></devices>",
            lambda hw: hw.scsi == "lsi",
        ),
        ("<devices><tpm><backend type='passthrough'/></tpm></devices>", lambda hw: hw.tpm == ""),
    ],
)  # fmt: skip
def test_single_settings(inside: str, check) -> None:
    assert check(from_domain_xml(f"<domain type='kvm'><name>x</name>{inside}</domain>".encode())[0])


@pytest.mark.parametrize(
    "document",
    [
        b"<domain type='lxc'/>",
        b"<domain type='kvm'><os><type arch='aarch64'>hvm</type></os></domain>",
        b"<network/>",
        b"not xml",
        b"<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><domain>&e;</domain>",
    ],
)
def test_what_is_no_pc_is_refused(document: bytes) -> None:
    with pytest.raises(RestoreFailed):
        from_domain_xml(document)


def test_a_proxmox_guest_as_a_domain() -> None:
    hardware, _ = from_qemu_conf(WINDOWS_CONF)
    host = replace(HOST, wanted={"vmbr0.20": "br20", "vmbr1": "lan"})
    draft, notes = to_domain_xml(hardware, host, variables=True)
    domain = parse_archived(draft.document)
    assert draft.disks == {"scsi0": "sda", "scsi2": "sdc"}
    assert domain.find("os").get("firmware") == "efi"
    assert domain.find("os/type").get("machine") == "pc-q35-8.1"
    assert domain.find("os/nvram") is not None
    assert domain.find("features/smm") is not None
    assert domain.find("features/hyperv") is not None
    cards = domain.findall("devices/interface")
    assert [card.find("source").attrib for card in cards] == [{"bridge": "br20"}, {"network": "lan"}]
    assert cards[1].find("link").get("state") == "down"
    assert domain.find("devices/controller").get("model") == "virtio-scsi"
    assert domain.find("devices/controller/driver").get("iothread") == "1"
    assert domain.findtext("iothreads") == "1"
    cdrom = domain.find("devices/disk[@device='cdrom']/target")
    assert cdrom.attrib == {"dev": "sdb", "bus": "sata"} or cdrom.get("bus") == "sata"
    assert domain.find("devices/tpm") is not None
    assert domain.find("vcpu").text == "8"
    assert not any("link down" in note for note in notes)


def test_cards_whose_network_is_not_known_are_unplugged() -> None:
    hardware, _ = from_qemu_conf(WINDOWS_CONF)
    draft, notes = to_domain_xml(hardware, replace(HOST, bridges=frozenset({"vmbr0"})))
    cards = parse_archived(draft.document).findall("devices/interface")
    # A VLAN is never dropped in silence: the card must not land in the untagged network.
    assert [card.find("source").get("network") for card in cards] == ["default", "default"]
    assert [card.find("link").get("state") for card in cards] == ["down", "down"]
    assert sum("link down" in note for note in notes) == 2
    assert any('"vmbr0.20"' in note for note in notes)


def test_a_headless_cloud_image() -> None:
    draft, _ = to_domain_xml(from_qemu_conf(CLOUD_CONF)[0], HOST)
    domain = parse_archived(draft.document)
    assert draft.disks == {"virtio0": "vda", "virtio1": "vdb"}
    assert domain.find("devices/video") is None
    assert domain.find("devices/serial") is not None
    assert domain.find("devices/disk/target[@dev='vdb']/../driver").get("iothread") == "1"


def test_old_names_and_numbers() -> None:
    for number in (0, 1, 25, 26, 27, 51, 52, 701):
        assert position(f"sd{letters(number)}") == number
        assert position(f"scsi{number}") == (number if number < 1000 else 0)
    assert position("efidisk") == 0
    assert position("../../x") == 0
    assert (letters(0), letters(25), letters(26)) == ("a", "z", "aa")


def test_sata_and_scsi_share_their_names() -> None:
    disks = (Disk("scsi0", Bus.SCSI), Disk("sata0", Bus.SATA), Disk("scsi1", Bus.SCSI), Disk("ide0", Bus.IDE))
    q35, _ = to_domain_xml(Hardware("x", GIB, machine="q35", disks=disks), HOST)
    assert q35.disks == {"scsi0": "sda", "sata0": "sdc", "scsi1": "sdb", "ide0": "sdd"}
    pc, _ = to_domain_xml(Hardware("x", GIB, disks=disks), HOST)
    assert pc.disks["ide0"] == "hda"


@settings(deadline=None, max_examples=150)
@given(good_hardware(proxmox=False))
def test_what_is_printed_reads_back_the_same(hardware: Hardware) -> None:
    draft, notes = to_domain_xml(hardware, HOST, variables=True)
    again, _ = from_domain_xml(draft.document)
    # A domain does not say how large its disks are, and SATA and SCSI share their names.
    disks = tuple(replace(disk, size=0) for disk in hardware.disks)
    assert again == replace(hardware, disks=disks)
    assert draft.disks == {disk.id: disk.id for disk in hardware.disks}
    assert not notes


WORDS = """
    domain name genid description metadata os type firmware feature nvram smbios features acpi apic smm hyperv
    relaxed vapic spinlocks clock timer memory vcpu cpu model topology iothreads devices disk driver target
    readonly serial boot controller interface mac source link mtu channel input graphics video sound watchdog
    memballoon rng backend tpm sysinfo system entry
    {https://vmconsole.example/1}tags {http://libosinfo.org/xmlns/libvirt/domain/1.0}libosinfo
    {http://libosinfo.org/xmlns/libvirt/domain/1.0}os
    """
TAGS = frozenset(WORDS.split())


@settings(deadline=None, max_examples=300)
@given(any_hardware())
def test_nothing_becomes_an_element_of_its_own(hardware: Hardware) -> None:
    draft, notes = to_domain_xml(hardware, replace(HOST, wanted={"a": "b"}), variables=True)
    domain = parse_archived(draft.document)
    assert {element.tag for element in domain.iter()} <= TAGS
    assert len(domain.findall("devices/disk[@device='disk']")) == len(hardware.disks)
    assert len(domain.findall("devices/interface")) == len(hardware.nics)
    assert len(set(draft.disks.values())) == len(hardware.disks)
    for source in domain.iterfind("devices/interface/source"):
        assert set(source.attrib.values()) <= {"default", "lan", "vmbr0", "vmbr1", "br20"}
    assert all(note.isprintable() for note in notes)
    from_domain_xml(draft.document)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_domains_are_read_to_the_end(text: str) -> None:
    clean = "".join(c for c in text if c.isprintable())
    domain = ElementTree.fromstring(WINDOWS_XML)
    for element in domain.iter():
        if element.tag in ("os", "type", "domain"):
            continue
        element.text = clean
        for name in list(element.attrib):
            if (element.tag, name) not in (("disk", "device"),):
                element.set(name, clean)
    hardware, notes = from_domain_xml(ElementTree.tostring(domain))
    assert hardware.name == clean.strip()
    assert all(note.isprintable() for note in notes)
    to_domain_xml(hardware, HOST)
