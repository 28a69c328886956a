"""A guest of the lab: its life, its inside, its faults."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from xml.etree import ElementTree

from lab.control import Control, GuestCommandError, GuestSilent
from lab.domain import DiskSpec, GuestSpec, ring_argument
from lab.host import CommandError, LibvirtHost
from lab.waiting import wait_for

BOOT_TIMEOUT = 90.0


class Guest:
    """A guest that is defined on a host. images: disk id -> image file, empty for adopted guests.

    Refers to itself by UUID everywhere, so that any name works.
    """

    def __init__(
        self, host: LibvirtHost, uuid: str, *, spec: GuestSpec | None = None,
        images: Mapping[str, Path] | None = None, folder: Path | None = None,
    ) -> None:  # fmt: skip
        self.host = host
        self.uuid = uuid
        self.spec = spec
        self.images = dict(images or {})
        self.folder = folder
        self._control: Control | None = None

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def name(self) -> str:
        return self.spec.name if self.spec else self.virsh("domname")

    def virsh(
        self, command: str, *args: str, check: bool = True, timeout: float = 60.0, stdin: str = ""
    ) -> str:
        """Output of `virsh COMMAND THIS-GUEST ARGS`."""
        return self.host.virsh(command, self.uuid, *args, check=check, timeout=timeout, stdin=stdin)

    # --- life ---

    def start(self, *, paused: bool = False, wait: bool = True) -> None:
        """Start; returns when the guest is ready (unless paused, or wait is false)."""
        self.virsh("start", *(["--paused"] if paused else []))
        if wait and not paused:
            self.wait_until_ready()

    def wait_until_ready(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Until the control line answers that the start-up is over, and a real agent answers guest-ping."""
        wait_for(self._started, f"{self.name} to start up", timeout)
        if "agent" in self._expected():
            wait_for(self.agent_answers, f"the agent of {self.name}", timeout)

    def _started(self) -> bool:
        """What arrives on the line while the kernel starts is lost, so ask anew until there is an answer."""
        try:
            return self.sh("[ -e /var/run/ready ] && echo yes", check=False, timeout=0.2) == "yes\n"
        except GuestSilent:
            return False

    def _expected(self) -> set[str]:
        """agent: the guest has an agent channel, and something to answer on it that does no harm."""
        if self.spec is None:
            return set()
        return {"agent"} if self.spec.agent and self.spec.agent_program != "none" else set()

    def state(self) -> str:
        """As virsh says: running, paused, shut off, …; empty when it is not defined."""
        return self.virsh("domstate", check=False)

    def poweroff(self) -> None:
        """Power off from inside, file systems unmounted."""
        self.sh("(sleep 0.1; shutdown) >/dev/null 2>&1 &")
        self.wait_for_state("shut off")

    def destroy(self) -> None:
        """Pull the plug, if it runs."""
        self.virsh("destroy", check=False)
        self._hang_up()

    def wait_for_state(self, state: str, timeout: float = 60.0) -> None:
        wait_for(lambda: self.state() == state, f"{self.name} to be {state}", timeout)
        if state == "shut off":
            self._hang_up()

    def remove(self) -> None:
        """Off, undefined with everything libvirt knows about it, disks deleted."""
        self.destroy()
        wait_for(lambda: self.state() in {"shut off", ""}, f"{self.name} to end", 60)
        self.virsh(
            "undefine", "--checkpoints-metadata", "--snapshots-metadata", "--managed-save", "--nvram",
            check=False,
        )  # fmt: skip
        if self.state():
            raise CommandError(f"{self.name} cannot be undefined: {self.virsh('undefine')}")
        for image in self.images.values():
            image.unlink(missing_ok=True)

    # --- inside ---

    def sh(self, command: str, *, check: bool = True, timeout: float = 30.0) -> str:
        """Run a shell line in the guest over its serial line: no agent needed. Returns what it printed."""
        return self._line().run(command, check=check, timeout=timeout)

    def exec(self, command: str, *, check: bool = True, timeout: float = 30.0) -> str:
        """Run a shell line in the guest through its agent (guest-exec). Returns what it printed."""
        arguments = {"path": "/bin/sh", "arg": ["-c", command], "capture-output": True}
        pid = self.agent("guest-exec", arguments)["pid"]

        def ended() -> Any:
            status = self.agent("guest-exec-status", {"pid": pid})
            return status if status["exited"] else None

        status = wait_for(ended, f"{command} in {self.name}", timeout)
        output = b"".join(base64.b64decode(status.get(key, "")) for key in ("out-data", "err-data")).decode()
        if check and status.get("exitcode", 1):
            raise GuestCommandError(f"in {self.name}: {command}: {status}: {output}")
        return output

    def agent(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float = 10
    ) -> Any:
        """One command to the guest agent; returns what it returned. Raises CommandError."""
        request: dict[str, object] = {"execute": command}
        if arguments:
            request["arguments"] = dict(arguments)
        answer = self.virsh("qemu-agent-command", json.dumps(request), "--timeout", f"{timeout:g}")
        return json.loads(answer)["return"]

    def agent_answers(self) -> bool:
        try:
            self.agent("guest-ping", timeout=2)
        except CommandError:
            return False
        return True

    def sync(self) -> None:
        self.sh("sync")

    # --- writing to disks, by offset ---

    def pattern(self, disk: str, offset: int, length: int, seed: int) -> None:
        """Fill with a pattern unique to seed and place, see `lab.images.pattern_bytes`; synced."""
        self.sh(f"labtool pattern /dev/{disk} {offset} {length} {seed}")

    def zero(self, disk: str, offset: int, length: int, how: str = "write") -> None:
        """Make zeros. how: write (data that is zero), zeroout (the disk's own command), discard."""
        if how == "write":
            self.sh(
                f"dd if=/dev/zero of=/dev/{disk} bs=4096 seek={offset // 4096} count={length // 4096} "
                "conv=notrunc,fsync 2>&1"
            )
        else:
            self.sh(f"labtool {how} /dev/{disk} {offset} {length}")

    def write_file(self, disk: str, name: str, data: bytes) -> None:
        """Write a file (up to some 10 KiB) into a disk's file system and onto the disk."""
        text = base64.b64encode(data).decode()
        self.sh(f"echo {text} | base64 -d > '/mnt/{disk}/{name}' && sync")

    # --- the lockstep writer ---

    def lockstep_start(self, *disks: str) -> None:
        """Start writing on the disks, in this order; returns once a full round of the rings is written."""
        rings = " ".join(ring_argument(self.disk(disk)) for disk in disks)
        self.sh(f"lab-lockstep start {rings}")
        first = wait_for(self.lockstep_step, "the lockstep writer to begin", 10)
        wait_for(lambda: self.lockstep_step() >= first + 64, "a round of the lockstep writer", 30)

    def lockstep_step(self) -> int:
        """The newest step that is on all the disks."""
        words = self.sh("lab-lockstep step", check=False).split()
        return int(words[0]) if words and words[0].isdigit() else 0

    def lockstep_stop(self) -> int:
        """Stop writing; returns the last step, which is on all the disks."""
        return int(self.sh("lab-lockstep stop").split()[0])

    # --- faults of the agent ---

    def agent_program(self, *words: str) -> None:
        """Change what answers on the agent channel: real, none, hang, wake, or
        fake freeze=hang|error freeze-delay=S freeze-when=FILE thaw=hang|error|silent thaw-delay=S freeze-real=0."""
        self.sh(f"lab-agent {' '.join(words)} >/dev/null 2>&1")
        if words[0] in {"real", "fake", "wake"}:
            wait_for(self.agent_answers, f"the agent of {self.name}", 60)

    def freeze_asked(self) -> bool:
        """Whether a freeze has arrived at the fake agent since it was started."""
        return "yes" in self.sh("[ -e /var/run/freeze-asked ] && echo yes; true")

    def agent_hang(self) -> None:
        """Stop the agent's process: the channel stays connected, nothing answers."""
        self.agent_program("hang")

    def agent_wake(self) -> None:
        self.agent_program("wake")

    def frozen(self, disk: str = "") -> bool:
        """Whether a file system (default: any) is frozen, asked of the guest's kernel, not of the agent."""
        where = f"/mnt/{disk}" if disk else "/mnt/*"
        return "frozen" in self.sh(f"for m in {where}; do [ -d $m ] && labtool frozen $m; done; true")

    # --- seen from the host ---

    def disk(self, disk: str) -> DiskSpec:
        assert self.spec is not None
        return self.spec.disk(disk)

    def xml(self, *options: str) -> ElementTree.Element:
        """dumpxml, parsed. Its source is our own libvirtd."""
        return ElementTree.fromstring(self.virsh("dumpxml", *options))

    def checkpoints(self) -> list[str]:
        return self.virsh("checkpoint-list", "--name", check=False).split()

    def job(self) -> str:
        """The running job's kind, such as `Unbounded`; empty when there is none."""
        match = re.search(r"Job type:\s+(\S+)", self.virsh("domjobinfo", check=False))
        return "" if match is None or match[1] == "None" else match[1]

    def qemu_pid(self) -> int:
        """QEMU's process number on the host; 0 when it does not run."""
        done = self.host.run(["pgrep", "-f", f"qemu-system.*uuid {self.uuid}"], check=False)
        return int(done.stdout.split()[0]) if done.stdout.split() else 0

    def kill_qemu(self) -> None:
        """kill -9, as a loss of power would; returns when libvirt has noticed."""
        self.host.signal(self.qemu_pid(), signal.SIGKILL)
        self.wait_for_state("shut off")

    def raw_copy(self, disk: str, target: Path) -> Path:
        """The disk's present content as a raw image. A running guest should not write meanwhile."""
        if self.state() == "running":
            self.sync()
        source, driver = self.images[disk], self.disk(disk).driver
        subprocess.run(
            ["qemu-img", "convert", "-U", "-f", driver, "-O", "raw", str(source), str(target)],
            check=True, capture_output=True,
        )  # fmt: skip
        return target

    # --- its lines ---

    def _line(self) -> Control:
        if self._control is None or self._control.ended:
            self._hang_up()
            self._control = Control(self.host.path(self._serial_path()))
        return self._control

    def _serial_path(self) -> str:
        for serial in self.xml().iterfind("devices/serial[@type='pty']"):
            target, source = serial.find("target"), serial.find("source")
            if target is not None and source is not None and target.get("port") == "1":
                return str(source.get("path"))
        raise CommandError(f"{self.name} has no control line: it is {self.state()}")

    def _hang_up(self) -> None:
        if self._control is not None:
            self._control.close()
        self._control = None
