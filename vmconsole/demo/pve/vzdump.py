"""`vzdump CTID --stdout`: the container's files as a tar on standard output, the log on standard error."""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from collections.abc import Sequence
from typing import BinaryIO

from vmconsole.demo.contents import FIRST_DAY
from vmconsole.demo.control import Answer, Talk
from vmconsole.demo.pve.cluster import Cluster, Node, Refused
from vmconsole.demo.pve.machines import Container, File

_PIECE = 256 * 1024


def vzdump(cluster: Cluster, node: Node, words: Sequence[str]) -> Answer:
    """words: without the program's name. Raises Refused."""
    container = cluster.container
    vmid = next((word for word in words if word.isdecimal()), "")
    if "--stdout" not in words or not any(word.startswith("--dumpdir") for word in words):
        raise Refused("the demo's vzdump only knows: CTID --stdout --dumpdir FOLDER")
    if (vmid, node.name) != (str(container.vmid), container.node):
        raise Refused(f"unable to find VM '{vmid}'")
    return Answer(talk=lambda ends: _dump(cluster, node, container, ends))


def _dump(cluster: Cluster, node: Node, container: Container, ends: Talk) -> int:
    def log(text: str) -> None:
        ends.err(f"INFO: {text}\n".encode())

    with cluster.lock:
        held = container.conf.values.get("lock")
        if held or cluster.dumping:
            ends.err(
                f"ERROR: Backup of VM {container.vmid} failed - CT is locked ({held or 'vzdump'})\n".encode()
            )
            return 255
        conf = container.conf.text
        container.conf.values["lock"] = "backup"
        cluster.dumping = node.name
        files, now = list(container.files.values()), time.time()
    try:
        log(f"Starting Backup of VM {container.vmid} (lxc)")
        log("backup mode: snapshot")
        log("creating vzdump archive to stdout")
        sink = _Hashed(ends)
        _write_tar(sink, conf, files)
        cluster.streamed(container, sink.digest.hexdigest(), now)
        log(f"Finished Backup of VM {container.vmid}")
        log("Backup job finished successfully")
    except OSError:
        return 255
    finally:
        with cluster.lock:
            container.conf.values.pop("lock", None)
            cluster.dumping = ""
    return 0


class _Hashed(io.RawIOBase):
    """Standard output, and the checksum of what went there."""

    def __init__(self, ends: Talk) -> None:
        super().__init__()
        self.digest = hashlib.sha256()
        self._ends = ends
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        self._held += data
        if len(self._held) >= _PIECE:
            self.flush()
        return len(data)

    def flush(self) -> None:
        if self._held:
            self.digest.update(self._held)
            self._ends.out(bytes(self._held))
            self._held.clear()


def _write_tar(sink: _Hashed, conf: str, files: Sequence[File]) -> None:
    """As vzdump does: the configuration first, everything below `./`, owners as the container sees them."""
    stream: BinaryIO = sink  # type: ignore[assignment]
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        members = [
            File("etc/vzdump/pct.conf", FIRST_DAY, conf.encode()),
            File("", FIRST_DAY, folder=True, mode=0o755),
            *files,
        ]
        for file in members:
            info = tarfile.TarInfo(f"./{file.path}")
            info.mode, (info.uid, info.gid), info.mtime = file.mode, file.owner, file.time
            if file.folder:
                info.type = tarfile.DIRTYPE
            elif file.link:
                info.type, info.linkname = tarfile.SYMTYPE, file.link
            info.size = len(file.content)
            tar.addfile(info, io.BytesIO(file.content))
    sink.flush()
