"""The demo host's ear: answers the programs that stub.py stands in for."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shlex
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_MAX_FRAME = 16 * 1024 * 1024
_MAX_FRAMES = 10_000
_REQUEST_SECONDS = 30.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program prints and how it ends.

    hold: for a server, which runs already: the program goes on until somebody ends it; then hold
    is called, and the program ends. talk: for a program that reads its input or says much; it is
    handed its ends and returns the exit status.
    """

    status: int = 0
    stdout: str = ""
    stderr: str = ""
    hold: Callable[[], None] | None = None
    talk: Callable[[Talk], int] | None = None


class Talk:
    """The ends of a program that runs in the demo. Whoever says something may be in any thread."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._asked = False
        self._turn = threading.Lock()

    def read(self, timeout: float | None = None) -> bytes:
        """What came on standard input; empty at its end. Raises TimeoutError."""
        if not self._asked:
            self._asked = True
            self._send(b"I", b"")
        waiting = select.poll()
        waiting.register(self._client, select.POLLIN)
        if not waiting.poll(None if timeout is None else timeout * 1000):
            raise TimeoutError
        try:
            header = _receive(self._client, 5)
            return _receive(self._client, int.from_bytes(header[1:], "big")) if header[:1] == b"I" else b""
        except (OSError, EOFError):
            return b""

    def out(self, data: bytes) -> None:
        """Raises OSError when nobody listens any more."""
        self._send(b"O", data)

    def err(self, data: bytes) -> None:
        self._send(b"R", data)

    def _send(self, kind: bytes, data: bytes) -> None:
        with self._turn:
            self._client.sendall(_frame(kind, data))


@dataclass(frozen=True, slots=True)
class Call:
    """argv[0] is the program's name. files: content of arguments that named inherited descriptors."""

    argv: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)


class Control:
    """A unix socket and a thread per running program."""

    def __init__(self, path: Path, answer: Callable[[Call], Answer]) -> None:
        self.path = path
        self._answer = answer
        self._lock = threading.Lock()
        self._open = True
        self._clients: dict[threading.Thread, socket.socket] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._accept, name="demo-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End every program; returns when all threads have ended."""
        with self._lock:
            self._open = False
            clients = dict(self._clients)
        # A thread in accept() or recv() is woken by shutdown, not by close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in clients.values():
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RD)
        for thread in (self._thread, *clients):
            thread.join()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), name="demo-program", daemon=True)
            with self._lock:
                if not self._open:
                    client.close()
                    return
                self._clients[thread] = client
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, contextlib.suppress(OSError, EOFError):
                client.settimeout(_REQUEST_SECONDS)
                call = _read_call(client)
                client.settimeout(None)
                self._reply(client, self._ask(call))
        finally:
            with self._lock:
                self._clients.pop(threading.current_thread(), None)

    def _ask(self, call: Call) -> Answer:
        try:
            return self._answer(call)
        except Exception:  # noqa: BLE001 (a fault of the demo must look like a broken host, not hang it)
            _log.exception("the demo host failed at %s", shlex.join(call.argv))
            return Answer(1, stderr="error: internal error: the demo host failed\n")

    def _reply(self, client: socket.socket, answer: Answer) -> None:
        if answer.talk is not None:
            client.sendall(_frame(b"X", bytes([answer.talk(Talk(client))])))
            return
        try:
            for kind, text in ((b"O", answer.stdout), (b"R", answer.stderr)):
                if text:
                    client.sendall(_frame(kind, text.encode("utf-8", "surrogateescape")))
            if answer.hold is not None:
                with contextlib.suppress(OSError):
                    while client.recv(1024):
                        pass
        finally:
            if answer.hold is not None:
                answer.hold()
        client.sendall(_frame(b"X", bytes([answer.status])))


def install(folder: Path, tools: Sequence[str], interpreter: str, control: Path) -> None:
    """Write the programs into a folder for PATH."""
    stub = Path(__file__).with_name("stub.py")
    for tool in tools:
        # A shell script rather than `#!interpreter`: that line has no room for long or blank paths.
        words = [interpreter, "-S", "-E", "-I", str(stub), str(control), tool]
        script = folder / tool
        script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        script.chmod(0o755)


def _read_call(client: socket.socket) -> Call:
    argv: list[str] = []
    files: dict[str, str] = {}
    for _ in range(_MAX_FRAMES):
        header = _receive(client, 5)
        length = int.from_bytes(header[1:], "big")
        if length > _MAX_FRAME:
            break
        content = _receive(client, length)
        if header[:1] == b"E" and argv:
            return Call(argv, files)
        if header[:1] == b"A":
            argv.append(os.fsdecode(content))
        elif header[:1] == b"F" and argv:
            files[argv[-1]] = content.decode("utf-8", "surrogateescape")
    raise EOFError


def _receive(client: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = client.recv(size - len(received))
        if not piece:
            raise EOFError
        received += piece
    return bytes(received)


def _frame(kind: bytes, content: bytes) -> bytes:
    return kind + len(content).to_bytes(4, "big") + content
