"""Both machines, for the suite that holds them to the same contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rig_sshd import Sshd

from vmconsole.remote.local import LocalMachine
from vmconsole.remote.machine import Machine
from vmconsole.remote.ssh import SshMachine
from vmconsole.remote.ssh_settings import SshSettings


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("machine")) as server:
        yield server


@pytest.fixture(scope="module", params=["local", "ssh"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if request.param == "local":
        yield LocalMachine()
        return
    server: Sshd = request.getfixturevalue("sshd")
    known_hosts: Path = server.write_known_hosts(server.folder / "known_hosts")
    settings = SshSettings(
        "host1",
        server.address,
        known_hosts,
        identity_files=(server.client_key_path,),
        config_file=None,
        use_agent=False,
    )
    over_ssh = SshMachine(settings)
    yield over_ssh
    over_ssh.close()
