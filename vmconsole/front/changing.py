"""Changes to the configuration file, with messages about what was asked instead of about lines of a file
that was never written.
"""

from __future__ import annotations

import re
from typing import Any

from vmconsole.config.settings import Config
from vmconsole.errors import ConfigError
from vmconsole.front.services import Services


def add(services: Services, section: str, name: str, values: dict[str, Any], *, save: bool = True) -> Config:
    """Add a table to the configuration, which is returned. Raises ConfigError; the file is then as it was.

    save: False to see what would come out.
    """
    _sound(services)
    try:
        return services.editor.add(section, name, values, save=save)
    except ConfigError as error:
        raise _about_the_wish(error, services) from error


def change(
    services: Services,
    section: str,
    name: str,
    changes: dict[str, Any],
    *,
    within: tuple[str, ...] = (),
    save: bool = True,
) -> Config:
    """Change fields of a table, or of one within it, None removes one; otherwise as add()."""
    _sound(services)
    try:
        return services.editor.set(section, name, changes, within=within, save=save)
    except ConfigError as error:
        raise _about_the_wish(error, services) from error


def remove(services: Services, section: str, name: str) -> None:
    """Remove a table from the configuration. Raises ConfigError; the file is then as it was."""
    _sound(services)
    try:
        services.editor.remove(section, name)
    except ConfigError as error:
        raise _about_the_wish(error, services) from error


def _sound(services: Services) -> None:
    """A mistake that is in the file already is reported as such, with its line."""
    if services.config_path.exists():
        _ = services.config


def _about_the_wish(error: ConfigError, services: Services) -> ConfigError:
    line = re.compile(rf"^{re.escape(str(services.config_path))} line \d+: ", re.MULTILINE)
    if not line.search(error.message):
        return error
    return ConfigError(
        line.sub("", error.message),
        hint=f"Nothing was changed in {services.config_path}.",
        subject=error.subject,
    )
