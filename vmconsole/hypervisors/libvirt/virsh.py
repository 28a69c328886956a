"""Running virsh, and saying what its errors mean.

Domains are always addressed by uuid; names are hostile text. The host commands of inventory, plan
and pull-mode export, all of them (a stand-in for a host needs no more):

    virsh -c URI  list --all|--state-running|--state-paused --uuid
                  dumpxml UUID [--inactive] [--security-info]     domstate UUID --reason
                  domblkinfo UUID DISK                            vol-path --pool POOL VOLUME
                  domjobinfo UUID                                 backup-dumpxml UUID
                  snapshot-list UUID --name                       checkpoint-list UUID --name
                  checkpoint-dumpxml UUID NAME --no-domain [--size]
                  checkpoint-delete UUID NAME [--metadata]
                  checkpoint-create UUID FILE --redefine          (repair only)
                  backup-begin UUID FILE FILE                     domjobabort UUID
                  guest-agent-timeout UUID --timeout SECONDS
                  domfsfreeze UUID      domfsthaw UUID            resume UUID
                  version               domcapabilities
                  domstats --block --nowait UUID
    for iothreads on old QEMUs (snapshot.py, overlay.py), besides:
                  checkpoint-create UUID FILE                     domblklist UUID
                  snapshot-create UUID FILE --disk-only --no-metadata --atomic
                  blockjob UUID DISK --info|--abort               blockcommit UUID DISK --shallow …
    for restores, besides:
                  list --all --name|--state-shutoff --uuid        capabilities
                  net-list [--all] --name                         nwfilter-list
                  pool-list [--all] --name                        pool-dumpxml, pool-refresh --pool=POOL
                  vol-pool --vol PATH                             vol-list, vol-create-as, vol-delete
                  domxml-to-native qemu-argv --xml FILE           define FILE
                  undefine --nvram UUID                           start UUID
    qemu-nbd (offline, push, snapshot, restores); qemu-img create|commit|bitmap
    qemu-img info -U -f FORMAT --output=json --backing-chain -- FILE
    sh, timeout, stat, awk, df, ln, mktemp, test, cat, head, tail, grep, date, nproc, pgrep, rm, sleep, ls, id
    push, snapshot: domjobinfo UUID --completed --keep-completed, snapshot-create, blockcommit, qemu-nbd
    restore: create.py, survey.py, storage.py and target.py say theirs
    files: /proc/loadavg /proc/pressure/* /proc/PID/stat, libvirt's pid, log and socket folders
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vmconsole.errors import (
    BackupFailed,
    CommandFailed,
    GuestBusy,
    GuestNotFound,
    HostError,
    NotPermitted,
    OutOfSpace,
    ToolMissing,
    VmconsoleError,
)
from vmconsole.remote.machine import DEFAULT_TIMEOUT, Machine

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Virsh:
    """virsh on one machine."""

    machine: Machine
    uri: str

    def run(self, *args: str, stdin: bytes = b"", timeout: float = DEFAULT_TIMEOUT) -> str:
        """Its standard output. Raises what failure() makes of its errors."""
        argv = ["virsh", "-c", self.uri, *args]
        done = self.machine.run(argv, stdin=stdin, timeout=timeout, check=False)
        if done.status:
            raise failure(done.errors, host=self.machine.name, what=f"virsh {args[0]}", status=done.status)
        return done.text


def reason(stderr: str) -> str:
    """The errors virsh printed, as one line without its `error:` marks; warnings are left out."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("error:").strip() for line in lines if line.startswith("error:")]
    text = " ".join(dict.fromkeys(errors or lines))
    return "".join(char if char.isprintable() else "?" for char in text)[:600]


def failure(stderr: str, *, host: str, what: str, status: int = 1) -> VmconsoleError:
    """What an error of virsh means to the user. Patterns as libvirt 9.0 prints them."""
    text = reason(stderr)
    message = f"{what} on {host}: {text or f'ended with status {status}'}."
    lower = text.lower()
    if status == 127 or "virsh: not found" in lower:
        return ToolMissing(f"virsh is missing on {host}.", hint="apt install libvirt-clients", subject=host)
    if status == 124:
        return HostError(
            f"{what} on {host}: no answer in time.",
            hint="Does libvirtd hang? On the host: systemctl restart libvirtd (guests run on)",
            subject=host,
        )
    if "domain not found" in lower or "failed to get domain" in lower:
        return GuestNotFound(message, hint="Look at `vmconsole inventory --refresh`.", subject=host)
    if any(
        sign in lower
        for sign in (
            "authentication",
            "polkit",
            "permission denied",
            "access denied",
            "system bus connection",
        )
    ):
        return NotPermitted(
            message,
            hint="Log in as root, or run on the host: usermod -aG libvirt,libvirt-qemu USER",
            subject=host,
        )
    if "failed to connect" in lower:
        return HostError(message, hint="Run on the host: systemctl start libvirtd", subject=host)
    if "state change lock" in lower or "another job" in lower or "already in active block job" in lower:
        return GuestBusy(message, hint="Another job holds the guest; try again when it has ended.")
    if "missing or broken bitmap" in lower or "checkpoint inconsistent" in lower:
        return BackupFailed(message, hint="Run it again: without a sound bitmap it reads everything.")
    if "qcow2 v2" in lower:
        return BackupFailed(message, hint="With the guest off: qemu-img amend -o compat=1.1 IMAGE")
    if "backup is not supported" in lower or "incremental backup" in lower:
        return BackupFailed(message, hint="Incremental backups need libvirt 7.6 or newer on the host.")
    if "no space left" in lower:
        return OutOfSpace(message, hint="Free space there, or set another `scratch` folder for this host.")
    return CommandFailed(message, subject=host, exit_status=status, stderr=stderr)
