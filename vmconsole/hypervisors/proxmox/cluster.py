"""A cluster and its nodes, as /cluster/status tells; a single node is a cluster of one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.proxmox.loose import flag, records, word

NODE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{2,45}")


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """address: IP address in the cluster's network, empty when not told. asked: this node answered."""

    name: str
    address: str
    online: bool
    asked: bool


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """name: empty for a single node. nodes: in the order of their names, at least one."""

    name: str
    quorate: bool
    nodes: tuple[NodeStatus, ...]

    @property
    def asked(self) -> str:
        """Name of the node that answered."""
        return next((node.name for node in self.nodes if node.asked), "")

    @property
    def title(self) -> str:
        """The cluster's name, else that of its only node."""
        return self.name or self.asked

    def node(self, name: str) -> NodeStatus | None:
        return next((node for node in self.nodes if node.name == name), None)


def parse_status(answer: Any, host: str) -> ClusterStatus:
    """Read /cluster/status. Raises ProtocolError when no node is in it."""
    name, quorate, nodes = "", True, []
    for entry in records(answer):
        if entry.get("type") == "cluster":
            name, quorate = word(entry.get("name")), flag(entry.get("quorate"))
        elif entry.get("type") == "node" and NODE_NAME.fullmatch(word(entry.get("name"))):
            address = word(entry.get("ip"))
            nodes.append(
                NodeStatus(
                    name=word(entry.get("name")),
                    address=address if _ADDRESS.fullmatch(address) else "",
                    online=flag(entry.get("online"), default=True),
                    asked=flag(entry.get("local")),
                )
            )
    if not nodes:
        raise ProtocolError(f"{host} does not say which nodes it consists of.", subject=host)
    return ClusterStatus(name, quorate, tuple(sorted(nodes, key=lambda node: node.name)))
