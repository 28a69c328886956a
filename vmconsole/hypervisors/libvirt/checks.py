"""What is missing on a host for backups, each with the command that fixes it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from vmconsole.hypervisors.libvirt import names
from vmconsole.hypervisors.libvirt.gather import free_bytes
from vmconsole.hypervisors.libvirt.plan import size
from vmconsole.hypervisors.libvirt.sections import MISSING, Section, collect
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.hypervisors.libvirt.virsh import reason
from vmconsole.model.guest import Check
from vmconsole.remote.machine import Machine

LOOK = r"""
uri=$1; scratch=$2
part version virsh -c "$uri" version
part capabilities virsh -c "$uri" domcapabilities
part image qemu-img --version
part nbd qemu-nbd --version
part timeout timeout --version
part user id -u
part groups id -Gn
part scratch stat -f -c '%a %S' -- "$scratch"
part pressure cat /proc/pressure/cpu
"""

INCREMENTAL_SINCE = (7, 6)

_LIBRARY = re.compile(r"^Using library: libvirt (\d{1,4})\.(\d{1,4})", re.MULTILINE)
_DAEMON = re.compile(r"^Running against daemon: (\d{1,4})\.(\d{1,4})", re.MULTILINE)


def check_host(machine: Machine, settings: LibvirtSettings) -> list[Check]:
    """Raises HostError when the host cannot be asked at all."""
    answers = collect(machine, LOOK, [settings.uri, settings.scratch or names.FALLBACK_FOLDER])
    checks = [_libvirt(answers)]
    if not checks[0].ok:
        return checks
    return [
        *checks,
        _tool("qemu-img", answers.get("image", MISSING), "apt install qemu-utils"),
        _tool("qemu-nbd", answers.get("nbd", MISSING), "apt install qemu-utils", warning=True),
        _tool("timeout", answers.get("timeout", MISSING), "apt install coreutils"),
        _backup(answers),
        _socket(answers, settings),
        _scratch(answers, settings),
        _pressure(answers),
    ]


def _libvirt(answers: Mapping[str, Section]) -> Check:
    answer = answers.get("version", MISSING)
    if not answer.ok:
        missing = answer.status == 127
        return Check(
            "libvirt",
            ok=False,
            detail="virsh is not installed" if missing else reason(answer.errors),
            remedy="apt install libvirt-clients"
            if missing
            else "systemctl start libvirtd; usermod -aG libvirt USER",
        )
    match = _DAEMON.search(answer.text) or _LIBRARY.search(answer.text)
    if match is None:
        return Check("libvirt", ok=True, detail="version unknown", warning=True)
    version = tuple(map(int, match.groups()))
    if version < INCREMENTAL_SINCE:
        return Check(
            "libvirt",
            ok=False,
            detail=f"version {match[1]}.{match[2]} cannot back up incrementally",
            remedy="Upgrade to libvirt 7.6 or newer (Debian 12, Ubuntu 22.04, EL 9).",
        )
    return Check("libvirt", ok=True, detail=f"version {match[1]}.{match[2]}")


def _tool(name: str, answer: Section, remedy: str, *, warning: bool = False) -> Check:
    if answer.ok:
        return Check(name, ok=True)
    return Check(name, ok=False, detail="not installed", remedy=remedy, warning=warning)


def _backup(answers: Mapping[str, Section]) -> Check:
    supported = re.search(r"<backup\s+supported=['\"]yes['\"]", answers.get("capabilities", MISSING).text)
    if supported:
        return Check("backup jobs", ok=True)
    return Check(
        "backup jobs",
        ok=False,
        detail="QEMU on this host offers no incremental backup",
        remedy="Upgrade QEMU to 6.0 or newer.",
    )


def _socket(answers: Mapping[str, Section], settings: LibvirtSettings) -> Check:
    user = answers.get("user", MISSING).text.strip()
    groups = answers.get("groups", MISSING).text.split()
    if user == "0" or "session" in settings.uri or {"libvirt-qemu", "qemu", "kvm"} & set(groups):
        return Check("NBD sockets", ok=True)
    return Check(
        "NBD sockets",
        ok=False,
        detail="the login user may not open the sockets of backup jobs",
        remedy="usermod -aG libvirt,libvirt-qemu USER   (the group is `qemu` on Red Hat systems)",
    )


def _scratch(answers: Mapping[str, Section], settings: LibvirtSettings) -> Check:
    folder = settings.scratch or names.FALLBACK_FOLDER
    free = free_bytes(answers.get("scratch", MISSING).text)
    if free < 0:
        # Without a configured folder each guest's own image folder is used.
        return Check(
            "scratch space",
            ok=not settings.scratch,
            detail=f"{folder} cannot be looked at",
            remedy=f"mkdir -p {folder}",
            warning=not settings.scratch,
        )
    detail = f"{size(free)} free in {folder}"
    if free < settings.scratch_min_free:
        return Check("scratch space", ok=False, detail=detail, remedy="Free space, or set another `scratch`.")
    return Check("scratch space", ok=True, detail=detail)


def _pressure(answers: Mapping[str, Section]) -> Check:
    if answers.get("pressure", MISSING).ok:
        return Check("load figures", ok=True)
    return Check(
        "load figures",
        ok=False,
        detail="the kernel keeps no pressure statistics; the load average is used",
        remedy="Boot the host with psi=1.",
        warning=True,
    )
