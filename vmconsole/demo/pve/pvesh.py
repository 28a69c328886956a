"""`pvesh get PATH`: the parts of Proxmox's API that an inventory and a backup ask for."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vmconsole.demo.control import Answer
from vmconsole.demo.pve.cluster import NAME, VERSION, Cluster, Node, Refused
from vmconsole.demo.pve.contents import STORAGES
from vmconsole.demo.pve.machines import Container, Storage, Vm

_GIB = 1 << 30
_Get = Callable[[Cluster, Node, Mapping[str, str]], Any]


def pvesh(cluster: Cluster, node: Node, words: Sequence[str]) -> Answer:
    """words: without the program's name. Raises Refused."""
    if len(words) < 2 or words[0] != "get":
        raise Refused("the demo's pvesh only knows: get PATH --output-format json")
    given = {
        name.removeprefix("--"): value for name, value in zip(words[2::2], words[3::2], strict=False)
    }
    for pattern, get in _PATHS.items():
        if match := re.fullmatch(pattern, words[1]):
            answer = get(cluster, node, {**match.groupdict(), **given})
            return Answer(stdout=json.dumps(answer, sort_keys=True, separators=(",", ":")) + "\n")
    raise Refused(f"No '{words[0]}' handler defined for '{words[1]}'")


def _version(cluster: Cluster, node: Node, given: Mapping[str, str]) -> Any:
    return {"version": VERSION, "release": VERSION.rpartition(".")[0], "repoid": "d0d0d0d0d0d0d0d0"}


def _status(cluster: Cluster, node: Node, given: Mapping[str, str]) -> Any:
    names = sorted(cluster.nodes)
    told: list[dict[str, Any]] = [
        {"type": "cluster", "id": "cluster", "name": NAME, "nodes": len(names), "version": 5, "quorate": 1}
    ]
    for number, name in enumerate(names, 1):
        told.append({
            "type": "node", "id": f"node/{name}", "name": name, "nodeid": number, "ip": "127.0.0.1",
            "local": int(name == node.name), "online": 1, "level": "",
        })  # fmt: skip
    return told


def _resources(cluster: Cluster, node: Node, given: Mapping[str, str]) -> Any:
    told: list[dict[str, Any]] = [
        {"id": f"node/{name}", "type": "node", "node": name, "status": "online", "level": "", "cpu": 0.07,
         "maxcpu": 8, "mem": 9 * _GIB, "maxmem": 32 * _GIB, "uptime": 864_000}
        for name in cluster.nodes
    ]  # fmt: skip
    with cluster.lock:
        told += [_guest(guest) for guest in (*cluster.vms, cluster.container)]
    for name in cluster.nodes:
        for storage in STORAGES:
            seen = _storage(cluster, storage)
            told.append({
                "id": f"storage/{name}/{storage.name}", "type": "storage", "storage": storage.name,
                "node": name, "plugintype": storage.kind, "content": storage.content,
                "shared": int(storage.shared), "status": "available", "disk": seen["used"],
                "maxdisk": seen["total"],
            })  # fmt: skip
    return told


def _guest(guest: Vm | Container) -> dict[str, Any]:
    kind = "qemu" if isinstance(guest, Vm) else "lxc"
    told = {
        "id": f"{kind}/{guest.vmid}", "type": kind, "vmid": guest.vmid, "node": guest.node, "name": name_of(guest),
        "status": "running" if guest.running else "stopped", "template": 0,
        "maxmem": int(guest.conf.values["memory"]) << 20,
    }  # fmt: skip
    if tags := guest.conf.values.get("tags"):
        told["tags"] = tags
    if lock := guest.conf.values.get("lock"):
        told["lock"] = lock
    return told


def name_of(guest: Vm | Container) -> str:
    return guest.guest.name if isinstance(guest, Vm) else guest.name


def _storage(cluster: Cluster, storage: Storage) -> dict[str, Any]:
    space = shutil.disk_usage(cluster.place)
    return {
        "storage": storage.name, "type": storage.kind, "content": storage.content, "enabled": 1, "active": 1,
        "shared": int(storage.shared), "total": space.total, "used": space.used, "avail": space.free,
        "used_fraction": round(space.used / space.total, 4),
    }  # fmt: skip


def _storages(cluster: Cluster, node: Node, given: Mapping[str, str]) -> Any:
    return [_storage(cluster, storage) for storage in STORAGES]


def _content(cluster: Cluster, node: Node, given: Mapping[str, str]) -> Any:
    found = []
    for vm in cluster.vms:
        for item in vm.guest.disks:
            volume = vm.volume(item)
            if volume.startswith(f"{given['storage']}:") and given.get("vmid", str(vm.vmid)) == str(vm.vmid):
                found.append({
                    "volid": volume, "content": "images", "format": item.disk.format, "vmid": vm.vmid,
                    "size": item.disk.size, "used": item.disk.allocated_bytes,
                })  # fmt: skip
    return found


def _unprotected(cluster: Cluster, node: Node, given: Mapping[str, str]) -> Any:
    """Guests in no backup job of Proxmox: all of them."""
    return [
        {"vmid": guest.vmid, "type": "qemu" if isinstance(guest, Vm) else "lxc", "name": name_of(guest)}
        for guest in (*cluster.vms, cluster.container)
    ]


def _current(cluster: Cluster, node: Node, given: Mapping[str, str]) -> Any:
    vmid, guests = given["vmid"], [*cluster.vms, cluster.container]
    for guest in guests:
        kind = "qemu" if isinstance(guest, Vm) else "lxc"
        if (str(guest.vmid), guest.node, kind) == (vmid, given["node"], given["kind"]):
            return _guest(guest) | {"uptime": 3600 if guest.running else 0}
    folder = "lxc" if given["kind"] == "lxc" else "qemu-server"
    raise Refused(f"Configuration file 'nodes/{given['node']}/{folder}/{vmid}.conf' does not exist")


_PATHS: Mapping[str, _Get] = {
    r"/version": _version,
    r"/cluster/status": _status,
    r"/cluster/resources": _resources,
    r"/cluster/backup-info/not-backed-up": _unprotected,
    r"/nodes/(?P<node>[^/]+)/storage": _storages,
    r"/nodes/(?P<node>[^/]+)/storage/(?P<storage>[^/]+)/content": _content,
    r"/nodes/(?P<node>[^/]+)/(?P<kind>qemu|lxc)/(?P<vmid>\d+)/status/current": _current,
}
