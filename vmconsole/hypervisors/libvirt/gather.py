"""Gathering the facts about one guest in two remote commands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vmconsole.errors import GuestBusy, GuestNotFound, ProtocolError
from vmconsole.hypervisors.libvirt import names
from vmconsole.hypervisors.libvirt.diskfacts import look_at_disks
from vmconsole.hypervisors.libvirt.facts import CheckpointFacts, DiskFacts, GuestFacts
from vmconsole.hypervisors.libvirt.sections import MISSING, Section, collect
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.hypervisors.libvirt.virsh import UUID, failure
from vmconsole.hypervisors.libvirt.xml import DomainXml, parse_checkpoint, parse_domain
from vmconsole.model.guest import GuestState
from vmconsole.remote.machine import Machine

GUEST = r"""
uri=$1; uuid=$2
v() { label=$1; shift; part "$label" virsh -c "$uri" "$@"; }
v live dumpxml "$uuid"
[ "$status" = 0 ] || exit 0
v inactive dumpxml "$uuid" --inactive
v state domstate "$uuid" --reason
v job domjobinfo "$uuid"
v backup backup-dumpxml "$uuid"
v snapshots snapshot-list "$uuid" --name
v checkpoints checkpoint-list "$uuid" --name
timeout 40 virsh -c "$uri" checkpoint-list "$uuid" --name 2>/dev/null </dev/null | while IFS= read -r name; do
    case $name in vmconsole-*)
        v "checkpoint $name" checkpoint-dumpxml "$uuid" "$name" --no-domain
        v "sized $name" checkpoint-dumpxml "$uuid" "$name" --no-domain --size ;;
    esac
done
part end true
"""

HOST = r"""
id=$1; uuid=$2; name=$3; lib=$4; run=$5; log=$6; scratch=$7
part scratch stat -f -c '%a %S' -- "$scratch"
if [ "$id" -ge 0 ]; then
    found=
    for d in "$lib/domain-$id-"*; do [ -d "$d" ] && found=$d; done
    part folder printf '%s' "$found"
    pid=$(cat "$run/$name.pid" 2>/dev/null)
    [ -n "$pid" ] || pid=$(pgrep -f -- "[-]uuid $uuid" 2>/dev/null | head -n 1)
    part pid printf '%s' "$pid"
    part stat cat "/proc/${pid:-none}/stat"
    for f in "$log/$name.log" "$log/$name.log.0" "$log/$name.log.1"; do
        line=$(grep -a 'qemu version: ' "$f" 2>/dev/null | tail -n 1)
        [ -n "$line" ] && break
    done
    part qemu printf '%s' "$line"
fi
part end true
"""

MAX_OUR_CHECKPOINTS = 50

_SIZE_ATTRIBUTE = re.compile(r"(<disk\b[^>]*?)\s+size=(?:'\d*'|\"\d*\")")
_QEMU_VERSION = re.compile(r"qemu version: (\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?")
_STATES = {
    "no state", "running", "idle", "paused", "in shutdown", "shut off", "crashed", "pmsuspended",
}  # fmt: skip
_JOB_TYPE = re.compile(r"^Job type:\s*(\S.*?)\s*$", re.MULTILINE)
_OPERATION = re.compile(r"^Operation:\s*(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Gathered:
    """scratch: the folder to use; scratch_free: bytes free there, -1 when the host cannot say.

    What libvirt does not answer is never taken for `there is none`.
    """

    guest: GuestFacts
    scratch: str
    scratch_free: int


def gather(machine: Machine, settings: LibvirtSettings, uuid: str) -> Gathered:
    """Raises GuestNotFound, ProtocolError, and what virsh.failure() makes of virsh's errors."""
    if not UUID.fullmatch(uuid):
        raise GuestNotFound(f"{uuid!r} is not the uuid of a guest.", subject=machine.name)
    answers = collect(machine, GUEST, [settings.uri, uuid])
    live = answers.get("live", MISSING)
    if not live.ok:
        raise failure(live.errors, host=machine.name, what="virsh dumpxml", status=live.status)
    _require_answers(answers, machine.name)
    domain = parse_domain(live.text)
    disks = tuple(look_at_disks(machine, settings.uri, [(uuid, disk) for disk in domain.disks]).values())
    scratch = scratch_folder(settings, disks)
    host = _look_at_host(machine, settings, domain, scratch)
    guest = _guest(domain, answers, disks)
    if "end" not in host:
        raise ProtocolError(f"{machine.name} stopped in the middle of answering.", subject=machine.name)
    return Gathered(
        guest=replace(
            guest,
            run_folder=_run_folder(settings, domain, host),
            process=_process(host),
            qemu=_qemu(host.get("qemu", MISSING)),
        ),
        scratch=scratch,
        scratch_free=free_bytes(host.get("scratch", MISSING).text),
    )


