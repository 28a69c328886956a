"""Getting in: host keys, our keys, jumps, and what is said when it does not work."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rig_sshd import Sshd

from vmconsole.errors import HostError, HostKeyChanged, HostUnreachable
from vmconsole.remote.hostkeys import scan_host_key, trust, trusted_fingerprint
from vmconsole.remote.ssh import SshMachine
from vmconsole.remote.ssh_settings import SshSettings

Connect = Callable[..., SshMachine]
SettingsFor = Callable[..., SshSettings]


def new_key(folder: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    path = folder / f"key-{kind}-{os.urandom(3).hex()}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)], check=True)
    return path


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """An ssh-agent of our own; call it with a key to add."""
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    yield (
        lambda key: subprocess.run(["ssh-add", "-q", str(key)], check=True, stdin=subprocess.DEVNULL) and None
    )
    process.terminate()
    process.wait()


class TestHostKey:
    def test_unknown(self, shared_sshd: Sshd, connect: Connect, tmp_path: Path) -> None:
        with pytest.raises(HostKeyChanged, match="not trusted yet") as caught:
            connect(shared_sshd, known_hosts=tmp_path / "none").run(["true"])
        assert shared_sshd.host_key_fingerprint in caught.value.message
        assert "vmconsole host trust host1" in caught.value.hint
        assert caught.value.exit_code == 20

    def test_scan_then_trust(self, shared_sshd: Sshd, settings_for: SettingsFor, tmp_path: Path) -> None:
        settings = settings_for(shared_sshd, known_hosts=tmp_path / "ours")
        key = scan_host_key(settings)
        assert key.fingerprint == shared_sshd.host_key_fingerprint
        assert key.line == shared_sshd.known_hosts_line
        assert trusted_fingerprint(settings, key.type) == ""
        trust(settings, key)
        assert trusted_fingerprint(settings, key.type) == key.fingerprint
        machine = SshMachine(settings)
        assert machine.run(["echo", "in"]).text == "in\n"
        machine.close()

    def test_changed(self, shared_sshd: Sshd, connect: Connect, tmp_path: Path) -> None:
        other = new_key(tmp_path)
        blob = other.with_suffix(".pub").read_text()
        known = tmp_path / "known"
        known.write_text(f"[127.0.0.1]:{shared_sshd.port} {blob}")
        with pytest.raises(HostKeyChanged, match="CHANGED") as caught:
            connect(shared_sshd, known_hosts=known).run(["true"])
        assert shared_sshd.host_key_fingerprint in caught.value.message
        assert Sshd.fingerprint(other) in caught.value.message
        assert "--replace host1" in caught.value.hint

    def test_changed_then_replaced(self, tmp_path: Path, settings_for: SettingsFor) -> None:
        with Sshd(tmp_path) as server:
            settings = settings_for(server)
            server.stop()
            server.renew_host_key()
            server.start()
            machine = SshMachine(settings)
            with pytest.raises(HostKeyChanged):
                machine.run(["true"])
            key = scan_host_key(settings)
            with pytest.raises(HostKeyChanged):
                trust(settings, key)
            trust(settings, key, replace=True)
            assert machine.run(["echo", "in"]).text == "in\n"
            machine.close()

    @pytest.mark.parametrize("trusted", [0, 1, 2])
    def test_any_trusted_type_is_asked_for(
        self, shared_sshd: Sshd, connect: Connect, tmp_path: Path, trusted: int
    ) -> None:
        known = tmp_path / "known"
        known.write_text(shared_sshd.known_hosts_lines[trusted] + "\n")
        assert connect(shared_sshd, known_hosts=known).run(["echo", "in"]).text == "in\n"

    def test_only_another_type_is_trusted(self, tmp_path: Path, connect: Connect) -> None:
        with Sshd(tmp_path, host_key_types=("ecdsa",)) as server:
            known = tmp_path / "known"
            known.write_text(f"[127.0.0.1]:{server.port} {new_key(tmp_path).with_suffix('.pub').read_text()}")
            with pytest.raises(HostKeyChanged, match="ecdsa-sha2-nistp256"):
                connect(server, known_hosts=known).run(["true"])

    def test_revoked(self, shared_sshd: Sshd, connect: Connect, tmp_path: Path) -> None:
        known = tmp_path / "known"
        lines = [shared_sshd.known_hosts_line, "@revoked * " + shared_sshd.known_hosts_line.split(" ", 1)[1]]
        known.write_text("\n".join(lines) + "\n")
        with pytest.raises(HostKeyChanged, match="revoked"):
            connect(shared_sshd, known_hosts=known).run(["true"])

    def test_hashed(self, shared_sshd: Sshd, connect: Connect, tmp_path: Path) -> None:
        known = shared_sshd.write_known_hosts(tmp_path / "known")
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True, capture_output=True)
        assert connect(shared_sshd, known_hosts=known).run(["echo", "in"]).text == "in\n"

    def test_nothing_is_sent_to_a_host_that_is_not_trusted(self, tmp_path: Path, connect: Connect) -> None:
        with Sshd(tmp_path) as server:
            with pytest.raises(HostKeyChanged):
                connect(server, known_hosts=tmp_path / "none").run(["true"])
            assert "userauth" not in server.log.lower()
            assert "publickey" not in server.log.lower()


class TestOurKeys:
    @pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
    def test_types(self, tmp_path: Path, connect: Connect, kind: str) -> None:
        key = new_key(tmp_path, kind)
        with Sshd(tmp_path) as server:
            server.authorize(key)
            assert connect(server, identity_files=(key,)).run(["echo", "in"]).text == "in\n"

    def test_wrong_one(self, shared_sshd: Sshd, connect: Connect, tmp_path: Path) -> None:
        key = new_key(tmp_path)
        with pytest.raises(HostUnreachable, match="refused every key") as caught:
            connect(shared_sshd, identity_files=(key,)).run(["true"])
        assert str(key) in caught.value.hint
        assert "ssh-copy-id" in caught.value.hint

    def test_second_one_fits(self, shared_sshd: Sshd, connect: Connect, tmp_path: Path) -> None:
        keys = (new_key(tmp_path), shared_sshd.client_key_path)
        assert connect(shared_sshd, identity_files=keys).run(["echo", "in"]).text == "in\n"

    def test_locked_one(self, shared_sshd: Sshd, connect: Connect, tmp_path: Path) -> None:
        key = new_key(tmp_path, passphrase="secret")
        with pytest.raises(HostUnreachable) as caught:
            connect(shared_sshd, identity_files=(key,)).run(["true"])
        assert f"ssh-add {key}" in caught.value.hint

    def test_locked_one_in_the_old_format(self, shared_sshd: Sshd, connect: Connect, tmp_path: Path) -> None:
        key = new_key(tmp_path, "rsa")
        subprocess.run(["ssh-keygen", "-q", "-p", "-m", "PEM", "-N", "secret", "-f", str(key)], check=True)
        with pytest.raises(HostUnreachable) as caught:
            connect(shared_sshd, identity_files=(key,)).run(["true"])
        assert f"ssh-add {key}" in caught.value.hint

    def test_missing_file(self, shared_sshd: Sshd, connect: Connect, tmp_path: Path) -> None:
        with pytest.raises(HostUnreachable) as caught:
            connect(shared_sshd, identity_files=(tmp_path / "none",)).run(["true"])
        assert f"{tmp_path / 'none'} does not exist" in caught.value.hint

    def test_file_that_is_no_key(self, shared_sshd: Sshd, connect: Connect, tmp_path: Path) -> None:
        path = tmp_path / "junk"
        path.write_bytes(os.urandom(300))
        with pytest.raises(HostUnreachable) as caught:
            connect(shared_sshd, identity_files=(path,)).run(["true"])
        assert f"{path} is not a private key" in caught.value.hint

    def test_agent(
        self, tmp_path: Path, connect: Connect, agent: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        key = new_key(tmp_path)
        agent(new_key(tmp_path))
        agent(key)
        with Sshd(tmp_path) as server:
            server.authorize(key)
            assert connect(server, identity_files=(), use_agent=True).run(["echo", "in"]).text == "in\n"

    def test_locked_file_whose_key_the_agent_holds(
        self, tmp_path: Path, connect: Connect, agent: Callable[[Path], None]
    ) -> None:
        key = new_key(tmp_path)
        agent(key)
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(key)], check=True)
        with Sshd(tmp_path, {"MaxAuthTries": "2"}) as server:
            server.authorize(key)
            assert connect(server, identity_files=(key,), use_agent=True).run(["echo", "in"]).text == "in\n"

    def test_agent_that_never_answers(
        self, shared_sshd: Sshd, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vmconsole.remote.ssh_auth._AGENT_TIMEOUT", 0.2)
        path = str(tmp_path / "deaf-agent")
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(path)
            deaf.listen()
            assert connect(shared_sshd, use_agent=True).run(["echo", "in"]).text == "in\n"

    def test_too_many_tries(self, tmp_path: Path, connect: Connect) -> None:
        keys = tuple(new_key(tmp_path) for _ in range(4))
        with Sshd(tmp_path, {"MaxAuthTries": "2"}) as server, pytest.raises(HostUnreachable) as caught:
            connect(server, identity_files=keys).run(["true"])
        assert "MaxAuthTries" in caught.value.hint

    def test_host_that_takes_only_passwords(self, tmp_path: Path, connect: Connect) -> None:
        options = {"PubkeyAuthentication": "no", "PasswordAuthentication": "yes"}
        with Sshd(tmp_path, options) as server, pytest.raises(HostUnreachable, match="only password"):
            connect(server).run(["true"])

    def test_host_that_asks_for_more(self, tmp_path: Path, connect: Connect) -> None:
        options = {"AuthenticationMethods": "publickey,password", "PasswordAuthentication": "yes"}
        with (
            Sshd(tmp_path, options) as server,
            pytest.raises(HostUnreachable, match="asks for more: password"),
        ):
            connect(server).run(["true"])

    def test_user_certificate(self, tmp_path: Path, connect: Connect) -> None:
        authority, key = new_key(tmp_path), new_key(tmp_path)
        with Sshd(tmp_path, {"TrustedUserCAKeys": str(authority.with_suffix(".pub"))}) as server:
            subprocess.run(
                ["ssh-keygen", "-q", "-s", str(authority), "-I", "id", "-n", server.user, f"{key}.pub"],
                check=True,
            )
            assert connect(server, identity_files=(key,)).run(["echo", "in"]).text == "in\n"


class TestOnTheWay:
    def test_nobody_listens(self, shared_sshd: Sshd, connect: Connect) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with pytest.raises(HostUnreachable, match="connection refused") as caught:
            connect(shared_sshd, port=port).run(["true"])
        assert str(port) in caught.value.hint

    def test_unknown_name(self, shared_sshd: Sshd, connect: Connect) -> None:
        with pytest.raises(HostUnreachable, match="is unknown"):
            connect(shared_sshd, address="root@no-such-host.invalid").run(["true"])

    def test_server_that_says_nothing(self, shared_sshd: Sshd, connect: Connect) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            began = time.monotonic()
            with pytest.raises(HostUnreachable, match="does not speak SSH"):
                connect(shared_sshd, port=mute.getsockname()[1], connect_timeout=0.5).run(["true"])
            assert time.monotonic() - began < 5

    def test_server_that_stops_after_its_greeting(self, shared_sshd: Sshd, connect: Connect) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            held: list[socket.socket] = []

            def greet() -> None:
                connection, _ = server.accept()
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                held.append(connection)

            thread = threading.Thread(target=greet)
            thread.start()
            began = time.monotonic()
            with pytest.raises(HostUnreachable):
                connect(shared_sshd, port=server.getsockname()[1], connect_timeout=0.5).run(["true"])
            assert time.monotonic() - began < 5
            thread.join()
            for connection in held:
                connection.close()

    @pytest.mark.parametrize(
        "greeting",
        [
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"SSH-2.0-x\r\n" + b"\xff" * 5000,
            b"\x00" * 2000,
            b"SSH-1.5-old\r\n",
        ],
    )
    def test_server_that_speaks_something_else(
        self, shared_sshd: Sshd, connect: Connect, greeting: bytes, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(greeting)
                    connection.settimeout(5)
                    while connection.recv(4096):
                        pass

            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(HostUnreachable) as caught:
                connect(shared_sshd, port=server.getsockname()[1], connect_timeout=1).run(["true"])
            thread.join()
        assert caught.value.message.isprintable()
        assert capfd.readouterr() == ("", "")

    def test_waiting_threads_share_one_failure(self, shared_sshd: Sshd, connect: Connect) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            machine = connect(shared_sshd, port=mute.getsockname()[1], connect_timeout=0.5)
            errors: list[HostError] = []

            def ask() -> None:
                with pytest.raises(HostUnreachable) as caught:
                    machine.run(["true"])
                errors.append(caught.value)

            began = time.monotonic()
            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(errors) == 8
            assert time.monotonic() - began < 4

    def test_alias_and_jump(self, shared_sshd: Sshd, tmp_path: Path) -> None:
        with Sshd(tmp_path) as gate:
            known = gate.write_known_hosts(tmp_path / "known")
            known.write_text(known.read_text() + shared_sshd.known_hosts_line + "\n")
            config = tmp_path / "config"
            config.write_text(
                f"Host kvm\n HostName 127.0.0.1\n Port {shared_sshd.port}\n ProxyJump gate\n"
                f" IdentityFile {shared_sshd.client_key_path}\n"
                f"Host gate\n HostName 127.0.0.1\n Port {gate.port}\n IdentityFile {gate.client_key_path}\n"
                f"Host *\n User {gate.user}\n UserKnownHostsFile {known}\n"
            )
            settings = SshSettings("host1", "kvm", tmp_path / "ours", config_file=config, use_agent=False)
            machine = SshMachine(settings)
            assert machine.run(["cat"], stdin=b"x" * 3_000_000).stdout == b"x" * 3_000_000
            gate_log = gate.log
            machine.close()
            assert "Accepted publickey" in gate_log
            # and with the gate's key not trusted
            known.write_text(shared_sshd.known_hosts_line + "\n")
            with pytest.raises(HostKeyChanged, match="on the way to host1") as caught:
                SshMachine(settings).run(["true"])
            assert f"ssh -p {gate.port}" in caught.value.hint

    def test_jump_that_does_not_forward(self, shared_sshd: Sshd, tmp_path: Path) -> None:
        with Sshd(tmp_path, {"AllowTcpForwarding": "no"}) as gate:
            known = gate.write_known_hosts(tmp_path / "known")
            config = tmp_path / "config"
            config.write_text(
                f"Host kvm\n HostName 127.0.0.1\n Port {shared_sshd.port}\n ProxyJump gate\n"
                f"Host gate\n HostName 127.0.0.1\n Port {gate.port}\n"
                f"Host *\n User {gate.user}\n UserKnownHostsFile {known}\n"
                f" IdentityFile {gate.client_key_path}\n"
            )
            settings = SshSettings("host1", "kvm", tmp_path / "ours", config_file=config, use_agent=False)
            with pytest.raises(HostUnreachable, match="does not connect us") as caught:
                SshMachine(settings).run(["true"])
            assert "AllowTcpForwarding" in caught.value.hint

    def test_proxy_command(self, shared_sshd: Sshd, tmp_path: Path) -> None:
        relay = tmp_path / "relay.py"
        relay.write_text(
            "import os, select, socket, sys\n"
            "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
            "while True:\n"
            "    for ready in select.select([0, s], [], [])[0]:\n"
            "        data = os.read(0, 65536) if ready == 0 else s.recv(65536)\n"
            "        if not data: sys.exit()\n"
            "        s.sendall(data) if ready == 0 else os.write(1, data)\n"
        )
        config = tmp_path / "config"
        config.write_text(
            f"Host kvm\n HostName 127.0.0.1\n Port {shared_sshd.port}\n User {shared_sshd.user}\n"
            f" ProxyCommand {sys.executable} {relay} %h %p\n IdentityFile {shared_sshd.client_key_path}\n"
        )
        known = shared_sshd.write_known_hosts(tmp_path / "known")
        machine = SshMachine(SshSettings("host1", "kvm", known, config_file=config, use_agent=False))
        assert machine.run(["echo", "in"]).text == "in\n"
        machine.close()

    def test_proxy_command_that_fails(self, shared_sshd: Sshd, tmp_path: Path) -> None:
        config = tmp_path / "config"
        config.write_text("Host kvm\n ProxyCommand exit 1\n")
        known = shared_sshd.write_known_hosts(tmp_path / "known")
        with pytest.raises(HostUnreachable):
            SshMachine(SshSettings("host1", "kvm", known, config_file=config, use_agent=False)).run(["true"])

    def test_closed_machine_stays_closed(self, shared_sshd: Sshd, connect: Connect) -> None:
        machine = connect(shared_sshd)
        machine.run(["true"])
        machine.close()
        machine.close()
        with pytest.raises(HostUnreachable, match="on our side"):
            machine.run(["true"])

    def test_closing_leaves_no_thread_and_no_session(
        self, tmp_path: Path, connect: Connect, until: Callable[..., None]
    ) -> None:
        before = threading.active_count()
        with Sshd(tmp_path) as server:
            machine = connect(server)
            machine.run(["true"])
            assert server.sessions()
            machine.close()
            assert threading.active_count() == before
            until(lambda: not server.sessions())


def test_sshd_sends_the_end_of_input_when_we_are_killed(
    shared_sshd: Sshd, settings_for: SettingsFor, tmp_path: Path, until: Callable[..., None]
) -> None:
    marker, ready = tmp_path / "marker", tmp_path / "ready"
    settings = settings_for(shared_sshd)
    source = f"""
import sys
from pathlib import Path
from vmconsole.remote.ssh import SshMachine, SshSettings
machine = SshMachine(SshSettings("host1", {settings.address!r}, Path({str(settings.known_hosts)!r}),
    identity_files=(Path({str(shared_sshd.client_key_path)!r}),), config_file=None, use_agent=False))
process = machine.start(["sh", "-c", 'echo >"$2"; while read -r line; do :; done; echo >"$1"', "sh",
    {str(marker)!r}, {str(ready)!r}])
process.wait(60)
"""
    with subprocess.Popen([sys.executable, "-c", source]) as client:
        until(ready.exists)
        assert not marker.exists()
        client.send_signal(signal.SIGKILL)
    until(marker.exists)
