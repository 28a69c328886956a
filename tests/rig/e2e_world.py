"""A backup server of its own for end-to-end tests: configuration, passphrase, Borg repository, and the
real command line, run as its user would, against a lab host over its sshd.

    def test_something(e2e, guest):
        made = e2e.backup(guest)                      # python -m vmconsole … backup UUID, exit code 0
        assert made.point["mode"] == "full"
        images = e2e.restore(made.archive)            # disk id -> raw file
        e2e.backup(guest, expect=1).fails("GuestBusy")

Nothing that is run may ever show a traceback, print anything but JSON on stdout, or end in exit code 70.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from lab.access import SshAccess, ssh_access
from lab.guest import Guest
from lab.host import LibvirtHost
from lab.session import Lab
from lab.waiting import wait_for

from vmconsole.model.run import JournalEntry
from vmconsole.remote.process import identity, is_dead
from vmconsole.state.store import StateStore

PASSPHRASE = "correct horse battery staple"
BORG = Path(sys.executable).with_name("borg")
CHILD = Path(__file__).with_name("e2e_child.py")
TIMEOUT = 150.0
"""Seconds for a command; one takes two on an idle machine."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended."""

    argv: tuple[str, ...]
    status: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """What stdout holds: a document, or one per line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> dict[str, Any]:
        (only,) = self.documents
        return only

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.documents if item.get("event") == kind]

    @property
    def point(self) -> dict[str, Any]:
        """The only restore point that was made."""
        (made,) = self.events("point_made")
        return made

    @property
    def archive(self) -> str:
        return str(self.point["archive"])

    @property
    def warnings(self) -> list[str]:
        return [f"{item['message']} {item['hint']}".strip() for item in self.events("warned")]

    def steps(self) -> dict[str, float]:
        """Seconds by step."""
        return {item["step"]: item["seconds"] for item in self.events("step_finished")}

    def fails(self, error: str) -> dict[str, Any]:
        """The error it told of, of exactly this class, with its message and hint also on stderr or stdout."""
        told = [item for item in self.documents if "error" in item and "message" in item]
        assert [item["error"] for item in told] == [error], f"{self}"
        assert told[0]["message"], f"{self}"
        return told[0]

    def __str__(self) -> str:
        return f"{' '.join(self.argv)}\nstatus {self.status}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@dataclass
class Child:
    """A command that runs. Its output goes to files, so that it never waits for us."""

    process: subprocess.Popen[bytes]
    argv: tuple[str, ...]
    folder: Path

    def wait(self, timeout: float = TIMEOUT) -> Ran:
        """Raises subprocess.TimeoutExpired, with the command killed."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return Ran(self.argv, status, _text(self.folder / "out"), _text(self.folder / "err"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def await_trap(self, timeout: float = TIMEOUT) -> None:
        """Until the command is held by its trap."""

        def reached() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"it ended before its trap:\n{self.wait()}")
            return (self.folder / "reached").exists()

        wait_for(reached, "the command to reach its trap", timeout)

    def go(self, timeout: float = TIMEOUT) -> Ran:
        """Let a held command go on; returns when it has ended."""
        (self.folder / "go").touch()
        return _sound(self.wait(timeout))


