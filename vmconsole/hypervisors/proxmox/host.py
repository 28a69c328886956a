"""A Proxmox VE cluster, or a single node, as the core sees it: a thin facade over the room's modules."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vmconsole.hypervisors.proxmox.checks import check_cluster
from vmconsole.hypervisors.proxmox.gather import gather
from vmconsole.hypervisors.proxmox.inventory import take_inventory
from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.hypervisors.proxmox.plan import make_plan
from vmconsole.hypervisors.proxmox.proof import ACCESS, OFFLINE, TRANSACTION, VZDUMP
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.proxmox.vitals import VitalsLook
from vmconsole.interfaces import Context, Export, ExportOptions, ExportPlan, GuestRestore, GuestTarget
from vmconsole.model.guest import Check, HostInventory, HostKind
from vmconsole.model.point import RestorePoint
from vmconsole.model.run import JournalEntry
from vmconsole.model.vitals import Vitals

if TYPE_CHECKING:
    from vmconsole.hypervisors.proxmox.https import HttpsApi

_ROOM = "vmconsole.hypervisors.proxmox"

METHODS: Mapping[str, tuple[str, str]] = {
    ACCESS: ("access", "open_access_export"),
    TRANSACTION: ("transaction", "open_transaction_export"),
    OFFLINE: ("stopped", "open_offline_export"),
    VZDUMP: ("vzdump", "open_vzdump_export"),
}
"""ExportPlan.method → module and function: (nodes, settings, plan, context) → Export. Each is imported
when it is used, so that an inventory does not pay for NBD."""

CLEANERS: Mapping[str, tuple[str, str]] = {
    "proxmox-vzdump": ("vzdump", "clean_vzdump"),
    "proxmox-create": ("restore", "clean_create"),
    "proxmox-volume": ("volume", "clean_volume"),
}
"""JournalEntry.kind → module and function: (nodes, settings, entry) → sentence. The others: clean.py."""


class ProxmoxHost:
    """See Hypervisor. api: where the inventory comes from instead of SSH; backups always go over SSH."""

    def __init__(self, nodes: Nodes, settings: ProxmoxSettings, api: HttpsApi | None = None) -> None:
        self._nodes = nodes
        self._settings = settings
        self._api = api
        self._vitals = VitalsLook(nodes)

    @property
    def name(self) -> str:
        return self._nodes.host

    @property
    def kind(self) -> HostKind:
        return HostKind.PROXMOX

    def inventory(self) -> HostInventory:
        if self._api is None:
            return take_inventory(self._nodes)
        from vmconsole.hypervisors.proxmox.https import take_https_inventory

        return take_https_inventory(self._api, self.name)

    def check(self) -> Sequence[Check]:
        return check_cluster(self._nodes, self._settings, self._api)

    def vitals(self, uuids: Sequence[str]) -> Vitals:
        return self._vitals.take(uuids)

    def plan(
        self, uuid: str, repository: str, points: Sequence[RestorePoint], options: ExportOptions
    ) -> ExportPlan:
        gathered = gather(self._nodes, self._settings, uuid)
        return make_plan(gathered, self.name, self._settings, repository, points, options)

    def export(self, plan: ExportPlan, context: Context) -> Export:
        export: Export = _function(*METHODS[plan.method])(self._nodes, self._settings, plan, context)
        return export

    def create(
        self, point: RestorePoint, files: Mapping[str, bytes], request: GuestRestore, context: Context
    ) -> GuestTarget:
        create = _function("restore", "create_guest")
        target: GuestTarget = create(self._nodes, self._settings, point, files, request, context)
        return target

    def preview(
        self, point: RestorePoint, files: Mapping[str, bytes], request: GuestRestore, context: Context
    ) -> Sequence[str]:
        # Nothing is made before the first disk is opened.
        return self.create(point, files, request, context).notes

    def clean(self, entry: JournalEntry) -> str:
        return str(
            _function(*CLEANERS.get(entry.kind, ("clean", "clean_export")))(
                self._nodes, self._settings, entry
            )
        )

    def close(self) -> None:
        self._nodes.close()
        if self._api is not None:
            self._api.close()


def _function(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"{_ROOM}.{module}"), name)
