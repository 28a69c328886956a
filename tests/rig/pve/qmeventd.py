"""A stand-in for qmeventd: takes `{"vzdump":{"vmid":"100"}}` and remembers who holds which machine.

A QEMU may connect with a monitor, as Proxmox's do: it is told to quit once its guest has powered off and
nobody holds the machine.

    with Qmeventd(Path("/run/qmeventd.sock")) as daemon:
        daemon.held()    # {"100"}: machines that would not be ended after a power-off

Run as a program it serves until its standard input ends:  python qmeventd.py SOCKET
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType


class Qmeventd:
    """Listens from the start of `with` to its end. history: every machine that was ever held, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history: list[str] = []
        self._held: list[str] = []
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Qmeventd:
        self.path.unlink(missing_ok=True)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def held(self) -> set[str]:
        """Machines with an open handle now."""
        with self._lock:
            return set(self._held)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._client, args=(client,), daemon=True).start()

    def _client(self, client: socket.socket) -> None:
        machine = ""
        received = b""
        with client, suppress(OSError):
            while data := client.recv(4096):
                received += data
                if b'"QMP"' in received:
                    self._watch(client)
                    return
                try:
                    machine = str(json.loads(received)["vzdump"]["vmid"])
                except (ValueError, KeyError, TypeError):
                    continue
                received = b""
                with self._lock:
                    self._held.append(machine)
                    self.history.append(machine)
        if machine:
            with self._lock:
                self._held.remove(machine)

    def _watch(self, qemu: socket.socket) -> None:
        """Until QEMU ends."""
        qemu.sendall(b'{"execute": "qmp_capabilities"}')
        machine = _machine_of(qemu)
        qemu.settimeout(0.2)
        received, off = b"", False
        while True:
            try:
                data = qemu.recv(4096)
                if not data:
                    return
                received += data
            except TimeoutError:
                pass
            *lines, received = received.split(b"\n")
            off = off or any(b'"SHUTDOWN"' in line for line in lines)
            if off and machine not in self.held():
                qemu.sendall(b'{"execute": "quit"}')


def _machine_of(qemu: socket.socket) -> str:
    """The number in the name of its pid file, as qmeventd looks for its own argument."""
    pid = struct.unpack("3i", qemu.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return next((Path(word).stem for word in words if word.endswith(".pid")), "")


if __name__ == "__main__":
    with Qmeventd(Path(sys.argv[1])):
        os.write(1, b"up\n")
        sys.stdin.read()
