"""What is missing on a cluster for backups, each with the command that fixes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from vmconsole.errors import VmconsoleError
from vmconsole.hypervisors.proxmox.api import PveshApi
from vmconsole.hypervisors.proxmox.cluster import ClusterStatus, NodeStatus
from vmconsole.hypervisors.proxmox.gather import look_at_storages
from vmconsole.hypervisors.proxmox.inventory import STATUS, VERSION, at_once, own_jobs, version_of
from vmconsole.hypervisors.proxmox.look import Ask, Found, free_bytes, look
from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.proxmox.space import size
from vmconsole.model.guest import Check

if TYPE_CHECKING:
    from vmconsole.hypervisors.proxmox.https import HttpsApi

OLDEST = (7, 0)
TOOLS: Mapping[str, str] = {
    "qm": "qemu-server",
    "pct": "pve-container",
    "pvesm": "libpve-storage-perl",
    "vzdump": "pve-manager",
    "qemu-img": "pve-qemu-kvm",
    "qemu-nbd": "pve-qemu-kvm",
    "socat": "socat",
}
"""Program → the package it comes with."""
PRESSURE = "/proc/pressure/cpu"


def check_cluster(nodes: Nodes, settings: ProxmoxSettings, api: HttpsApi | None = None) -> list[Check]:
    """Raises HostError when no node can be asked at all."""
    status = nodes.status(fresh=True)
    version = version_of(nodes.ask(lambda machine: PveshApi(machine).get(VERSION)))
    checks = [_version(version), _quorum(status)]
    if api is not None:
        checks.append(check_api(api))
    for found in at_once(*(partial(_node, nodes, settings, node) for node in status.nodes)):
        checks += found
    return checks


def _version(version: str) -> Check:
    numbers = tuple(map(int, re.findall(r"\d{1,4}", version)[:2]))
    if not numbers:
        return Check("Proxmox VE", ok=True, detail="version unknown", warning=True)
    if numbers < OLDEST:
        return Check(
            "Proxmox VE",
            ok=False,
            detail=f"version {version} is too old",
            remedy="Upgrade to Proxmox VE 7 or newer.",
        )
    return Check("Proxmox VE", ok=True, detail=f"version {version}")


def _quorum(status: ClusterStatus) -> Check:
    count = len(status.nodes)
    title = f"{status.name}, {count} node{'' if count == 1 else 's'}" if status.name else "a single node"
    if status.quorate:
        return Check("cluster", ok=True, detail=title)
    return Check(
        "cluster",
        ok=False,
        detail=f"{title}, has lost quorum: nothing can be locked, so nothing can be backed up",
        remedy="pvecm status",
    )


def check_api(api: HttpsApi) -> Check:
    """Whether the token may ask what an inventory asks."""
    from vmconsole.hypervisors.proxmox.https import require_audit

    try:
        require_audit(api)
        api.get(STATUS)
        own_jobs(api)
    except VmconsoleError as error:
        return Check("API", ok=False, detail=error.message, remedy=error.hint)
    return Check("API", ok=True, detail="the token may list guests")


def _node(nodes: Nodes, settings: ProxmoxSettings, node: NodeStatus) -> list[Check]:
    """Guests are backed up from the node they are on, so every node must be reached and have the tools."""
    name = f"node {node.name}"
    if not node.online:
        return [Check(name, ok=False, detail="offline", remedy="pvecm status", warning=True)]
    questions = [*((Ask.HAVE, tool) for tool in TOOLS), (Ask.FILE, PRESSURE)]
    if settings.fleecing.startswith("/"):
        questions.append((Ask.SPACE, settings.fleecing))
    try:
        machine = nodes.machine(node.name)
        answers = {answer.name: answer for answer in look(machine, questions)}
        checks = [_tools(name, answers)]
        if settings.fleecing.startswith("/"):
            free = free_bytes(answers[settings.fleecing].text)
            checks.append(
                _fleecing(name, settings, free, "cannot be looked at", f"mkdir -p {settings.fleecing}")
            )
        elif settings.fleecing:
            storage = look_at_storages(PveshApi(machine), node.name).get(settings.fleecing)
            usable = storage is not None and storage.active
            free = storage.free if storage is not None and usable else -1
            checks.append(_fleecing(name, settings, free, "is not available", "pvesm status"))
    except VmconsoleError as error:
        return [Check(name, ok=False, detail=error.message, remedy=error.hint)]
    if not answers[PRESSURE].data:
        checks.append(
            Check(
                f"{name}: load figures",
                ok=False,
                detail="the kernel keeps no pressure statistics; the load average is used",
                remedy="Boot the node with psi=1.",
                warning=True,
            )
        )
    return checks


def _tools(name: str, answers: Mapping[str, Found]) -> Check:
    missing: Sequence[str] = [tool for tool in TOOLS if not answers[tool].data]
    if not missing:
        return Check(name, ok=True, detail="reached, has all tools")
    packages = " ".join(dict.fromkeys(TOOLS[tool] for tool in missing))
    return Check(
        name, ok=False, detail=f"{', '.join(missing)} not installed", remedy=f"apt install {packages}"
    )


def _fleecing(name: str, settings: ProxmoxSettings, free: int, missing: str, remedy: str) -> Check:
    title = f"{name}: fleecing space"
    if free < 0:
        return Check(title, ok=False, detail=f"{settings.fleecing} {missing}", remedy=remedy)
    detail = f"{size(free)} free in {settings.fleecing}"
    if free < settings.fleecing_min_free:
        return Check(title, ok=False, detail=detail, remedy="Free space, or set another `fleecing`.")
    return Check(title, ok=True, detail=detail)
