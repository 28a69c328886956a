"""Proxmox configurations to neutral words and back."""

from __future__ import annotations

import re
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from portable_samples import CLOUD_CONF, HOSTILE, OLD_CONF, WINDOWS_CONF, any_hardware, good_hardware

from vmconsole.errors import RestoreFailed
from vmconsole.hypervisors.portable.from_conf import from_qemu_conf
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
    keep_disks,
)
from vmconsole.hypervisors.portable.to_conf import Node, to_qemu_conf

UUID_NEW = UUID("11111111-2222-4333-8444-555555555555")
NODE = Node("local-lvm", bridges=frozenset({"vmbr0", "vmbr1"}))
GIB = 1 << 30


def test_a_windows_server() -> None:
    hardware, notes = from_qemu_conf(WINDOWS_CONF)
    text = "\n".join(notes)

    assert hardware.name == "files"
    assert hardware.memory == 16 * GIB
    assert hardware.balloon == 4 * GIB
    assert hardware.cpu == Cpu(8, 2, 4, 1, "Skylake-Server", (("aes", True), ("pcid", False)))
    assert (hardware.firmware, hardware.secure_boot) == (Firmware.UEFI, True)
    assert (hardware.machine, hardware.version) == ("q35", "8.1")
    assert hardware.system is System.WINDOWS_11
    assert hardware.clock is Clock.LOCAL
    assert hardware.disks == (
        Disk("scsi0", Bus.SCSI, 80 * GIB, "writeback", discard=True, ssd=True, iothread=True,
             serial="C-DRIVE", boot=1),
        Disk("scsi2", Bus.SCSI, 500 * GIB),
    )  # fmt: skip
    assert hardware.drives == (Drive("ide2", Bus.IDE, 2),)
    assert hardware.nics == (
        Nic("net0", "virtio", "vmbr0", "BC:24:11:AA:BB:CC", 20, boot=3),
        Nic("net1", "e1000", "vmbr1", "BC:24:11:AA:BB:CD", connected=False),
    )
    assert (hardware.scsi, hardware.vga, hardware.tpm, hardware.sound) == (
        "virtio-scsi",
        "qxl",
        "2.0",
        "ich9",
    )
    assert hardware.smbios == (("manufacturer", "Dell Inc."), ("serial", "ABC123"))
    assert hardware.genid
    assert hardware.description == "File server, second floor\nnever reboot on Fridays"
    assert hardware.tags == ("prod", "windows")
    for said in (
        "0000:01:00", "1234:5678", "iops_rd", "firewall", "hv-tlbflush", "virtio-win.iso", "onboot", "qxl2",
    ):  # fmt: skip
        assert said in text, said
    assert all(note.endswith(".") for note in notes)


def test_a_cloud_image() -> None:
    hardware, notes = from_qemu_conf(CLOUD_CONF)
    text = "\n".join(notes)
    assert [(disk.id, disk.boot, disk.iothread) for disk in hardware.disks] == [
        ("virtio0", 1, False),
        ("virtio1", 0, True),
    ]
    assert hardware.drives == ()
    assert (hardware.serials, hardware.vga, hardware.rng, hardware.agent) == (1, "none", True, True)
    assert "cloud-init" in text
    assert "/etc/shadow" in text
    assert hardware.cpu.cpus == 1


