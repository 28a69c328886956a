"""How fast each host is read in a run: one pace per host, or node of a cluster, over all of its guests."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from datetime import tzinfo
from typing import Protocol

from vmconsole.interfaces import UNHURRIED, Context, Pace, RunStore
from vmconsole.model.guest import GuestKind, GuestState
from vmconsole.model.limits import Limits
from vmconsole.runs.allowance import Allowance
from vmconsole.runs.watching import watched
from vmconsole.runs.work import Target


class Limiting(Protocol):
    """The configured limits; config.settings.Config is one."""

    @property
    def timezone(self) -> tzinfo: ...

    def limits(self) -> Limits: ...

    def host_limits(self, name: str) -> Limits: ...

    def headroom(self, host: str) -> bool: ...


class Paces:
    """Thread-safe. Without limiting nothing is held back."""

    def __init__(self, limiting: Limiting | None, store: RunStore, context: Context) -> None:
        self._limiting = limiting
        self._store = store
        self._context = context
        self._total = Allowance(limiting.limits(), limiting.timezone, context.clock) if limiting else None
        self._open: dict[str, Pace] = {}
        self._stack = ExitStack()
        self._lock = threading.Lock()

    def of(self, target: Target) -> Pace:
        """That of the target's host, which is watched from the first time on."""
        limiting, total = self._limiting, self._total
        if limiting is None or total is None:
            return UNHURRIED
        guest = target.guest
        name = f"{guest.host}/{guest.node}" if guest.node else guest.host
        with self._lock:
            if name not in self._open:
                self._open[name] = self._stack.enter_context(
                    watched(
                        target.hypervisor,
                        self._running(guest.host, guest.node) or [guest.uuid],
                        limiting.host_limits(guest.host),
                        total,
                        limiting.timezone,
                        self._context.clock,
                        self._context.events,
                        self._context.run,
                        enabled=limiting.headroom(guest.host),
                        name=name,
                    )
                )
            return self._open[name]

    def _running(self, host: str, node: str) -> list[str]:
        """All that run there: a backup of one is felt by the others."""
        seen = self._store.inventories().get(host)
        return [
            guest.uuid
            for guest in (seen[0].guests if seen else ())
            if guest.state is GuestState.RUNNING and guest.kind is GuestKind.VM and guest.node == node
        ]

    def close(self) -> None:
        """Nobody is reading; the hosts are left alone until somebody does again."""
        with self._lock:
            self._open.clear()
            self._stack.close()
