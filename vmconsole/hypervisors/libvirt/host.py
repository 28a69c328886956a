"""A libvirt host as the core sees it: a thin facade over the room's modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vmconsole.hypervisors.libvirt import journal
from vmconsole.hypervisors.libvirt.checks import check_host
from vmconsole.hypervisors.libvirt.clean import clean_export, clean_freeze
from vmconsole.hypervisors.libvirt.create import create_guest
from vmconsole.hypervisors.libvirt.gather import gather
from vmconsole.hypervisors.libvirt.inventory import take_inventory
from vmconsole.hypervisors.libvirt.offline import open_offline_export
from vmconsole.hypervisors.libvirt.plan import make_plan
from vmconsole.hypervisors.libvirt.pull import open_pull_export
from vmconsole.hypervisors.libvirt.push import open_push_export
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.hypervisors.libvirt.snapshot import open_snapshot_export
from vmconsole.hypervisors.libvirt.target import JOURNAL_KIND as CREATE_KIND
from vmconsole.hypervisors.libvirt.target import clean_create
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.hypervisors.libvirt.vitals import take_vitals
from vmconsole.interfaces import (
    Clock,
    Context,
    Export,
    ExportOptions,
    ExportPlan,
    GuestRestore,
    GuestTarget,
)
from vmconsole.model.guest import Check, HostInventory, HostKind
from vmconsole.model.point import RestorePoint
from vmconsole.model.run import JournalEntry
from vmconsole.model.vitals import Vitals
from vmconsole.remote.machine import Machine

Open = Callable[[Virsh, LibvirtSettings, ExportPlan, Context], Export]

METHODS: Mapping[str, Open] = {
    "pull": open_pull_export,
    "push": open_push_export,
    "snapshot": open_snapshot_export,
    "offline": open_offline_export,
}


class LibvirtHost:
    """See Hypervisor."""

    def __init__(self, name: str, machine: Machine, settings: LibvirtSettings, clock: Clock) -> None:
        self._name = name
        self._machine = machine
        self._settings = settings
        self._clock = clock
        self._virsh = Virsh(machine, settings.uri)

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> HostKind:
        return HostKind.LIBVIRT

    def inventory(self) -> HostInventory:
        return take_inventory(self._machine, self._settings.uri, self._name)

    def check(self) -> Sequence[Check]:
        return check_host(self._machine, self._settings)

    def vitals(self, uuids: Sequence[str]) -> Vitals:
        return take_vitals(self._machine, self._settings.uri, uuids)

    def plan(
        self, uuid: str, repository: str, points: Sequence[RestorePoint], options: ExportOptions
    ) -> ExportPlan:
        gathered = gather(self._machine, self._settings, uuid)
        return make_plan(gathered, self._name, self._settings, repository, points, options)

    def export(self, plan: ExportPlan, context: Context) -> Export:
        return METHODS[plan.method](self._virsh, self._settings, plan, context)

    def create(
        self, point: RestorePoint, files: Mapping[str, bytes], request: GuestRestore, context: Context
    ) -> GuestTarget:
        return create_guest(self._virsh, point, files, request, context, networks=self._settings.networks)

    def preview(
        self, point: RestorePoint, files: Mapping[str, bytes], request: GuestRestore, context: Context
    ) -> Sequence[str]:
        networks = self._settings.networks
        return create_guest(
            self._virsh, point, files, request, context, networks=networks, only_check=True
        ).notes

    def clean(self, entry: JournalEntry) -> str:
        if entry.kind == journal.FREEZE_KIND:
            return clean_freeze(self._machine, entry)
        if entry.kind == CREATE_KIND:
            return clean_create(self._virsh, entry.payload)
        return clean_export(self._machine, entry)

    def close(self) -> None:
        self._machine.close()
