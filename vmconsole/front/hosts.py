"""Looking at hosts."""

from __future__ import annotations

from collections.abc import Iterable

from vmconsole.errors import VmconsoleError
from vmconsole.front.parallel import together
from vmconsole.front.services import Services
from vmconsole.model.guest import HostInventory, HostKind


def ask_hosts(services: Services, names: Iterable[str]) -> list[HostInventory]:
    """Ask these hosts at the same time, and remember what they say; who cannot be reached says so in its entry."""

    def ask(name: str) -> HostInventory:
        try:
            found = services.hypervisor(name).inventory()
        except VmconsoleError as error:
            kind = HostKind(services.config.host(name).kind)
            return HostInventory(name, kind, reachable=False, error=error.message, failure=error)
        services.store.save_inventory(found, services.clock.now())
        return found

    # The store's library takes as long to load as a host to answer.
    asked = together(lambda name: ask(name) if name else services.store, [*names, ""])
    return [found for found in asked if isinstance(found, HostInventory)]
