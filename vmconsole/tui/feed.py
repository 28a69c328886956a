"""Keeps the picture fresh: a thread that looks whether something changed, and hands over a new picture when it did."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from vmconsole.errors import ConfigError, VmconsoleError
from vmconsole.front.hosts import ask_hosts
from vmconsole.front.services import Services
from vmconsole.tui.picture import Picture, take

_LOOK_SECONDS = 1.0
_GROWS_OLD_SECONDS = 30.0
"""Ages and next times change by themselves."""


class Feed:
    """give: is called from the feed's threads, with a new picture. asking: with the hosts that are being asked."""

    def __init__(
        self,
        services: Services,
        give: Callable[[Picture], object],
        asking: Callable[[frozenset[str]], object],
    ) -> None:
        self._services = services
        self._give, self._tell_asking = give, asking
        self._wake = threading.Event()
        self._ended = False
        self._asked: set[str] = set()
        self.unreachable: dict[str, str] = {}
        """Hosts that did not answer when last asked, and what was wrong."""
        self.failures: dict[str, VmconsoleError] = {}
        """The same as it was raised, with its hint."""
        self._lock = threading.Lock()
        self._last: Picture | None = None
        self._forgotten: dict[str, VmconsoleError] = {}
        """Hosts whose answer could not be kept, and why."""
        self._again_at = 0.0

    def start(self) -> None:
        # Daemons: a host that hangs does not keep the console open.
        threading.Thread(target=self._follow, name="feed", daemon=True).start()

    def stop(self) -> None:
        self._ended = True
        self._wake.set()

    def look_now(self) -> None:
        """Whatever the stamp says, as after the configuration was changed."""
        self._wake.set()

    def ask(self, hosts: list[str]) -> None:
        """Ask hosts, each in a thread of its own: a slow one holds up nobody."""
        for host in hosts:
            with self._lock:
                if host in self._asked:
                    continue
                self._asked.add(host)
            threading.Thread(target=self._ask, args=(host,), name=f"ask-{host}", daemon=True).start()
        self._tell_asking(frozenset(self._asked))

    def _ask(self, host: str) -> None:
        try:
            found = ask_hosts(self._services, [host])
            lost = {inventory.name: inventory.error for inventory in found if not inventory.reachable}
            failed = {inventory.name: inventory.failure for inventory in found if inventory.failure}
            forgotten: dict[str, VmconsoleError] = {}
        except ConfigError as error:
            lost, failed, forgotten = {host: error.message}, {host: error}, {}
        except VmconsoleError as error:
            # The host answered, or did not; what it said could not be kept.
            lost, failed, forgotten = {}, {}, {host: error}
        with self._lock:
            self._asked.discard(host)
            self._forgotten = {name: e for name, e in self._forgotten.items() if name != host} | forgotten
            others = {name: error for name, error in self.unreachable.items() if name != host}
            self.unreachable = others | lost
            self.failures = {name: error for name, error in self.failures.items() if name != host} | failed
        self._tell_asking(frozenset(self._asked))
        self._wake.set()

    def _follow(self) -> None:
        stamp, taken_at, quick = "", 0.0, True
        clock = self._services.clock
        while not self._ended:
            woken = self._wake.is_set()
            self._wake.clear()
            found = self._stamp()
            if found.partition(" ")[0] != stamp.partition(" ")[0]:
                self._services.reread()
            if quick or woken or found != stamp or clock.monotonic() - taken_at > _GROWS_OLD_SECONDS:
                if quick:
                    # What the last days were like takes longer to read than the rest.
                    self._hand_over(take(self._services, history=False))
                    quick = False
                self._hand_over(take(self._services))
                stamp, taken_at = found, clock.monotonic()
            self._wake.wait(_LOOK_SECONDS)

    def _hand_over(self, found: Picture) -> None:
        """While the memory cannot be read, what was read before is worth more than nothing."""
        last = self._last
        if found.trouble is not None and last is not None and last.config is not None:
            found = replace(last, now=found.now, trouble=found.trouble)
        elif found.trouble is None:
            found = replace(found, trouble=next(iter(self._forgotten.values()), None))
            self._ask_again()
        self._last = found
        self._give(found)

    def _ask_again(self) -> None:
        """Those whose answers were not kept; now and then, for the reason may take its time."""
        now = self._services.clock.monotonic()
        if self._forgotten and now >= self._again_at:
            self._again_at = now + _GROWS_OLD_SECONDS
            self.ask(sorted(self._forgotten))

    def _stamp(self) -> str:
        try:
            config = self._services.config_path
            changed = config.stat().st_mtime_ns if config.exists() else 0
            return f"{changed} {self._services.store.stamp()}"
        except (VmconsoleError, OSError) as error:
            return str(error)
