"""A real sshd, and machines that reach it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rig_sshd import Sshd

from vmconsole.remote.ssh import SshMachine
from vmconsole.remote.ssh_settings import SshSettings

Until = Callable[..., None]


@pytest.fixture(scope="session")
def shared_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """For tests that leave the server and its sessions alone."""
    with Sshd(tmp_path_factory.mktemp("shared-sshd"), host_key_types=("ed25519", "ecdsa", "rsa")) as server:
        yield server


@pytest.fixture
def settings_for(tmp_path: Path) -> Callable[..., SshSettings]:
    """Settings that reach a server and trust its keys; keywords replace single ones."""

    def make(server: Sshd, **changes: Any) -> SshSettings:
        values: dict[str, Any] = {
            "name": "host1",
            "address": server.address,
            "known_hosts": server.write_known_hosts(tmp_path / f"known_hosts-{server.port}"),
            "identity_files": (server.client_key_path,),
            "config_file": None,
            "use_agent": False,
            **changes,
        }
        return SshSettings(**values)

    return make


@pytest.fixture
def connect(settings_for: Callable[..., SshSettings]) -> Iterator[Callable[..., SshMachine]]:
    """Machines for a server, closed at the end."""
    with ExitStack() as machines:

        def make(server: Sshd, **changes: Any) -> SshMachine:
            machine = SshMachine(settings_for(server, **changes))
            machines.callback(machine.close)
            return machine

        yield make


@pytest.fixture
def until() -> Until:
    """Wait for a condition, with a deadline."""

    def wait(condition: Callable[[], bool], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.01)

    return wait
