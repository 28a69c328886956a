"""Which versions of Borg's modules the engine knows."""

from __future__ import annotations

import re
from importlib import metadata

from vmconsole.errors import RepositoryError

OLDEST = (1, 4, 5)
NEWEST = (1, 5)


def check_installed() -> None:
    """Raise RepositoryError unless the installed borgbackup is one the engine was tested with."""
    try:
        version = metadata.version("borgbackup")
    except metadata.PackageNotFoundError:
        version = ""
    check(version)


def check(version: str) -> None:
    """As check_installed, for a given version; empty when none is installed."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    numbers = tuple(int(part or 0) for part in match.groups()) if match else (0,)
    if OLDEST <= numbers < NEWEST:
        return
    raise RepositoryError(
        f"vmconsole writes archives with Borg's own modules and knows versions 1.4.5 up to 1.5; "
        f"{version or 'none'} is installed.",
        hint="Install one it knows, where vmconsole is installed: pip install 'borgbackup>=1.4.5,<1.5'",
    )
