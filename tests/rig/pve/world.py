"""A backup server of its own whose only host, `pve`, is a lab cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e2e_world import World, _table

from pve.cluster import PveCluster


class PveWorld(World):
    """As e2e_world.World. host_settings: more of [hosts.pve]."""

    def __init__(self, folder: Path, cluster: PveCluster, **more: Any) -> None:
        self.cluster = cluster
        super().__init__(folder, {}, folder, **more)

    def configure(self) -> None:
        sshd = self.cluster.one.sshd
        assert sshd is not None
        needed = {
            "kind": "proxmox",
            "address": sshd.address,
            "identity_files": [str(sshd.client_key_path)],
            "known_hosts": str(self.cluster.known_hosts(self.folder / "known_hosts")),
            "ssh_config": "ssh_config",
        }
        repository = {
            "location": str(self.repository),
            "passphrase": {"file": "passphrase"},
            "lock_wait": "20 s",
        }
        parts = [
            _table("", {"state_dir": "state"}),
            _table("defaults", self.defaults),
            _table("hosts.pve", {**needed, **self.host_settings}),
            _table("repositories.main", {**repository, **self.repository_settings}),
            *(_table(f"groups.{name}", values) for name, values in self.groups.items()),
        ]
        self.config.write_text("\n".join(parts))
