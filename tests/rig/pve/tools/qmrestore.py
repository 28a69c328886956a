"""qmrestore -|FILE ID [--storage S] [--unique 1] [--force 1] [--pool P] [--start 1]"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from pve.tools import conf, machine, storage, vma, wire
from pve.tools.qm import destroy, new_mac, refuse_taken
from pve.tools.says import Died, Words, node_name, print_size, words

_MAP = re.compile(r"#qmdump#map:(\S+):drive-(\S+):(\S*):(\S*):")
_MAC = re.compile(r"(?i)(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")


def main(argv: Sequence[str]) -> int:
    given = words(argv, ["unique", "force", "start", "live-restore"])
    given.only("storage", "unique", "force", "pool", "start", "bwlimit", "live-restore")
    if len(given.plain) != 2:
        raise Died("400 not enough arguments\nqmrestore <archive> <vmid> [OPTIONS]")
    vmid = given.vmid(1)
    if given.on("force") and conf.find(vmid) == ("qemu", node_name()):
        old = conf.read(vmid, "qemu", node_name())
        conf.check_lock(old, "qemu")
        if wire.pid(vmid):
            raise Died(f"unable to restore vm {vmid} - vm is running")
        destroy(vmid, old)
    refuse_taken(vmid, "restore")
    path = conf.path_of(vmid, "qemu", node_name())
    conf.write(path, "lock: create\n")
    try:
        if given.plain[0] == "-":
            found = _restore(sys.stdin.buffer, vmid, given)
        else:
            with Path(given.plain[0]).open("rb") as file:
                found = _restore(file, vmid, given)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, Died):
            raise Died(f"restore vma archive failed: {error}") from None
        raise
    conf.write(path, found)
    if given.on("start"):
        machine.start(vmid, conf.parse(found))
    return 0


def _restore(source: BinaryIO, vmid: int, given: Words) -> str:
    header = vma.read_header(source)
    if "qemu-server.conf" not in header.configs:
        raise Died("archive contains no configuration file")
    text = header.configs["qemu-server.conf"].decode()
    for name, data in header.configs.items():
        print(f"CFG: size: {len(data)} name: {name}")
    hints = {match[2]: (match[1], match[3], match[4]) for match in _MAP.finditer(text)}
    made: dict[str, str] = {}
    try:
        with (
            tempfile.TemporaryDirectory(dir="/var/tmp", prefix=f"vzdumptmp{os.getpid()}_") as name,
            ExitStack() as stack,
        ):
            files = {}
            for device, (drive, size) in header.devices.items():
                print(f"DEV: dev_id={device} size: {size} devname: {drive}", flush=True)
                key = drive.removeprefix("drive-")
                if key not in hints:
                    raise Died(f"no map hint for device '{drive}'")
                _, store, form = hints[key]
                form = form if form in storage.FORMATS else "raw"
                pool = given.get("storage") or store or "local"
                made[key] = storage.alloc(pool, vmid, "", size, form, node_name())
                print(f"new volume ID is '{made[key]}'", flush=True)
                place = storage.path_of(made[key], node_name()) if form == "raw" else Path(name, key)
                file = stack.enter_context(place.open("r+b" if form == "raw" else "w+b"))
                file.truncate(size)
                files[device] = file
            for device, offset, data in vma.read_clusters(source, header):
                if data.strip(b"\0"):
                    os.pwrite(files[device].fileno(), data, offset)
            for key, volid in made.items():
                if storage.volume_format(volid) != "raw":
                    _convert(
                        Path(name, key), storage.path_of(volid, node_name()), storage.volume_format(volid)
                    )
        if "qemu-server.fw" in header.configs:
            conf.write(conf.ETC / "firewall" / f"{vmid}.fw", header.configs["qemu-server.fw"].decode())
    except BaseException:
        for volid in made.values():
            storage.free(volid, node_name())
        raise
    return rewrite(text, made, unique=given.on("unique"))


def _convert(raw: Path, target: Path, form: str) -> None:
    done = subprocess.run(
        ["qemu-img", "convert", "-n", "-f", "raw", "-O", form, str(raw), str(target)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Died(done.stderr.strip())


def rewrite(text: str, made: dict[str, str], *, unique: bool) -> str:
    """The archive's configuration for its new disks, as qemu-server rewrites its lines."""
    lines = []
    for line in text.splitlines():
        key, _, value = line.partition(": ")
        if line.startswith(("#qmdump#", "#vzdump#")) or key in {"lock", "parent"} or key.startswith("unused"):
            continue
        if key in made:
            items = conf.properties(value)
            size = storage.image_size(
                storage.path_of(made[key], node_name()), storage.volume_format(made[key])
            )
            items |= {"file": made[key], "size": print_size(size)}
            line = f"{key}: {conf.joined(items)}"
        elif conf.DRIVE.fullmatch(key) and "media=cdrom" not in value:
            # It was not in the backup: its line is kept as a comment.
            line = f"#{line}"
        elif re.fullmatch(r"net\d+", key) and unique:
            line = f"{key}: {_MAC.sub(lambda _: new_mac(), value)}"
        elif key == "vmgenid" and value != "0":
            line = f"vmgenid: {uuid.uuid4()}"
        elif key == "smbios1" and unique:
            line = f"{key}: {re.sub(r'uuid=[0-9A-Fa-f-]+', f'uuid={uuid.uuid4()}', value)}"
        lines.append(line)
    return "".join(f"{line}\n" for line in lines)
