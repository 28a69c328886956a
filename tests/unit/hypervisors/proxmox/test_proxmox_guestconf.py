"""Configuration files of guests: read as Proxmox reads them, printed back byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmconsole.hypervisors.proxmox.devices import Drive, Net, has_iothread, left_out
from vmconsole.hypervisors.proxmox.guestconf import (
    DiskMap,
    SectionKind,
    decode,
    digest,
    encode,
    parse,
    vzdump_conf,
)
from vmconsole.hypervisors.proxmox.properties import (
    boolean,
    parse_properties,
    parse_size,
    print_properties,
    split_tags,
)
from vmconsole.model.guest import GuestKind

VM, CT = GuestKind.VM, GuestKind.CONTAINER

WEB = """\
#Web server%3A prod
#second line
agent: enabled=1,freeze-fs-on-backup=0
bios: ovmf
boot: order=scsi0;ide2;net0
efidisk0: local-lvm:vm-100-disk-0,efitype=4m,pre-enrolled-keys=1,size=4M
hostpci0: 0000:01:00,pcie=1
ide2: local:iso/debian-12.iso,media=cdrom,size=631M
ide3: local-lvm:vm-100-cloudinit,media=cdrom
lock: backup
machine: q35
memory: 4096
name: web
net0: virtio=BC:24:11:2A:00:01,bridge=vmbr0,firewall=1,tag=20
net1: model=e1000,macaddr=BC:24:11:2A:00:02,bridge=vmbr1
parent: before-upgrade
scsi0: local-lvm:vm-100-disk-1,discard=on,iothread=1,size=32G,ssd=1
scsi1: nas:100/vm-100-disk-0.qcow2,backup=0,size=100G
scsi10: file=ceph:vm-100-disk-3,size=1T
scsihw: virtio-scsi-single
smbios1: uuid=8C7E5A52-5D3A-4C0E-9E55-5D3B0F3F7A01,manufacturer=QUNNRQ==,base64=1
tags: prod;web
tpmstate0: local-lvm:vm-100-disk-2,size=4M,version=v2.0
unused0: local-lvm:vm-100-disk-9
vmgenid: 0e2c1f3a-1111-4222-8333-444455556666

[PENDING]
memory: 8192

[before-upgrade]
#state before
memory: 2048
scsi0: local-lvm:vm-100-disk-1,size=16G
snaptime: 1700000000

[special:fleecing]
fleecing-images: local-lvm:vm-100-fleece-0 local-lvm:vm-100-fleece-1
"""

DNS = """\
arch: amd64
hostname: dns
lxc.cgroup2.devices.allow: c 10:200 rwm
lxc.mount.entry = /dev/net dev/net none bind,create=dir
mp0: local-lvm:vm-101-disk-1,mp=/srv,backup=1,size=8G
mp1: local-lvm:vm-101-disk-2,mp=/cache,size=20G
mp2: /mnt/share,mp=/share
mp3: volume=/dev/sdz,mp=/raw
net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:03,ip=dhcp,type=veth
ostype: debian
rootfs: local-zfs:subvol-101-disk-0,size=4G
unprivileged: 1

[pve:pending]
memory: 1024

