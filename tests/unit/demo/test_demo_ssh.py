from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest

from vmconsole.demo.ssh import SshServer
from vmconsole.demo.ssh_channels import connect_unix
from vmconsole.errors import HostError, HostUnreachable
from vmconsole.remote.ssh import SshMachine
from vmconsole.remote.ssh_settings import SshSettings


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    before = set(threading.enumerate())
    (tmp_path / "sockets").mkdir()
    made = SshServer(
        tmp_path,
        env={"PATH": os.environ["PATH"], "MARK": "demo"},
        home=tmp_path,
        sockets=tmp_path / "sockets",
        grace=0.5,
    )
    made.start()
    yield made
    made.stop()
    wait_for(lambda: set(threading.enumerate()) <= before)


@pytest.fixture
def client(server: SshServer) -> Iterator[SshMachine]:
    made = SshMachine(
        SshSettings(
            "demo",
            f"anybody@127.0.0.1:{server.port}",
            server.known_hosts,
            identity_files=(server.client_key,),
            config_file=None,
            use_agent=False,
        )
    )
    yield made
    made.close()


@pytest.fixture
def openssh(server: SshServer) -> list[str]:
    """The command line of OpenSSH's own client."""
    program = shutil.which("ssh")
    if program is None:
        pytest.skip("OpenSSH's client is not installed")
    options = ["BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={server.known_hosts}"]
    return [
        *(program, "-F", "none", "-i", str(server.client_key), "-p", str(server.port)),
        *(word for option in options for word in ("-o", option)),
        "anybody@127.0.0.1",
    ]


