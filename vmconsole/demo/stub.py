"""Stands in for virsh, qm, perl and others on the PATH of the demo's hosts; the demo answers.

Run as a script by a bare interpreter (no site packages, no environment), so that it starts in a
few milliseconds: built-in modules only, nothing of vmconsole. Arguments: the demo's control
socket, the tool's name, the tool's own arguments. Arguments that name an inherited descriptor
(`/dev/fd/N`, `/dev/stdin`) are read here and sent along; control.py is the other end.

Frames in both directions: one letter, four bytes of length (big-endian), content.
To the demo: A argument · F content of the last argument · E complete · I standard input, empty at
its end. Back: O standard output · R standard error · I asks for standard input · X exit status, the end.
"""

import os
import sys
from _signal import SIGINT, SIGTERM, signal  # type: ignore[import-not-found]  # built in; signal.py costs 5 ms
from _socket import AF_UNIX, SHUT_WR, SOCK_STREAM
from _socket import socket as Socket

_INHERITED = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin")


def frame(kind: bytes, content: bytes) -> bytes:
    return kind + len(content).to_bytes(4, "big") + content


def read_all(path: bytes) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    pieces = []
    while piece := os.read(descriptor, 65536):
        pieces.append(piece)
    os.close(descriptor)
    return b"".join(pieces)


def receive(connection: Socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            return b""
        received += piece
    return received


def write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def forward_input(connection: Socket) -> bool:
    """Pass standard input on until the demo has something to say; False when there is no more."""
    from select import select  # only few programs read anything

    while True:
        ready = select([connection.fileno(), 0], [], [])[0]
        if connection.fileno() in ready:
            return True
        data = os.read(0, 65536)
        try:
            connection.sendall(frame(b"I", data))
        except OSError:
            return False
        if not data:
            return False


def main(control: str, arguments: list[str]) -> int:
    connection = Socket(AF_UNIX, SOCK_STREAM)
    try:
        connection.connect(control)
    except OSError as error:
        write_all(2, f"error: the demo host does not answer: {error.strerror}\n".encode())
        return 1
    request = b""
    for argument in map(os.fsencode, arguments):
        request += frame(b"A", argument)
        if os.fsdecode(argument).startswith(_INHERITED):
            try:
                request += frame(b"F", read_all(argument))
            except OSError:
                continue  # the demo finds no content and says so, as the real program would
    connection.sendall(request + frame(b"E", b""))
    # A server (qemu-nbd) ends in good order on SIGTERM: the demo sees the end of the request's stream.
    for number in (SIGTERM, SIGINT):
        signal(number, lambda *_: connection.shutdown(SHUT_WR))
    wants_input = False
    while True:
        if wants_input and not forward_input(connection):
            wants_input = False
        header = receive(connection, 5)
        if not header:
            break
        content = receive(connection, int.from_bytes(header[1:], "big"))
        if header[:1] == b"X":
            return content[0]
        if header[:1] == b"I":
            wants_input = True
            continue
        write_all(1 if header[:1] == b"O" else 2, content)
    write_all(2, b"error: Disconnected from the demo host\n")
    return 1


if __name__ == "__main__":
    os._exit(main(sys.argv[1], sys.argv[2:]))
