"""Stands in for look.pl, the program that reads files of a node: the same questions, the same answers."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vmconsole.demo.pve.cluster import Cluster, Node

_TOOLS = ("pct", "perl", "pvesh", "pvesm", "qemu-img", "qemu-nbd", "qm", "socat", "vzdump")
_SECTION = re.compile(r"\[(?:special:|pve:)?[a-z][a-z0-9_-]+\]\s*", re.IGNORECASE)
_PROC = {
    "/proc/loadavg": "0.21 0.17 0.12 1/311 4242\n",
    "/proc/pressure/cpu": "some avg10=3.50 avg60=2.10 avg300=1.70 total=1\n",
    "/proc/pressure/io": "some avg10=1.20 avg60=0.90 avg300=0.50 total=1\n",
    "/proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
}


def look(cluster: Cluster, node: Node, arguments: Sequence[str]) -> str:
    """arguments: the token, then pairs of an operation and what it is about."""
    token, *questions = arguments
    files = tree(cluster, node)
    answers = []
    for operation, about in zip(questions[::2], questions[1::2], strict=True):
        answers += list(_answer(cluster, node, files, operation, about))
    return "".join(_print(token, *answer) for answer in [*answers, ("end", "", "", "")])


def tree(cluster: Cluster, node: Node) -> dict[str, str]:
    """The files of a node, by path: /etc/pve is the same on all of them."""
    files = dict(_PROC) | {
        "/etc/pve/pve-root-ca.pem": cluster.authority,
        "/proc/sys/kernel/random/boot_id": f"{node.boot_id}\n",
    }
    with cluster.lock:
        for guest in cluster.guests:
            files[guest.conf_path] = guest.conf.text
    return files


def _answer(
    cluster: Cluster, node: Node, files: Mapping[str, str], operation: str, about: str
) -> Iterator[tuple[str, str, str, str]]:
    """(word, name, data, error) each."""
    if operation in ("files", "identities"):
        for path in sorted(fnmatch.filter(files, about)):
            text = files[path]
            if operation == "files":
                yield "file", path, text, ""
            else:
                yield "identity", path, _identity(text), ""
    elif operation == "file":
        missing = "" if about in files else os.strerror(2)
        yield "file", about, files.get(about, ""), missing
    elif operation == "process":
        vmid = re.sub(r"\D", "", Path(about).stem)
        running = [vm for vm in cluster.vms if str(vm.vmid) == vmid and vm.node == node.name]
        process = running[0].process if running else None
        yield "process", about, process.text if process else "", ""
    elif operation == "lock":
        yield "lock", about, "held" if cluster.dumping == node.name else "", ""
    elif operation == "size":
        volume = Path(about)
        yield "size", about, str(volume.stat().st_size) if volume.is_file() else "", ""
    elif operation == "space":
        try:
            space = os.statvfs(node.path(about))
        except OSError:
            yield "space", about, "", ""
        else:
            yield "space", about, f"{space.f_bavail} {space.f_frsize}\n", ""
    elif operation == "have":
        yield "have", about, "/usr/bin" if about in _TOOLS else "", ""


def _identity(text: str) -> str:
    kept = ""
    for line in text.splitlines():
        if _SECTION.fullmatch(line):
            break
        if line.startswith(("smbios1:", "vmgenid:")):
            kept += f"{line}\n"
    return kept


def _print(token: str, word: str, name: str, data: str, error: str) -> str:
    lengths = " ".join(str(len(part.encode("utf-8", "surrogateescape"))) for part in (name, data, error))
    return f"{token} {word} {lengths}\n{name}{data}{error}\n"
