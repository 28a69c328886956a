"""Where the configuration and our own memory live."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from vmconsole.errors import ConfigError

VARIABLE = "VMCONSOLE_CONFIG"
SYSTEM_CONFIG = Path("/etc/vmconsole/config.toml")
SYSTEM_STATE = Path("/var/lib/vmconsole")


def candidates() -> tuple[Path, ...]:
    """Looked at in this order when neither --config nor $VMCONSOLE_CONFIG names a file."""
    return (platformdirs.user_config_path("vmconsole") / "config.toml", SYSTEM_CONFIG)


def find_config(explicit: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The configuration file to use. A file that was named must exist. Raises ConfigError."""
    named = explicit or (Path(environ[VARIABLE]) if environ.get(VARIABLE) else None)
    if named is not None:
        named = Path(os.path.abspath(named.expanduser()))  # noqa: PTH100 - a symlink's own folder counts
        if not named.exists():
            by = "--config" if explicit else f"${VARIABLE}"
            raise ConfigError(
                f"There is no configuration file {named}, which {by} names.",
                hint=f"Check the path, or make one with `vmconsole --config {named} init`.",
                subject=str(named),
            )
        return named
    for path in candidates():
        if path.exists():
            return path
    looked = " and ".join(str(path) for path in candidates())
    raise ConfigError(
        f"There is no configuration file yet (looked at {looked}).",
        hint="Make one with `vmconsole init`, or look around first with `vmconsole demo`.",
    )


def new_config(explicit: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Where `init` puts a configuration: the named file, else root's in /etc, else the user's."""
    named = explicit or (Path(environ[VARIABLE]) if environ.get(VARIABLE) else None)
    if named is not None:
        return Path(os.path.abspath(named.expanduser()))  # noqa: PTH100 - as in find_config
    return SYSTEM_CONFIG if os.geteuid() == 0 else candidates()[0]


def default_state_dir() -> Path:
    return SYSTEM_STATE if os.geteuid() == 0 else platformdirs.user_state_path("vmconsole")
