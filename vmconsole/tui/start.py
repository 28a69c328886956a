"""Opening the console."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vmconsole.config.console_schema import ConsoleConfig
from vmconsole.errors import EXIT_DONE, VmconsoleError
from vmconsole.front.services import Services

if TYPE_CHECKING:
    from vmconsole.tui.app import Settings


def run(
    services: Services,
    *,
    read_only: bool = False,
    theme: str = "",
    ascii_only: bool = False,
    mouse: bool = True,
) -> int:
    """Show the console until the user leaves it. Returns the exit code."""
    from vmconsole.tui.app import Console

    configured = configured_console(services)
    settings = settings_of(configured, os.environ, read_only=read_only, theme=theme, ascii_only=ascii_only)
    console = Console(services, settings)
    console.run(mouse=mouse and configured.mouse)
    if console._exception is not None:
        raise console._exception
    return console.return_code or EXIT_DONE


def configured_console(services: Services) -> ConsoleConfig:
    """A configuration that is missing or wrong is told inside the console."""
    try:
        return services.config.file.console
    except VmconsoleError:
        return ConsoleConfig()


def settings_of(
    configured: ConsoleConfig, env: Mapping[str, str], *, read_only: bool, theme: str, ascii_only: bool
) -> Settings:
    from vmconsole.tui.app import Settings

    return Settings(
        theme or configured.theme or ("ansi" if env.get("NO_COLOR") else "dark"),
        ascii_only or configured.ascii or env.get("TERM") == "linux",
        read_only or configured.read_only,
        "SSH_CONNECTION" in env,
        dict(configured.keys),
    )