[snap1]
rootfs: local-zfs:subvol-101-disk-0,size=4G
"""


def test_sections_and_values() -> None:
    conf = parse(WEB, VM)
    assert conf.text == WEB
    assert [section.kind for section in conf.sections] == [
        SectionKind.CURRENT,
        SectionKind.PENDING,
        SectionKind.SNAPSHOT,
        SectionKind.SPECIAL,
    ]
    assert conf.values["memory"] == "4096"
    assert conf.pending == {"memory": "8192"}
    assert conf.snapshots == ("before-upgrade",)
    assert conf.sections[2].description == "state before"
    assert conf.current.description == "Web server: prod\nsecond line"
    assert conf.fleecing_images == ("local-lvm:vm-100-fleece-0", "local-lvm:vm-100-fleece-1")
    assert (conf.name, conf.tags, conf.lock, conf.template) == ("web", ("prod", "web"), "backup", False)
    assert conf.agent.enabled
    assert not conf.agent.freeze
    assert conf.smbios["manufacturer"] == "ACME"
    assert conf.hardware_uuid == "8c7e5a52-5d3a-4c0e-9e55-5d3b0f3f7a01"
    assert conf.unclear == ()


def test_drives_in_order_and_what_a_backup_holds() -> None:
    conf = parse(WEB, VM)
    assert [drive.key for drive in conf.drives] == [
        "efidisk0", "ide2", "ide3", "scsi0", "scsi1", "scsi10", "tpmstate0", "unused0",
    ]  # fmt: skip
    reasons = {drive.key: left_out(drive, VM, conf.values) for drive in conf.drives}
    assert [key for key, reason in reasons.items() if not reason] == [
        "efidisk0", "scsi0", "scsi10", "tpmstate0",
    ]  # fmt: skip
    assert reasons["ide2"] == "CD-ROM"
    assert "cloud-init" in reasons["ide3"]
    assert "backup=0" in reasons["scsi1"]
    assert "not attached" in reasons["unused0"]
    drives = {drive.key: drive for drive in conf.drives}
    assert (drives["scsi0"].size, drives["scsi0"].format) == (32 << 30, "raw")
    assert (drives["scsi1"].storage, drives["scsi1"].format) == ("nas", "qcow2")
    assert drives["scsi10"].volume == "ceph:vm-100-disk-3"
    assert has_iothread(drives["scsi0"], conf.values)
    assert not has_iothread(drives["scsi0"], {"scsihw": "virtio-scsi-pci"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("scsi0: none,media=cdrom", "CD-ROM"),
        ("ide2: cdrom", "CD-ROM"),
        ("scsi0: nas:100/vm-100-cloudinit.qcow2", "cloud-init"),
        ("scsi0: local:vm-100-disk-0,backup=no", "backup=0"),
        ("scsi0: local:vm-100-disk-0,backup=maybe", ""),
        ("efidisk0: local:vm-100-disk-0", "BIOS"),
        ("scsi0: local:vm-100-disk-0,snapshot=1", "snapshot=1"),
        ("scsi0: size=4G", "not named"),
        ("scsi0: /dev/disk/by-id/wwn-0x5", ""),
    ],
)
def test_special_disks(line: str, reason: str) -> None:
    conf = parse(line, VM)
    (drive,) = conf.drives
    found = left_out(drive, VM, conf.values)
    assert reason in found
    assert bool(found) is bool(reason)


def test_containers() -> None:
    conf = parse(DNS, CT)
    assert conf.text == DNS
    assert conf.name == "dns"
    assert conf.pending == {"memory": "1024"}
    assert conf.snapshots == ("snap1",)
    assert conf.unclear == ()
    reasons = {drive.key: left_out(drive, CT, conf.values) for drive in conf.drives}
    assert reasons == {
        "mp0": "",
        "mp1": "mount point without backup=1",
        "mp2": "a folder of the host",
        "mp3": "a device of the host",
        "rootfs": "",
    }
    assert conf.nets == (
        Net(
            "net0", "", "BC:24:11:00:00:03", {"name": "eth0", "bridge": "vmbr0", "ip": "dhcp", "type": "veth"}
        ),
    )
    assert conf.hardware_uuid == ""
    assert conf.values["lxc.mount.entry"].startswith("/dev/net")


def test_network_cards() -> None:
    first, second = parse(WEB, VM).nets
    assert (first.model, first.mac, first.bridge) == ("virtio", "BC:24:11:2A:00:01", "vmbr0")
    assert first.options == {"bridge": "vmbr0", "firewall": "1", "tag": "20"}
    assert (second.model, second.mac, second.bridge) == ("e1000", "BC:24:11:2A:00:02", "vmbr1")
    assert parse("net0: virtio,bridge=vmbr0", VM).nets[0].model == "virtio"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "name: web",
        "name: web\n\n\n",
        "name: we",
        "scsi0: local-lv",
        "scsi0:",
        "sc",
        "[PEND",
        "[PENDING]",
        "name: web\r\nmemory: 1\r\n",
        "[x y]\nname: a\n",
        "\x00\x01: 7\n",
        "name: \udcff\udcfe\n",
    ],
)
def test_half_written_and_odd_files_survive(text: str) -> None:
    for kind in (VM, CT):
        conf = parse(text, kind)
        assert conf.text == text
        assert decode(encode(text)) == text
        assert isinstance(conf.drives, tuple)
        conf.name.encode()


def test_what_is_not_understood_is_told() -> None:
    conf = parse("name: web\nscsi0: a:b,size=1G\nmemo", VM)
    assert conf.unclear == ("memo",)
    assert parse("[not a header]\nname: web\n", VM).name == "web"
    assert parse("[snap]\nname: old\n", VM).name == ""


def test_the_last_of_two_keys_counts_and_cdrom_is_ide2() -> None:
    conf = parse("name: a\nname: b\ncdrom: local:iso/x.iso,media=cdrom\n", VM)
    assert conf.name == "b"
    assert [drive.key for drive in conf.drives] == ["ide2"]


def test_keys_out_of_range_are_no_disks() -> None:
    conf = parse("scsi31: a:b\nide4: a:b\nscsi01: a:b\nsata5: a:b\nvirtio16: a:b\nefidisk1: a:b\n", VM)
    assert [drive.key for drive in conf.drives] == ["sata5"]


def test_changes_keep_everything_else() -> None:
    conf = parse(WEB, VM).changed({"name": "copy", "lock": None, "onboot": "1"})
    assert conf.values["name"] == "copy"
    assert "lock" not in conf.values
    assert conf.text.startswith("#Web server%3A prod\n")
    assert "onboot: 1\n\n[PENDING]\n" in conf.text
    assert conf.text.endswith("local-lvm:vm-100-fleece-1\n")
    assert parse(WEB, VM).changed({}).text == WEB
    assert parse("name: a", VM).changed({"memory": "1"}).text == "name: a\nmemory: 1\n"
    assert parse("", VM).changed({"memory": "1"}).text == "memory: 1\n"
    with pytest.raises(ValueError, match="cannot stand"):
        conf.changed({"name": "a\nargs: -evil"})


@pytest.mark.parametrize(
    ("lines", "uuid"),
    [
        ("smbios1: uuid=8c7e5a52-5d3a-4c0e-9e55-5d3b0f3f7a01\n", "8c7e5a52-5d3a-4c0e-9e55-5d3b0f3f7a01"),
        (
            "smbios1: uuid=nonsense\nvmgenid: 0E2C1F3A-1111-4222-8333-444455556666\n",
            "0e2c1f3a-1111-4222-8333-444455556666",
        ),
        ("smbios1: uuid=00000000-0000-0000-0000-000000000000\nvmgenid: 0\n", ""),
        ("vmgenid: 1\n", ""),
        ("name: x\n", ""),
    ],
)
def test_the_uuid_of_the_hardware(lines: str, uuid: str) -> None:
    assert parse(lines, VM).hardware_uuid == uuid


def test_agent_options() -> None:
    assert not parse("", VM).agent.enabled
    assert parse("agent: 1\n", VM).agent.freeze
    assert (
        parse("agent: enabled=1,freeze-fs=0\n", VM).agent == parse("agent: 1,freeze-fs-on-backup=0", VM).agent
    )
    assert not parse("agent: 0,type=isa\n", VM).agent.enabled


def test_the_archived_configuration() -> None:
    archived = vzdump_conf(
        WEB + "\n#qmdump#map:old\n",
        [
            DiskMap("scsi0", "local-lvm", "raw"),
            DiskMap("tpmstate0", "local-lvm", "raw"),
            DiskMap("scsi1", "", ""),
        ],
    )
    lines = archived.splitlines()
    assert not [line for line in lines if line.startswith(("lock:", "parent:", "unused", "[", "snaptime"))]
    assert "memory: 4096" in lines
    assert lines[-3:] == [
        "#qmdump#map:scsi0:drive-scsi0:local-lvm:raw:",
        "#qmdump#map:tpmstate0:drive-tpmstate0-backup:local-lvm:raw:",
        "#qmdump#map:scsi1:drive-scsi1:::",
    ]
    assert archived.endswith(":\n")
    assert vzdump_conf("", []) == ""
    assert vzdump_conf("name: a", []) == "name: a\n"
    assert vzdump_conf("#qmdump#map:x\n#vzdump#y\nname: a\n[x y]\nname: b\n", []) == "name: a\n"


def test_the_digest_is_of_the_bytes() -> None:
    assert digest("a\n") == "3f786850e387550fdab836ed7e6dc881de23001b"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("32G", 32 << 30), ("528K", 528 << 10), ("4M", 4 << 20), ("1T", 1 << 40), ("1.5G", 3 << 29),
        ("1024", 1024), ("", 0), ("-1G", 0), ("1P", 0), ("99999999999999T", 0), ("G", 0), ("١G", 1 << 30),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_booleans_and_tags() -> None:
    assert boolean("Yes")
    assert not boolean("off", default=True)
    assert boolean("banana", default=True)
    assert split_tags("prod;web, db\tx;;prod") == ("prod", "web", "db", "x")
    assert split_tags("") == ()
    assert split_tags("\x1b[31mred;ok;\u202egnp;\udcff") == ("ok", "\ufffd")


def test_property_strings() -> None:
    value = "local:vm-1-disk-0,size=4G,x,a=b=c"
    found = parse_properties(value, "file")
    assert found == {"file": "local:vm-1-disk-0", "size": "4G", "x": "", "a": "b=c"}
    assert print_properties(found, "file") == value
    assert parse_properties("a=1,a=2") == {"a": "1"}
    assert Drive("scsi0", "a:b", {"size": "4G"}).text == "a:b,size=4G"


# Whatever a file holds: it comes back, and reading it raises nothing.
LINES = st.one_of(
    st.text(max_size=60),
    st.sampled_from([*WEB.splitlines(), *DNS.splitlines()]),
    st.builds("{}: {}".format, st.from_regex(r"[a-z]{1,8}[0-9]{0,3}", fullmatch=True), st.text(max_size=40)),
    st.builds("[{}]".format, st.text(max_size=12)),
)


@given(st.lists(LINES, max_size=30).map("\n".join), st.sampled_from(GuestKind))
@example("smbios1: base64=1,uuid=x,serial=%%%", VM)
@example("scsi0: ,,=,a=,=b", VM)
def test_any_file_round_trips(text: str, kind: GuestKind) -> None:
    conf = parse(text, kind)
    assert conf.text == text
    for drive in conf.drives:
        left_out(drive, kind, conf.values)
        assert drive.size >= 0
        assert isinstance(drive.format, str)
    assert isinstance((conf.nets, conf.tags, conf.smbios, conf.hardware_uuid, conf.agent), tuple)
    for word in (conf.name, conf.lock, conf.current.description, *conf.tags):
        word.encode()
    again = vzdump_conf(vzdump_conf(text, []), [])
    assert again == vzdump_conf(text, [])


@given(st.binary(max_size=300), st.sampled_from(GuestKind))
def test_any_bytes_round_trip(raw: bytes, kind: GuestKind) -> None:
    assert encode(parse(decode(raw), kind).text) == raw


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,6}", fullmatch=True), st.from_regex(r"[^,\s=][^,\n]{0,9}\S?", fullmatch=True)
    )
)
def test_property_strings_round_trip(values: dict[str, str]) -> None:
    values = {key: value.replace(",", "").strip() or "x" for key, value in values.items()}
    assert parse_properties(print_properties(values)) == values
