"""Stands in for guard.pl, the program that holds an export on a node: the same words, the same ends.

It does what its document says by asking the machine's monitor, and the demo's own qm and pvesm. What
guard.pl keeps in files below /run, so that another process can undo it, is kept in memory here.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmconsole.demo.control import Answer, Talk
from vmconsole.demo.pve.access import QmpRefused
from vmconsole.demo.pve.cluster import Cluster, Node

Run = Callable[[Sequence[str]], Answer]
Step = Mapping[str, Any]


class _Failed(Exception):
    """A step was refused; the text is what the program would say."""


@dataclass(slots=True)
class _Notes:
    """What is remembered for whoever undoes it."""

    marks: set[str] = field(default_factory=set)
    lock: bool = False
    frozen: float = 0.0
    early: bool = False
    paused: bool = False
    serving: bool = False
    committed: bool = False
    cut: bool = False


class Guard:
    """One run of the program. run: runs another program of the node."""

    def __init__(self, cluster: Cluster, node: Node, run: Run, mode: str) -> None:
        self._cluster = cluster
        self._node = node
        self._run = run
        self._mode = mode
        self._doc: Mapping[str, Any] = {}
        self._notes = _Notes()
        self._pending = b""
        self._over = False
        self._lock = threading.RLock()

    def talk(self, ends: Talk) -> int:
        line = self._line(ends, 60.0)
        if line is None:
            return 1
        self._doc = json.loads(line)
        if self._mode == "clean":
            left = self._all([step for step in self._doc["undo"] if "run" in step])
            self._say(ends, "stuck", "; ".join(left)) if left else self._say(ends, "clean")
            return 0
        if self._begin(ends):
            try:
                self._hold(ends)
            finally:
                # The end of its input, silence, or a lost connection.
                self._end()
        return 0

    # --- the conversation ---

    def _begin(self, ends: Talk) -> bool:
        if self._doc["lock"]:
            done = self._run(["qm", "set", str(self._doc["vmid"]), "--lock", "backup"])
            if done.status:
                self._say(ends, "locked", done.stderr)
                return False
            self._notes.lock = True
        self._node.path(self._doc["folder"]).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._say(ends, "hello")
        return True

    def _hold(self, ends: Talk) -> None:
        stop = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ends, stop), name="demo-pve-guard", daemon=True)
        watcher.start()
        try:
            while (line := self._line(ends, float(self._doc["silence"]))) is not None:
                word, _, rest = line.partition(" ")
                if word in ("commit", "rollback"):
                    self._notes.committed = word == "commit"
                    left = self._end()
                    good = "committed" if word == "commit" else "clean"
                    self._say(ends, "stuck", "; ".join(left)) if left else self._say(ends, good)
                    return
                self._command(ends, word, rest)
        finally:
            stop.set()
            watcher.join()

    def _command(self, ends: Talk, word: str, rest: str) -> None:
        if word == "do":
            try:
                for step in json.loads(rest):
                    self._step(step, ends)
            except _Failed as error:
                self._say(ends, "failed", str(error))
            else:
                self._say(ends, "done")
        elif word in ("cut", "meet"):
            self._cut(ends, json.loads(rest), together=word == "meet")
        elif word == "status":
            self._say(ends, "state", *self._state())

    def _cut(self, ends: Talk, steps: Sequence[Step], *, together: bool) -> None:
        began = self._freeze(ends) if self._doc["freeze"] else None
        if together:
            self._say(ends, "waiting")
        apart = together and self._line(ends, float(self._doc["budget"])) != "go"
        if not apart:
            self._say(ends, "cutting")
        at, why = time.monotonic(), ""
        try:
            if apart:
                raise _Failed("apart")
            for step in steps:
                self._step(step, ends)
        except _Failed as error:
            why = str(error)
            with contextlib.suppress(_Failed):
                self._resume()
        else:
            self._notes.cut = True
            self._say(ends, "cut", _milliseconds(at))
        if began is not None:
            self._agent("fsfreeze-thaw")
            with self._lock:
                self._notes.frozen = 0.0
            self._say(ends, "thawed", _milliseconds(began), "yes" if self._notes.early else "no")
        self._say(ends, "failed", why) if why else self._say(ends, "ready")

    def _freeze(self, ends: Talk) -> float | None:
        began = time.monotonic()
        self._say(ends, "freezing")
        done = self._agent("fsfreeze-freeze")
        if done.status:
            self._say(ends, "unfrozen", "no", done.stderr)
            return None
        with self._lock:
            self._notes.frozen = began + self._doc["budget"]
        self._say(ends, "froze", _milliseconds(began))
        return began

    def _agent(self, command: str) -> Answer:
        return self._run(["qm", "guest", "cmd", str(self._doc["vmid"]), command])

    def _state(self) -> tuple[str, int]:
        try:
            status = self._ask("query-status")["status"]
            return status, len(self._exports("vmc-"))
        except _Failed:
            return "gone", 0

    def _watch(self, ends: Talk, stop: threading.Event) -> None:
        told = False
        while not stop.wait(0.2):
            with self._lock:
                late = 0 < self._notes.frozen < time.monotonic()
                if late:
                    self._notes.frozen = 0.0
                    self._notes.early = not self._notes.cut
            if late:
                self._agent("fsfreeze-thaw")
            if self._doc["process"] and not told and not self._lives():
                told = True
                with contextlib.suppress(OSError):
                    self._say(ends, "stopped")

    def _line(self, ends: Talk, patience: float) -> str | None:
        """The next line; None at the end, or after too long a silence."""
        while b"\n" not in self._pending:
            try:
                data = ends.read(patience)
            except TimeoutError:
                return None
            if not data:
                return None
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode("utf-8", "surrogateescape")

    def _say(self, ends: Talk, *words: object) -> None:
        text = " ".join(" ".join(map(str, words)).split())
        ends.out(f"@ {text}\n".encode("utf-8", "surrogateescape"))

    # --- the end ---

    def _end(self) -> list[str]:
        """Undo everything, or finish what was committed. Returns what is left."""
        with self._lock:
            if self._over:
                return []
            self._over = True
        if self._notes.frozen:
            self._agent("fsfreeze-thaw")
        left = self._all([{"resume": True}])
        left += self._all(self._doc["commit" if self._notes.committed else "undo"])
        if self._notes.lock:
            done = self._run(["qm", "unlock", str(self._doc["vmid"])])
            left += [done.stderr] if done.status else []
        folder = self._node.path(self._doc["folder"])
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        return left

    def _all(self, steps: Sequence[Step]) -> list[str]:
        left = []
        for step in steps:
            try:
                self._step(step, None)
            except _Failed as error:
                if "run" in step or self._lives():
                    left.append(str(error))
        return left

    # --- steps ---

    def _step(self, step: Step, ends: Talk | None) -> None:
        marks = self._notes.marks
        if self._mode != "clean" and "if" in step and step["if"] not in marks:
            return
        given = step.get("mark")
        begun = {given} if isinstance(given, str) else set(given or ())
        marks |= begun
        try:
            value = self._carry_out(step)
            expected = step.get("expect")
            if expected is not None and not re.search(_pattern(expected), str(value)):
                raise _Failed(f"QEMU answered: {value}")
        except _Failed as error:
            if step.get("ignore") is not None and re.search(_pattern(step["ignore"]), str(error)):
                return
            marks -= begun
            raise
        if "if" in step:
            marks.discard(step["if"])
        if step.get("keep") is not None and ends is not None:
            self._say(ends, "result", step["keep"], json.dumps(value))

    def _carry_out(self, step: Step) -> Any:
        if "qmp" in step:
            return self._ask(step["qmp"], step.get("arguments"))
        if "run" in step:
            argv = [str(word) for word in step["run"]]
            done = self._run(argv)
            if done.status:
                raise _Failed(f"{argv[0]} {argv[1] if len(argv) > 1 else ''}: {done.stderr}{done.stdout}")
            return done.stdout
        if "serve" in step:
            return self._serve(step["serve"])
        if "unserve" in step:
            return self._unserve(step["unserve"])
        if step.get("pause") and self._ask("query-status")["status"] == "running":
            self._notes.paused = True
            self._ask("stop")
        if step.get("resume"):
            self._resume()
        return {}

    def _resume(self) -> None:
        if self._notes.paused:
            self._ask("cont")
            self._notes.paused = False

    def _serve(self, path: str) -> None:
        if others := self._ask("query-block-exports"):
            raise _Failed(f"another program exports disks of this guest ({others[0]['id']})")
        self._ask("nbd-server-start", {"addr": {"type": "unix", "data": {"path": path}}})
        self._notes.serving = True

    def _unserve(self, prefix: str) -> None:
        for export in self._exports(prefix):
            self._ask("block-export-del", {"id": export["id"], "mode": "hard"})
        if self._notes.serving and not self._ask("query-block-exports"):
            self._ask("nbd-server-stop")
            self._notes.serving = False

    def _exports(self, prefix: str) -> list[Mapping[str, Any]]:
        return [item for item in self._ask("query-block-exports") if item["id"].startswith(prefix)]

    def _ask(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        monitor = self._cluster.monitor(self._doc["vmid"])
        if monitor is None or not self._lives():
            raise _Failed("QEMU is gone")
        try:
            return monitor.execute(command, arguments, self._doc["run"])
        except QmpRefused as error:
            raise _Failed(f"{error.kind} {error}") from error

    def _lives(self) -> bool:
        """The process the document is about still runs."""
        monitor = self._cluster.monitor(self._doc["vmid"])
        process = monitor.vm.process if monitor else None
        return process is not None and self._doc["process"] in ("", process.text)


def _pattern(perl: str) -> str:
    """Of the few things Perl writes otherwise, the one that is used."""
    return perl.replace(r"\z", r"\Z")


def _milliseconds(since: float) -> int:
    return int(1000 * (time.monotonic() - since))
