"""How people, watchdogs and monitoring systems are reached. Nothing here ever raises: a way that does not work
is itself something to tell."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from vmconsole.model.figures import Figures
from vmconsole.model.message import Delivery, Message


class Channel(Protocol):
    """One way to reach people."""

    @property
    def name(self) -> str: ...

    @property
    def on(self) -> Collection[str]:
        """What is told here: kinds of alerts, `success`, `digest`."""
        ...

    @property
    def place(self) -> str:
        """Where it leads, without secrets."""
        ...

    def check(self) -> Delivery:
        """Whether it could be used, as far as that is known without sending."""
        ...

    def send(self, message: Message) -> Delivery:
        """Returns within the channel's time limit."""
        ...


class Pinger(Protocol):
    """Watchdogs that raise the alarm when they hear nothing."""

    def ping(self, group: str, url: str, word: str = "") -> Delivery:
        """word: empty when a run went well, `start` before it, `fail` when it did not."""
        ...


class Metrics(Protocol):
    """Where monitoring finds the figures."""

    def write(self, figures: Figures) -> Delivery: ...
