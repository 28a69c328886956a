"""Guests as they are found on real hosts, and random hardware."""

from __future__ import annotations

from hypothesis import strategies as st

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

# ruff: noqa: E501 - configurations read better as they are

WINDOWS_CONF = """\
#File server%2C second floor
#never reboot on Fridays
agent: 1,fstrim_cloned_disks=1
audio0: device=ich9-intel-hda,driver=spice
balloon: 4096
bios: ovmf
boot: order=scsi0;ide2;net0
cores: 4
cpu: Skylake-Server,flags=+aes;-pcid;+hv-tlbflush
efidisk0: local-lvm:vm-100-disk-0,efitype=4m,pre-enrolled-keys=1,size=4M
hostpci0: 0000:01:00,pcie=1
ide2: local:iso/virtio-win.iso,media=cdrom,size=707456K
machine: pc-q35-8.1+pve0
memory: 16384
meta: creation-qemu=8.1.5,ctime=1712345678
name: files
net0: virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,firewall=1,tag=20
net1: e1000=BC:24:11:AA:BB:CD,bridge=vmbr1,link_down=1
numa: 1
onboot: 1
ostype: win11
scsi0: local-lvm:vm-100-disk-1,cache=writeback,discard=on,iothread=1,serial=C-DRIVE,size=80G,ssd=1
scsi2: local-lvm:vm-100-disk-3,backup=0,iops_rd=500,size=500G
scsihw: virtio-scsi-single
smbios1: uuid=1a8a1dd1-6c7b-4d6a-8b6f-6a4c6a1b7d11,manufacturer=RGVsbCBJbmMu,serial=QUJDMTIz,base64=1
sockets: 2
startup: order=2,up=30
tags: prod;windows
tpmstate0: local-lvm:vm-100-disk-2,size=4M,version=v2.0
unused0: local-lvm:vm-100-disk-9
usb0: host=1234:5678
vga: qxl2
vmgenid: 7a9e5cb9-dfb5-4f39-bb0e-4d9f3d3c8a55

[before-update]
cores: 1
memory: 512
name: files
scsi0: local-lvm:vm-100-disk-1,size=40G
"""

CLOUD_CONF = """\
agent: enabled=1
args: -chardev file,id=x,path=/etc/shadow
boot: c
bootdisk: virtio0
ciuser: admin
ide2: local-lvm:vm-9000-cloudinit,media=cdrom
ipconfig0: ip=dhcp
memory: 2048
name: debian-12
net0: virtio=BC:24:11:00:00:01,bridge=vmbr0
ostype: l26
rng0: source=/dev/urandom
serial0: socket
sshkeys: ssh-ed25519%20AAAA
vga: serial0
virtio0: ceph:vm-9000-disk-0,size=10G
virtio1: nfs:9000/vm-9000-disk-1.qcow2,format=qcow2,iothread=1,size=32G
"""

OLD_CONF = """\
acpi: 1
boot: cdn
bootdisk: ide0
cores: 1
ide0: local:101/vm-101-disk-0.raw,size=8G
ide2: none,media=cdrom
kvm: 1
localtime: 0
memory: 512
name: legacy
net0: rtl8139=00:16:3E:00:00:01,bridge=vmbr0
ostype: wxp
sockets: 1
this line is torn
"""

WINDOWS_XML = b"""\
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>files server</name>
  <uuid>1a8a1dd1-6c7b-4d6a-8b6f-6a4c6a1b7d11</uuid>
  <genid>7a9e5cb9-dfb5-4f39-bb0e-4d9f3d3c8a55</genid>
  <title>File server</title>
  <description>second &lt;floor&gt;</description>
  <metadata>
    <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0"><libosinfo:os id="http://microsoft.com/win/2k22"/></libosinfo:libosinfo>
    <v:tags xmlns:v='https://vmconsole.example/1'>prod windows</v:tags>
  </metadata>
  <memory unit='GiB'>16</memory><currentMemory unit='KiB'>8388608</currentMemory>
  <vcpu placement='static' current='4'>8</vcpu>
  <cputune><vcpupin vcpu='0' cpuset='1'/></cputune>
  <sysinfo type='smbios'><system><entry name='manufacturer'>Dell Inc.</entry><entry name='uuid'>x</entry></system></sysinfo>
  <os firmware='efi'><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <firmware><feature enabled='yes' name='secure-boot'/></firmware>
    <loader readonly='yes' secure='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.ms.fd</loader>
    <nvram>/var/lib/libvirt/qemu/nvram/files_VARS.fd</nvram></os>
  <features><acpi/><apic/><hyperv mode='custom'><relaxed state='on'/></hyperv><smm state='on'/></features>
  <cpu mode='custom' match='exact'><model fallback='forbid'>Skylake-Server</model>
    <topology sockets='2' dies='1' cores='2' threads='2'/><feature policy='require' name='aes'/><feature policy='disable' name='pcid'/></cpu>
  <clock offset='localtime'/>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='writeback' discard='unmap' iothread='1'/>
      <source file='/images/files.qcow2'/><target dev='vda' bus='virtio'/><serial>C-DRIVE</serial><boot order='1'/></disk>
    <disk type='block' device='disk'><driver name='qemu' type='raw' cache='none' io='native'/>
      <source dev='/dev/vg/data'/><target dev='sdb' bus='scsi' rotation_rate='1'/><iotune><total_iops_sec>5</total_iops_sec></iotune></disk>
    <disk type='file' device='cdrom'><source file='/iso/win.iso'/><target dev='sdc' bus='sata'/><readonly/><boot order='2'/></disk>
    <disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk>
    <controller type='scsi' index='0' model='virtio-scsi'/>
    <interface type='network'><mac address='52:54:00:11:22:33'/><source network='lan'/><model type='virtio'/><boot order='3'/></interface>
    <interface type='bridge'><mac address='52:54:00:11:22:34'/><source bridge='ovs0'/><vlan><tag id='20'/></vlan><model type='e1000e'/><link state='down'/></interface>
    <interface type='hostdev'><source/></interface>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <input type='tablet' bus='usb'/><graphics type='spice'/><sound model='ich9'/><video><model type='qxl'/></video>
    <hostdev mode='subsystem' type='pci'/><tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <watchdog model='i6300esb' action='reset'/><memballoon model='virtio'/>
  </devices>
  <qemu:commandline><qemu:arg value='-x'/></qemu:commandline>
</domain>
"""

