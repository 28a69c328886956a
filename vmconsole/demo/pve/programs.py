"""The programs of a node, and what stands in for perl: only the programs that vmconsole hands to it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vmconsole.demo import qemu_tools
from vmconsole.demo.control import Answer, Call
from vmconsole.demo.guests import Guest
from vmconsole.demo.pve.cluster import Cluster, Node, Refused
from vmconsole.demo.pve.contents import STORAGES
from vmconsole.demo.pve.guard import Guard
from vmconsole.demo.pve.look import look
from vmconsole.demo.pve.machines import Conf
from vmconsole.demo.pve.pvesh import pvesh
from vmconsole.demo.pve.vzdump import vzdump

_LOOK = "# Reads files of a Proxmox node"
_GUARD = "# Holds a guest's export on its node"
_Program = Callable[[Cluster, Node, Sequence[str]], Answer]


def answer(cluster: Cluster, node: Node, call: Call) -> Answer:
    """What a program of that node says."""
    program, *words = call.argv
    try:
        return PROGRAMS[program](cluster, node, words)
    except Refused as error:
        return Answer(255, stderr=f"{error}\n")


def _perl(cluster: Cluster, node: Node, words: Sequence[str]) -> Answer:
    if "-e" not in words:
        raise Refused("perl: the demo has no Perl")
    at = words.index("-e")
    source, arguments = words[at + 1], [word for word in words[at + 2 :] if word != "--"]
    if source.startswith(_LOOK):
        return Answer(stdout=look(cluster, node, arguments))
    if source.startswith(_GUARD):
        guard = Guard(cluster, node, lambda argv: run(cluster, node, argv), arguments[0])
        return Answer(talk=guard.talk)
    if source.startswith(("PVE::Storage::activate_volumes", "PVE::Storage::deactivate_volumes")):
        for volume in arguments:
            _path(cluster, volume)
        return Answer()
    raise Refused("perl: the demo has no Perl")


def run(cluster: Cluster, node: Node, argv: Sequence[str]) -> Answer:
    """A program that another one on the node starts."""
    if argv[0] in PROGRAMS:
        return answer(cluster, node, Call(argv))
    return Answer(127, stderr=f"{argv[0]}: No such file or directory\n")


# --- qm, pct ---


def _qm(cluster: Cluster, node: Node, words: Sequence[str]) -> Answer:
    match list(words):
        case ["set", vmid, "--lock", lock]:
            _lock(cluster.vm(_vmid(vmid), node.name).conf, "VM", lock)
        case ["unlock", vmid]:
            cluster.vm(_vmid(vmid), node.name).conf.values.pop("lock", None)
        case ["config", vmid, *_]:
            return Answer(stdout=cluster.vm(_vmid(vmid), node.name).conf.text)
        case ["status", vmid, *_]:
            running = cluster.vm(_vmid(vmid), node.name).running
            return Answer(stdout=f"status: {'running' if running else 'stopped'}\n")
        case ["guest", "cmd", vmid, command]:
            return _agent(cluster.vm(_vmid(vmid), node.name).guest, command)
        case _:
            raise Refused(f"the demo has no qm {shlex.join(words)}")
    return Answer()


def _pct(cluster: Cluster, node: Node, words: Sequence[str]) -> Answer:
    container = cluster.container
    conf, vmid = container.conf, str(container.vmid)
    if words[1:2] != [vmid] or container.node != node.name:
        raise Refused(f"Configuration file 'nodes/{node.name}/lxc/{''.join(words[1:2])}.conf' does not exist")
    match list(words):
        case ["set", _, "--lock", lock]:
            _lock(conf, "CT", lock)
        case ["unlock", _]:
            conf.values.pop("lock", None)
        case ["config", *_]:
            return Answer(stdout=conf.text)
        case ["status", *_]:
            return Answer(stdout=f"status: {'running' if cluster.container.running else 'stopped'}\n")
        case _:
            raise Refused(f"the demo has no pct {shlex.join(words)}")
    return Answer()


def _lock(conf: Conf, kind: str, lock: str) -> None:
    if held := conf.values.get("lock"):
        raise Refused(f"{kind} is locked ({held})")
    conf.values["lock"] = lock


def _vmid(word: str) -> int:
    if not re.fullmatch(r"[1-9]\d{2,8}", word):
        raise Refused(
            f"400 Parameter verification failed.\nvmid: type check ('integer') failed - got '{word}'"
        )
    return int(word)


def _agent(guest: Guest, command: str) -> Answer:
    if not guest.agent:
        raise Refused("No QEMU guest agent configured")
    if not guest.running:
        raise Refused("QEMU guest agent is not running")
    answers: Mapping[str, Callable[[], Any]] = {
        "ping": lambda: "{}",
        "fsfreeze-freeze": guest.freeze,
        "fsfreeze-thaw": guest.thaw,
        "fsfreeze-status": lambda: '"frozen"' if guest.frozen else '"thawed"',
    }
    if command not in answers:
        raise Refused(f"the demo's agent has no {command}")
    return Answer(stdout=f"{answers[command]()}\n")


# --- pvesm ---


def _pvesm(cluster: Cluster, _: Node, words: Sequence[str]) -> Answer:
    match list(words):
        case ["alloc", storage, vmid, name, size, *_]:
            volume = f"{storage}:{_vmid(vmid)}/{Path(name).name}"
            try:
                cluster.volumes.allocate(volume, int(size) * 1024)
            except FileExistsError as error:
                raise Refused(f"disk image '{volume}' already exists") from error
            return Answer(stdout=f"successfully created '{volume}'\n")
        case ["free", volume]:
            if not cluster.volumes.free(volume):
                raise Refused(f"disk image '{volume}' does not exist")
            return Answer(stdout=f"Removed volume '{volume}'\n")
        case ["path", volume]:
            return Answer(stdout=f"{_path(cluster, volume)}\n")
        case ["status", *_]:
            lines = [f"{item.name} {item.kind} active 100000000 10000000 90000000 10%" for item in STORAGES]
            return Answer(stdout="\n".join(["Name Type Status Total Used Available %", *lines, ""]))
    raise Refused(f"the demo has no pvesm {shlex.join(words)}")


def _path(cluster: Cluster, volume: str) -> Path:
    found = cluster.find_volume(volume)
    if found is None:
        raise Refused(f"volume '{volume}' does not exist")
    return found


def _qemu_img(cluster: Cluster, _: Node, words: Sequence[str]) -> Answer:
    return qemu_tools.qemu_img(cluster, Call(["qemu-img", *words]))


def _qemu_nbd(cluster: Cluster, node: Node, words: Sequence[str]) -> Answer:
    return qemu_tools.qemu_nbd(cluster, Call(["qemu-nbd", *words]), node.path)


PROGRAMS: Mapping[str, _Program] = {
    "pct": _pct,
    "perl": _perl,
    "pvesh": pvesh,
    "pvesm": _pvesm,
    "qemu-img": _qemu_img,
    "qemu-nbd": _qemu_nbd,
    "qm": _qm,
    "vzdump": vzdump,
}
