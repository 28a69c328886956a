"""From a widget to the console it is part of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual.dom import DOMNode

    from vmconsole.tui.app import Console


def console_of(node: DOMNode) -> Console:
    return node.app  # type: ignore[return-value]
