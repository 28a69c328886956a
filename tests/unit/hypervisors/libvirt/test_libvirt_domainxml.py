"""Rewriting archived domains: nothing of the old host survives, nothing of this host is reached."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmconsole.errors import RestoreFailed
from vmconsole.hypervisors.libvirt.devicexml import NewDisk, Offers
from vmconsole.hypervisors.libvirt.domainxml import Identity, family, parse_archived, rewrite, wants

# ruff: noqa: E501, SIM905 - XML and lists of words read better as they are

UUID = "11111111-2222-4333-8444-555555555555"
OFFERS = Offers(
    virtual="kvm",
    machine="pc-q35-7.2",
    emulator="/usr/bin/qemu-system-x86_64",
    networks={"default": True, "lan": True},
    devices=frozenset({"br0"}),
    files=frozenset({"/usr/share/OVMF/OVMF_CODE.fd"}),
    media=frozenset({"/iso/debian.iso"}),
    filters=frozenset({"clean-traffic"}),
    models=frozenset({"Skylake-Server"}),
    tpm=True,
    processors=8,
)
DISKS = {"vda": NewDisk("/new/web-vda.qcow2", "qcow2")}

ARCHIVED = """
<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name><uuid>99999999-2222-4333-8444-555555555555</uuid>
  <genid>aaaaaaaa-2222-4333-8444-555555555555</genid>
  <title>The web server #prod</title>
  <metadata><app:x xmlns:app='urn:app'>kept</app:x></metadata>
  <memory unit='KiB'>1048576</memory><currentMemory unit='KiB'>524288</currentMemory>
  <vcpu placement='static' cpuset='0-3'>2</vcpu>
  <cputune><vcpupin vcpu='0' cpuset='31'/></cputune>
  <resource><partition>/machine/odd</partition></resource>
  <sysinfo type='smbios'><system><entry name='uuid'>99999999-2222-4333-8444-555555555555</entry></system></sysinfo>
  <os><type arch='x86_64' machine='pc-q35-9.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
    <nvram template='/x'>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram><boot dev='hd'/></os>
  <features><acpi/></features>
  <cpu mode='custom'><model>Skylake-Server</model></cpu>
  <devices>
    <emulator>/usr/bin/kvm</emulator>
    <disk type='file' device='disk' snapshot='no'><driver name='qemu' type='raw' cache='none' iothread='1'/>
      <source file='/old/web.qcow2' index='1'><seclabel model='dac' relabel='no'/></source>
      <backingStore type='file'><source file='/old/base'/></backingStore>
      <target dev='vda' bus='virtio'/><serial>s-1</serial><alias name='virtio-disk0'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/></disk>
    <disk type='file' device='cdrom'><source file='/iso/debian.iso'/><target dev='sda' bus='sata'/><readonly/></disk>
    <disk type='file' device='cdrom'><source file='/etc/shadow'/><target dev='sdb' bus='sata'/></disk>
    <disk type='block' device='lun'><source dev='/dev/sdz'/><target dev='sdc' bus='scsi'/></disk>
    <interface type='network'><mac address='52:54:00:11:22:33'/><source network='lan' portid='x'/>
      <target dev='vnet3'/><model type='virtio'/><alias name='net0'/></interface>
    <interface type='bridge'><mac address='52:54:00:11:22:34'/><source bridge='br9'/><model type='virtio'/></interface>
    <interface type='ethernet'><script path='/tmp/evil'/></interface>
    <serial type='file'><source path='/etc/cron.d/x'/><target port='0'/><log file='/var/log/x' append='on'/></serial>
    <channel type='unix'><source mode='bind' path='/var/lib/libvirt/old.sock'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
    <graphics type='vnc' port='5901' autoport='no' listen='0.0.0.0'><listen type='address' address='0.0.0.0'/></graphics>
    <filesystem type='mount'><source dir='/'/><target dir='root'/></filesystem>
    <hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>
    <rng model='virtio'><backend model='random'>/dev/sda</backend></rng>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <vsock model='virtio'><cid auto='no' address='3'/></vsock>
    <memballoon model='virtio'><stats period='5'/><alias name='balloon0'/></memballoon>
  </devices>
  <seclabel type='dynamic' model='dac'/>
  <qemu:commandline><qemu:arg value='-netdev'/></qemu:commandline>
