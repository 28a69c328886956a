"""The cluster's nodes as hosts on loopback: each has its own SSH server, its own key and its own programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import paramiko

from vmconsole.demo.control import Control, install
from vmconsole.demo.pve.cluster import Cluster, Node
from vmconsole.demo.pve.programs import PROGRAMS, answer
from vmconsole.demo.ssh import SshServer

USER = "root"
"""The login name, as on every Proxmox node; the programs run as whoever started the demo."""


def serve(
    cluster: Cluster,
    place: Path,
    short: Path,
    key: paramiko.Ed25519Key,
    env: Mapping[str, str],
    stack: ExitStack,
) -> dict[str, SshServer]:
    """Start all nodes; the stack ends them. place, short: as of Cluster. key: the client's."""
    return {
        name: _serve(cluster, node, place / name, short, key, env, stack)
        for name, node in cluster.nodes.items()
    }


def _serve(
    cluster: Cluster,
    node: Node,
    place: Path,
    short: Path,
    key: paramiko.Ed25519Key,
    env: Mapping[str, str],
    stack: ExitStack,
) -> SshServer:
    programs, home = place / "bin", place / "home"
    for folder in (programs, home):
        folder.mkdir(parents=True, mode=0o700)
    control = Control(short / f"ctl-{node.name}", lambda call: answer(cluster, node, call))
    stack.callback(control.close)
    install(programs, tuple(PROGRAMS), sys.executable, control.path)
    _, _, rest = env["PATH"].partition(":")
    own = {"PATH": f"{programs}:{rest}", "HOME": str(home), "USER": USER, "LOGNAME": USER}
    ssh = SshServer(
        place,
        env={**env, **own},
        home=home,
        sockets=short,
        places={"/var/run/": node.run, "/run/": node.run},
        key=key,
    )
    stack.callback(ssh.stop)
    ssh.start()
    return ssh


def config_text(name: str, servers: Mapping[str, SshServer]) -> str:
    """The cluster's part of the configuration; paths are relative to the shop's folder."""
    addresses = {node: f'"{USER}@127.0.0.1:{ssh.port}"' for node, ssh in servers.items()}
    nodes = ", ".join(f"{node} = {address}" for node, address in addresses.items())
    return f"""\
[hosts.{name}]
kind = "proxmox"
address = {next(iter(addresses.values()))}
nodes = {{ {nodes} }}
identity_files = ["host/client_key"]
known_hosts = "host/known_hosts"
ssh_config = "/dev/null"
scratch_reserve = "16 MiB"
"""
