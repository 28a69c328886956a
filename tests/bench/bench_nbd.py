"""Speed of the NBD client and server. Run it as a script; it needs qemu-nbd and qemu-img.

python tests/bench/bench_nbd.py [MEBIBYTES]
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from vmconsole.disks.extents import incremental_extents
from vmconsole.disks.nbd.client import NbdClient
from vmconsole.disks.nbd.parallel import read_many
from vmconsole.disks.nbd.server import NbdServer
from vmconsole.disks.nbd.source import MappedSource

MIB = 1024 * 1024


class WithoutRecvInto:
    """A stream as an SSH channel is one: recv and sendall only."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.recv = inner.recv
        self.sendall = inner.sendall
        self.settimeout = inner.settimeout
        self.close = inner.close


def connect(path: Path) -> socket.socket:
    deadline = time.monotonic() + 10
    while True:
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.connect(str(path))
        except OSError:
            stream.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return stream


@contextmanager
def qemu_nbd(path: Path, *args: str | Path) -> Iterator[None]:
    """A server that is told to end only once it listens: before, qemu-nbd loses the signal."""
    server = subprocess.Popen(["qemu-nbd", "-k", path, "-t", "-x", "d", *args])
    try:
        connect(path).close()
        yield
    finally:
        server.terminate()
        server.wait(10)


def rate(name: str, size: int, work: Callable[[], object]) -> None:
    work()
    best = min(_timed(work) for _ in range(3))
    print(f"{name:<52} {size / best / 1e6:8.0f} MB/s")


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def read_all(client: NbdClient, request_size: int, in_flight: int) -> int:
    ranges = [(0, client.size)]
    return sum(len(b) for _, b in client.read(ranges, request_size=request_size, in_flight=in_flight))


def read_with(clients: list[NbdClient], size: int) -> int:
    return sum(len(b) for _, b in read_many(clients, [(0, size)]))


def reads(folder: Path, size: int) -> None:
    disk = folder / "disk.raw"
    with disk.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    path = folder / "nbd"
    with qemu_nbd(path, "-r", "-f", "raw", "-e", "8", disk):
        rate("nothing but the socket (qemu-img convert to null)", size, lambda: to_null(path))
        for request, flight in ((65536, 16), (262144, 16), (MIB, 4), (MIB, 16), (4 * MIB, 8)):
            with NbdClient.connect(connect(path), "d") as client:
                name = f"read {request // 1024} KiB x {flight}"
                rate(name, size, partial(read_all, client, request, flight))
        with NbdClient.connect(WithoutRecvInto(connect(path)), "d") as client:
            rate("read 1024 KiB x 16 without recv_into", size, lambda: read_all(client, MIB, 16))
        clients = [NbdClient.connect(connect(path), "d") for _ in range(3)]
        for count in (2, 3):
            rate(f"read_many, {count} connections", size, partial(read_with, clients[:count], size))
        small = [(offset, 65536) for offset in range(0, size, 131072)]
        with NbdClient.connect(connect(path), "d") as client:
            rate("read every other 64 KiB", size // 2, lambda: sum(len(b) for _, b in client.read(small)))
        for client in clients:
            client.close()


def to_null(path: Path) -> None:
    target = ["--target-image-opts", "driver=null-co,size=100G,read-zeroes=off"]
    url = f"nbd+unix:///d?socket={path}"
    subprocess.run(["qemu-img", "convert", "-n", "-f", "raw", url, *target], check=True)


def writes(folder: Path, size: int) -> None:
    disk, path, data = folder / "new.qcow2", folder / "nbdw", os.urandom(MIB)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, str(size)], check=True)
    with qemu_nbd(path, "-f", "qcow2", disk), NbdClient.connect(connect(path), "d") as client:

        def work() -> None:
            for offset in range(0, size, MIB):
                client.write(offset, data)
            client.flush()

        rate("write 1 MiB pieces to qcow2, with flush", size, work)


def serving(folder: Path, size: int) -> None:
    data = os.urandom(32 * MIB)
    path = folder / "ours"
    with NbdServer({"d": MappedSource(size, lambda offset, length: data[:length])}) as server:
        server.listen_unix(path)
        rate("our server to qemu-img convert", size, lambda: to_null(path))
        with NbdClient.connect(connect(path), "d") as client:
            rate("our server to our client (one process)", size, lambda: read_all(client, MIB, 16))


def maps(folder: Path) -> None:
    count = 400_000
    size = count * 65536
    allocation = [(n * 65536, 65536, 0 if n % 2 else 3) for n in range(count)]
    dirty = [(n * 65536, 65536, n // 2 % 2) for n in range(count)]
    source = MappedSource(
        size, lambda _, length: bytes(length), {"base:allocation": allocation, "qemu:dirty-bitmap:b": dirty}
    )
    path = folder / "map"
    with NbdServer({"d": source}) as server:
        server.listen_unix(path)
        with NbdClient.connect(
            connect(path), "d", ("base:allocation", "qemu:dirty-bitmap:b"), timeout=600
        ) as client:
            began = time.monotonic()
            found = client.block_status()
            print(f"map of {count} extents, 2 contexts (client and server) {time.monotonic() - began:8.2f} s")
            tracemalloc.start()
            again = client.block_status()
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            print(f"memory it holds: {held / 1e6:.1f} MB for {sum(map(len, again.values()))} parts")
    began = time.monotonic()
    extents = incremental_extents(found["base:allocation"], found["qemu:dirty-bitmap:b"], size, size)
    print(f"combined into {len(extents)} extents in {time.monotonic() - began:.2f} s")


def main() -> None:
    size = int(sys.argv[1] if len(sys.argv) > 1 else "512") * MIB
    with tempfile.TemporaryDirectory() as folder:
        reads(Path(folder), size)
        writes(Path(folder), size)
        serving(Path(folder), size)
        maps(Path(folder))


if __name__ == "__main__":
    main()
