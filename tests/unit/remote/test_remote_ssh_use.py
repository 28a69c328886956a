"""Working over a connection: sockets, and what happens when the connection breaks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from rig_sshd import Sshd

from vmconsole.errors import CommandFailed, HostError, HostUnreachable, NotPermitted, ToolMissing
from vmconsole.remote.machine import MAX_OUTPUT, Stream
from vmconsole.remote.ssh import SshMachine
from vmconsole.remote.ssh_stream import relay_script, socket_error

Connect = Callable[..., SshMachine]
MIB = 1 << 20

NO_FORWARDING = [
    {"AllowStreamLocalForwarding": "no"},
    {"AllowTcpForwarding": "no"},
    {"DisableForwarding": "yes"},
]


@pytest.fixture
def unix_server(tmp_path: Path) -> Iterator[str]:
    """Answers `N\\n` with N MiB, anything else with itself."""
    path = str(tmp_path / "a, b:c'd")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        threads: list[threading.Thread] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threads.append(threading.Thread(target=talk, args=(connection,), daemon=True))
                    threads[-1].start()

        def talk(connection: socket.socket) -> None:
            block = bytes(range(256)) * (MIB // 256)
            with connection, suppress(OSError):
                while heard := connection.recv(65536):
                    if heard.endswith(b"\n"):
                        for _ in range(int(heard)):
                            connection.sendall(block)
                    else:
                        connection.sendall(heard)

        thread = threading.Thread(target=accept)
        thread.start()
        yield path
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in threads:
            each.join(10)
            assert not each.is_alive()


def take(stream: Stream, size: int) -> None:
    """Read and check size bytes of the server's pattern."""
    pattern = bytes(range(256)) * (MIB // 256 + 1)
    got = 0
    while got < size:
        piece = stream.recv(min(MIB, size - got))
        assert piece
        start = got % 256
        assert piece == pattern[start : start + len(piece)]
        got += len(piece)


class TestForwarding:
    def test_much_data_arrives_whole(self, shared_sshd: Sshd, connect: Connect, unix_server: str) -> None:
        stream = connect(shared_sshd).open_unix(unix_server)
        stream.settimeout(30)
        began = time.monotonic()
        stream.sendall(b"200\n")
        take(stream, 200 * MIB)
        print(f"{200 / (time.monotonic() - began):.0f} MiB/s")
        stream.close()

    def test_small_questions_are_answered_at_once(
        self, shared_sshd: Sshd, connect: Connect, unix_server: str
    ) -> None:
        """Without TCP_NODELAY on both sides each of these takes some 40 ms."""
        stream = connect(shared_sshd).open_unix(unix_server)
        stream.settimeout(30)
        data = b"x" * 60_000
        began = time.monotonic()
        for _ in range(50):
            stream.sendall(data)
            got = 0
            while got < len(data):
                got += len(stream.recv(65536))
        assert time.monotonic() - began < 1.0
        stream.close()

    def test_new_session_keys_on_the_way(self, tmp_path: Path, connect: Connect, unix_server: str) -> None:
        with Sshd(tmp_path, {"RekeyLimit": "3M"}) as server:
            machine = connect(server)
            stream = machine.open_unix(unix_server)
            stream.settimeout(30)
            stream.sendall(b"20\n")
            take(stream, 20 * MIB)
            stream.close()
            data = os.urandom(10 * MIB)
            assert machine.run(["cat"], stdin=data).stdout == data

    def test_streams_spread_over_the_data_connections(
        self, tmp_path: Path, connect: Connect, unix_server: str
    ) -> None:
        with Sshd(tmp_path) as server:
            machine = connect(server, data_connections=2)
            streams = [machine.open_unix(unix_server) for _ in range(6)]
            assert server.log.count("Accepted publickey") == 2
            for stream in streams:
                stream.settimeout(30)
                stream.sendall(b"3\n")
            for stream in streams:
                take(stream, 3 * MIB)
                stream.close()
            machine.run(["true"])
            assert server.log.count("Accepted publickey") == 3

    def test_without_terminals_it_still_works(
        self, tmp_path: Path, connect: Connect, unix_server: str
    ) -> None:
        with Sshd(tmp_path, {"PermitTTY": "no"}) as server:
            stream = connect(server).open_unix(unix_server)
            stream.settimeout(30)
            stream.sendall(b"2\n")
            take(stream, 2 * MIB)
            stream.close()


class TestWithoutForwarding:
    @pytest.mark.parametrize("options", NO_FORWARDING, ids=lambda options: next(iter(options)))
    def test_a_program_on_the_host_relays(
        self, tmp_path: Path, connect: Connect, unix_server: str, options: dict[str, str]
    ) -> None:
        with Sshd(tmp_path, options) as server:
            machine = connect(server)
            for _ in range(2):
                stream = machine.open_unix(unix_server)
                stream.settimeout(30)
                stream.sendall(b"10\n")
                take(stream, 10 * MIB)
                stream.sendall(b"hello")
                assert stream.recv(100) == b"hello"
                stream.close()
            with pytest.raises(HostError, match="There is no socket"):
                machine.open_unix(str(tmp_path / "none"))

    def test_nothing_on_the_host_can_relay(self, tmp_path: Path, connect: Connect, unix_server: str) -> None:
        tools = tmp_path / "bin"
        tools.mkdir()
        for name in ("sh", "env", "grep", "dirname"):
            (tools / name).symlink_to(shutil.which(name) or "")
        options = {"AllowStreamLocalForwarding": "no", "SetEnv": f"HOME={tools} PATH={tools}"}
        with Sshd(tmp_path, options) as server, pytest.raises(ToolMissing) as caught:
            connect(server).open_unix(unix_server)
        assert "AllowStreamLocalForwarding yes" in caught.value.hint

    def test_relay_ends_when_the_peer_does(self, tmp_path: Path, connect: Connect) -> None:
        path = str(tmp_path / "once")
        with Sshd(tmp_path, NO_FORWARDING[0]) as server, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            stream = connect(server).open_unix(path)
            connection, _ = listener.accept()
            connection.sendall(b"bye")
            connection.close()
            stream.settimeout(10)
            assert stream.recv(10) == b"bye"
            assert stream.recv(10) == b""
            stream.close()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    def test_denied_is_told_apart_from_missing(self) -> None:
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        # not pytest's own folder: nobody else may enter that
        with (
            TemporaryDirectory() as name,
            socket.socket(socket.AF_UNIX) as one,
            socket.socket(socket.AF_UNIX) as two,
        ):
            closed, opened = Path(name) / "closed", Path(name) / "open"
            Path(name).chmod(0o755)
            closed.mkdir(mode=0o700)
            opened.mkdir(mode=0o755)
            one.bind(str(closed / "s"))
            two.bind(str(opened / "s"))
            (opened / "s").chmod(0o700)
            words = [
                subprocess.run(
                    [*nobody, "sh", "-c", relay_script(), "vmconsole", str(path)],
                    capture_output=True,
                    check=False,
                ).stdout.decode()
                for path in (closed / "s", opened / "s", opened / "none")
            ]
        assert words == ["denied\n", "denied\n", "missing\n"]
        assert isinstance(socket_error("denied", "/x", "host1"), NotPermitted)


class TestBrokenConnection:
    def test_cut_while_reading(self, tmp_path: Path, connect: Connect, unix_server: str) -> None:
        with Sshd(tmp_path) as server:
            stream = connect(server).open_unix(unix_server)
            stream.sendall(b"x")
            assert stream.recv(10) == b"x"
            threading.Timer(0.2, server.cut).start()
            began = time.monotonic()
            with pytest.raises(HostUnreachable, match="was lost") as caught:
                stream.recv(10)
            assert isinstance(caught.value, OSError)
            assert caught.value.code == "HostUnreachable"
            assert time.monotonic() - began < 5
            with pytest.raises(HostUnreachable):
                stream.sendall(b"x")
            stream.close()

    def test_cut_in_the_middle_is_never_an_end(
        self, tmp_path: Path, connect: Connect, unix_server: str
    ) -> None:
        with Sshd(tmp_path) as server:
            stream = connect(server).open_unix(unix_server)
            stream.sendall(b"500\n")
            take(stream, 5 * MIB)
            server.cut()
            with pytest.raises(HostUnreachable):
                take(stream, 495 * MIB)
            stream.close()

    def test_frozen_host_is_noticed(self, tmp_path: Path, connect: Connect, unix_server: str) -> None:
        with Sshd(tmp_path) as server:
            machine = connect(server, keepalive=0.5)
            stream = machine.open_unix(unix_server)
            stream.sendall(b"x")
            assert stream.recv(10) == b"x"
            server.freeze()
            began = time.monotonic()
            with pytest.raises(HostUnreachable, match=r"no answer for 0\.5 s"):
                stream.recv(10)
            assert time.monotonic() - began < 10
            server.thaw()
            stream.close()

    def test_frozen_host_is_noticed_while_writing(self, tmp_path: Path, connect: Connect) -> None:
        with Sshd(tmp_path) as server:
            machine = connect(server, keepalive=0.5)
            process = machine.start(["sh", "-c", "echo up; cat >/dev/null"])
            assert process.read_line(10) == b"up\n"
            server.freeze()
            with pytest.raises(HostUnreachable):
                process.write(b"x" * (100 * MIB))
            server.thaw()
            process.close()

    def test_quiet_connection_stays(self, tmp_path: Path, connect: Connect) -> None:
        with Sshd(tmp_path) as server:
            machine = connect(server, keepalive=0.3)
            assert machine.run(["sh", "-c", "sleep 1; echo done"]).text == "done\n"
            assert server.log.count("Accepted publickey") == 1

    def test_dead_connection_is_replaced_before_a_command(self, tmp_path: Path, connect: Connect) -> None:
        with Sshd(tmp_path) as server:
            machine = connect(server)
            machine.run(["true"])
            for _ in range(3):
                assert server.cut() > 0
                assert machine.run(["echo", "again"]).text == "again\n"

    def test_command_is_never_sent_twice(self, tmp_path: Path, connect: Connect) -> None:
        count = tmp_path / "count"
        with Sshd(tmp_path) as server:
            machine = connect(server)
            with pytest.raises(HostUnreachable, match="not known"):
                machine.run(["sh", "-c", 'echo x >>"$1"; kill -9 $PPID; sleep 5', "sh", str(count)])
            assert machine.run(["true"]).status == 0
        assert count.read_text() == "x\n"

    def test_writing_to_a_program_that_ended(self, shared_sshd: Sshd, connect: Connect) -> None:
        process = connect(shared_sshd).start(["true"])
        process.wait(10)
        with pytest.raises(HostUnreachable, match="takes no more input"):
            process.write(b"x")
        process.close()

    def test_process_says_so(self, tmp_path: Path, connect: Connect) -> None:
        with Sshd(tmp_path) as server:
            process = connect(server).start(["sh", "-c", "echo up; cat"])
            assert process.read_line(10) == b"up\n"
            server.cut()
            with pytest.raises(HostUnreachable):
                process.read_line(10)
            with pytest.raises(HostUnreachable):
                process.wait(10)
            with pytest.raises(HostUnreachable):
                process.write(b"x")
            process.close()

    def test_closing_the_machine_ends_what_waits(
        self, tmp_path: Path, connect: Connect, unix_server: str
    ) -> None:
        with Sshd(tmp_path) as server:
            machine = connect(server)
            stream = machine.open_unix(unix_server)
            threading.Timer(0.2, machine.close).start()
            with pytest.raises(HostUnreachable):
                stream.recv(10)
            stream.close()

    def test_server_gone_for_good(self, tmp_path: Path, connect: Connect) -> None:
        with Sshd(tmp_path) as server:
            machine = connect(server)
            machine.run(["true"])
            server.stop()
            with pytest.raises(HostUnreachable, match="refused"):
                machine.run(["true"])


class TestServerLimits:
    def test_one_session_per_connection(self, tmp_path: Path, connect: Connect) -> None:
        with Sshd(tmp_path, {"MaxSessions": "1"}) as server:
            machine = connect(server)
            answers: list[str] = []
            threads = [
                threading.Thread(
                    target=lambda: answers.append(machine.run(["sh", "-c", "sleep 0.3; echo x"]).text)
                )
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert answers == ["x\n"] * 4

    def test_more_output_than_usual_when_asked_for(self, shared_sshd: Sshd, connect: Connect) -> None:
        size = MAX_OUTPUT + 5 * MIB
        done = connect(shared_sshd).run(["head", "-c", str(size), "/dev/zero"], max_output=2 * MAX_OUTPUT)
        assert len(done.stdout) == size

    def test_no_sessions_at_all(self, tmp_path: Path, connect: Connect) -> None:
        with Sshd(tmp_path, {"MaxSessions": "0"}) as server, pytest.raises(CommandFailed) as caught:
            connect(server).run(["true"])
        assert "MaxSessions" in caught.value.hint

    def test_environment_is_refused(self, shared_sshd: Sshd, connect: Connect) -> None:
        with pytest.raises(ValueError, match="environment"):
            connect(shared_sshd).run(["true"], env={"A": "b"})
        assert connect(shared_sshd).run(["true"], env={}).status == 0

    def test_fast_cipher_is_used(self, tmp_path: Path, connect: Connect) -> None:
        with Sshd(tmp_path, {"LogLevel": "DEBUG1"}) as server:
            connect(server).run(["true"])
            assert "cipher: aes128-gcm@openssh.com" in server.log

    def test_server_without_fast_ciphers(self, tmp_path: Path, connect: Connect) -> None:
        with Sshd(tmp_path, {"Ciphers": "aes256-ctr", "MACs": "hmac-sha2-512"}) as server:
            data = os.urandom(MIB)
            assert connect(server).run(["cat"], stdin=data).stdout == data

    def test_server_without_a_common_cipher(self, tmp_path: Path, connect: Connect) -> None:
        options = {"Ciphers": "chacha20-poly1305@openssh.com"}
        with (
            Sshd(tmp_path, options) as server,
            pytest.raises(HostUnreachable, match="share no SSH algorithm"),
        ):
            connect(server).run(["true"])
