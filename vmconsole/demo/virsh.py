"""virsh's commands on the demo host, with libvirt's own words (as libvirt 9.0 prints them)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vmconsole.demo import domain_xml, virsh_lists
from vmconsole.demo.backup_job import Refused
from vmconsole.demo.control import Answer, Call
from vmconsole.demo.guests import Checkpoint, Guest
from vmconsole.demo.host import Host, dirty_sizes
from vmconsole.demo.virsh_args import BadUsage, Line, parse

_FROZEN = "guest-fsfreeze-freeze has been disabled: the agent is in frozen state"


@dataclass(frozen=True, slots=True)
class Question:
    """One command about one guest. files: contents of inherited descriptors named as arguments."""

    host: Host
    guest: Guest
    line: Line
    files: Mapping[str, str]


def run(host: Host, call: Call) -> Answer:
    """Answer one virsh command line; argv[0] is `virsh`."""
    try:
        line = parse(call.argv[1:])
        if line.command in virsh_lists.COMMANDS:
            text = virsh_lists.COMMANDS[line.command](virsh_lists.Question(host, line))
        else:
            text = _for_guest(host, line, call.files)
    except (BadUsage, Refused) as error:
        return Answer(1, stderr=f"error: {error}\n")
    return Answer(stdout=text + "\n")


def _for_guest(host: Host, line: Line, files: Mapping[str, str]) -> str:
    command = _COMMANDS.get(line.command)
    if command is None:
        raise Refused(f"this function is not supported by the demo host: {line.command}")
    name = line.get("domain")
    guest = host.find(name)
    if guest is None:
        raise Refused(f"failed to get domain '{name}'")
    return command(Question(host, guest, line, files))


def _content(line: Line, name: str, files: Mapping[str, str]) -> str:
    path = line.get(name)
    if not path:
        return ""
    if path in files:
        return files[path]
    try:
        return Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Refused(f"Failed to open file '{path}': {reason}") from error


# --- about a guest -----------------------------------------------------------------------------


def _dumpxml(ask: Question) -> str:
    return domain_xml.domain(ask.guest, ask.host.folders.lib, live="inactive" not in ask.line.flags)


def _domstate(ask: Question) -> str:
    state = virsh_lists.state(ask.guest)
    reason = {"running": "booted", "paused": "user", "shut off": "shutdown"}[state]
    return f"{state} ({reason})\n" if "reason" in ask.line.flags else f"{state}\n"


def _domid(ask: Question) -> str:
    return f"{ask.guest.domain_id if ask.guest.running else '-'}\n"


def _domblkinfo(ask: Question) -> str:
    item = ask.guest.disk(ask.line.get("device"))
    if item is None:
        raise Refused(f"invalid argument: invalid path {ask.line.get('device')} not assigned to domain")
    used = item.disk.allocated_bytes
    return f"Capacity:       {item.disk.size}\nAllocation:     {used}\nPhysical:       {used}\n"


def _domblklist(ask: Question) -> str:
    if "details" in ask.line.flags:
        rows = [("file", "disk", item.target, str(item.disk.path)) for item in ask.guest.disks]
        return virsh_lists.table(("Type", "Device", "Target", "Source"), rows)
    return virsh_lists.table(
        ("Target", "Source"), [(item.target, str(item.disk.path)) for item in ask.guest.disks]
    )


def _resume(ask: Question) -> str:
    _require_running(ask.guest)
    if not ask.guest.paused:
        raise Refused(
            f"Failed to resume domain '{ask.guest.name}'\n"
            "error: Requested operation is not valid: domain is already running"
        )
    ask.guest.paused = False
    return f"Domain '{ask.guest.name}' resumed\n"


def _suspend(ask: Question) -> str:
    _require_running(ask.guest)
    ask.guest.paused = True
    return f"Domain '{ask.guest.name}' suspended\n"


def _start(ask: Question) -> str:
    if ask.guest.running:
        raise Refused("Domain is already active")
    ask.guest.paused = "paused" in ask.line.flags
    ask.host.start(ask.guest)
    return f"Domain '{ask.guest.name}' started\n"


def _shut_off(ask: Question) -> str:
    """`destroy` and `shutdown`: QEMU stores the bitmaps in both cases."""
    _require_running(ask.guest)
    ask.host.shut_off(ask.guest)
    done = "destroyed" if ask.line.command == "destroy" else "is being shutdown"
    return f"Domain '{ask.guest.name}' {done}\n"


def _require_running(guest: Guest) -> None:
    if not guest.running:
        raise Refused("Requested operation is not valid: domain is not running")


# --- the guest agent ---------------------------------------------------------------------------


def _require_agent(guest: Guest, what: str) -> None:
    prefix = f"{what}\nerror: " if what else ""
    if not guest.running:
        raise Refused(f"{prefix}Requested operation is not valid: domain is not running")
    if not guest.agent:
        raise Refused(f"{prefix}argument unsupported: QEMU guest agent is not configured")
    if guest.paused:
        raise Refused(f"{prefix}Guest agent is not responding: Guest agent not available for now")


def _domfsfreeze(ask: Question) -> str:
    _require_agent(ask.guest, "Unable to freeze filesystems")
    if ask.guest.frozen:
        raise Refused(
            f"Unable to freeze filesystems\nerror: internal error: unable to execute QEMU agent command "
            f"'guest-fsfreeze-freeze': Command {_FROZEN}"
        )
    return f"Froze {ask.guest.freeze()} filesystem(s)\n"


def _domfsthaw(ask: Question) -> str:
    _require_agent(ask.guest, "Unable to thaw filesystems")
    return f"Thawed {ask.guest.thaw()} filesystem(s)\n"


def _agent_timeout(ask: Question) -> str:
    try:
        ask.guest.agent_timeout = int(ask.line.get("timeout", "-2"))
    except ValueError as error:
        raise Refused("Numeric value for <timeout> option is malformed or out of range") from error
    return ""


def _agent_command(ask: Question) -> str:
    _require_agent(ask.guest, "")
    try:
        name = json.loads(ask.line.get("cmd"))["execute"]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused("internal error: cannot parse json: the command is not a JSON object") from error
    answers: dict[str, Callable[[], object]] = {
        "guest-ping": dict,
        "guest-fsfreeze-status": lambda: "frozen" if ask.guest.frozen else "thawed",
        "guest-fsfreeze-freeze": ask.guest.freeze,
        "guest-fsfreeze-thaw": ask.guest.thaw,
        "guest-get-host-name": lambda: {"host-name": ask.guest.name},
    }
    if name not in answers or (ask.guest.frozen and not name.startswith(("guest-ping", "guest-fsfreeze-"))):
        raise Refused(
            f"internal error: unable to execute QEMU agent command '{name}': "
            f"The command {name} has not been found"
        )
    return json.dumps({"return": answers[name]()}) + "\n"


# --- backups -----------------------------------------------------------------------------------


def _backup_begin(ask: Question) -> str:
    ask.host.begin(
        ask.guest, _content(ask.line, "backupxml", ask.files), _content(ask.line, "checkpointxml", ask.files)
    )
    return "Backup started\n"


def _backup_dumpxml(ask: Question) -> str:
    job = ask.host.job(ask.guest)
    if job is None:
        raise Refused("Domain backup job id not found: no domain backup job present")
    return job.xml()


def _domjobabort(ask: Question) -> str:
    _require_running(ask.guest)
    if not ask.host.end_job(ask.guest):
        raise Refused("Requested operation is not valid: no job is active on the domain")
    return ""


def _domjobinfo(ask: Question) -> str:
    _require_running(ask.guest)
    job = ask.host.job(ask.guest)
    if job is None or "completed" in ask.line.flags:
        return f"{'Job type:':<17} {'None':<12}\n"
    return (
        f"{'Job type:':<17} {'Unbounded':<12}\n"
        f"{'Operation:':<17} {'Backup':<12}\n"
        f"{'Time elapsed:':<17} {int((time.monotonic() - job.began) * 1000):<12} ms\n"
        f"Temporary disk space use: {job.scratch_bytes / 1024:.3f} KiB\n"
        f"Temporary disk space total: {job.total_bytes / 1024**2:.3f} MiB\n"
    )


def _domblkthreshold(ask: Question) -> str:
    _require_running(ask.guest)
    return ""


# --- checkpoints -------------------------------------------------------------------------------


def _checkpoint(guest: Guest, line: Line) -> Checkpoint:
    name = line.get("checkpointname")
    point = guest.checkpoints.get(name)
    if point is None:
        raise Refused(f"Domain checkpoint not found: no domain checkpoint with matching name '{name}'")
    return point


def _checkpoint_list(ask: Question) -> str:
    points = list(ask.guest.checkpoints.values())
    if "name" in ask.line.flags:
        return "".join(f"{point.name}\n" for point in points)
    rows = [
        (point.name, datetime.fromtimestamp(point.created, UTC).strftime("%Y-%m-%d %H:%M:%S +0000"))
        for point in points
    ]
    return virsh_lists.table(("Name", "Creation Time"), rows)


def _checkpoint_dumpxml(ask: Question) -> str:
    point = _checkpoint(ask.guest, ask.line)
    sizes = None
    if "size" in ask.line.flags:
        if not ask.guest.running:
            raise Refused("Requested operation is not valid: domain is not running")
        sizes = dirty_sizes(ask.guest, point.name, point.disks)
    full = (
        ""
        if "no-domain" in ask.line.flags
        else domain_xml.domain(ask.guest, ask.host.folders.lib, live=False)
    )
    return domain_xml.checkpoint(ask.guest, point, sizes, full)


def _checkpoint_delete(ask: Question) -> str:
    point = _checkpoint(ask.guest, ask.line)
    ask.host.delete_checkpoint(ask.guest, point.name, metadata_only="metadata" in ask.line.flags)
    return f"Domain checkpoint {point.name} deleted\n"


def _checkpoint_create(ask: Question) -> str:
    if "redefine" not in ask.line.flags:
        raise Refused("Operation not supported: the demo ask.host makes checkpoints with backup-begin only")
    name = ask.host.redefine_checkpoint(ask.guest, _content(ask.line, "xmlfile", ask.files))
    return f"Domain checkpoint {name} created from '{ask.line.get('xmlfile')}'\n"


def _snapshot_list(ask: Question) -> str:
    return "" if "name" in ask.line.flags else virsh_lists.table(("Name", "Creation Time", "State"), [])


_COMMANDS: dict[str, Callable[[Question], str]] = {
    "backup-begin": _backup_begin,
    "backup-dumpxml": _backup_dumpxml,
    "checkpoint-create": _checkpoint_create,
    "checkpoint-delete": _checkpoint_delete,
    "checkpoint-dumpxml": _checkpoint_dumpxml,
    "checkpoint-list": _checkpoint_list,
    "destroy": _shut_off,
    "domblkerror": lambda _: "No errors found\n",
    "domblkinfo": _domblkinfo,
    "domblklist": _domblklist,
    "domblkthreshold": _domblkthreshold,
    "domfsfreeze": _domfsfreeze,
    "domfsthaw": _domfsthaw,
    "domid": _domid,
    "domjobabort": _domjobabort,
    "domjobinfo": _domjobinfo,
    "domname": lambda ask: f"{ask.guest.name}\n",
    "domstate": _domstate,
    "domuuid": lambda ask: f"{ask.guest.uuid}\n",
    "dumpxml": _dumpxml,
    "guest-agent-timeout": _agent_timeout,
    "qemu-agent-command": _agent_command,
    "resume": _resume,
    "shutdown": _shut_off,
    "snapshot-list": _snapshot_list,
    "start": _start,
    "suspend": _suspend,
}
