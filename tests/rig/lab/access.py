"""A lab host over SSH, as vmconsole meets hosts: on 127.0.0.1, on a port of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig_sshd import Sshd

from lab.host import LibvirtHost
from vmconsole.remote.ssh import SshMachine
from vmconsole.remote.ssh_settings import SshSettings


@dataclass(frozen=True, slots=True)
class SshAccess:
    """How to reach a lab host. sshd: to cut, freeze and stop its sessions."""

    sshd: Sshd
    settings: SshSettings
    machine: SshMachine


@contextmanager
def ssh_access(
    host: LibvirtHost, folder: Path, options: Mapping[str, str] | None = None, user: str = "root"
) -> Iterator[SshAccess]:
    """An sshd on the host, and a machine that trusts its key and logs in.

    folder: for keys and logs. options: lines of sshd_config, as for Sshd. user: root, or one of lab.accounts.
    """
    with Sshd(folder, options, launcher=host.become) as sshd:
        # sshd reads the authorized keys as the user who logs in.
        sshd.folder.chmod(0o755)
        sshd.authorized_keys_path.chmod(0o644)
        settings = SshSettings(
            name=host.name,
            address=sshd.address,
            user=user,
            known_hosts=sshd.write_known_hosts(sshd.folder / "known_hosts"),
            identity_files=(sshd.client_key_path,),
            config_file=None,
            use_agent=False,
        )
        machine = SshMachine(settings)
        try:
            yield SshAccess(sshd, settings, machine)
        finally:
            machine.close()