class Echo:
    """A unix socket that answers everything it was sent, once the sender has finished, with its sha256."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                digest = hashlib.sha256()
                while data := peer.recv(1 << 20):
                    digest.update(data)
                peer.sendall(digest.hexdigest().encode())

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def echo(server: SshServer) -> Iterator[Path]:
    path = server.sockets / "echo.sock"
    made = Echo(path)
    yield path
    made.close()


def test_keys_are_private_and_fresh(server: SshServer, tmp_path: Path) -> None:
    for name in ("client_key", "host_key"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    (tmp_path / "again").mkdir()
    other = SshServer(tmp_path / "again", env={}, home=tmp_path, sockets=tmp_path)
    other.start()
    other.stop()
    assert (tmp_path / "again" / "host_key").read_bytes() != (tmp_path / "host_key").read_bytes()


def test_openssh_runs_programs(openssh: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*openssh, 'cat; pwd; echo "$MARK" >&2; exit 7'], input=b"in\n", capture_output=True, check=False
    )
    assert done.returncode == 7
    assert done.stdout == f"in\n{tmp_path}\n".encode()
    assert done.stderr == b"demo\n"
    killed = subprocess.run([*openssh, "kill -TERM $$"], capture_output=True, check=False)
    assert killed.returncode == 255


def test_openssh_moves_much_data_both_ways(openssh: list[str]) -> None:
    content = os.urandom(1 << 20) * 20
    done = subprocess.run([*openssh, "sha256sum; cat /dev/zero | head -c 20000000"], input=content,
                          capture_output=True, check=True)  # fmt: skip
    digest, _, rest = done.stdout.partition(b"\n")
    assert digest.split()[0].decode() == hashlib.sha256(content).hexdigest()
    assert rest == bytes(20_000_000)


def test_openssh_forwards_a_unix_socket(openssh: list[str], echo: Path, tmp_path: Path) -> None:
    local = tmp_path / "l"
    forward = subprocess.Popen([*openssh[:-1], "-N", "-L", f"{local}:{echo}", openssh[-1]])
    try:
        wait_for(local.exists)
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(str(local))
            stream.sendall(b"hello" * 100_000)
            stream.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: stream.recv(100), b""))
        assert answer.decode() == hashlib.sha256(b"hello" * 100_000).hexdigest()
    finally:
        forward.terminate()
        forward.wait()


def test_our_own_client_runs_programs(client: SshMachine) -> None:
    done = client.run(["sh", "-c", 'printf "%s|" "$@"; cat', "sh", "a b", "'", "$x\n"], stdin=b"end")
    assert done.stdout == b"a b|'|$x\n|end"
    assert client.run(["sh", "-c", "exit 3"], check=False).status == 3


def test_our_own_client_opens_sockets(client: SshMachine, server: SshServer, echo: Path) -> None:
    stream = client.open_unix(str(echo))
    stream.sendall(b"x")
    stream.close()
    with pytest.raises(HostError):
        client.open_unix(str(server.sockets / "nothing.sock"))


def test_sockets_outside_of_the_folder_stay_closed(server: SshServer, tmp_path: Path) -> None:
    outside = Echo(tmp_path / "outside.sock")
    (server.sockets / "link.sock").symlink_to(tmp_path / "outside.sock")
    transport = paramiko.Transport(("127.0.0.1", server.port))
    try:
        transport.connect(
            username="anybody", pkey=paramiko.Ed25519Key.from_private_key_file(str(server.client_key))
        )
        for path in (
            tmp_path / "outside.sock",
            server.sockets / ".." / "outside.sock",
            server.sockets / "link.sock",
        ):
            message = paramiko.Message()
            message.add_byte(bytes([paramiko.common.MSG_CHANNEL_OPEN]))
            message.add_string("direct-streamlocal@openssh.com")
            for number in (7, 1 << 20, 1 << 15):
                message.add_int(number)
            message.add_string(str(path))
            message.add_string("")
            message.add_int(0)
            event = threading.Event()
            transport.channel_events[7] = event
            transport._send_user_message(message)
            assert event.wait(10)
            assert "rohibited" in str(transport.get_exception())
    finally:
        transport.close()
        outside.close()


def test_other_keys_and_passwords_are_refused(server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "stranger").mkdir()
    stranger = SshServer(tmp_path / "stranger", env={}, home=tmp_path, sockets=tmp_path)
    key = paramiko.Ed25519Key.from_private_key_file(str(stranger.client_key))
    stranger.start()
    stranger.stop()
    for secret in ({"pkey": key}, {"password": "demo"}):
        transport = paramiko.Transport(("127.0.0.1", server.port))
        try:
            with pytest.raises(paramiko.AuthenticationException):
                transport.connect(username="anybody", **secret)
        finally:
            transport.close()


def test_the_input_ends_when_the_connection_breaks(client: SshMachine, server: SshServer) -> None:
    process = client.start(["sh", "-c", 'echo $$; while read -r _; do :; done; echo over > "$PWD/over"'])
    pid = int(process.read_line(10))
    server.drop_connections()
    wait_for(lambda: gone(pid))
    assert (server.home / "over").read_text() == "over\n"
    with contextlib.suppress(HostError, OSError):
        process.close()
    assert client.run(["echo", "again"]).stdout == b"again\n"


def test_a_program_that_ignores_the_end_is_killed(client: SshMachine, server: SshServer) -> None:
    process = client.start(["sh", "-c", "echo $$; exec sleep 600"])
    pid = int(process.read_line(10))
    server.drop_connections()
    assert gone(pid)
    with contextlib.suppress(HostError, OSError):
        process.close()


def test_a_host_that_is_down(client: SshMachine, server: SshServer) -> None:
    server.refusing = True
    with pytest.raises(HostUnreachable):
        client.run(["true"])
    server.refusing = False
    assert client.run(["true"]).status == 0


def test_a_socket_with_a_long_path(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    link = tmp_path / "s"
    link.symlink_to(folder)
    made = Echo(link / "e.sock")
    try:
        with connect_unix(folder / "e.sock") as stream:
            stream.shutdown(socket.SHUT_WR)
            assert len(stream.recv(100)) == 64
    finally:
        made.close()