</domain>
"""


def made(
    document: str = ARCHIVED, offers: Offers = OFFERS, nvram: str = "/new/web_VARS.fd"
) -> tuple[ElementTree.Element, str]:
    """(new domain, all notes in one text)."""
    result = rewrite(parse_archived(document.encode()), Identity("copy", UUID, nvram), DISKS, offers)
    return ElementTree.fromstring(result.document), "\n".join(result.notes)


def test_the_identity_is_new_everywhere() -> None:
    new, notes = made()
    assert (new.findtext("name"), new.findtext("uuid")) == ("copy", UUID)
    assert new.get("id") is None
    assert new.findtext("sysinfo/system/entry") == UUID
    assert new.find("genid") is not None
    assert not new.findtext("genid")
    assert new.find("devices/interface/mac") is None
    assert "new MAC addresses" in notes


def test_what_the_guest_sees_of_its_disk_stays_and_what_the_host_sees_is_new() -> None:
    new, _ = made()
    disk = new.find("devices/disk[@device='disk']")
    assert disk is not None
    assert ElementTree.tostring(disk, encoding="unicode").count("/old/") == 0
    source, driver, address = disk.find("source"), disk.find("driver"), disk.find("address")
    assert source is not None
    assert source.attrib == {"file": "/new/web-vda.qcow2"}
    assert driver is not None
    assert driver.attrib == {"name": "qemu", "type": "qcow2", "cache": "none", "iothread": "1"}
    assert address is not None
    assert disk.findtext("serial") == "s-1"
    assert disk.find("alias") is None
    assert disk.find("backingStore") is None


def test_nothing_that_reaches_into_the_host_is_carried_over() -> None:
    new, notes = made()
    text = ElementTree.tostring(new, encoding="unicode")
    for trace in (
        "/etc/", "/tmp/evil", "/dev/sd", "/var/log", "old.sock", "hostdev", "filesystem", "vnet3",
        "commandline", "/usr/bin/kvm", "seclabel", "portid", "0.0.0.0", "5901", "partition", "vcpupin",
    ):  # fmt: skip
        assert trace not in text, trace
    for word in ("filesystem", "hostdev", "/tmp/evil", "commandline", "/etc/shadow", "sdc", "serial"):
        assert word in notes, word


def test_drives_keep_media_that_are_volumes_of_a_pool() -> None:
    new, _ = made()
    drives = {
        disk.find("target").get("dev"): disk.find("source")  # type: ignore[union-attr]
        for disk in new.iterfind("devices/disk[@device='cdrom']")
    }
    assert drives["sda"].get("file") == "/iso/debian.iso"  # type: ignore[union-attr]
    assert drives["sdb"] is None


def test_a_card_whose_network_is_missing_keeps_its_slot_with_the_link_down() -> None:
    new, notes = made()
    cards = new.findall("devices/interface")
    assert [card.find("source").get("network") for card in cards] == ["lan", "default", "default"]  # type: ignore[union-attr]
    assert cards[0].find("link") is None
    assert [card.find("link").get("state") for card in cards[1:]] == ["down", "down"]  # type: ignore[union-attr]
    assert "br9" in notes


def test_without_a_default_network_the_card_is_left_out() -> None:
    new, notes = made(offers=Offers(virtual="kvm", machine="q35", networks={}))
    assert new.findall("devices/interface") == []
    assert "left out" in notes


def test_a_missing_network_filter_cuts_the_link() -> None:
    document = """<domain type='kvm'><os><type>hvm</type></os><devices><interface type='bridge'>
      <source bridge='br0'/><filterref filter='no-such'/></interface></devices></domain>"""
    new, notes = made(document)
    assert new.find("devices/interface/filterref") is None
    assert new.find("devices/interface/link").get("state") == "down"  # type: ignore[union-attr]
    assert "no-such" in notes


def test_firmware_variables_are_ours_or_none() -> None:
    assert made()[0].findtext("os/nvram") == "/new/web_VARS.fd"
    new, notes = made(nvram="")
    assert new.find("os/nvram") is None
    assert "NVRAM" in notes


def test_a_missing_firmware_file_lets_libvirt_choose() -> None:
    new, notes = made(offers=Offers(virtual="kvm", machine="q35"))
    assert new.find("os/loader") is None
    assert new.find("os").get("firmware") == "efi"  # type: ignore[union-attr]
    assert "OVMF_CODE" in notes


def test_the_tpm_starts_empty_or_is_left_out() -> None:
    assert "starts empty" in made()[1]
    new, notes = made(offers=Offers(virtual="kvm", machine="q35"))
    assert new.find("devices/tpm") is None
    assert "without its TPM" in notes


def test_without_kvm_the_host_cpu_is_not_asked_for() -> None:
    document = "<domain type='kvm'><os><type>hvm</type></os><cpu mode='host-passthrough'/></domain>"
    new, notes = made(document, Offers(virtual="qemu", machine="q35"))
    assert new.find("cpu") is None
    assert new.get("type") == "qemu"
    assert "KVM" in notes


def test_what_a_domain_wants_of_a_host() -> None:
    found = wants(parse_archived(ARCHIVED.encode()))
    assert found.disks == ("vda",)
    assert (found.arch, found.machine, found.emulator) == ("x86_64", "pc-q35-9.2", "/usr/bin/kvm")
    assert found.networks == {"lan"}
    assert found.devices == {"br9"}
    assert found.media == {"/iso/debian.iso", "/etc/shadow"}
    assert found.files == {"/usr/share/OVMF/OVMF_CODE.fd"}
    assert found.nvram


@pytest.mark.parametrize(
    ("machine", "alias"),
    [("pc-q35-9.2", "q35"), ("pc-q35-rhel9.4.0", "q35"), ("pc-i440fx-jammy", "pc"), ("pc-1.3", "pc"),
     ("virt-8.0", "virt"), ("s390-ccw-virtio-8.1", "s390-ccw-virtio"), ("odd", ""), ("q35", "")],
)  # fmt: skip
def test_the_family_of_a_machine(machine: str, alias: str) -> None:
    assert family(machine) == alias


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<domain>",
        b"<network/>",
        b"<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>",
        b"<!DOCTYPE d SYSTEM 'file:///etc/passwd'><domain/>",
        b"<?xml version='1.0' encoding='no-such'?><domain/>",
        b"<domain>" + b"<a>" * 500 + b"</a>" * 500 + b"</domain>",
        b"<domain/>" + b" " * (9 * 1024 * 1024),
        b"\xff\xfe\x00",
        b"<domain>\x00</domain>",
    ],
)
def test_documents_that_are_none_are_refused(document: bytes) -> None:
    with pytest.raises(RestoreFailed, match="cannot be used"):
        parse_archived(document)


TAGS = st.sampled_from(
    """name uuid os type loader nvram kernel devices disk interface source target driver backingStore serial
    console channel graphics hostdev filesystem rng backend tpm vsock cid memory smartcard emulator seclabel
    metadata cpu model cputune vcpupin sysinfo entry shmem audio input video controller redirdev crypto
    genid alias script filterref log listen encryption""".split()
)
NAMES = st.sampled_from(
    "type device file dev bus path name machine arch mode network bridge address port listen cpuset".split()
)
VALUES = st.one_of(
    st.sampled_from(
        ["", "file", "block", "network", "disk", "cdrom", "vda", "vdb", "/etc/shadow", "kvm", "emulator", "unix",
         "bridge", "br0", "pflash", "uuid", "vnc", "spice", "99999999999999999999", "0-4096"]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12),
)  # fmt: skip


def element(
    tag: str, attributes: dict[str, str], text: str, parts: list[ElementTree.Element]
) -> ElementTree.Element:
    made_up = ElementTree.Element(tag, attributes)
    made_up.text = text
    made_up.extend(parts)
    return made_up


ELEMENTS = st.recursive(
    st.builds(element, TAGS, st.dictionaries(NAMES, VALUES, max_size=4), VALUES, st.just([])),
    lambda inner: st.builds(
        element, TAGS, st.dictionaries(NAMES, VALUES, max_size=4), VALUES, st.lists(inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=100)
@given(st.lists(ELEMENTS, max_size=4), st.lists(ELEMENTS, max_size=6))
def test_no_document_gets_its_own_way(
    parts: list[ElementTree.Element], devices: list[ElementTree.Element]
) -> None:
    """Whatever the document holds: one name, one uuid, and only disks and files that were handed in."""
    root = ElementTree.Element("domain", {"type": "kvm"})
    root.extend(parts)
    holder = ElementTree.SubElement(root, "devices")
    holder.extend(devices)
    domain = parse_archived(ElementTree.tostring(root))
    wants(domain)
    result = rewrite(domain, Identity("copy", UUID), DISKS, OFFERS)
    new = ElementTree.fromstring(result.document)

    assert [item.text for item in new.findall("name")] == ["copy"]
    assert [item.text for item in new.findall("uuid")] == [UUID]
    assert len(new.findall("devices")) == 1
    assert len(new.findall("os")) == 1
    for source in new.iterfind("devices/disk/source"):
        assert source.attrib in ({"file": "/new/web-vda.qcow2"}, {"file": "/iso/debian.iso"})
    used = new.find("devices")
    assert used is not None
    for tag in ("hostdev", "filesystem", "shmem", "seclabel"):
        assert used.find(tag) is None
    for tag in ("log", "script", "alias"):
        assert all(device.find(tag) is None for device in used)
    for line in (*used.iterfind("serial"), *used.iterfind("console"), *used.iterfind("channel")):
        assert line.find("source") is None
    for path in (item.text for name in ("loader", "kernel", "nvram") for item in new.iterfind(f"os/{name}")):
        assert not path or not path.strip() or path.strip() in OFFERS.files
    assert all(note.isprintable() and len(note) <= 500 for note in result.notes)
