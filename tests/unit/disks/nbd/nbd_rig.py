"""Peers for NBD tests: a stream that plays a script, and the real qemu-nbd."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.client import NbdClient
from vmconsole.disks.nbd.protocol import ExportFlag, Info, Option, OptionReply, ReplyType

KIB, MIB, GIB = 1024, 1024**2, 1024**3
FLAGS = ExportFlag.HAS_FLAGS | ExportFlag.SEND_FLUSH | ExportFlag.SEND_WRITE_ZEROES


class Script:
    """A stream whose peer says what was written down beforehand, then hangs up or falls silent."""

    def __init__(self, said: bytes, *, silent: bool = False, piece: int = 1 << 30) -> None:
        self.said = memoryview(said)
        self.heard = bytearray()
        self.closed = False
        self._silent = silent
        self._piece = piece
        self._timeout: float | None = None

    def recv(self, size: int) -> bytes:
        if not self.said and self._silent:
            time.sleep(self._timeout or 0)
            raise TimeoutError
        taken = bytes(self.said[: min(size, self._piece)])
        self.said = self.said[len(taken) :]
        return taken

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        self.heard += data

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def close(self) -> None:
        self.closed = True


class Channel:
    """A socket with the four methods of a Stream only, as an SSH channel has them."""

    def __init__(self, inner: socket.socket) -> None:
        self.recv = inner.recv
        self.sendall = inner.sendall
        self.settimeout = inner.settimeout
        self.close = inner.close


def greeting(flags: int = 3) -> bytes:
    return protocol.GREETING.pack(protocol.INIT_MAGIC, protocol.OPTION_MAGIC, flags)


def info(size: int, flags: int = FLAGS) -> bytes:
    return protocol.U16.pack(Info.EXPORT) + protocol.EXPORT_INFO.pack(size, flags)


def blocks(smallest: int, preferred: int, largest: int) -> bytes:
    return protocol.U16.pack(Info.BLOCK_SIZE) + protocol.BLOCK_SIZES.pack(smallest, preferred, largest)


def ack(option: Option) -> bytes:
    return protocol.option_reply(option, OptionReply.ACK)


def hello(
    size: int,
    *,
    flags: int = FLAGS,
    contexts: Sequence[str] = ("base:allocation",),
    sizes: tuple[int, int, int] | None = None,
    structured: bool = True,
) -> bytes:
    """A whole sound negotiation; the contexts get the ids 10, 11, …"""
    said = greeting()
    if structured:
        said += ack(Option.STRUCTURED_REPLY)
        if contexts:
            for number, name in enumerate(contexts, 10):
                data = protocol.U32.pack(number) + name.encode()
                said += protocol.option_reply(Option.SET_META_CONTEXT, OptionReply.META_CONTEXT, data)
            said += ack(Option.SET_META_CONTEXT)
    else:
        said += protocol.option_reply(Option.STRUCTURED_REPLY, OptionReply.ERR_UNSUP)
    said += protocol.option_reply(Option.GO, OptionReply.INFO, info(size, flags))
    if sizes:
        said += protocol.option_reply(Option.GO, OptionReply.INFO, blocks(*sizes))
    return said + ack(Option.GO)


def data(cookie: int, offset: int, content: bytes, *, done: bool = True) -> bytes:
    head = protocol.chunk(ReplyType.OFFSET_DATA, cookie, 8 + len(content), done=done)
    return head + protocol.U64.pack(offset) + content


def hole(cookie: int, offset: int, length: int, *, done: bool = True) -> bytes:
    head = protocol.chunk(ReplyType.OFFSET_HOLE, cookie, 12, done=done)
    return head + protocol.HOLE.pack(offset, length)


def finished(cookie: int) -> bytes:
    return protocol.chunk(ReplyType.NONE, cookie, 0)


def status(cookie: int, number: int, runs: Sequence[tuple[int, int]], *, done: bool = True) -> bytes:
    payload = protocol.U32.pack(number) + b"".join(protocol.DESCRIPTOR.pack(*run) for run in runs)
    return protocol.chunk(ReplyType.BLOCK_STATUS, cookie, len(payload), done=done) + payload


def error(cookie: int, number: int, words: bytes = b"", *, done: bool = True) -> bytes:
    payload = protocol.ERROR.pack(number, len(words)) + words
    return protocol.chunk(ReplyType.ERROR, cookie, len(payload), done=done) + payload


def simple(cookie: int, number: int = 0) -> bytes:
    return protocol.SIMPLE_REPLY.pack(protocol.SIMPLE_REPLY_MAGIC, number, cookie)


def client(
    size: int,
    answers: bytes = b"",
    *,
    contexts: Sequence[str] = ("base:allocation",),
    silent: bool = False,
    piece: int = 1 << 30,
    timeout: float = 5,
    flags: int = FLAGS,
    sizes: tuple[int, int, int] | None = None,
    structured: bool = True,
) -> NbdClient:
    """A client whose server says all this; requests have the cookies 1, 2, …"""
    said = hello(size, flags=flags, contexts=contexts, sizes=sizes, structured=structured) + answers
    stream = Script(said, silent=silent, piece=piece)
    return NbdClient.connect(stream, "vda", contexts, timeout=timeout)


def collect(pieces: Iterator[tuple[int, bytes | bytearray | memoryview]], size: int) -> bytearray:
    """Put pieces together; every byte at most once."""
    content, seen = bytearray(size), bytearray(size)
    for offset, piece in pieces:
        assert not any(seen[offset : offset + len(piece)])
        content[offset : offset + len(piece)] = piece
        seen[offset : offset + len(piece)] = b"\1" * len(piece)
    return content


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def qemu_map(*args: str | Path) -> list[dict[str, object]]:
    found = json.loads(run("qemu-img", "map", "--output=json", *args))
    assert isinstance(found, list)
    return found


def connect(path: Path) -> socket.socket:
    """Wait for a server to listen there."""
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
def qemu_nbd(socket_path: Path, *args: str | Path) -> Iterator[None]:
    """The real server. It is told to end only once it listens: before, it loses the signal."""
    command = ["qemu-nbd", "-k", socket_path, "-t", "-e", "8", *args]
    server = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        connect(socket_path).close()
        yield
    finally:
        server.terminate()
        server.communicate(timeout=10)
