"""How much room there is where a repository lies."""

from __future__ import annotations

import os

from vmconsole.model.repository import RepositorySpace


def local_space(name: str, location: str) -> RepositorySpace | None:
    """Of a repository on this machine; None for one that is elsewhere, or not there."""
    if "://" in location:
        return None
    try:
        found = os.statvfs(location)
    except OSError:
        return None
    # what is kept back for root cannot be used, so it counts neither as size nor as free, as in df
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    free = found.f_bavail * found.f_frsize
    return RepositorySpace(name, used + free, free)