HOSTILE = (
    "a\nargs: -drive file=/etc/shadow",
    "x\r\nscsi9: /dev/sda",
    "x,file=/etc/passwd",
    "x' /><hostdev/>",
    '"><disk/>',
    "]]><a/>",
    "&xxe;",
    "[PENDING]",
    "#qmdump#map:scsi0:drive-scsi0:other:raw:",
    "[bold red]x[/]",
    "\x1b[2J\x00\x07",
    "\ud800",
    "\u2028hookscript: local:snippets/x",
    "ä" * 300,
    "../../etc",
    "%0Aargs",
    "{0}{1}",
    "",
    " ",
)

_TEXT = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=30))
_NUMBER = st.integers(-5, 1 << 60)
_MACS = st.from_regex(r"[0-9A-F]{2}(:[0-9A-F]{2}){5}", fullmatch=True)


def conf_ids(bus: Bus) -> st.SearchStrategy[str]:
    return st.integers(0, words.CONF_LIMITS[bus] - 1).map(lambda number: f"{bus.value}{number}")


@st.composite
def _good_disk(draw: st.DrawFn, bus: Bus, name: str) -> Disk:
    virtio = bus is Bus.VIRTIO
    cache = draw(st.sampled_from(["", *sorted(words.CACHES)]))
    ios = ["", "threads", "io_uring", *(["native"] if cache in ("none", "directsync") else [])]
    return Disk(
        id=name,
        bus=bus,
        size=draw(st.integers(1, 1 << 45)) * 512,
        cache=cache,
        io=draw(st.sampled_from(ios)),
        discard=draw(st.booleans()),
        detect_zeroes=draw(st.booleans()),
        ssd=not virtio and draw(st.booleans()),
        iothread=virtio and draw(st.booleans()),
        serial=draw(st.from_regex(words.SERIAL, fullmatch=True) | st.just("")),
    )


