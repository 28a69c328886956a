"""The console in a real terminal, tmux, on the demo's hosts: runs go on when the terminal is gone."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from demo.open_shop import SLOW, open_shop

from vmconsole.interfaces import Cancel
from vmconsole.model.run import Run, RunState
from vmconsole.tui.states import Glyphs
from vmconsole.wiring.services import Wiring

SECONDS = 120.0
# 240 MiB at this rate: a dozen seconds to do something in.
SLOWLY = '[groups.nightly]\nhosts = ["kvm1"]\n\n[limits]\nrate = "20 MiB/s"\n'


class Terminal:
    """A tmux server of its own, with the console in its only window."""

    def __init__(self, folder: Path, config: Path, width: int, height: int) -> None:
        self._socket = str(folder / "tmux.socket")
        console = shlex.join([sys.executable, "-m", "vmconsole", "--config", str(config)])
        # What the console says when it is left stays to be read.
        command = f"{console}; echo LEFT WITH $?; exec sleep 600"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), command)

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    @property
    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def see(self, text: str) -> str:
        def look() -> bool:
            return text in self.screen

        wait_until(look, lambda: f"{text!r} is not on the screen:\n{self.screen}")
        return self.screen

    def put_cursor_on(self, name: str) -> None:
        while name not in (before := self.cursor_line):
            self.press("Down")
            wait_until(lambda before=before: self.cursor_line != before, lambda: f"no {name}:\n{self.screen}")

    @property
    def cursor_line(self) -> str:
        return next((line for line in self.screen.splitlines() if Glyphs().cursor in line), "")

    def close(self) -> None:
        """As when the connection breaks and the machine's tmux is ended: everything in it is hung up."""
        self._tmux("kill-server", check=False)

    def _tmux(self, *words: str, check: bool = True) -> str:
        env = {name: value for name, value in os.environ.items() if name not in ("TMUX", "NO_COLOR")}
        env |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        command = ["tmux", "-u", "-S", self._socket, *words]
        return subprocess.run(command, check=check, capture_output=True, text=True, env=env).stdout


def wait_until(look: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(what())
        time.sleep(0.1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if shutil.which("tmux") is None and not os.environ.get("CI"):
        pytest.skip("there is no tmux")
    with open_shop(tmp_path_factory.mktemp("shop"), groups=SLOWLY, slow=True) as path:
        yield path


@pytest.fixture
def services(config: Path) -> Iterator[Wiring]:
    wiring = Wiring(config, Cancel())
    yield wiring
    wiring.close()


@pytest.fixture
def open_terminal(tmp_path: Path, config: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def make(width: int = 100, height: int = 30) -> Terminal:
        opened.append(Terminal(tmp_path, config, width, height))
        return opened[-1]

    yield make
    for terminal in opened:
        terminal.close()


def begin_slow_backup(terminal: Terminal, services: Wiring) -> Run:
    """From the console, as a person would; returns the run once it reads."""
    before = {run.id for run in services.store.runs()}
    terminal.see(SLOW)
    terminal.put_cursor_on(SLOW)
    terminal.press("b")
    terminal.see(f"Back up {SLOW}?")
    terminal.press("f")
    terminal.see("[x] read everything anew")
    terminal.press("y")

    def begun() -> list[Run]:
        return [run for run in services.store.runs() if run.id not in before]

    wait_until(lambda: bool(begun()), lambda: f"no run has begun:\n{terminal.screen}")
    run = begun()[0]

    def reads() -> bool:
        return any(
            document.get("event") == "step_started" and document.get("step") == "read"
            for _, _, document in services.store.events(run.id)
        )

    wait_until(reads, lambda: f"{run.id} does not read:\n{terminal.screen}")
    return run


def ended(services: Wiring, run: Run) -> Run:
    def over() -> bool:
        return services.store.run(run.id).state is not RunState.RUNNING

    wait_until(over, lambda: f"{run.id} does not end")
    return services.store.run(run.id)


def test_a_backup_begun_from_the_console_goes_on_when_its_terminal_is_gone(open_terminal, services):
    terminal = open_terminal()
    run = begin_slow_backup(terminal, services)
    terminal.close()
    assert services.store.run(run.id).state is RunState.RUNNING, "too fast to show anything"
    assert ended(services, run).state is RunState.DONE
    record = services.history.of_run(run.id)[0]
    assert record.guest == SLOW
    assert record.good
    assert services.store.open_entries() == []


def test_leaving_the_console_leaves_the_run_alone_and_says_so(open_terminal, services):
    terminal = open_terminal()
    run = begin_slow_backup(terminal, services)
    terminal.press("3")
    terminal.see(SLOW)
    terminal.see("running")
    terminal.press("C-q")
    screen = terminal.see("LEFT WITH 0")
    assert services.store.run(run.id).state is RunState.RUNNING, "too fast to show anything"
    assert "1 run goes on in the background." in screen
    assert "vmconsole runs last --follow" in screen
    assert ended(services, run).state is RunState.DONE


def test_x_stops_a_run_and_nothing_is_left_of_it(open_terminal, services):
    terminal = open_terminal(80, 24)
    run = begin_slow_backup(terminal, services)
    terminal.press("3")
    terminal.see("1 running")
    terminal.press("x")
    terminal.see("Stop this run?")
    terminal.press("y")
    terminal.see(f"Run {run.id} has stopped.")
    assert ended(services, run).state is RunState.CANCELLED
    assert services.store.open_entries() == []
    terminal.see("stopped")
