"""QMP sessions: against a real QEMU, and against peers that do not keep to the protocol."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qemu_process import PROGRAM, Qemu

from vmconsole.errors import HostError, HostUnreachable, ProtocolError
from vmconsole.hypervisors.qmp.client import QmpClient, QmpError
from vmconsole.remote.local import LocalMachine

needs_qemu = pytest.mark.skipif(PROGRAM is None, reason="QEMU is not installed")


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Qemu]:
    with Qemu(tmp_path) as process:
        yield process


def connect(qemu: Qemu, **limits: float) -> QmpClient:
    return QmpClient.connect(LocalMachine("pve1"), str(qemu.path), "web on pve1", **limits)  # type: ignore[arg-type]


@needs_qemu
def test_a_session(qemu: Qemu) -> None:
    with connect(qemu) as client:
        assert client.version >= (5, 0, 0)
        assert isinstance(client.package, str)
        assert client.execute("query-status")["running"] in (True, False)
        with pytest.raises(QmpError, match="refused query-proxmox-support") as caught:
            client.execute("query-proxmox-support")
        assert caught.value.unknown_command
        with pytest.raises(QmpError) as caught:
            client.execute("blockdev-del", {"node-name": "none"})
        assert not caught.value.unknown_command
        assert caught.value.description
        assert client.execute("query-jobs") == []


@needs_qemu
def test_the_next_session_waits_for_the_one_before(qemu: Qemu) -> None:
    first = connect(qemu)
    timer = threading.Timer(0.4, first.close)
    timer.start()
    began = time.monotonic()
    with connect(qemu) as second:
        assert second.execute("query-name") == {}
    assert 0.3 < time.monotonic() - began < 5
    timer.join()


@needs_qemu
def test_whoever_holds_the_monitor_for_long_is_not_waited_for(qemu: Qemu) -> None:
    with connect(qemu), pytest.raises(HostError, match=r"did not answer in time \(the greeting\)") as caught:
        connect(qemu, patience=0.3)
    assert caught.value.hint


@needs_qemu
def test_a_session_is_short(qemu: Qemu) -> None:
    with connect(qemu, budget=0.3) as client:
        client.execute("query-status")
        time.sleep(0.35)
        with pytest.raises(HostError, match="in time"):
            client.execute("query-status")


@needs_qemu
def test_a_qemu_that_dies(qemu: Qemu) -> None:
    with connect(qemu) as client:
        qemu.kill()
        with pytest.raises(HostError, match=r"went away \(query-status\)"):
            client.execute("query-status")


def test_no_socket_is_tried_again_and_then_said(tmp_path: Path) -> None:
    pauses: list[float] = []
    with pytest.raises(HostError, match="no socket"):
        QmpClient.connect(LocalMachine("pve1"), str(tmp_path / "x"), "web", sleep=pauses.append)
    assert len(pauses) == 2


# --- peers that do not keep to it --------------------------------------------------------------

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "pve"}}}\r\n'

Talk = Callable[..., QmpClient]


@pytest.fixture
def talk() -> Iterator[Talk]:
    """Starts a session with a peer that sends the first text, and an answer to each command.

    In the texts, ID stands for the id of the command; None as an answer closes the connection.
    """
    ends: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(greeting: bytes, *answers: bytes | None, **limits: float) -> QmpClient:
        ours, theirs = socket.socketpair()
        ends.extend([ours, theirs])

        def serve() -> None:
            buffer = b""
            theirs.sendall(greeting)
            for answer in answers:
                while b"\n" not in buffer:
                    data = theirs.recv(4096)
                    if not data:
                        return
                    buffer += data
                line, _, buffer = buffer.partition(b"\n")
                if answer is None:
                    theirs.close()
                    return
                theirs.sendall(answer.replace(b"ID", json.dumps(json.loads(line)["id"]).encode()))

        thread = threading.Thread(target=serve)
        thread.start()
        threads.append(thread)
        return QmpClient(ours, "web", **({"patience": 2.0} | limits))  # type: ignore[arg-type]

    yield start
    for end in ends:
        end.close()
    for thread in threads:
        thread.join(5)


OK = b'{"return": {}, "id": ID}\n'


def test_events_and_replies_to_others_are_passed_over(talk: Talk) -> None:
    noise = (
        b'{"event": "SHUTDOWN", "data": {}}\n{"return": "not yours", "id": "4711:1"}\n'
        b'{"error": {"class": "GenericError", "desc": "whose?"}}\n{"return": "nobody\'s"}\n'
    )
    client = talk(GREETING + noise, OK, noise + b'{"return": [1], "id": ID}\n' + noise)
    assert client.version == (10, 0, 2)
    assert client.package == "pve"
    assert client.execute("query-jobs") == [1]
    client.close()


def test_a_reply_in_many_pieces(talk: Talk) -> None:
    big = json.dumps(["x" * 100_000]).encode()
    client = talk(GREETING, OK, b'{"return": ' + big + b', "id": ID}\n')
    assert client.execute("query-block") == ["x" * 100_000]
    client.close()


@pytest.mark.parametrize(
    "greeting",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"{}\n",
        b"[]\n",
        b'{"QMP": 1}\n',
        b'{"QMP": {"version": {"qemu": {"major": "x"}}}}\n',
    ],
)
def test_what_is_no_monitor(talk: Talk, greeting: bytes) -> None:
    with pytest.raises(ProtocolError):
        talk(greeting)


@pytest.mark.parametrize("answer", [b"rubbish\n", b"7\n", b"[" * 200_000 + b"\n"])
def test_answers_that_are_no_objects(talk: Talk, answer: bytes) -> None:
    client = talk(GREETING, OK, answer)
    with pytest.raises(ProtocolError):
        client.execute("query-status")
    client.close()


@pytest.mark.parametrize(
    "error", [b'{"class": "GenericError", "desc": "a \\u001b[2J b"}', b"null", b"7", b"{}"]
)
def test_errors_of_any_shape(talk: Talk, error: bytes) -> None:
    client = talk(GREETING, OK, b'{"error": ' + error + b', "id": ID}\n')
    with pytest.raises(QmpError) as caught:
        client.execute("query-status")
    assert caught.value.message.isprintable()
    client.close()


def test_the_connection_ends_in_the_middle(talk: Talk) -> None:
    client = talk(GREETING, OK, None)
    with pytest.raises(HostError, match="went away"):
        client.execute("query-status")
    client.close()


def test_a_time_limit_of_one_command(talk: Talk) -> None:
    client = talk(GREETING, OK)
    began = time.monotonic()
    with pytest.raises(HostError, match="in time"):
        client.execute("query-status", timeout=0.2)
    assert time.monotonic() - began < 1.5
    client.close()


class LostConnection(HostUnreachable, OSError):
    """As remote/ raises it."""


class Lost:
    """A stream over an SSH connection that is gone."""

    def __init__(self) -> None:
        self.closed = False

    def recv(self, size: int, /) -> bytes:
        raise LostConnection("pve1 is gone", subject="pve1")

    def sendall(self, data: object, /) -> None:
        raise AssertionError

    def settimeout(self, seconds: float | None, /) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_a_lost_ssh_connection_says_so_itself() -> None:
    stream = Lost()
    with pytest.raises(HostUnreachable, match="pve1 is gone"):
        QmpClient(stream, "web")
    assert stream.closed
