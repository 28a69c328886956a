"""qemu-img and qemu-nbd on the demo's hosts, as far as backups use them. They know the guests' images only."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from vmconsole.demo.backup_job import source
from vmconsole.demo.control import Answer, Call
from vmconsole.demo.disk import GRANULE, Snapshot, VirtualDisk
from vmconsole.demo.guests import Guest, GuestDisk
from vmconsole.disks.nbd.server import NbdServer
from vmconsole.errors import VmconsoleError

_NBD_VALUES = {
    "-k": "socket", "-x": "export-name", "-f": "format", "-e": "shared", "-B": "bitmap",
}  # fmt: skip
_NBD_FLAGS = {"-r": "read-only", "-t": "persistent"}


class Images(Protocol):
    """What a host has: images of guests, and a folder for copies of them."""

    @property
    def witnesses(self) -> Path: ...

    def find_image(self, path: str) -> tuple[Guest, GuestDisk] | None: ...

    def witness(self, guest: Guest, item: GuestDisk, asked: str, now: float) -> None:
        """Record a disk's checksum as it is now."""
        ...


def qemu_img(host: Images, call: Call) -> Answer:
    """`qemu-img info --output=json` and `--version`."""
    words = list(call.argv[1:])
    if words[:1] == ["--version"]:
        return Answer(stdout="qemu-img version 10.0.2 (demo)\n")
    if words[:1] != ["info"]:
        return Answer(1, stderr=f"qemu-img: the demo host has no {shlex.join(words[:1])}\n")
    chain = "--backing-chain" in words
    operands, options = _split(words[1:], {"-f": "format", "-F": "format"}, {"-U": "force-share"})
    path = operands[0] if operands else ""
    if path.startswith("json:"):
        path = _file_name(path)
    found = host.find_image(path)
    if found is None:
        reason = "Permission denied" if Path(path).exists() else "No such file or directory"
        return Answer(1, stderr=f"qemu-img: Could not open '{path}': Could not open '{path}': {reason}\n")
    guest, item = found
    wanted = options.get("format", item.disk.format)
    if wanted == "qcow2" and item.disk.format != "qcow2":
        return Answer(1, stderr=f"qemu-img: Could not open '{path}': Image is not in qcow2 format\n")
    document = _info(guest, item.disk, wanted)
    return Answer(stdout=json.dumps([document] if chain else document, indent=4) + "\n")


def _info(guest: Guest, disk: VirtualDisk, image_format: str) -> dict[str, Any]:
    document: dict[str, Any] = {
        "virtual-size": disk.size,
        "filename": str(disk.path),
        "format": image_format,
        "actual-size": disk.allocated_bytes,
        "dirty-flag": False,
    }
    if image_format == "qcow2":
        data: dict[str, Any] = {
            "compat": "1.1",
            "compression-type": "zlib",
            "lazy-refcounts": False,
            "refcount-bits": 16,
            "corrupt": False,
            "extended-l2": False,
        }
        # QEMU stores bitmaps in the image when it closes it: while the guest runs there are none.
        if disk.bitmaps and not guest.running:
            data["bitmaps"] = [
                {"flags": ["auto"], "name": name, "granularity": GRANULE} for name in disk.bitmaps
            ]
        document |= {"cluster-size": GRANULE, "format-specific": {"type": "qcow2", "data": data}}
    return document


def qemu_nbd(host: Images, call: Call, place: Callable[[str], Path] = Path) -> Answer:
    """Serve one image read-only until ended. place: where a socket really is."""
    words = list(call.argv[1:])
    if words[:1] == ["--version"]:
        return Answer(stdout="qemu-nbd 10.0.2 (demo)\n")
    operands, options = _split(words, _NBD_VALUES, _NBD_FLAGS)
    image = operands[0] if operands else ""
    path = _file_name(image) if image.startswith("json:") or "image-opts" in options else image
    found = host.find_image(path)
    if found is None:
        return _nbd_error(
            f"Failed to blk_new_open '{image}': Could not open '{path}': No such file or directory"
        )
    if "read-only" not in options:
        return _nbd_error(f"Failed to blk_new_open '{image}': Could not open '{path}': Permission denied")
    guest, item = found
    bitmap = options.get("bitmap", "")
    if bitmap and (bitmap not in item.disk.bitmaps or guest.running):
        return _nbd_error(f"Bitmap '{bitmap}' is not found")
    asked = shlex.join(call.argv)
    with item.disk.lock:
        snapshot = Snapshot(item.disk, host.witnesses / f"{uuid4().hex}.scratch", bitmap)
        host.witness(guest, item, asked, time.time())
    try:
        release = _serve(snapshot, options, bitmap, place)
    except (VmconsoleError, OSError) as error:
        snapshot.close()
        return _nbd_error(str(error))
    return Answer(hold=release)


def _serve(
    snapshot: Snapshot, options: dict[str, str], bitmap: str, place: Callable[[str], Path]
) -> Callable[[], None]:
    exports = {options.get("export-name", ""): source(snapshot, bitmap)}
    server = NbdServer(exports)
    pid_file = place(options["pid-file"]) if "pid-file" in options else None

    def release() -> None:
        server.close()
        snapshot.close()
        if pid_file is not None:
            pid_file.unlink(missing_ok=True)

    try:
        server.listen_unix(place(options.get("socket", "")))
        if pid_file is not None:
            pid_file.write_text("1\n")
    except BaseException:
        server.close()
        raise
    return release


def _nbd_error(text: str) -> Answer:
    return Answer(1, stderr=f"qemu-nbd: {text}\n")


def _split(
    words: Sequence[str], values: dict[str, str], flags: dict[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Operands and options; a long option's value follows `=`, as this package writes them."""
    operands: list[str] = []
    options: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return operands + rest, options
        if word in values and rest:
            options[values[word]] = rest.pop(0)
        elif word in flags:
            options[flags[word]] = ""
        elif word.startswith("--"):
            name, _, value = word[2:].partition("=")
            options[name] = value
        else:
            operands.append(word)
    return operands, options


def _file_name(image: str) -> str:
    """The path inside `json:{…}` block device options, or `driver=…,file.filename=…`."""
    if not image.startswith("json:"):
        pairs = dict(part.partition("=")[::2] for part in image.split(","))
        return pairs.get("file.filename", pairs.get("filename", ""))
    try:
        document = json.loads(image.removeprefix("json:"))
        while isinstance(document, dict) and "filename" not in document:
            document = document.get("file")
        return str(document["filename"]) if isinstance(document, dict) else ""
    except (ValueError, KeyError):
        return ""
