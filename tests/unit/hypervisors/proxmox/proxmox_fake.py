"""A cluster in a folder: nodes whose `pvesh` answers from a table, while look.pl runs for real on the folder."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vmconsole.errors import HostUnreachable, ToolMissing
from vmconsole.hypervisors.proxmox.look import split
from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.remote.local import LocalMachine
from vmconsole.remote.machine import Completed, Process, Stream

PERL = shutil.which("perl")


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> Any:
        raise NotImplementedError

    def monotonic(self) -> float:
        return self.seconds


class FakeNode:
    """A Machine. api: path → what pvesh prints, as data, or Completed for its raw output, or an error.

    commands: everything that was run, the program first. root: stands for `/` of the node.
    """

    def __init__(self, root: Path, name: str = "pve", api: Mapping[str, Any] | None = None) -> None:
        self.root = root
        self.name = name
        self.api: dict[str, Any] = dict(api or {})
        self.qm: dict[str, Completed] = {}
        self.commands: list[list[str]] = []
        self.down: Exception | None = None
        self.closed = False
        self.delay = 0.0
        """Seconds that pvesh takes to start."""
        self.before_look: Callable[[], None] = lambda: None

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        max_output: int = 1 << 26,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        self.commands.append(list(argv))
        if self.down is not None:
            raise self.down
        if argv[0] == "pvesh":
            return self._pvesh(argv)
        if argv[0] == "perl":
            return self._look(argv)
        return self.qm[" ".join(argv[1:])]

    def _pvesh(self, argv: Sequence[str]) -> Completed:
        assert argv[-2:] == ["--output-format", "json"]
        assert argv[1] == "get"
        time.sleep(self.delay)
        key = " ".join(argv[2:-2])
        if key not in self.api:
            return Completed(2, b"", f"No 'get' handler defined for '{key}'\n".encode())
        answer = self.api[key]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Completed):
            return answer
        return Completed(0, json.dumps(answer, sort_keys=True).encode() + b"\n", b"")

    def _look(self, argv: Sequence[str]) -> Completed:
        """Runs the real program below root, and gives the names back as they were asked for."""
        if PERL is None:
            raise ToolMissing("perl is not installed", subject=self.name)
        self.before_look()
        assert argv[1] == "-e"
        assert argv[3] == "--"
        token, words = argv[4], list(argv[5:])
        words = [f"{self.root}{word}" if word.startswith("/") else word for word in words]
        done = LocalMachine(self.name).run([PERL, "-e", argv[2], "--", token, *words])
        answers = []
        for found in split(done.stdout, token, self.name):
            name = found.name.removeprefix(str(self.root)).encode()
            error = found.error.encode()
            answers.append(
                f"{token} {found.word} {len(name)} {len(found.data)} {len(error)}\n".encode()
                + name + found.data + error + b"\n"
            )  # fmt: skip
        return Completed(
            0, b"Linux noise before it\n" + b"".join(answers) + f"{token} end 0 0 0\n\n".encode(), b""
        )

    def script(self, source: str, args: Sequence[str] = (), **options: Any) -> Completed:
        raise AssertionError("no shell is needed")

    def start(self, argv: Sequence[str]) -> Process:
        raise AssertionError("nothing is started")

    def open_unix(self, path: str) -> Stream:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"{self.root}{path}")
        return connection

    def close(self) -> None:
        self.closed = True

    def write(self, path: str, text: str | bytes) -> Path:
        """A file below root."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file


class FakeCluster:
    """Nodes by name, "" being the configured address; made when they are first reached."""

    def __init__(self, folder: Path, asked: str = "pve1", listed: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.clock = Clock()
        self.reached: dict[str, str] = {}
        self.main = FakeNode(folder, "pve")
        self.machines = {"": self.main}
        self.asked = asked
        self.nodes = Nodes("pve", self._connect, listed or {}, self.clock)

    def _connect(self, node: str, address: str) -> FakeNode:
        self.reached[node] = address
        if node not in self.machines:
            self.machines[node] = FakeNode(self.folder, f"pve/{node}", self.main.api)
        return self.machines[node]


def status(
    *names: str, quorate: int = 1, asked: str = "pve1", offline: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """/cluster/status; of one node without the entry of a cluster."""
    nodes = [
        {
            "type": "node",
            "id": f"node/{name}",
            "name": name,
            "nodeid": number if len(names) > 1 else 0,
            "ip": f"10.0.0.{number}",
            "local": int(name == asked),
            "online": int(name not in offline),
            "level": "",
        }
        for number, name in enumerate(names, 1)
    ]
    if len(names) == 1:
        return nodes
    cluster = {
        "type": "cluster", "id": "cluster", "name": "shop", "nodes": len(names), "version": 5, "quorate": quorate,
    }  # fmt: skip
    return [cluster, *nodes]


def guest(vmid: int, name: str, node: str = "pve1", kind: str = "qemu", **more: Any) -> dict[str, Any]:
    """One entry of /cluster/resources."""
    return {
        "id": f"{kind}/{vmid}",
        "type": kind,
        "vmid": vmid,
        "node": node,
        "name": name,
        "status": "running",
        "template": 0,
        "maxcpu": 4,
        **more,
    }


def node(name: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"node/{name}",
        "type": "node",
        "node": name,
        "status": "online",
        "cpu": 0.25,
        "maxcpu": 4,
        **more,
    }


def unreachable(name: str = "pve") -> HostUnreachable:
    return HostUnreachable(f"{name} cannot be reached: timeout", hint="Is it up?", subject=name)