@st.composite
def good_hardware(draw: st.DrawFn, *, proxmox: bool) -> Hardware:
    """What both sides claim to carry over. proxmox: ids and the like as on Proxmox, else as on libvirt."""
    q35 = draw(st.booleans())
    buses = [Bus.VIRTIO, Bus.SCSI, Bus.SATA, *([] if q35 and not proxmox else [Bus.IDE])]
    disks: list[Disk] = []
    taken: set[str] = set()
    for bus in draw(st.lists(st.sampled_from(buses), max_size=6)):
        number = draw(st.integers(0, words.CONF_LIMITS[bus] - 1))
        letter = chr(ord("a") + number) if number < 26 else "a" + chr(ord("a") + number - 26)
        prefix = {Bus.VIRTIO: "vd", Bus.IDE: "hd"}.get(bus, "sd")
        name = f"{bus.value}{number}" if proxmox else prefix + letter
        if name not in taken:
            taken.add(name)
            disks.append(draw(_good_disk(bus, name)))
    drives = []
    if draw(st.booleans()):
        name = "sata5" if proxmox else "sdf"
        if name not in taken:
            drives.append(Drive(name, Bus.SATA))
    nics = [
        Nic(
            id=f"net{number}" if proxmox else f"{number + 1}",
            model=draw(st.sampled_from(sorted(words.NIC_MODELS))),
            network=draw(st.sampled_from(["vmbr0", "vmbr1", ""])),
            mac=draw(_MACS),
            connected=draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 4)))
    ]
    # Boot order: each place once.
    things = [*disks, *drives, *nics]
    order = draw(st.permutations(range(1, len(things) + 1)))
    boot = dict(zip((thing.id for thing in things), order, strict=True))
    # Without an order, Proxmox has one of its own.
    use = proxmox or draw(st.booleans())
    placed = {name: place if use else 0 for name, place in boot.items()}
    system = draw(st.sampled_from(System))
    sockets, cores = draw(st.integers(1, 4)), draw(st.integers(1, 16))
    model = draw(st.sampled_from(["host", *sorted(words.CPU_MODELS)]))
    vga = draw(st.sampled_from(["std", "virtio", "qxl", "cirrus", "vmware", "none"]))
    any_scsi = any(disk.bus is Bus.SCSI for disk in disks)
    key = _natural
    return Hardware(
        name=draw(st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)),
        memory=draw(st.integers(16, 1 << 20)) * words.MIB,
        cpu=Cpu(
            cpus=draw(st.integers(1, sockets * cores)),
            sockets=sockets,
            cores=cores,
            model=model,
            flags=draw(st.sampled_from([(), (("aes", True),), (("aes", True), ("pcid", False))])),
        ),
        firmware=draw(st.sampled_from(Firmware)),
        machine="q35" if q35 else "pc",
        version=draw(st.sampled_from(["", "8.1", "10.0"])),
        system=system,
        clock=draw(st.sampled_from(Clock)),
        disks=_with_boot(sorted(disks, key=lambda disk: key(disk.id, proxmox)), placed),
        drives=_with_boot(drives, placed),
        nics=_with_boot(nics, placed),
        scsi=draw(st.sampled_from(["virtio-scsi", "lsi", "megasas", "pvscsi"]))
        if any_scsi
        else "virtio-scsi",
        agent=draw(st.booleans()),
        tablet=draw(st.booleans()),
        rng=draw(st.booleans()),
        serials=draw(st.integers(0, 4)),
        vga=vga,
        sound=draw(st.sampled_from(["", *words.SOUND_CONF])),
        watchdog=draw(st.sampled_from(["", "i6300esb reset", "ib700 pause"])),
        smbios=draw(st.sampled_from([(), (("manufacturer", "Dell, Inc. <x>"), ("serial", "ABC 123"))])),
        genid=draw(st.booleans()),
        kvm=model == "host" or draw(st.booleans()),
        description=draw(st.sampled_from(["", "one line", "two\nlines: 100% [sure] <really> #1 äöü"])),
        tags=draw(st.sampled_from([(), ("prod",), ("prod", "web_1")])),
    )


def _natural(name: str, proxmox: bool) -> tuple[str, int]:
    digits = name.lstrip("abcdefghijklmnopqrstuvwxyz")
    return name.removesuffix(digits) if proxmox else "", int(digits or 0)


def _with_boot(things, places):
    from dataclasses import replace

    return tuple(replace(thing, boot=places[thing.id]) for thing in things)


@st.composite
def any_hardware(draw: st.DrawFn) -> Hardware:
    """Everything that the types allow, and more hostile than that."""
    ids = draw(st.lists(_TEXT, unique=True, max_size=6))
    disks = tuple(
        Disk(
            name, draw(st.sampled_from(Bus)), draw(_NUMBER), draw(_TEXT), draw(_TEXT),
            *(draw(st.booleans()) for _ in range(5)), draw(_TEXT), draw(_NUMBER),
        )
        for name in ids[:4]
    )  # fmt: skip
    drives = tuple(Drive(name, draw(st.sampled_from(Bus)), draw(_NUMBER)) for name in ids[4:])
    nics = tuple(
        Nic(draw(_TEXT), draw(_TEXT), draw(_TEXT), draw(_TEXT), draw(_NUMBER), draw(st.booleans()), draw(_NUMBER),
            draw(_NUMBER))
        for _ in range(draw(st.integers(0, 2)))
    )  # fmt: skip
    flags = ((draw(_TEXT), True),)
    return Hardware(
        name=draw(_TEXT),
        memory=draw(_NUMBER),
        cpu=Cpu(draw(_NUMBER), draw(_NUMBER), draw(_NUMBER), draw(_NUMBER), draw(_TEXT), flags),
        balloon=draw(_NUMBER),
        firmware=draw(st.sampled_from(Firmware)),
        secure_boot=draw(st.booleans()),
        machine=draw(_TEXT),
        version=draw(_TEXT),
        system=draw(st.sampled_from(System)),
        clock=draw(st.sampled_from(Clock)),
        disks=disks,
        drives=drives,
        nics=nics,
        scsi=draw(_TEXT),
        agent=draw(st.booleans()),
        tablet=draw(st.booleans()),
        rng=draw(st.booleans()),
        serials=draw(st.integers(-1, 9)),
        vga=draw(_TEXT),
        tpm=draw(_TEXT),
        sound=draw(_TEXT),
        watchdog=draw(_TEXT),
        smbios=((draw(_TEXT), draw(_TEXT)), ("product", draw(_TEXT))),
        genid=draw(st.booleans()),
        description=draw(_TEXT),
        tags=(draw(_TEXT),),
    )
