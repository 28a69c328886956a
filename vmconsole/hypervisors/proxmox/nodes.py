"""The nodes of one cluster: whom to ask, where a guest is now, and a machine for each node."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from vmconsole.errors import GuestNotFound, HostError, HostKeyChanged, HostUnreachable
from vmconsole.hypervisors.proxmox.api import PveshApi, no_quorum
from vmconsole.hypervisors.proxmox.cluster import ClusterStatus, parse_status
from vmconsole.hypervisors.proxmox.identity import QUESTIONS, Identity, Place, identify_found, place_of
from vmconsole.hypervisors.proxmox.look import look
from vmconsole.interfaces import Clock
from vmconsole.remote.machine import Machine

STATUS_AGE = 30.0
"""Seconds for which the status of the cluster serves again: asking costs a second of a node's time."""

Connect = Callable[[str, str], Machine]
"""(node, address) → its machine, which connects on first use. ("", "") is the configured address;
an address is `user@host[:port]`, or an IP address to be reached as the configured one is."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Seen:
    status: ClusterStatus
    machine: Machine
    when: float


class Nodes:
    """Thread-safe. host: the configured name. listed: addresses of nodes from the configuration."""

    def __init__(self, host: str, connect: Connect, listed: Mapping[str, str], clock: Clock) -> None:
        self._host = host
        self._connect = connect
        self._listed = dict(listed)
        self._clock = clock
        self._lock = threading.RLock()
        self._machines: dict[str, Machine] = {}
        self._asked = ""
        self._seen: _Seen | None = None

    @property
    def host(self) -> str:
        return self._host

    def ask(self, work: Callable[[Machine], _T]) -> _T:
        """Do something that any node can do on one that answers: the configured one, else those listed.

        work may run more than once, so it must only read. Raises what work raises; HostUnreachable
        when no node answers. A host key that is not the trusted one is never passed over.
        """
        with self._lock:
            first = self._asked
        ways = [first, *(way for way in ("", *self._listed) if way != first)]
        failed: list[HostUnreachable] = []
        for way in ways:
            try:
                done = work(self._way(way))
            except HostKeyChanged as error:
                if not failed:
                    raise
                failed.append(error)
            except HostUnreachable as error:
                failed.append(error)
            else:
                with self._lock:
                    self._asked = way
                return done
        if len(failed) == 1:
            raise failed[0]
        raise HostUnreachable(
            f"No node of {self._host} answers: " + "; ".join(error.message for error in failed),
            hint=failed[0].hint,
            subject=self._host,
        ) from failed[0]

    def status(self, *, fresh: bool = False) -> ClusterStatus:
        return self._look(fresh=fresh).status

    def require_quorum(self) -> None:
        """Raise HostError when the cluster cannot be changed: no lock could be taken or released."""
        if not self.status().quorate and not self.status(fresh=True).quorate:
            raise no_quorum(self._host)

    def machine(self, node: str) -> Machine:
        """The machine of one node. Raises HostUnreachable when it is offline, HostError when there is none."""
        seen = self._look()
        entry = seen.status.node(node) or self._look(fresh=True).status.node(node)
        if entry is None:
            raise HostError(
                f"{self._host} has no node {node} any more.",
                hint="Look at `vmconsole inventory --refresh`.",
                subject=self._host,
            )
        if not entry.online:
            entry = self._look(fresh=True).status.node(node) or entry
        if not entry.online:
            raise HostUnreachable(
                f"Node {node} of {self._host} is offline.",
                hint="Start it, or let its guests be moved; on another node look at: pvecm status",
                subject=f"{self._host}/{node}",
            )
        seen = self._look()
        if node == seen.status.asked:
            return seen.machine
        address = self._listed.get(node) or entry.address
        if not address:
            raise HostError(
                f"{self._host} does not say at which address its node {node} is.",
                hint=f'Add nodes = {{ {node} = "root@ADDRESS" }} to [hosts.{self._host}].',
                subject=f"{self._host}/{node}",
            )
        return self._way(node, address)

    def locate(self, uuid: str) -> tuple[Place, Identity]:
        """Where a guest is now. Raises GuestNotFound."""
        for attempt in range(2):
            answers = self.ask(lambda machine: look(machine, QUESTIONS))
            found = identify_found(answers, self.status().title)
            place = next((place for place, identity in found.items() if identity.uuid == uuid), None)
            # A file that moves to another node while the folders are listed can be missed.
            torn = place is None or any(answer.error for answer in answers if place_of(answer.name))
            if place is not None and (attempt or not torn):
                return place, found[place]
        raise GuestNotFound(
            f"No guest on {self._host} has the uuid {uuid}.",
            hint="Look at `vmconsole inventory --refresh`.",
            subject=self._host,
        )

    def close(self) -> None:
        with self._lock:
            machines, self._machines = list(self._machines.values()), {}
            self._seen, self._asked = None, ""
        for machine in machines:
            machine.close()

    def _look(self, *, fresh: bool = False) -> _Seen:
        with self._lock:
            seen = self._seen
        if seen is not None and not fresh and self._clock.monotonic() - seen.when < STATUS_AGE:
            return seen
        seen = self.ask(self._ask_status)
        with self._lock:
            self._seen = seen
        return seen

    def _ask_status(self, machine: Machine) -> _Seen:
        status = parse_status(PveshApi(machine).get("/cluster/status"), self._host)
        return _Seen(status, machine, self._clock.monotonic())

    def _way(self, node: str, address: str = "") -> Machine:
        with self._lock:
            if node not in self._machines:
                self._machines[node] = self._connect(node, address or self._listed.get(node, ""))
            return self._machines[node]