def _require_answers(answers: Mapping[str, Section], host: str) -> None:
    """Raise what an answer says that is missing: a lock of another job, a libvirtd that hangs.

    A checkpoint that cannot be sized although libvirt answers is broken, which is an answer.
    """
    if "end" not in answers:
        raise ProtocolError(f"{host} stopped in the middle of answering.", subject=host)
    for label, answer in answers.items():
        if answer.ok:
            continue
        error = failure(answer.errors, host=host, what=f"virsh ({label})", status=answer.status)
        unheard = answer.status == 124 or isinstance(error, GuestBusy)
        optional = label.startswith(("checkpoint ", "sized ")) or label in ("inactive", "backup")
        # libvirt has no job to tell of for a guest that is off, and calls that an error.
        refused = "not supported" in answer.errors or "domain is not running" in answer.errors
        if unheard or not (optional or refused):
            raise error
    told = answers.get("state", MISSING).text.strip()
    if _state_word(told) not in _STATES:
        # A wrapper that prints its own lines first would also spoil what cannot be checked this way.
        shown = "".join(char if char.isprintable() else " " for char in told[:100])
        raise ProtocolError(
            f"virsh on {host} does not say the state of the guest but {shown!r}.",
            hint="Does something print before virsh does? Look on the host: type virsh; virsh list --all",
            subject=host,
        )


def scratch_folder(settings: LibvirtSettings, disks: tuple[DiskFacts, ...]) -> str:
    """The configured folder, else that of the first disk that is a file, else libvirt's own pool."""
    if settings.scratch:
        return settings.scratch
    for disk in disks:
        if disk.included and disk.kind in ("file", "volume") and disk.source.startswith("/"):
            return disk.source.rpartition("/")[0] or "/"
    return names.FALLBACK_FOLDER


def free_bytes(text: str) -> int:
    """From `stat -f -c '%a %S'`: blocks free for users, bytes per block. -1 when it does not say."""
    words = text.split()
    if len(words) == 2 and all(word.isascii() and word.isdigit() and len(word) < 19 for word in words):
        return int(words[0]) * int(words[1])
    return -1


def _look_at_host(
    machine: Machine, settings: LibvirtSettings, domain: DomainXml, scratch: str
) -> dict[str, Section]:
    args = [str(domain.domain_id), domain.uuid, domain.name]
    if settings.uri.startswith("qemu:///session"):
        # libvirt's folders of an unprivileged daemon hang on the user's environment.
        body = (
            'lib="${XDG_CONFIG_HOME:-$HOME/.config}/libvirt/qemu/lib"; '
            'cache="${XDG_CACHE_HOME:-$HOME/.cache}"; run="${XDG_RUNTIME_DIR:-$cache}/libvirt/qemu/run"; '
            'set -- "$1" "$2" "$3" "$lib" "$run" "$cache/libvirt/qemu/log" "$4"\n'
        )
        return collect(machine, body + HOST, [*args, scratch])
    folders = ["/var/lib/libvirt/qemu", "/run/libvirt/qemu", "/var/log/libvirt/qemu"]
    return collect(machine, HOST, [*args, *folders, scratch])