def test_an_old_guest_with_boot_letters_and_a_torn_line() -> None:
    hardware, notes = from_qemu_conf(OLD_CONF)
    assert hardware.system is System.WINDOWS_XP
    assert hardware.clock is Clock.UTC
    assert {thing.id: thing.boot for thing in (*hardware.disks, *hardware.drives, *hardware.nics)} == {
        "ide0": 1,
        "ide2": 2,
        "net0": 3,
    }
    assert any("torn" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("", lambda hw: hw.memory == GIB // 2 and hw.cpu.cpus == 1 and hw.machine == "pc"),
        ("memory: current=2048\n", lambda hw: hw.memory == 2 * GIB),
        ("memory: lots\ncores: many\nsockets: -1\n", lambda hw: hw.memory == GIB // 2),
        ("cores: 99999999\nsockets: 99999999\n", lambda hw: hw.cpu.cpus == 1),
        ("sockets: 2\ncores: 4\nvcpus: 3\n", lambda hw: (hw.cpu.cpus, hw.cpu.most) == (3, 8)),
        ("machine: type=q35,viommu=intel\n", lambda hw: (hw.machine, hw.version) == ("q35", "")),
        ("net0: model=virtio,macaddr=BC:24:11:00:00:09,bridge=b,tag=4095\n", lambda hw: hw.nics[0].vlan == 0),
        ("net0: bogus=1,bridge=b\n", lambda hw: hw.nics[0].model == "e1000"),
        ("scsi0: s:vm-1-disk-0\nscsihw: pvscsi\n", lambda hw: hw.scsi == "pvscsi"),
        ("scsi0: s:vm-1-disk-0\n", lambda hw: hw.scsi == "lsi"),
        ("scsi31: s:vm-1-disk-0\nfoo: bar\n", lambda hw: hw.disks == ()),
        ("tpmstate0: s:vm-1-disk-0,size=4M\n", lambda hw: hw.tpm == "1.2"),
        ("ostype: win10\nlocaltime: 0\n", lambda hw: hw.clock is Clock.UTC),
        ("watchdog: i6300esb\n", lambda hw: hw.watchdog == "i6300esb"),
        ("balloon: 0\n", lambda hw: hw.balloon == 0),
    ],
)
def test_single_settings(text: str, check) -> None:
    assert check(from_qemu_conf(text)[0])


def test_another_architecture_is_refused() -> None:
    with pytest.raises(RestoreFailed):
        from_qemu_conf("arch: aarch64\n")


def test_disks_that_were_not_backed_up_are_left_out_and_named() -> None:
    hardware, notes = keep_disks(from_qemu_conf(WINDOWS_CONF)[0], {"scsi0", "efidisk0"})
    assert [disk.id for disk in hardware.disks] == ["scsi0"]
    assert len(notes) == 1
    assert "scsi2" in notes[0]


def test_the_printed_configuration() -> None:
    hardware, _ = from_qemu_conf(WINDOWS_CONF)
    draft, notes = to_qemu_conf(hardware, NODE, UUID_NEW, variables=540672)
    lines = draft.text.splitlines()
    assert lines[:2] == ["#File server, second floor", "#never reboot on Fridays"]
    for line in (
        "name: files",
        "memory: 16384",
        "balloon: 4096",
        "cpu: Skylake-Server,flags=+aes;-pcid",
        "machine: pc-q35-8.1",
        "boot: order=scsi0;ide2;net0",
        "efidisk0: local-lvm:vm-0-disk-0,efitype=4m,pre-enrolled-keys=1,size=528K",
        "net0: virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,tag=20",
        "net1: e1000=BC:24:11:AA:BB:CD,bridge=vmbr1,link_down=1",
        "scsihw: virtio-scsi-single",
        "ide2: none,media=cdrom",
        "ostype: win11",
    ):
        assert line in lines, line
    assert draft.disks == {"scsi0": "scsi0", "scsi2": "scsi2"}
    assert draft.efidisk
    assert draft.later == {"tpmstate0": "local-lvm:1,version=v2.0"}
    assert str(UUID_NEW) in draft.text
    assert any("TPM" in note for note in notes)


def test_without_its_variables_proxmox_makes_them() -> None:
    hardware = Hardware("x", GIB, firmware=Firmware.UEFI, secure_boot=True)
    draft, notes = to_qemu_conf(hardware, NODE, UUID_NEW)
    assert draft.later == {"efidisk0": "local-lvm:1,efitype=4m,pre-enrolled-keys=1"}
    assert "efidisk0" not in draft.text
    assert any("boot entries" in note for note in notes)
    assert not to_qemu_conf(hardware, NODE, UUID_NEW, variables=4321)[0].efidisk


def test_names_that_proxmox_does_not_take() -> None:
    for name, expected in (
        ("files server", "files-server"),
        ("Über_uns.example", "ber-uns.example"),
        ("---", "guest"),
        ("a" * 70, "a" * 63),
        ("web.example.org", "web.example.org"),
        ("日本", "guest"),
        ("..", "guest"),
    ):
        draft, notes = to_qemu_conf(Hardware(name, GIB), NODE, UUID_NEW)
        assert f"name: {expected}\n" in draft.text
        assert (name == expected) == (not any("host names" in note for note in notes))


def test_networks_are_mapped() -> None:
    nics = (
        Nic("1", "virtio", "lan"),
        Nic("2", "virtio", "ovs0", vlan=20),
        Nic("3", "virtio", "dmz"),
        Nic("4", "virtio", "vmbr1", vlan=7),
        Nic("5", "virtio", "lost"),
        Nic("6", "virtio", ""),
        Nic("7", "virtio", "gone"),
        Nic("8", "virtio", "ovs0", vlan=21),
    )
    wanted = {
        "lan": "vmbr1",
        "ovs0.20": "vmbr0.30",
        "dmz": "vmbr0.99",
        "gone": "vmbr9",
        "ovs0": "vmbr0",
    }
    node = replace(NODE, networks=wanted)
    draft, notes = to_qemu_conf(Hardware("x", GIB, nics=nics), node, UUID_NEW)
    found = dict(re.findall(r"^(net\d): virtio=[^,\n]*,?(.*)$", draft.text, re.MULTILINE))
    assert found == {
        "net0": "bridge=vmbr1",
        "net1": "bridge=vmbr0,tag=30",
        "net2": "bridge=vmbr0,tag=99",
        "net3": "bridge=vmbr1,tag=7",
        "net4": "bridge=vmbr0,link_down=1",
        "net5": "",
        "net6": "bridge=vmbr0,link_down=1",
        "net7": "bridge=vmbr0,tag=21",
    }
    assert len([note for note in notes if "link down" in note]) == 2
    assert any('"lost"' in note for note in notes)


def test_machine_types_that_the_node_lacks() -> None:
    hardware = Hardware("x", GIB, machine="q35", version="99.1")
    draft, notes = to_qemu_conf(hardware, replace(NODE, machines={"pc-q35-9.0"}), UUID_NEW)
    assert "machine: q35\n" in draft.text
    assert any("pc-q35-99.1" in note for note in notes)
    assert (
        "machine: pc-q35-9.0\n"
        in to_qemu_conf(replace(hardware, version="9.0"), replace(NODE, machines={"pc-q35-9.0"}), UUID_NEW)[
            0
        ].text
    )


def test_disks_keep_their_place_or_find_another() -> None:
    disks = tuple(Disk(name, bus) for name, bus in (
        ("vda", Bus.VIRTIO), ("vdc", Bus.VIRTIO), ("sda", Bus.SCSI), ("sdb", Bus.SATA), ("sdz", Bus.SATA),
        ("hda", Bus.IDE), ("vdz", Bus.VIRTIO),
    ))  # fmt: skip
    draft, _ = to_qemu_conf(Hardware("x", GIB, disks=disks), NODE, UUID_NEW)
    assert draft.disks == {
        "vda": "virtio0", "vdc": "virtio2", "sda": "scsi0", "sdb": "sata1", "sdz": "sata0", "hda": "ide0",
        "vdz": "virtio1",
    }  # fmt: skip


def test_more_disks_than_there_are_places() -> None:
    many = tuple(
        Disk(f"vd{chr(97 + n // 26 - 1) if n > 25 else ''}{chr(97 + n % 26)}", Bus.VIRTIO) for n in range(48)
    )
    draft, notes = to_qemu_conf(Hardware("x", GIB, disks=many[:47]), NODE, UUID_NEW)
    assert len(set(draft.disks.values())) == 47
    assert sum(name.startswith("scsi") for name in draft.disks.values()) == 31
    assert any("moves from virtio to scsi" in note for note in notes)
    with pytest.raises(RestoreFailed):
        to_qemu_conf(Hardware("x", GIB, disks=many), NODE, UUID_NEW)


@settings(deadline=None, max_examples=150)
@given(good_hardware(proxmox=True))
def test_what_is_printed_reads_back_the_same(hardware: Hardware) -> None:
    draft, notes = to_qemu_conf(hardware, NODE, UUID_NEW, variables=540672)
    again, _ = from_qemu_conf(draft.text)
    assert again == hardware
    assert draft.disks == {disk.id: disk.id for disk in hardware.disks}
    assert not notes


_LINE = re.compile(
    r"#[ -~]*|(?:name|smbios1|vmgenid|tags|memory|balloon|sockets|cores|vcpus|cpu|machine|ostype|localtime|kvm|bios"
    r"|efidisk0|scsihw|agent|tablet|rng0|vga|audio0|watchdog|boot|(?:ide|sata|scsi|virtio|net|serial)\d+): [!-~]+"
)


@settings(deadline=None, max_examples=300)
@given(any_hardware())
def test_nothing_becomes_a_line_or_an_option_of_its_own(hardware: Hardware) -> None:
    draft, notes = to_qemu_conf(hardware, NODE, UUID_NEW, variables=540672)
    for line in draft.text.removesuffix("\n").split("\n"):
        assert _LINE.fullmatch(line), line
        assert not line.startswith(("#qmdump#", "#vzdump#"))
    again, _ = from_qemu_conf(draft.text)
    assert len(again.disks) == len(hardware.disks)
    assert len(again.drives) == len(hardware.drives)
    for line in re.findall(r"^(?:ide|sata|scsi|virtio|efidisk)\d+: (.*)$", draft.text, re.MULTILINE):
        assert re.match(r"local-lvm:vm-0-disk-\d+(?:,|$)|none,media=cdrom$", line)
    assert all(note.isprintable() for note in notes)
    draft.text.encode("ascii")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_configurations_are_read_to_the_end(text: str) -> None:
    for key in (
        "name",
        "scsi0",
        "net0",
        "cpu",
        "machine",
        "boot",
        "vga",
        "args",
        "smbios1",
        "tags",
        "efidisk0",
    ):
        hardware, notes = from_qemu_conf(f"memory: 1024\n{key}: {text}\ncores: 2\n")
        assert hardware.memory == GIB
        assert all(note.isprintable() for note in notes)
        to_qemu_conf(hardware, NODE, UUID_NEW)
