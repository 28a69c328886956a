"""How the nodes and some of their guests are doing right now: one quick look at each node.

Nodes are asked as rarely as can be: where guests are is remembered until one of them is not there
any more. Machines are asked in QEMU's own monitor, as pvestatd does every ten seconds, in sessions
so short that nobody who waits for it notices. Of containers nothing is told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmconsole.errors import HostError, ProtocolError
from vmconsole.hypervisors.proxmox.identity import QUESTIONS, Place, identify_found
from vmconsole.hypervisors.proxmox.inventory import PRESSURE, load_of, most
from vmconsole.hypervisors.proxmox.look import Ask, look
from vmconsole.hypervisors.proxmox.loose import integer, record, records, word
from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.hypervisors.qmp.client import QmpClient
from vmconsole.model.guest import GuestKind, HostLoad
from vmconsole.model.vitals import Vitals, WriteCounters
from vmconsole.remote.machine import Machine

TIMEOUT = 10.0
SESSION = 0.5
"""Seconds to be let into a monitor, and again to be out of it. Who is late is left out this time."""
FIND_AGAIN = 60.0
"""Seconds after which guests that were not found are looked for again."""
_LOAD = tuple((Ask.FILE, f"/proc/pressure/{what}") for what in PRESSURE)


@dataclass(frozen=True, slots=True)
class _Known:
    place: Place
    machine: Machine


class VitalsLook:
    """Thread-safe."""

    def __init__(self, nodes: Nodes, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._nodes = nodes
        self._now = monotonic
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._missing: dict[str, float] = {}
        """When guests were looked for in vain."""

    def take(self, uuids: Sequence[str]) -> Vitals:
        """Raises HostError when a node does not answer in time, ProtocolError."""
        known = self._find(uuids)
        machines = {item.place.node: item.machine for item in known.values()}
        if not machines:
            return Vitals(self._nodes.ask(lambda machine: _look(machine, ())[0]))
        loads: list[HostLoad] = []
        writes: dict[str, WriteCounters] = {}
        try:
            for node, machine in machines.items():
                here = {uuid: item.place for uuid, item in known.items() if item.place.node == node}
                load, running = _look(machine, tuple(here.values()))
                loads.append(load)
                for uuid, place in here.items():
                    if place.kind is GuestKind.CONTAINER:
                        continue
                    if place.vmid not in running:
                        self._forget(uuid)
                    elif counters := _ask_qemu(machine, place):
                        writes[uuid] = counters
        except HostError:
            with self._lock:
                self._known.clear()
            raise
        busiest = HostLoad(*(most(getattr(load, what) for load in loads) for what in PRESSURE))
        return Vitals(busiest, writes)

    def _find(self, uuids: Sequence[str]) -> Mapping[str, _Known]:
        now = self._now()
        with self._lock:
            lately = {uuid for uuid, when in self._missing.items() if now - when < FIND_AGAIN}
            due = [uuid for uuid in uuids if uuid not in self._known and uuid not in lately]
        if due:
            title = self._nodes.status().title
            answers = self._nodes.ask(lambda machine: look(machine, QUESTIONS, timeout=TIMEOUT))
            places = {item.uuid: place for place, item in identify_found(answers, title).items()}
            for uuid in due:
                place = places.get(uuid)
                found = _Known(place, self._nodes.machine(place.node)) if place else None
                with self._lock:
                    if found is None:
                        self._missing[uuid] = now
                    else:
                        self._known[uuid] = found
        with self._lock:
            return {uuid: self._known[uuid] for uuid in uuids if uuid in self._known}

    def _forget(self, uuid: str) -> None:
        """It is off, or has moved: look for it again, but not each time."""
        with self._lock:
            self._known.pop(uuid, None)
            self._missing[uuid] = self._now()


def _look(machine: Machine, places: Sequence[Place]) -> tuple[HostLoad, set[int]]:
    """The node's load, and which of the machines run there."""
    pid_files = {f"/var/run/qemu-server/{place.vmid}.pid": place.vmid for place in places}
    found = look(machine, [*_LOAD, *((Ask.PROCESS, path) for path in pid_files)], timeout=TIMEOUT)
    load = load_of({item.name: item.text for item in found if item.word == Ask.FILE.value}, 0, None)
    running = {
        pid_files[item.name]
        for item in found
        if item.word == Ask.PROCESS.value and item.name in pid_files and item.data
    }
    return load, running


def _ask_qemu(machine: Machine, place: Place) -> WriteCounters | None:
    path = f"/var/run/qemu-server/{place.vmid}.qmp"
    who = f"{place.vmid} on {machine.name}"
    try:
        with QmpClient.connect(machine, path, who, budget=SESSION, patience=SESSION) as client:
            return writes(client.execute("query-blockstats"))
    except (HostError, ProtocolError):
        return None


def writes(answer: Any) -> WriteCounters | None:
    """From query-blockstats, of all its disks together; None when it tells nothing of them.

    Only what a device of the guest is attached to: fleecing images and the like have no device. A
    guest that waits for its writes to be safe waits for flushes: they count. Times are nanoseconds.
    """
    requests, nanoseconds, disks = 0, 0, 0
    for block in records(answer):
        stats = record(block.get("stats"))
        if not word(block.get("qdev")) or "wr_operations" not in stats:
            continue
        disks += 1
        requests += integer(stats.get("wr_operations")) + integer(stats.get("flush_operations"))
        nanoseconds += integer(stats.get("wr_total_time_ns")) + integer(stats.get("flush_total_time_ns"))
    return WriteCounters(requests, nanoseconds / 1e9) if disks else None
