"""One look at a libvirt host: its load, its guests and their disks, in two remote commands.

Tags of a guest come from its `<metadata>`, as
`<vmconsole:tags xmlns:vmconsole="https://vmconsole.example/1">prod,web</vmconsole:tags>` or a plain
`<tags>` element, and from words of its `<title>` that begin with `#` (`#prod #web`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.libvirt.diskfacts import look_at_disks
from vmconsole.hypervisors.libvirt.facts import DiskFacts
from vmconsole.hypervisors.libvirt.sections import MISSING, Section, collect
from vmconsole.hypervisors.libvirt.virsh import UUID, failure
from vmconsole.hypervisors.libvirt.xml import DomainXml, parse_domain
from vmconsole.model.guest import (
    Disk,
    Guest,
    GuestKind,
    GuestState,
    HostInventory,
    HostKind,
    HostLoad,
)
from vmconsole.remote.machine import Machine

LOOK = r"""
uri=$1
v() { label=$1; shift; part "$label" virsh -c "$uri" "$@"; }
part loadavg cat /proc/loadavg
part nproc nproc
part cpu cat /proc/pressure/cpu
part io cat /proc/pressure/io
part memory cat /proc/pressure/memory
v all list --all --uuid
[ "$status" = 0 ] || exit 0
v running list --state-running --uuid
v paused list --state-paused --uuid
v off list --state-shutoff --uuid
timeout 40 virsh -c "$uri" list --all --uuid 2>/dev/null </dev/null | while IFS= read -r uuid; do
    case $uuid in ????????-????-????-????-????????????) v "xml $uuid" dumpxml "$uuid" ;; esac
done
part end true
"""

TIMEOUT = 300.0

_SOME_AVG10 = re.compile(r"^some avg10=(\d{1,3}\.\d{1,4})", re.MULTILINE)


def take_inventory(machine: Machine, uri: str, host: str) -> HostInventory:
    """Raises HostError when the host cannot be asked, ProtocolError when it answers nonsense.

    A guest whose description cannot be read is listed by its uuid, with the reason as a warning.
    """
    answers = collect(machine, LOOK, [uri], timeout=TIMEOUT)
    listed = answers.get("all", MISSING)
    if not listed.ok:
        raise failure(listed.errors, host=machine.name, what="virsh list", status=listed.status)
    if "end" not in answers:
        raise ProtocolError(f"{machine.name} stopped in the middle of its inventory.")
    domains: dict[str, DomainXml] = {}
    broken: dict[str, str] = {}
    for uuid in UUID.findall(listed.text):
        answer = answers.get(f"xml {uuid}", MISSING)
        try:
            domains[uuid] = parse_domain(answer.text)
        except ProtocolError as error:
            broken[uuid] = answer.errors[:200] or error.message
    disks = look_at_disks(
        machine, uri, [(uuid, disk) for uuid, domain in domains.items() for disk in domain.disks]
    )
    guests = [
        guest(
            domain,
            _state(uuid, answers),
            [disks[uuid, disk.id] for disk in domain.disks],
            host,
        )
        for uuid, domain in domains.items()
    ]
    guests += [_broken(uuid, why, _state(uuid, answers), host) for uuid, why in broken.items()]
    return HostInventory(
        name=host,
        kind=HostKind.LIBVIRT,
        reachable=True,
        load=load(answers),
        guests=tuple(sorted(guests, key=lambda item: (item.name, item.uuid))),
    )


def guest(domain: DomainXml, state: GuestState, disks: list[DiskFacts], host: str) -> Guest:
    """The guest as the rest of vmconsole sees it."""
    return Guest(
        uuid=domain.uuid,
        id=domain.name,
        name=domain.name,
        host=host,
        kind=GuestKind.VM,
        state=state,
        agent=domain.agent,
        tags=domain.tags,
        disks=tuple(_disk(disk) for disk in disks),
        warnings=warnings(domain, state, disks),
    )


def warnings(domain: DomainXml, state: GuestState, disks: list[DiskFacts]) -> tuple[str, ...]:
    """What a backup of this guest will not hold, or will not do, as far as one can see now."""
    found = []
    if not domain.has_agent_channel:
        found.append("No guest agent channel: backups are crash-consistent.")
    elif state is GuestState.RUNNING and not domain.agent:
        found.append("The guest agent is not connected: backups are crash-consistent.")
    if domain.tpm:
        found.append("The state of its TPM is kept outside of its disks and is not backed up.")
    if domain.passthrough:
        found.append("It uses devices of the host (passthrough), which are not backed up.")
    found += [
        f"Disk {disk.id} is encrypted by QEMU; the backup holds its plain contents."
        for disk in domain.disks
        if disk.encrypted and not disk.refusal
    ]
    found += [
        f"Disk {disk.id} cannot be looked at: {disk.source or 'no source'}."
        for disk in disks
        if disk.included and not disk.size
    ]
    if any(disk.internal_snapshots for disk in disks):
        found.append("It has internal snapshots; while it has, every backup reads everything.")
    if not any(disk.included for disk in disks):
        found.append("It has no disk that can be backed up.")
    return tuple(found)


def load(answers: Mapping[str, Section]) -> HostLoad:
    """From PSI (/proc/pressure) where the kernel has it; cpu else from the load average."""
    return HostLoad(
        cpu=_pressure(answers, "cpu") if _pressure(answers, "cpu") is not None else _load_average(answers),
        io=_pressure(answers, "io"),
        memory=_pressure(answers, "memory"),
    )


def _pressure(answers: Mapping[str, Section], what: str) -> float | None:
    match = _SOME_AVG10.search(answers.get(what, MISSING).text)
    return float(match[1]) / 100 if match else None


def _load_average(answers: Mapping[str, Section]) -> float | None:
    first = answers.get("loadavg", MISSING).text.partition(" ")[0]
    processors = answers.get("nproc", MISSING).text.strip()
    if not re.fullmatch(r"\d{1,6}\.\d{1,4}", first) or not re.fullmatch(r"[1-9]\d{0,5}", processors):
        return None
    return float(first) / int(processors)


def _state(uuid: str, answers: Mapping[str, Section]) -> GuestState:
    for label, state in (
        ("running", GuestState.RUNNING),
        ("paused", GuestState.PAUSED),
        ("off", GuestState.OFF),
    ):
        if uuid in answers.get(label, MISSING).text:
            return state
    return GuestState.OTHER


def _disk(facts: DiskFacts) -> Disk:
    return Disk(
        id=facts.id,
        size=facts.size,
        format=facts.format,
        source=facts.source,
        included=facts.included,
        reason=facts.reason,
        tracking=facts.tracking,
    )


def _broken(uuid: str, why: str, state: GuestState, host: str) -> Guest:
    return Guest(
        uuid=uuid,
        id=uuid,
        name=uuid,
        host=host,
        kind=GuestKind.VM,
        state=state,
        warnings=(f"Its description cannot be read: {why}",),
    )
