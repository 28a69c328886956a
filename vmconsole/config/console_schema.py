"""[console]: how the interactive console looks, and what it may do."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from vmconsole.config.values import RULES

THEMES = ("dark", "light", "colour-blind", "ansi")


class ConsoleConfig(BaseModel):
    """How the console looks, and what it may do."""

    model_config = RULES

    theme: Literal["dark", "light", "colour-blind", "ansi"] | None = None
    """Default: dark; with NO_COLOR set, the terminal's own (ansi)."""
    ascii: bool = False
    """States and bars without characters beyond ASCII, as on the Linux console."""
    read_only: bool = False
    """Nothing can be changed, started or stopped."""
    mouse: bool = True
    """Whether the console listens to the mouse."""
    keys: dict[str, str] = Field(default_factory=dict)
    """Other keys for actions: `"guests.backup" = "B"`. Their names: `?` in the console."""
