"""pvesm status | list | path | alloc | free | export | import"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence

from pve.tools.says import Died, Words, node_name, parse_size, words
from pve.tools.storage import (
    alloc,
    free,
    image_size,
    path_of,
    space,
    split_volid,
    storage,
    storages,
    volume_format,
    volumes,
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    verbs = {
        "status": _status, "list": _list, "path": _path, "alloc": _alloc, "free": _free, "export": _export,
        "import": _import,
    }  # fmt: skip
    if not argv or argv[0] not in verbs:
        raise Died(
            f"ERROR: unknown command 'pvesm {' '.join(argv)}'\nUSAGE: pvesm <COMMAND> [ARGS] [OPTIONS]"
        )
    verbs[argv[0]](words(argv[1:]))
    return 0


def _status(given: Words) -> None:
    given.only("storage", "content", "enabled", "format", "target")
    print(f"{'Name':<16} {'Type':>8} {'Status':>10} {'Total':>15} {'Used':>15} {'Available':>15} {'%':>8}")
    for name, one in sorted(storages().items()):
        if given.get("storage", name) != name or not one.on(node_name()):
            continue
        if "content" in given.values and given.get("content") not in one.content:
            continue
        state = "disabled" if one.disabled else "active" if one.active() else "inactive"
        total, used, available = space(one) if state == "active" else (0, 0, 0)
        share = f"{used / total:.2%}" if total else "0.00%"
        figures = f"{total // 1024:>15} {used // 1024:>15} {available // 1024:>15} {share:>8}"
        print(f"{name:<16} {one.type:>8} {state:>10} {figures}")


def _list(given: Words) -> None:
    given.only("vmid", "content")
    print("Volid Format  Type      Size VMID")
    for one in volumes(storage(given.plain[0], node_name())):
        if given.get("vmid", str(one.vmid)) == str(one.vmid):
            print(f"{one.volid} {one.format:<7} {one.content:<8} {one.size:>10} {one.vmid}")


def _path(given: Words) -> None:
    print(path_of(given.plain[0], node_name()))


def _alloc(given: Words) -> None:
    given.only("format")
    if len(given.plain) != 4:
        raise Died("400 not enough arguments\npvesm alloc <storage> <vmid> <filename> <size> [OPTIONS]")
    name, _, volume, size = given.plain
    vmid = given.vmid(1)
    form = given.get("format") or (volume_format(volume) if "." in volume else "raw")
    if volume and f"-{vmid}-" not in volume:
        raise Died(f"illegal name '{volume}' - should be 'vm-{vmid}-*'")
    print(f"successfully created '{alloc(name, vmid, volume, parse_size(size, 'K'), form, node_name())}'")


def _free(given: Words) -> None:
    given.only("delay")
    free(given.plain[0], node_name())
    print(f"Removed volume '{given.plain[0]}'")


def _export(given: Words) -> None:
    """raw+size: the size in eight bytes, little-endian, and the image."""
    volid, form, target = given.plain[:3]
    if form != "raw+size" or target != "-":
        raise Died(f"format '{form}' is not supported for volume {volid}")
    path, kind = path_of(volid, node_name()), volume_format(volid)
    sys.stdout.buffer.write(struct.pack("<Q", image_size(path, kind)))
    sys.stdout.buffer.flush()
    subprocess.run(
        ["qemu-img", "dd", "-f", kind, "-O", "raw", "bs=1M", f"if={path}", "of=/dev/stdout"], check=True
    )


def _import(given: Words) -> None:
    volid, form, source = given.plain[:3]
    if form != "raw+size" or source != "-" or volume_format(volid) != "raw":
        raise Died(f"cannot import format {form} into volume {volid}")
    name, volume = split_volid(volid)
    (size,) = struct.unpack("<Q", sys.stdin.buffer.read(8))
    vmid, _, file = volume.partition("/")
    made = alloc(name, int(vmid), file, size, "raw", node_name())
    with path_of(made, node_name()).open("r+b") as out:
        shutil.copyfileobj(sys.stdin.buffer, out, 1 << 20)
    print(f"successfully imported '{made}'")
