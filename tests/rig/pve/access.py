"""The cluster as the product meets it: a machine per node over SSH, and the room's host on top."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pve.cluster import PveCluster
from vmconsole.hypervisors.proxmox.host import ProxmoxHost
from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.remote.ssh import SshMachine
from vmconsole.remote.ssh_settings import SshSettings


class _Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


@contextmanager
def nodes(cluster: PveCluster, folder: Path) -> Iterator[Nodes]:
    """Of a configured host `pve` at the first node. folder: for known_hosts."""
    known_hosts = cluster.known_hosts(folder / "known_hosts")
    sshd = cluster.one.sshd
    assert sshd is not None

    def connect(node: str, address: str) -> SshMachine:
        return SshMachine(
            SshSettings(
                name=f"pve/{node}" if node else "pve",
                address=f"root@{address}:{sshd.port}" if address else sshd.address,
                user="root", known_hosts=known_hosts, identity_files=(sshd.client_key_path,), config_file=None,
                use_agent=False,
            )
        )  # fmt: skip

    found = Nodes("pve", connect, {}, _Clock())
    try:
        yield found
    finally:
        found.close()


@contextmanager
def host(cluster: PveCluster, folder: Path, settings: ProxmoxSettings | None = None) -> Iterator[ProxmoxHost]:
    with nodes(cluster, folder) as found:
        yield ProxmoxHost(found, settings or ProxmoxSettings(fleecing_min_free=1 << 20))
