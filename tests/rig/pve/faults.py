"""What can go wrong with a whole cluster, for as long as a `with` lasts. Those of one node are in node.py."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pve.node import PveNode
from pve.plane import RigPve
from pve.tools import conf

_FOLDERS = {"fast": "/srv/fast", "shared": "/mnt/pve/shared"}


class Faults:
    """Part of PveCluster, which has what is named here."""

    etc: Path
    nodes: dict[str, PveNode]
    api: RigPve
    one: PveNode
    node_of: Callable[[int], PveNode]
    storage_folder: Callable[[str, str], Path]
    write_members: Callable[[], None]

    @contextmanager
    def locked(self, vmid: int, lock: str = "backup") -> Iterator[None]:
        """Somebody else holds the guest's lock."""
        kind, _ = conf.find(vmid, self.etc) or ("qemu", "")
        tool = "qm" if kind == "qemu" else "pct"
        self.node_of(vmid).run(tool, "set", str(vmid), "--lock", lock)
        try:
            yield
        finally:
            self.node_of(vmid).run(tool, "unlock", str(vmid))

    @contextmanager
    def offline(self, name: str) -> Iterator[None]:
        """A node cannot be reached and the cluster says so; its guests stay where they are."""
        node = self.nodes[name]
        assert node.sshd is not None
        node.sshd.stop()
        self.api.set_node_offline(name)
        self.write_members()
        try:
            yield
        finally:
            self.api.set_node_offline(name, False)
            node.sshd.start()
            self.write_members()

    @contextmanager
    def no_quorum(self) -> Iterator[None]:
        """/etc/pve can be read and not written, everywhere."""
        self.api.lose_quorum()
        for node in self.nodes.values():
            node.read_only(True)
        try:
            yield
        finally:
            for node in self.nodes.values():
                node.read_only(False)
            self.api.regain_quorum()

    @contextmanager
    def storage_gone(self, name: str, node: str = "") -> Iterator[None]:
        """A storage (`fast` or `shared`) is not there on a node. Running machines keep their open files."""
        where, folder = self.nodes[node or self.one.name], _FOLDERS[name]
        where.run("umount", "-l", folder)
        where.run("rmdir", folder)
        try:
            yield
        finally:
            where.run("mkdir", folder)
            where.run("mount", "--bind", str(self.storage_folder(name, where.name)), folder)

    def token(self, user: str = "console@pve", privileges: Sequence[str] = (), path: str = "/") -> str:
        """An API token with these privileges only, as `USER!NAME=SECRET`. Without any: 403 for everything."""
        name, secret = f"{user}!lab{secrets.token_hex(2)}", str(uuid.uuid4())
        self.api.apitokens[name] = secret
        self.api.grant(name, path, *privileges)
        return f"{name}={secret}"
