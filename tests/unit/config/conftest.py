from __future__ import annotations

from pathlib import Path

import pytest

GOOD = """\
# kept
[defaults]
repository = "main"
freeze_budget = "8 s"

[hosts.kvm1] # the first one
kind = "libvirt"
address = "root@kvm1.example"
identity_files = ["~/.ssh/id_backup", "keys/second"]

[hosts.kvm2]
kind = "libvirt"
address = "kvm2"

[repositories.main]
location = "repository"
passphrase = { file = "passphrase" }

[repositories.second]
location = "ssh://borg@vault.example:2222/./vms"
encryption = "none"

[groups.daily]
guests = ["web-*", "kvm1/db"]
exclude_disks = { "db" = ["vdb"], "web-*" = ["vdc", "vdb"] }
full_every = 7

[groups.rest]
hosts = ["*"]
repository = "second"
freeze = false
"""


@pytest.fixture
def good_config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(GOOD)
    return path
