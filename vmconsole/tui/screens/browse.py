"""Browse: what a restore point holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmconsole.model.point import RestorePoint
    from vmconsole.tui.app import Console


def open_browse(console: Console, point: RestorePoint, repository: str) -> None:
    pass


def browse_newest(console: Console, guest: str, repository: str) -> None:
    pass
