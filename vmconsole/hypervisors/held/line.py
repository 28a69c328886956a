"""Our end of the line to a guard: commands out, answers behind "@ " in, alarms kept, signs of life."""

from __future__ import annotations

import threading
from collections.abc import Collection

from vmconsole.errors import HostError, HostUnreachable
from vmconsole.remote.machine import Process

_LOOK_SECONDS = 0.01


class GuardLine:
    """Thread-safe; hold `lock` around a command and its answer. Methods raise HostUnreachable when it is gone.

    alarm_words: what the guard says unasked. silence: seconds without a word from us after which it
    undoes everything. end_seconds: how long it may take to end.
    """

    def __init__(
        self, process: Process, host: str, alarm_words: Collection[str], silence: float, end_seconds: float
    ) -> None:
        self.lock = threading.RLock()
        self.alarms: list[str] = []
        """What it said unasked, oldest first."""
        self._process = process
        self._host = host
        self._alarm_words = frozenset(alarm_words)
        self._silence = silence
        self._end_seconds = end_seconds
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="vmconsole-guard", daemon=True)

    def live(self) -> None:
        """Begin to give signs of life."""
        self._beats.start()

    def send(self, command: str) -> None:
        if self._ended.is_set():
            raise HostUnreachable(f"The guard on {self._host} has ended.", subject=self._host)
        self._process.write(command.encode() + b"\n")

    def answer(self, timeout: float) -> tuple[str, str]:
        """The next line: its first word, and the rest. Alarms are kept and handed over too."""
        while True:
            try:
                line = self._process.read_line(timeout)
            except TimeoutError as error:
                raise HostUnreachable(f"The guard on {self._host} is silent.", subject=self._host) from error
            if not line:
                raise HostUnreachable(
                    f"The guard on {self._host} ended; it undoes its work when it loses us.",
                    hint="If something is left on the host: vmconsole doctor --clean",
                    subject=self._host,
                )
            text = line.decode("utf-8", "replace").strip()
            if text.startswith("@ "):
                word, _, rest = text[2:].partition(" ")
                if word in self._alarm_words:
                    self.alarms.append(text[2:])
                return word, rest

    def expect(self, words: Collection[str], timeout: float) -> tuple[str, str]:
        """The next line that begins with one of these words."""
        while True:
            word, rest = self.answer(timeout)
            if word in words:
                return word, rest

    def drain(self) -> None:
        """Take the lines that are there; nothing was asked, so they are alarms."""
        while True:
            try:
                line = self._process.read_line(_LOOK_SECONDS)
            except TimeoutError:
                return
            if not line:
                raise HostUnreachable(f"The guard on {self._host} ended.", subject=self._host)
            self.alarms.append(line.decode("utf-8", "replace").strip().removeprefix("@ "))

    def close(self) -> None:
        """Wait for its end: closing our side earlier could cut short what it still undoes."""
        with self.lock:
            if self._ended.is_set():
                return
            self._ended.set()
            self._process.close_stdin()
            try:
                self._process.wait(self._end_seconds)
            except (TimeoutError, HostError):
                pass
            finally:
                self._process.close()
        if self._beats.is_alive():
            self._beats.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._silence / 6):
            with self.lock:
                if self._ended.is_set():
                    return
                try:
                    self.send("beat")
                except HostError:
                    return
