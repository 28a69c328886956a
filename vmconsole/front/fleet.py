"""The hosts and guests for the scheduler: schedule.queue.Fleet, on the services."""

from __future__ import annotations

from dataclasses import replace

from vmconsole.config.settings import Config
from vmconsole.front.hosts import ask_hosts
from vmconsole.front.services import Services
from vmconsole.model.guest import Guest, HostInventory
from vmconsole.runs.work import Target
from vmconsole.schedule.due import Slot
from vmconsole.schedule.jobs import HOST, REPOSITORY, STORAGE, UPLINK, Capacity, Resource
from vmconsole.schedule.sizing import GUEST


class ConfiguredFleet:
    """Implements schedule.queue.Fleet."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def look(self) -> list[HostInventory]:
        services = self._services
        remembered = services.store.inventories()
        return [
            found
            if found.reachable or found.name not in remembered
            # Its guests are due all the same, and somebody wants to know that they were not backed up.
            else replace(found, guests=remembered[found.name][0].guests)
            for found in ask_hosts(services, list(services.config.hosts))
        ]

    def target(self, guest: Guest, slot: Slot) -> Target:
        services, group = self._services, slot.group
        return Target(
            guest,
            services.hypervisor(guest.host),
            services.repository(group.repository),
            services.config.export_options(guest, group.name),
            slot.schedule.full_every or services.config.full_every(group.name),
            group.name,
            slot.schedule.name,
            slot.time,
            services.config.uplink(guest.host),
        )


def capacity_of(config: Config, seen: list[HostInventory]) -> Capacity:
    """How many guests at the same time, in total, of each host or node, storage, and repository."""
    parallel: dict[Resource, int] = {}
    for name in config.hosts:
        most = config.host_limits(name).parallel
        nodes = [node.name for host in seen if host.name == name for node in host.nodes]
        parallel |= {Resource(HOST, place): most for place in (name, *(f"{name}/{node}" for node in nodes))}
    for name in config.repositories:
        parallel[Resource(REPOSITORY, name)] = config.repository_limits(name).parallel
    parallel |= {Resource(UPLINK, name): limits.parallel for name, limits in config.uplink_limits().items()}
    others = {STORAGE: config.storage_limits().parallel, GUEST: 1}
    return Capacity(config.limits().parallel, parallel, others)
