"""One look at a whole cluster: its nodes, storages, guests and their disks.

Over SSH this takes four calls of `pvesh` and one program that reads the guests' configuration files,
all at the same time: a few remote commands, however many nodes and guests there are. The API alone
would need one call for each guest; over HTTPS, that is what is done (https.py).

Statuses come from the cluster's own cache, which is up to ten seconds old. Guests of nodes that are
offline are listed, with what their configuration says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vmconsole.errors import BackupFailed, CommandFailed, GuestNotFound
from vmconsole.hypervisors.proxmox.api import Api, PveshApi
from vmconsole.hypervisors.proxmox.cluster import NODE_NAME, ClusterStatus, parse_status
from vmconsole.hypervisors.proxmox.guestconf import GuestConf, decode, parse
from vmconsole.hypervisors.proxmox.guests import STATES, Known, make_guest
from vmconsole.hypervisors.proxmox.identity import (
    CA_PATH,
    CONTAINER_CONFIGS,
    VM_CONFIGS,
    Place,
    cluster_identity,
    identify,
    place_of,
)
from vmconsole.hypervisors.proxmox.look import Ask, Found, look
from vmconsole.hypervisors.proxmox.loose import Record, flag, integer, number, records, word
from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.hypervisors.proxmox.properties import split_list
from vmconsole.model.guest import (
    Guest,
    GuestKind,
    GuestState,
    HostInventory,
    HostKind,
    HostLoad,
    Node,
    Storage,
)
from vmconsole.remote.machine import Machine

RESOURCES = "/cluster/resources"
STATUS = "/cluster/status"
VERSION = "/version"
NOT_BACKED_UP = "/cluster/backup-info/not-backed-up"

PRESSURE = ("cpu", "io", "memory")
FILES = (
    (Ask.FILES, VM_CONFIGS),
    (Ask.FILES, CONTAINER_CONFIGS),
    (Ask.FILE, CA_PATH),
    (Ask.FILE, "/proc/loadavg"),
    *((Ask.FILE, f"/proc/pressure/{what}") for what in PRESSURE),
)

_SOME_AVG10 = re.compile(r"^some avg10=(\d{1,3}\.\d{1,4})", re.MULTILINE)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was seen of a cluster, whichever way it was asked.

    resources: of /cluster/resources. unprotected: VMIDs that no backup job of Proxmox covers; None
    when that could not be told, and then problems says why. confs: of every guest whose
    configuration could be read. authority: the cluster's CA certificate, PEM. proc: files of the
    asked node below /proc, by name.
    """

    status: ClusterStatus
    version: str
    resources: tuple[Record, ...]
    unprotected: frozenset[int] | None
    confs: Mapping[Place, GuestConf]
    authority: str = ""
    proc: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def take_inventory(nodes: Nodes) -> HostInventory:
    """Over SSH. Raises HostError when nobody can be asked, ProtocolError for nonsense."""
    return describe(nodes.ask(lambda machine: see(machine, nodes.host)), nodes.host)


def see(machine: Machine, host: str) -> Sighting:
    """Everything at the same time, from one node."""
    api = PveshApi(machine)
    resources, status, version, (unprotected, problems), files = at_once(
        lambda: api.get(RESOURCES),
        lambda: api.get(STATUS),
        lambda: api.get(VERSION),
        lambda: own_jobs(api),
        lambda: look(machine, FILES),
    )
    seen, confs = tuple(records(resources)), _confs(files)
    if unread(seen, confs):
        # Moved to another node between the two looks, or gone by now; a second look tells.
        confs |= _confs(look(machine, FILES))
    return Sighting(
        status=parse_status(status, host),
        version=version_of(version),
        resources=seen,
        unprotected=unprotected,
        confs=confs,
        authority=next((item.text for item in files if item.name == CA_PATH), ""),
        proc={item.name: item.text for item in files if item.name.startswith("/proc/")},
        problems=problems,
    )


def at_once(*work: Callable[[], Any]) -> list[Any]:
    """Run all at the same time; raises what the first of them raises, once all have ended."""
    with ThreadPoolExecutor(len(work), thread_name_prefix="pvesh") as pool:
        return [future.result() for future in [pool.submit(each) for each in work]]


def version_of(answer: Any) -> str:
    """From /version; empty when it does not say."""
    return word(answer.get("version")) if isinstance(answer, dict) else ""


def own_jobs(api: Api) -> tuple[frozenset[int] | None, tuple[str, ...]]:
    """(VMIDs that no backup job of Proxmox covers, problems).

    Proxmox gives no answer at all when one job names a pool that is gone, or a guest goes meanwhile.
    """
    try:
        answer = api.get(NOT_BACKED_UP)
    except (BackupFailed, CommandFailed, GuestNotFound) as error:
        return None, (f"Proxmox does not say which guests its own backup jobs cover: {error.message}",)
    return frozenset(vmid for item in records(answer) if (vmid := integer(item.get("vmid"))) > 0), ()


def _confs(files: Iterable[Found]) -> dict[Place, GuestConf]:
    found = {}
    for item in files:
        place = place_of(item.name)
        # A guest that was removed, or moved, since the folder was listed is not there any more.
        if place is not None and (item.data or not item.error):
            found[place] = parse(decode(item.data), place.kind)
    return found


