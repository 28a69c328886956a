"""`pvesh get PATH`: the parts of Proxmox's API that an inventory and a backup ask for."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from vmconsole.demo.control import Answer
from vmconsole.demo.pve.cluster import NAME, VERSION, Cluster, Node, Refused
from vmconsole.demo.pve.contents import STORAGES
from vmconsole.demo.pve.machines import Container, Storage, Vm

_GIB = 1 << 30
_STORAGE = re.compile(r"/nodes/[^/]+/storage/(?P<storage>[^/]+)/content")
_CURRENT = re.compile(r"/nodes/(?P<node>[^/]+)/(?P<kind>qemu|lxc)/(?P<vmid>\d+)/status/current")


def pvesh(cluster: Cluster, node: Node, words: Sequence[str]) -> Answer:
    """words: without the program's name. Raises Refused."""
    if len(words) < 2 or words[0] != "get":
        raise Refused("the demo's pvesh only knows: get PATH --output-format json")
    given = {name.removeprefix("--"): value for name, value in zip(words[2::2], words[3::2], strict=False)}
    answer = _get(cluster, node, words[1], given)
    return Answer(stdout=json.dumps(answer, sort_keys=True, separators=(",", ":")) + "\n")


def _get(cluster: Cluster, node: Node, path: str, given: Mapping[str, str]) -> Any:
    match path:
        case "/version":
            release = VERSION.rpartition(".")[0]
            return {"version": VERSION, "release": release, "repoid": "d0d0d0d0d0d0d0d0"}
        case "/cluster/status":
            return _status(cluster, node)
        case "/cluster/resources":
            return _resources(cluster)
        case "/cluster/backup-info/not-backed-up":
            # No backup job of Proxmox covers any.
            return [{"vmid": item.vmid, "type": item.kind, "name": item.name} for item in cluster.guests]
    if re.fullmatch(r"/nodes/[^/]+/storage", path):
        return [_storage(cluster, storage) for storage in STORAGES]
    if found := _STORAGE.fullmatch(path):
        return _content(cluster, found["storage"], given.get("vmid", ""))
    if found := _CURRENT.fullmatch(path):
        return _current(cluster, found["node"], found["kind"], found["vmid"])
    raise Refused(f"No 'get' handler defined for '{path}'")


def _status(cluster: Cluster, node: Node) -> Any:
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


def _resources(cluster: Cluster) -> Any:
    told: list[dict[str, Any]] = [
        {"id": f"node/{name}", "type": "node", "node": name, "status": "online", "level": "", "cpu": 0.07,
         "maxcpu": 8, "mem": 9 * _GIB, "maxmem": 32 * _GIB, "uptime": 864_000}
        for name in cluster.nodes
    ]  # fmt: skip
    with cluster.lock:
        told += [_guest(guest) for guest in cluster.guests]
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
    values = guest.conf.values
    told = {
        "id": f"{guest.kind}/{guest.vmid}", "type": guest.kind, "vmid": guest.vmid, "node": guest.node,
        "name": guest.name, "status": "running" if guest.running else "stopped", "template": 0,
        "maxmem": int(values["memory"]) << 20,
    }  # fmt: skip
    return told | {key: values[key] for key in ("tags", "lock") if key in values}


def _storage(cluster: Cluster, storage: Storage) -> dict[str, Any]:
    space = shutil.disk_usage(cluster.place)
    return {
        "storage": storage.name, "type": storage.kind, "content": storage.content, "enabled": 1, "active": 1,
        "shared": int(storage.shared), "total": space.total, "used": space.used, "avail": space.free,
    }  # fmt: skip


def _content(cluster: Cluster, storage: str, vmid: str) -> Any:
    found = []
    for vm in cluster.vms:
        for item in vm.guest.disks:
            volume = vm.volume(item)
            if volume.startswith(f"{storage}:") and vmid in ("", str(vm.vmid)):
                found.append({
                    "volid": volume, "content": "images", "format": item.disk.format, "vmid": vm.vmid,
                    "size": item.disk.size, "used": item.disk.allocated_bytes,
                })  # fmt: skip
    return found


def _current(cluster: Cluster, node: str, kind: str, vmid: str) -> Any:
    for guest in cluster.guests:
        if (guest.node, guest.kind, str(guest.vmid)) == (node, kind, vmid):
            return _guest(guest) | {"uptime": 3600 if guest.running else 0}
    folder = "lxc" if kind == "lxc" else "qemu-server"
    raise Refused(f"Configuration file 'nodes/{node}/{folder}/{vmid}.conf' does not exist")
