"""How hosts are reached, as the configuration says it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vmconsole.config.settings import Config
from vmconsole.remote.ssh_config import resolve
from vmconsole.remote.ssh_settings import SshSettings, parse_address


def ssh_settings(config: Config, name: str) -> SshSettings:
    """Of a host."""
    settings = config.host(name)
    return SshSettings(
        name=name,
        address=settings.address,
        user=settings.user or "",
        port=settings.port or 0,
        identity_files=settings.identity_files,
        known_hosts=settings.known_hosts or config.known_hosts,
        connect_timeout=settings.connect_timeout,
        command_timeout=settings.command_timeout,
        config_file=settings.ssh_config or Path("~/.ssh/config"),
        data_connections=settings.connections,
    )


def node_settings(config: Config, host: str, node: str, address: str) -> SshSettings:
    """Of a cluster's node. address: as the cluster tells it; one from the configuration wins.

    Both empty: the host itself.
    """
    base = ssh_settings(config, host)
    if not node:
        return base
    listed = config.host(host).nodes.get(node)
    if listed:
        given, own = parse_address(listed), parse_address(base.address)
        user, port = given.user or base.user or own.user, given.port or base.port
        return replace(base, name=f"{host}/{node}", address=listed, user=user, port=port)
    hop = resolve(base)
    return replace(base, name=f"{host}/{node}", address=address, user=hop.user, port=hop.port)