@dataclass
class World:
    """A backup server. folder: everything of it. hosts: name in the configuration -> lab host.

    ssh_folder: for the hosts' sshd; hosts must see it (Lab.folder). location: of the repository.
    host_settings, repository_settings, defaults, groups: what `configure` writes besides what is needed.
    """

    folder: Path
    hosts: Mapping[str, LibvirtHost]
    ssh_folder: Path
    sshd_options: Mapping[str, str] = field(default_factory=dict)
    host_settings: dict[str, Any] = field(default_factory=dict)
    repository_settings: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    location: Path | None = None

    def __post_init__(self) -> None:
        self._stack = ExitStack()
        self._children: list[Child] = []
        self.access: dict[str, SshAccess] = {}

    def __enter__(self) -> World:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "home").mkdir()
        (self.folder / "ssh_config").touch()
        self.set_passphrase(PASSPHRASE)
        for name, host in self.hosts.items():
            access = ssh_access(host, self.ssh_folder, self.sshd_options)
            self.access[name] = self._stack.enter_context(access)
        self.configure()
        self.run("repo", "init", "main")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            if child.process.poll() is None:
                child.kill()
        self._stack.close()

    # --- what it is made of ---

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def repository(self) -> Path:
        return self.location or self.folder / "repository"

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the machine's own configuration, keys, caches and agents."""
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        return {**kept, "HOME": str(self.folder / "home"), "LC_ALL": "C.UTF-8"}

    def set_passphrase(self, text: str) -> None:
        path = self.folder / "passphrase"
        path.touch(mode=0o600)
        path.write_text(text + "\n")

    def configure(self) -> None:
        """Write the configuration as the settings are now."""
        parts = [_table("", {"state_dir": "state"}), _table("defaults", self.defaults)]
        for name, access in self.access.items():
            needed = {
                "kind": "libvirt",
                "address": access.sshd.address,
                "identity_files": [str(access.sshd.client_key_path)],
                "known_hosts": str(access.settings.known_hosts),
                "ssh_config": "ssh_config",
                "scratch_reserve": "64 MiB",
            }
            parts.append(_table(f"hosts.{name}", {**needed, **self.host_settings}))
        repository = {"location": str(self.repository), "passphrase": {"file": "passphrase"}}
        more = {"lock_wait": "20 s", **self.repository_settings}
        parts.append(_table("repositories.main", {**repository, **more}))
        parts += [_table(f"groups.{name}", values) for name, values in self.groups.items()]
        self.config.write_text("\n".join(parts))

    # --- its command line ---

    def start(self, *args: str, trap: Mapping[str, Any] | None = None, json_lines: bool = True) -> Child:
        """Start a command. trap: see e2e_child.py; its folder is filled in. json_lines: with --json."""
        folder = self.folder / f"child-{len(self._children)}"
        folder.mkdir()
        program = ["-m", "vmconsole"] if trap is None else [str(CHILD)]
        options = ["--config", str(self.config), *(["--json"] if json_lines else [])]
        argv = (sys.executable, *program, *options, *args)
        environment = self.environment
        if trap is not None:
            environment["E2E_TRAP"] = json.dumps({**trap, "folder": str(folder)})
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            process = subprocess.Popen(
                argv, env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip
        child = Child(process, argv, folder)
        self._children.append(child)
        return child

    def run(self, *args: str, expect: int | tuple[int, ...] = 0, timeout: float = TIMEOUT) -> Ran:
        """Run a command to its end, which must be this exit code, or one of these."""
        ran = _sound(self.start(*args).wait(timeout))
        wanted = expect if isinstance(expect, tuple) else (expect,)
        assert ran.status in wanted, f"expected exit code {expect}:\n{ran}"
        return ran

    def plain(self, *args: str, expect: int = 0) -> Ran:
        """Run a command as people do, without --json."""
        ran = self.start(*args, json_lines=False).wait()
        assert "Traceback" not in ran.out + ran.err, f"a traceback reached the user:\n{ran}"
        assert ran.status == expect, f"expected exit code {expect}:\n{ran}"
        return ran

    def backup(
        self, guest: Guest | str, *flags: str, expect: int | tuple[int, ...] = 0, timeout: float = TIMEOUT
    ) -> Ran:
        name = guest if isinstance(guest, str) else guest.uuid
        return self.run("backup", *flags, "--", name, expect=expect, timeout=timeout)

    @contextmanager
    def held(self, guest: Guest, **at: Any) -> Iterator[Child]:
        """A backup that is held at the first event that has all of `at`, such as event="step_started"."""
        child = self.start("backup", guest.uuid, trap={"do": "hold", "at": at})
        try:
            child.await_trap()
            yield child
        finally:
            if child.process.poll() is None:
                child.kill()

    def killed(self, guest: Guest, after: float = 0.0, **at: Any) -> None:
        """A backup that dies by SIGKILL at that event, or so many seconds after it."""
        child = self.start("backup", guest.uuid, trap={"do": "kill", "at": at, "after": after})
        ran = child.wait()
        assert ran.status == -signal.SIGKILL, f"it was not killed:\n{ran}"

    def points(self, guest: Guest | str | None = None) -> list[dict[str, Any]]:
        """Newest first."""
        name = guest.uuid if isinstance(guest, Guest) else guest
        return list(self.run("points", *(["--", name] if name else [])).document["points"])

    def newest(self, guest: Guest) -> dict[str, Any]:
        return self.points(guest)[0]

    def restore(self, archive: str, *disks: str) -> dict[str, Path]:
        """Restore to files through the command line: disk id -> raw image."""
        folder = self.folder / f"restored-{os.urandom(4).hex()}"
        folder.mkdir()
        chosen = [word for disk in disks for word in ("--disk", disk)]
        self.run("restore", archive, "--to", str(folder), *chosen)
        found = {path.stem: path for path in folder.iterdir()}
        assert all(path.suffix == ".raw" for path in folder.iterdir())
        return found

    def clean(self, expect: int | None = None) -> Ran:
        """`doctor --clean`. Without expect either of its good exit codes will do."""
        ran = _sound(self.start("doctor", "--clean").wait())
        assert ran.status in ((0, 3) if expect is None else (expect,)), f"{ran}"
        return ran

    def journal(self) -> list[JournalEntry]:
        """What runs have acquired on hosts and not released."""
        store = StateStore.open(self.folder / "state/state.sqlite", _Clock(), identity(), is_dead)
        try:
            return list(store.open_entries())
        finally:
            store.close()

    # --- stock Borg ---

    def borg(
        self, *args: str, check: bool = True, timeout: float = TIMEOUT
    ) -> subprocess.CompletedProcess[bytes]:
        """The borg command, as anybody without vmconsole would run it; {} in args is the repository."""
        argv = [str(BORG), *(word.replace("{}", str(self.repository)) for word in args)]
        done = subprocess.run(
            argv, env={**self.environment, "BORG_PASSPHRASE": PASSPHRASE}, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=timeout, check=False, cwd=self.folder,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"{argv}: {done.returncode}: {done.stderr.decode()}"
        return done

    def borg_check(self, *options: str) -> None:
        """Clean, and no lock in the way."""
        done = self.borg("check", "--lock-wait", "2", *options, "{}")
        assert not done.stderr.strip(), done.stderr.decode()

    def borg_sha256(self, archive: str, disk: str) -> str:
        """Of a disk as `borg extract` gives it."""
        done = self.borg("extract", "--stdout", f"{{}}::{archive}", f"disks/{disk}.raw")
        return hashlib.sha256(done.stdout).hexdigest()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def open_world(lab: Lab, folder: Path, **more: Any) -> Iterator[World]:
    """A world whose only host is `one`, the lab's first."""
    with World(folder, {"one": lab.host}, lab.folder("e2e-ssh"), **more) as world:
        yield world


def drop_checkpoints(guest: Guest) -> None:
    """So that the next test finds the guest as it was."""
    for name in guest.checkpoints():
        guest.virsh("checkpoint-delete", name)


class _Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        raise NotImplementedError("nothing is written through this store")


def _sound(ran: Ran) -> Ran:
    assert "Traceback" not in ran.out + ran.err, f"a traceback reached the user:\n{ran}"
    assert ran.status != 70, f"a bug:\n{ran}{_bug_report(ran.err)}"
    try:
        assert isinstance(ran.documents, list)
    except ValueError:
        raise AssertionError(f"stdout is not JSON:\n{ran}") from None
    return ran


def _bug_report(err: str) -> str:
    words = err.split()
    paths = [Path(word) for word in words if word.endswith(".txt") and "vmconsole-error-" in word]
    return "\n".join(path.read_text() for path in paths if path.exists())


def _text(path: Path) -> str:
    return path.read_text(errors="replace")


def _table(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"[{name}]"] if name else []
    lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # JSON's strings, numbers and booleans are TOML's too.
    return json.dumps(value)