def describe(sighting: Sighting, host: str) -> HostInventory:
    """The inventory behind what was seen. Pure."""
    nodes = _nodes(sighting)
    loads = [node.load for node in nodes]
    return HostInventory(
        name=host,
        kind=HostKind.PROXMOX,
        reachable=True,
        load=HostLoad(*(most(getattr(load, what) for load in loads) for what in PRESSURE)),
        guests=tuple(sorted(_guests(sighting, host), key=lambda item: (item.name, int(item.id)))),
        nodes=nodes,
        storages=tuple(sorted(_storages(sighting), key=lambda item: (item.name, item.node))),
        warnings=tuple(_warnings(sighting, nodes)),
    )


def _guests(sighting: Sighting, host: str) -> Iterable[Guest]:
    told = {place.vmid: item for place, item in told_guests(sighting.resources).items()}
    confs = dict(sighting.confs)
    missing = unread(sighting.resources, confs)
    confs |= {place: parse("", place.kind) for place in missing}
    confs = _once_each(confs, told_guests(sighting.resources))
    cluster = cluster_identity(sighting.authority, sighting.status.title)
    identities = identify({place: conf.hardware_uuid for place, conf in confs.items()}, cluster)
    online = {node.name for node in sighting.status.nodes if node.online}
    for place, conf in confs.items():
        item = told.get(place.vmid, {})
        state = STATES.get(word(item.get("status")), GuestState.OTHER)
        yield make_guest(
            place,
            identities[place],
            conf,
            Known(
                host=host,
                state=state if place.node in online else GuestState.OTHER,
                node_online=place.node in online,
                readable=place not in missing,
                name=word(item.get("name")),
                pool=word(item.get("pool")),
                ha=word(item.get("hastate")),
                in_host_jobs=_in_jobs(place.vmid, sighting),
            ),
        )


def _once_each(confs: Mapping[Place, GuestConf], told: Iterable[Place]) -> dict[Place, GuestConf]:
    """A guest that moved while the folders were read was seen on both nodes; the cluster says which counts.

    Its own status may be older than the files, and name neither: then the one read last.
    """
    told = set(told)
    found: dict[int, Place] = {}
    for place in confs:
        if found.get(place.vmid) not in told:
            found[place.vmid] = place
    return {place: confs[place] for place in found.values()}


def told_guests(resources: Iterable[Record]) -> dict[Place, Record]:
    """The guests among /cluster/resources, and where they are."""
    found = {}
    for item in resources:
        vmid, node = integer(item.get("vmid")), word(item.get("node"))
        if item.get("type") in ("qemu", "lxc") and vmid > 0 and NODE_NAME.fullmatch(node):
            kind = GuestKind.CONTAINER if item.get("type") == "lxc" else GuestKind.VM
            found[Place(vmid, kind, node)] = item
    return found


def unread(resources: Iterable[Record], confs: Iterable[Place]) -> set[Place]:
    """Guests that are listed, but whose configuration was not there."""
    known = {place.vmid for place in confs}
    return {place for place in told_guests(resources) if place.vmid not in known}


def _in_jobs(vmid: int, sighting: Sighting) -> bool | None:
    return None if sighting.unprotected is None else vmid not in sighting.unprotected


def _nodes(sighting: Sighting) -> tuple[Node, ...]:
    told = {word(item.get("node")): item for item in sighting.resources if item.get("type") == "node"}
    found = []
    for status in sighting.status.nodes:
        item = told.get(status.name, {})
        load = HostLoad(cpu=number(item.get("cpu")) if status.online else None)
        if status.asked:
            load = load_of(sighting.proc, integer(item.get("maxcpu")), load.cpu)
        version = sighting.version if status.asked else ""
        found.append(Node(status.name, status.online, status.address, version, load))
    return tuple(found)


def load_of(proc: Mapping[str, str], processors: int, used: float | None) -> HostLoad:
    """proc: by name. processors, used: for nodes without PSI; 0 and None where they are not known."""
    cpu, io, memory = (_pressure(proc.get(f"/proc/pressure/{what}", "")) for what in PRESSURE)
    if cpu is None:
        average = number(proc.get("/proc/loadavg", "").partition(" ")[0])
        cpu = average / processors if average is not None and processors > 0 else used
    return HostLoad(cpu, io, memory)


def _pressure(text: str) -> float | None:
    match = _SOME_AVG10.search(text)
    return float(match[1]) / 100 if match else None


def most(values: Iterable[float | None]) -> float | None:
    """None when none of them is known."""
    return max((value for value in values if value is not None), default=None)


def _storages(sighting: Sighting) -> Iterable[Storage]:
    shared = set()
    # Of a shared one, the view of a node that has it.
    ordered = sorted(
        sighting.resources, key=lambda item: (item.get("status") != "available", word(item.get("id")))
    )
    for item in ordered:
        name = word(item.get("storage"))
        if item.get("type") != "storage" or not name:
            continue
        common = flag(item.get("shared"))
        if common and name in shared:
            continue
        if common:
            shared.add(name)
        yield Storage(
            name=name,
            type=word(item.get("plugintype")),
            available=word(item.get("status")) == "available",
            node="" if common else word(item.get("node")),
            content=tuple(sorted(split_list(word(item.get("content"))))),
            size=max(0, integer(item.get("maxdisk"))),
            used=max(0, integer(item.get("disk"))),
        )


def _warnings(sighting: Sighting, nodes: Iterable[Node]) -> Iterable[str]:
    if not sighting.status.quorate:
        yield "The cluster has lost quorum: nothing can be backed up until its nodes see each other again."
    yield from sighting.problems
    for node in nodes:
        if not node.online:
            yield f"Node {node.name} is offline; its guests are as their configuration says."
