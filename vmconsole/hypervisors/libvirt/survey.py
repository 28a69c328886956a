"""What a host can offer to a guest that is to be restored there. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from vmconsole.errors import CommandFailed, GuestExists, ProtocolError, RestoreFailed
from vmconsole.hypervisors.libvirt.devicexml import Offers
from vmconsole.hypervisors.libvirt.domainxml import Wants, family
from vmconsole.hypervisors.libvirt.sections import MISSING, Section, collect
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.hypervisors.libvirt.xml import parse

MAX_NAME = 128
_FORBIDDEN = re.compile(r"[/\x00-\x1f\x7f]")

# Only volumes of storage pools count as media: an image named by a planted document could be any file.
_LOOK = r"""
uri=$1; shift
part networks virsh -c "$uri" net-list --all --name
part active virsh -c "$uri" net-list --name
part filters virsh -c "$uri" nwfilter-list
part processors nproc
n=0
while [ $# -ge 2 ]; do
    case $1 in
    device) part "$n" test -e "/sys/class/net/$2" ;;
    file) part "$n" test -f "$2" ;;
    medium) part "$n" virsh -c "$uri" vol-pool --vol "$2" ;;
    esac
    n=$((n + 1)); shift 2
done
part end true
"""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is offered, and notes about what had to be replaced."""

    offers: Offers
    notes: tuple[str, ...]


def check_name(virsh: Virsh, name: str) -> None:
    """Raise RestoreFailed for a name libvirt cannot take, GuestExists when it is taken."""
    host = virsh.machine.name
    if not name.strip() or name != name.strip() or len(name.encode()) > MAX_NAME or _FORBIDDEN.search(name):
        raise RestoreFailed(
            f"{name!r} cannot be a guest's name: it must have 1 to {MAX_NAME} characters, no slash, "
            "no control characters, and no blanks around it.",
            hint="Choose another one with --as NAME.",
            subject=name,
        )
    if name in virsh.run("list", "--all", "--name").splitlines():
        raise GuestExists(
            f"There is a guest {name!r} on {host} already; a restore never overwrites.",
            hint="Choose another name with --as NAME, or rename or remove that guest first.",
            subject=name,
        )


def look(virsh: Virsh, wants: Wants) -> Survey:
    """Ask the host for everything the domain refers to.

    Raises RestoreFailed when the host cannot run such a guest at all.
    """
    notes: list[str] = []
    emulator = _emulator(virsh, wants, notes)
    capabilities, virtual, machine = _capabilities(virsh, wants, emulator, notes)
    asked = [
        *(("device", name) for name in sorted(wants.devices) if "/" not in name),
        *(("file", path) for path in sorted(wants.files)),
        *(("medium", path) for path in sorted(wants.media) if path.startswith("/")),
    ]
    answers = collect(virsh.machine, _LOOK, [virsh.uri, *(word for pair in asked for word in pair)])
    if "end" not in answers:
        raise ProtocolError(f"{virsh.machine.name} stopped in the middle of answering.")
    there = [pair for n, pair in enumerate(asked) if answers.get(str(n), MISSING).ok]
    active = {line.strip() for line in answers.get("active", MISSING).lines}
    offers = Offers(
        virtual=virtual,
        machine=machine,
        emulator=emulator,
        networks={
            name: name in active for name in (line.strip() for line in answers.get("networks", MISSING).lines)
        },
        devices=frozenset(name for kind, name in there if kind == "device"),
        files=frozenset(name for kind, name in there if kind == "file"),
        media=frozenset(name for kind, name in there if kind == "medium"),
        filters=frozenset(_filters(answers.get("filters", MISSING))),
        models=frozenset(_models(capabilities)),
        tpm=_has_tpm(capabilities),
        processors=_number(answers.get("processors", MISSING)),
    )
    return Survey(offers, tuple(notes))


def _emulator(virsh: Virsh, wants: Wants, notes: list[str]) -> str:
    """The archived emulator if it is one the host itself lists; a planted path is never run."""
    if not wants.emulator:
        return ""
    known = {item.text for item in parse(virsh.run("capabilities"), "capabilities").iter("emulator")}
    if wants.emulator in known:
        return wants.emulator
    notes.append(f"The emulator {wants.emulator} is not on this host: libvirt's own choice is used.")
    return ""


def _capabilities(virsh: Virsh, wants: Wants, emulator: str, notes: list[str]) -> tuple[Element, str, str]:
    """The first of (as archived, newest machine of that kind, without KVM) that the host can do."""
    alias = family(wants.machine)
    kinds = [wants.virtual, *(["qemu"] if wants.virtual == "kvm" else [])]
    machines = [wants.machine, *([alias] if alias and alias != wants.machine else [])]
    refusal: CommandFailed | None = None
    for virtual in kinds:
        for machine in machines:
            try:
                text = virsh.run(
                    "domcapabilities",
                    f"--virttype={virtual}",
                    f"--arch={wants.arch}",
                    f"--machine={machine}",
                    *([f"--emulatorbin={emulator}"] if emulator else []),
                )
            except CommandFailed as error:
                refusal = refusal or error
                continue
            if machine != wants.machine:
                notes.append(
                    f"This host does not have the machine type {wants.machine}; the newest {machine} is "
                    "used. Windows may find new hardware and ask for activation."
                )
            if virtual != wants.virtual:
                notes.append("This host offers no KVM: the guest will be emulated, which is very slow.")
            return parse(text, "domainCapabilities"), virtual, machine
    raise RestoreFailed(
        f"{virsh.machine.name} cannot run this guest ({wants.virtual}, {wants.arch}, {wants.machine}): "
        f"{refusal.message if refusal else ''}",
        hint="Restore it to another host, or its disks alone with --to FOLDER.",
        subject=virsh.machine.name,
    )


def _models(capabilities: Element) -> Iterator[str]:
    for mode in capabilities.iterfind("cpu/mode"):
        if mode.get("name") == "custom":
            yield from (m.text or "" for m in mode.iterfind("model") if m.get("usable") != "no")


def _has_tpm(capabilities: Element) -> bool:
    tpm = capabilities.find("devices/tpm")
    if tpm is None or tpm.get("supported") != "yes":
        return False
    return any(
        value.text == "emulator"
        for enum in tpm.iterfind("enum")
        if enum.get("name") == "backendModel"
        for value in enum.iterfind("value")
    )


def _filters(section: Section) -> Iterator[str]:
    """`virsh nwfilter-list`: two lines of heading, then uuid and name."""
    for line in section.lines[2:]:
        words = line.split(maxsplit=1)
        if len(words) == 2:
            yield words[1].strip()


def _number(section: Section) -> int:
    text = section.text.strip()
    return int(text) if section.ok and text.isdecimal() and len(text) < 7 else 0
