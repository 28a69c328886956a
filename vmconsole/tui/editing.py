"""The configuration file in the person's own editor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import SuspendNotSupported

from vmconsole.errors import VmconsoleError

if TYPE_CHECKING:
    from vmconsole.tui.app import Console


def edit_file(console: Console) -> None:
    """Hand over the terminal to $EDITOR, then read the file again."""
    services = console.services
    path = services.config_path
    before = path.read_bytes() if path.exists() else b""
    try:
        with console.suspend():
            status = services.edit_config()
    except SuspendNotSupported:
        console.notify(
            f"This terminal cannot be handed to an editor.\n→ Edit {path} in another one.", severity="warning"
        )
        return
    console.refresh()
    services.reread()
    console.feed.look_now()
    if status:
        console.notify(f"The editor ended with exit code {status}.", severity="warning")
    if (path.read_bytes() if path.exists() else b"") == before:
        console.notify("The file is as it was.")
        return
    try:
        _ = services.config
    except VmconsoleError:
        return  # a screen of its own tells what is wrong, until it is mended
    else:
        console.notify("The configuration was read again and is right.")
