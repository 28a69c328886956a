"""A host whose virsh is a small script with files as its memory, so that scripts run in real shells."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vmconsole.hypervisors.held.cutting import CutReport
from vmconsole.hypervisors.libvirt.guard import Guard, Watched
from vmconsole.remote.local import LocalMachine

UUID = "c65fe78e-c6ce-4704-9bb3-2fd993e4a2d7"

# fail.COMMAND: printed as its error, once for each line of it. hang.COMMAND: it takes so many seconds.
VIRSH = r"""#!/bin/sh
cd "$FAKE" || exit 9
[ "$1" = -c ] && shift 2
command=$1
echo "$*" >> log
[ -f "hang.$command" ] && { read -r s < "hang.$command"; sleep "$s"; }
if [ -s "fail.$command" ]; then
    head -n 1 "fail.$command" >&2
    sed -i 1d "fail.$command"
    exit 1
fi
case $command in
list) cat "list$2" 2>/dev/null || cat list ;;
dumpxml)
    if [ -f "xml.$2" ]; then cat "xml.$2"
    else
        echo "error: failed to get domain '$2'" >&2
        echo "error: Domain not found: no domain with matching uuid" >&2
        exit 1
    fi ;;
domstate) cat state ;;
domjobinfo)
    if [ -f job ]; then
        echo "Job type:         Unbounded"
        cat operation 2>/dev/null
    else echo "Job type:         None"; fi ;;
backup-dumpxml)
    if [ -f job ]; then cat job
    else echo "error: Domain backup job id not found: no domain backup job present" >&2; exit 1; fi ;;
backup-begin)
    cat "$3" > job
    if [ -n "$4" ]; then
        cat "$4" > record
        sed -n 's/.*<name>\(.*\)<\/name>.*/\1/p' record >> checkpoints
    fi ;;
domjobabort) [ -f stubborn ] || rm -f job ;;
checkpoint-list) cat checkpoints ;;
checkpoint-dumpxml)
    case $5 in
    --size) cat "sized.$3" ;;
    *) cat "checkpoint.$3" ;;
    esac ;;
checkpoint-create) cat "$3" > redefined; sed -n 's/.*<name>\(.*\)<\/name>.*/\1/p' redefined >> checkpoints ;;
checkpoint-delete)
    if grep -qx "$3" checkpoints; then grep -vx "$3" checkpoints > left; mv left checkpoints
    else echo "error: Domain checkpoint not found: no domain checkpoint with matching name" >&2; exit 1; fi ;;
snapshot-list) cat snapshots ;;
domfsfreeze) touch frozen ;;
domfsthaw) rm -f frozen ;;
resume) echo 'running (unpaused)' > state ;;
domblkinfo) printf 'Capacity:       1048576\nAllocation:     4096\n' ;;
vol-path) echo "$FAKE/pool/$4" ;;
version) printf 'Using library: libvirt 9.0.0\nRunning against daemon: 9.0.0\n' ;;
domcapabilities) echo "<backup supported='yes'/>" ;;
guest-agent-timeout) ;;
*) echo "error: unknown command: '$command'" >&2; exit 1 ;;
esac
"""


Start = Callable[..., Guard]


@dataclass
class FakeHost:
    """root: what its virsh remembers. folder: scratch space."""

    root: Path
    folder: Path

    @property
    def machine(self) -> LocalMachine:
        return LocalMachine("kvm1")

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def read(self, name: str) -> str:
        path = self.root / name
        return path.read_text() if path.exists() else ""

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    @property
    def log(self) -> list[str]:
        return self.read("log").splitlines()

    def called(self, command: str) -> int:
        return sum(line.split()[0] == command for line in self.log)

    def watched(self, **changes: object) -> Watched:
        values: dict[str, object] = {
            "uri": "qemu:///system",
            "uuid": UUID,
            "checkpoint": "vmconsole-deadbeef-run1",
            "mark": "vmconsole-c65fe78e-vda-run1.scratch",
            "folder": str(self.folder),
            "reserve": 1,
            "files": (str(self.folder / "vmconsole-c65fe78e-vda-run1.scratch"),),
        }
        return Watched(**(values | changes))  # type: ignore[arg-type]  # as Watched takes them


JOB = (
    "<domainbackup mode='pull'><disks><scratch file='/s/vmconsole-c65fe78e-vda-run1.scratch'/></disks>"
    "</domainbackup>"
)
RECORD = "<domaincheckpoint><name>vmconsole-deadbeef-run1</name></domaincheckpoint>"


def make_fake_host(root: Path, setenv: Callable[[str, str], None], shell: str = "") -> FakeHost:
    """shell: program that is `sh` there, `busybox` for busybox's; empty for this machine's own."""
    programs, memory, folder = root / "bin", root / "fake", root / "scratch"
    for path in (programs, memory, folder):
        path.mkdir()
    virsh = programs / "virsh"
    virsh.write_text(VIRSH)
    virsh.chmod(0o755)
    if shell:
        found = shutil.which(shell)
        assert found
        (programs / "sh").symlink_to(found)
    setenv("PATH", f"{programs}:{os.environ['PATH']}")
    setenv("FAKE", str(memory))
    host = FakeHost(memory, folder)
    host.write("state", "running (booted)\n")
    host.write("checkpoints", "")
    host.write("snapshots", "")
    host.write("list", f"{UUID}\n")
    return host


def cut(guard: Guard, phases: list[tuple[str, bool]] | None = None) -> CutReport:
    said = [] if phases is None else phases
    return guard.cut(JOB, RECORD, lambda name, seconds: said.append((name, seconds is not None)))


def lose(guard: Guard) -> None:
    """As if we had been killed: our end closes without a word."""
    guard._line._ended.set()
    guard._line._process.close_stdin()
    guard._line._process.wait(30)
    guard._line._process.close()
    guard._line._beats.join()


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}")
        time.sleep(0.02)
