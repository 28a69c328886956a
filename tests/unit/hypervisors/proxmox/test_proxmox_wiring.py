"""From the configuration file to a cluster over real SSH: two sshd on loopback, whose pvesh is a script."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rig_sshd import Sshd

from vmconsole.cli.main import main
from vmconsole.errors import HostKeyChanged, UsageError
from vmconsole.interfaces import Cancel
from vmconsole.wiring.services import Wiring

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool, path="/usr/bin:/usr/sbin:/bin:/sbin") is None for tool in ("sshd", "perl", "ssh")),
    reason="sshd, ssh and perl are needed",
)

PVESH = r"""#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
case $2 in
/cluster/status) cat "$(dirname "$0")/status" ;;
/cluster/resources) echo '[{"type":"qemu","vmid":100,"node":"pve1","name":"web","status":"running"}]' ;;
/version) echo '{"version":"9.1.4"}' ;;
/cluster/backup-info/not-backed-up) ;;
*) echo "No 'get' handler defined for '$2'" >&2; exit 2 ;;
esac
"""


class Node:
    """An sshd that has a pvesh of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.bin = folder / name / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "pvesh").write_text(PVESH)
        (self.bin / "pvesh").chmod(0o755)
        self.sshd = Sshd(folder / name, path_prefix=self.bin)

    def tells(self, asked: str) -> None:
        """What this node says of the cluster; the other one is at an address where nobody is."""
        nodes = [
            {"type": "node", "name": name, "ip": "127.0.0.1", "online": 1, "local": int(name == asked)}
            for name in ("pve1", "pve2")
        ]
        cluster = {"type": "cluster", "name": "shop", "quorate": "1"}
        (self.bin / "status").write_text(json.dumps([cluster, *nodes]) + "\n")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    folder = tmp_path_factory.mktemp("pve")
    first, second = Node(folder, "pve1"), Node(folder, "pve2")
    second.sshd.authorize(first.sshd.client_key_path)
    first.tells("pve1")
    second.tells("pve2")
    with first.sshd, second.sshd:
        yield first, second


@pytest.fixture
def config(shop: tuple[Node, Node], tmp_path: Path) -> Path:
    first, second = shop
    path = tmp_path / "config.toml"
    (tmp_path / "none").touch()
    path.write_text(
        f"""\
state_dir = "state"

[hosts.pve]
kind = "proxmox"
address = "{first.sshd.address}"
identity_files = ["{first.sshd.client_key_path}"]
ssh_config = "none"
nodes = {{ pve2 = "{second.sshd.address}" }}

[repositories.main]
location = "repository"
encryption = "none"
"""
    )
    return path


def call(config: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main(["--config", str(config), *words, "--json"], lambda path: Wiring(Path(path), Cancel()))
    return code, json.loads(capsys.readouterr().out)


def test_trust_then_look_then_check(
    shop: tuple[Node, Node], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = shop
    print_of = {"pve": first.sshd.host_key_fingerprint, "pve/pve2": second.sshd.host_key_fingerprint}
    code, document = call(config, capsys, "inventory", "--refresh")
    assert code == 20
    assert "not trusted" in document["hosts"][0]["error"]
    code, document = call(config, capsys, "host", "trust", "pve", "--fingerprint", print_of["pve"])
    assert code == 3
    assert [(node["host"], node["fingerprint"], node["trusted"]) for node in document["nodes"]] == [
        ("pve/pve2", print_of["pve/pve2"], False)
    ]
    code, document = call(config, capsys, "inventory", "--refresh")
    assert code == 0
    (host,) = document["hosts"]
    assert [node["name"] for node in host["nodes"]] == ["pve1", "pve2"]
    assert host["guests"][0]["name"] == "web"
    code, document = call(config, capsys, "host", "check", "pve")
    refused = next(check for check in document["checks"] if check["name"] == "node pve2")
    assert not refused["ok"]
    assert refused["remedy"].endswith("vmconsole host trust pve/pve2")
    code, _ = call(config, capsys, "host", "trust", "pve/pve2", "--fingerprint", print_of["pve/pve2"])
    assert code == 0
    code, document = call(config, capsys, "host", "check", "pve")
    reached = next(check for check in document["checks"] if check["name"] == "node pve2")
    assert "not installed" in reached["detail"] or reached["ok"]
    code, document = call(config, capsys, "host", "trust", "pve")
    assert (code, document["nodes"][0]["trusted"]) == (0, True)


def test_the_other_node_serves_when_the_configured_one_is_down(
    shop: tuple[Node, Node], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = shop
    known = "\n".join([first.sshd.known_hosts_line, second.sshd.known_hosts_line]) + "\n"
    (config.parent / "state").mkdir()
    (config.parent / "state" / "known_hosts").write_text(known)
    text = config.read_text()
    config.write_text(text.replace(first.sshd.address, f"{first.sshd.user}@127.0.0.1:1", 1))
    code, document = call(config, capsys, "inventory", "--refresh")
    assert code == 0
    assert document["hosts"][0]["reachable"]


@pytest.mark.parametrize(
    ("host", "node", "address", "user", "port"),
    [
        # As the cluster tells it: with the user and port of the configured address.
        ('address = "admin@pve1:2022"', "pve3", "10.0.0.3", "admin", 2022),
        ('address = "pve1"\nuser = "admin"\nport = 2022', "pve3", "fd00::3", "admin", 2022),
        # As the configuration says it.
        ('address = "admin@pve1:2022"', "pve2", "10.0.0.2", "admin", 22),
        ('address = "pve1"\nuser = "admin"\nport = 2022', "pve2", "10.0.0.2", "admin", 2022),
        ('address = "admin@pve1"', "pve4", "nat.example", "root", 2204),
        # The configured address itself.
        ('address = "admin@pve1:2022"', "", "pve1", "admin", 2022),
    ],
)
def test_where_nodes_are_reached(
    tmp_path: Path, host: str, node: str, address: str, user: str, port: int
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        f'[hosts.pve]\nkind = "proxmox"\n{host}\nssh_config = "none"\n'
        'nodes = { pve2 = "10.0.0.2", pve4 = "root@nat.example:2204" }\n'
    )
    wiring = Wiring(path, Cancel())
    settings = wiring._node_settings("pve", node, address if node == "pve3" else "")
    target = settings.target()
    assert (target.host, target.user, target.port or 22) == (address, user, port)
    assert settings.name == (f"pve/{node}" if node else "pve")
    wiring.close()


def test_a_node_of_a_single_machine(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[hosts.kvm1]\nkind = "libvirt"\naddress = "root@kvm1"\n')
    wiring = Wiring(path, Cancel())
    with pytest.raises(UsageError, match="kvm1 is one machine, without nodes"):
        wiring.scan_host_key("kvm1/x")
    assert wiring.host_nodes("kvm1") == ()
    wiring.close()


def test_the_key_of_the_configured_node_guards_the_cluster(config: Path) -> None:
    wiring = Wiring(config, Cancel())
    with pytest.raises(HostKeyChanged):
        wiring.hypervisor("pve").inventory()
    wiring.close()