def _guest(domain: DomainXml, answers: Mapping[str, Section], disks: tuple[DiskFacts, ...]) -> GuestFacts:
    inactive = answers.get("inactive", MISSING)
    state_text = answers.get("state", MISSING).text.strip()
    backup = answers.get("backup", MISSING)
    return GuestFacts(
        uuid=domain.uuid,
        name=domain.name,
        state=state(state_text),
        xml=answers["live"].text,
        inactive_xml=inactive.text if inactive.ok else answers["live"].text,
        domain_id=domain.domain_id,
        agent=domain.agent,
        paused_by_error="(I/O error)" in state_text,
        transient=not inactive.ok,
        job=job_name(answers.get("job", MISSING).text),
        job_xml=backup.text if backup.ok else "",
        snapshots=tuple(answers.get("snapshots", MISSING).lines),
        checkpoints=_checkpoints(answers),
        disks=disks,
        nvram=domain.nvram,
        tpm=domain.tpm,
    )


def state(text: str) -> GuestState:
    """From `virsh domstate --reason`, such as `paused (I/O error)`."""
    word = _state_word(text)
    known = {"running": GuestState.RUNNING, "idle": GuestState.RUNNING, "paused": GuestState.PAUSED}
    return known.get(word, GuestState.OFF if word in ("shut off", "crashed") else GuestState.OTHER)


def _state_word(text: str) -> str:
    return text.partition("(")[0].strip()


def job_name(text: str) -> str:
    """From `virsh domjobinfo`: its operation, else its type; empty when there is no job."""
    kind = _JOB_TYPE.search(text)
    if kind is None or kind[1].startswith("None"):
        return ""
    operation = _OPERATION.search(text)
    return (operation or kind)[1]


def _checkpoints(answers: Mapping[str, Section]) -> tuple[CheckpointFacts, ...]:
    listed = [name for name in answers.get("checkpoints", MISSING).lines if names.is_ours(name)]
    found = []
    for name in listed[:MAX_OUR_CHECKPOINTS]:
        document = answers.get(f"checkpoint {name}", MISSING)
        if not document.ok:
            continue
        checkpoint = parse_checkpoint(document.text)
        sized = answers.get(f"sized {name}", MISSING)
        found.append(
            CheckpointFacts(
                name=name,
                created=checkpoint.created,
                disks=checkpoint.disks,
                dirty=parse_checkpoint(sized.text).dirty if sized.ok else {},
                xml=_SIZE_ATTRIBUTE.sub(r"\1", document.text),
            )
        )
    return tuple(found)


def _run_folder(settings: LibvirtSettings, domain: DomainXml, host: Mapping[str, Section]) -> str:
    found = host.get("folder", MISSING).text.strip("\n")
    if found:
        return found
    # A login user outside the group libvirt-qemu cannot list the folder; the agent's socket tells its name.
    if settings.uri.startswith("qemu:///session") or domain.domain_id < 0 or not domain.agent_folder:
        return ""
    return f"/var/lib/libvirt/qemu/{domain.agent_folder}"


def _process(host: Mapping[str, Section]) -> str:
    """`PID:START`; START is field 22 of /proc/PID/stat (proc(5)), counted behind the last `)`."""
    pid = host.get("pid", MISSING).text.strip()
    fields = host.get("stat", MISSING).text.rpartition(")")[2].split()
    if not pid.isdigit() or len(fields) < 20 or not fields[19].isdigit():
        return ""
    return f"{pid}:{fields[19]}"


def _qemu(section: Section) -> tuple[int, ...] | None:
    match = _QEMU_VERSION.search(section.text)
    return tuple(int(part) for part in match.groups() if part) if match else None
