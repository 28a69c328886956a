"""A node's qmrestore, qm, pct, pvesm and pvesh as small programs: they do to files what Proxmox does to guests.

`main` runs as each of them, told apart by its name. $FAKE is what they remember: VMID.conf, stream.VMID,
devices/VMID/NAME (what qmrestore has unpacked), tar.VMID, started.VMID, log, and api/ (answers of pvesh, the
path's slashes as dots). A file fail.PROGRAM or fail.PROGRAM.COMMAND holds what it says when it fails.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

PROGRAMS = ("qmrestore", "qm", "pct", "pvesm")
PVESH = r"""#!/bin/sh
answer=$FAKE/api/$(printf %s "${2#/}" | tr / .)
[ -f "$answer" ] && exec cat "$answer"
echo "No '$1' handler defined for '$2'" >&2
exit 2
"""
FAKE = Path(os.environ.get("FAKE", "/nonexistent"))


def install(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(__file__)
    root = source.parents[4]
    (folder / "pvesh").write_text(PVESH)
    (folder / "pvesh").chmod(0o755)
    (folder / "ovs-vsctl").write_text("#!/bin/sh\necho vmbr0; echo vmbr1; echo 'not one'\n")
    (folder / "ovs-vsctl").chmod(0o755)
    for name in PROGRAMS:
        program = folder / name
        program.write_text(
            f"#!/bin/sh\nPYTHONPATH={root}:{source.parent} exec {sys.executable} -c "
            f'\'import restore_stubs; restore_stubs.main("{name}")\' "$@"\n'
        )
        program.chmod(0o755)


def main(name: str) -> None:
    words = sys.argv[1:]
    with (FAKE / "log").open("a") as log:
        log.write(repr([name, *words]) + "\n")
    for trap in (FAKE / f"fail.{name}", FAKE / f"fail.{name}.{words[0] if words else ''}"):
        if name not in ("qmrestore",) and trap.exists():
            fail(trap.read_text())
    globals()[name](words)


def fail(text: str, status: int = 255) -> None:
    sys.stderr.write(text + "\n")
    sys.exit(status)


def conf_file(vmid: str) -> Path:
    return FAKE / f"{vmid}.conf"


def take(vmid: str) -> Path:
    """As create_and_lock_config."""
    conf = conf_file(vmid)
    try:
        with conf.open("x") as file:
            file.write("lock: create\n")
    except FileExistsError:
        fail(f"unable to restore VM {vmid} - VM {vmid} already exists on node 'pve1'")
    return conf


def qmrestore(words: list[str]) -> None:
    from vmconsole.errors import ProtocolError
    from vmconsole.hypervisors.vma.reader import Reader

    assert words[0] == "-"
    vmid, options = words[1], dict(zip(words[2::2], words[3::2], strict=True))
    conf = take(vmid)
    folder = FAKE / "devices" / vmid
    folder.mkdir(parents=True)

    def give_up(*_: object) -> None:
        conf.write_text("")
        fail("progress 1% (read 1 bytes, duration 1 sec)\nerror before or during data restore, some or all "
             f"disks were not completely restored. VM {vmid} state is NOT cleaned up.\n{why}")  # fmt: skip

    why = "command 'vma extract' failed: interrupted by signal"
    signal.signal(signal.SIGTERM, give_up)
    early = FAKE / "fail.qmrestore"
    if early.exists():
        sys.stdin.buffer.read(200_000)
        why = early.read_text()
        give_up()
    try:
        reader = Reader(lambda size: sys.stdin.buffer.read(size))
        sinks = {}
        for device in reader.header.devices:
            sinks[device.dev_id] = (folder / device.name).open("wb")
            sinks[device.dev_id].truncate(device.size)
        for piece in reader.pieces():
            if piece.data is not None:
                sinks[piece.dev_id].seek(piece.offset)
                sinks[piece.dev_id].write(piece.data)
    except ProtocolError as error:
        why = f"vma: {error}"
        give_up()
    slow = FAKE / "slow.qmrestore"
    if slow.exists():
        time.sleep(float(slow.read_text()))
    for name, content in reader.header.configs.items():
        (FAKE / f"{name}.{vmid}").write_bytes(content)
    text = reader.header.configs["qemu-server.conf"].decode("utf-8", "surrogateescape")
    conf.write_text(
        rewritten(text, options, {d.name for d in reader.header.devices}), errors="surrogateescape"
    )


def rewritten(text: str, options: dict[str, str], devices: set[str]) -> str:
    """As restore_update_config_line."""
    maps = dict(re.findall(r"^#qmdump#map:(\S+):(\S+):\S*:\S*:$", text, re.MULTILINE))
    assert set(maps.values()) == devices
    lines = []
    for line in text.splitlines():
        if re.match(r"#(?:qmdump|vzdump)#|lock:|unused\d+:|parent:", line):
            continue
        drive = re.match(r"((?:ide|scsi|virtio|sata|efidisk|tpmstate)\d+):\s*(\S+)\s*$", line)
        if drive and drive[1] in maps:
            rest = drive[2].partition(",")[2]
            line = f"{drive[1]}: {options['--storage']}:vm-{options.get('vmid', 'X')}-{drive[1]},{rest}"
        elif re.match(r"net\d+:", line) and options.get("--unique") == "1":
            line = re.sub(r"([0-9A-F]{2}:){5}[0-9A-F]{2}", "BC:24:11:FF:FF:FF", line)
        lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def qm(words: list[str]) -> None:
    command, vmid, options = words[0], words[1] if len(words) > 1 else "", words[2:]
    if command == "rescan":
        return
    conf = conf_file(vmid)
    if not conf.exists():
        fail(f"Configuration file 'nodes/pve1/qemu-server/{vmid}.conf' does not exist", 2)
    text = conf.read_text(errors="surrogateescape")
    match command:
        case "config":
            comments = [line[1:] for line in text.splitlines() if line.startswith("#")]
            if comments:
                sys.stdout.write(f"description: {'%0A'.join(comments)}%0A\n")
            sys.stdout.writelines(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))
        case "set":
            if re.search(r"^lock:", text, re.MULTILINE):
                fail("VM is locked (create)")
            for key, value in zip(options[::2], options[1::2], strict=True):
                for name in value.split(",") if key == "--delete" else [key.removeprefix("--")]:
                    pattern = r"^#.*\n" if name == "description" else rf"^{name}:.*\n"
                    text = re.sub(pattern, "", text, flags=re.MULTILINE)
                if key == "--description":
                    text = "".join(f"#{quote(line)}\n" for line in value.split("\n")) + text
                elif key != "--delete":
                    text += f"{key.removeprefix('--')}: {value}\n"
            conf.write_text(text, errors="surrogateescape")
        case "destroy":
            if re.search(r"^lock:", text, re.MULTILINE):
                fail("VM is locked (create)")
            if re.search(r"^protection: 1", text, re.MULTILINE):
                fail("can't remove VM - protection mode enabled")
            conf.unlink()
        case "start":
            (FAKE / f"started.{vmid}").touch()
        case _:
            fail(f"unknown command {command}")


def pct(words: list[str]) -> None:
    if words[0] != "restore":
        qm(words)
        return
    vmid, archive, options = words[1], words[2], dict(zip(words[3::2], words[4::2], strict=True))
    assert archive == "-"
    conf = take(vmid)
    listing = subprocess.run(
        ["tar", "-tf", "-"], stdin=sys.stdin, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        conf.unlink()
        fail(f"unable to restore CT {vmid} - tar: {listing.stderr}")
    (FAKE / f"tar.{vmid}").write_text(listing.stdout)
    text = f"#{quote(options.pop('--description'))}\n"
    text += "".join(
        f"{key.removeprefix('--')}: {value}\n" for key, value in options.items() if key != "--unique"
    )
    conf.write_text(text)


def pvesm(words: list[str]) -> None:
    volumes = FAKE / "volumes"
    volumes.mkdir(exist_ok=True)
    match words[0]:
        case "alloc":
            storage, _, name, size = words[1:5]
            path = volumes / name
            image_format = words[words.index("--format") + 1]
            subprocess.run(["qemu-img", "create", "-q", "-f", image_format, path, f"{size}K"], check=True)
            print(f"successfully created '{storage}:{name}'")
        case "path":
            print(volumes / words[1].rpartition(":")[2].rpartition("/")[2])
        case "free":
            path = volumes / words[1].rpartition(":")[2].rpartition("/")[2]
            if not path.exists():
                fail(f"no such volume '{words[1]}'")
            path.unlink()
