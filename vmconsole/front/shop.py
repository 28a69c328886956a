"""What alerts and digests are made from, taken from the services."""

from __future__ import annotations

from vmconsole.front.services import Services
from vmconsole.model.repository import RepositorySpace
from vmconsole.runs.reporting import Shop


def shop_of(services: Services) -> Shop:
    return Shop(
        services.config,
        services.store,
        services.history,
        services.alerts,
        services.clock,
        [services.channel(name) for name in services.config.notify.channels],
        services.metrics,
    )


def spaces_of(services: Services) -> list[RepositorySpace]:
    """Of the repositories where it is known."""
    found = (services.space(name) for name in services.config.repositories)
    return [space for space in found if space is not None]
