"""Work that takes a while, off the screen's thread, and what is done with what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from vmconsole.errors import VmconsoleError
from vmconsole.tui.commands import Command, Ended, carry_out

if TYPE_CHECKING:
    from vmconsole.tui.app import Console

T = TypeVar("T")


def in_background(
    console: Console, work: Callable[[], T], then: Callable[[T | VmconsoleError], object]
) -> None:
    """work: in a thread of its own. then: on the screen's thread, with its result, or the error it raised."""

    def do() -> None:
        found: T | VmconsoleError
        try:
            found = work()
        except VmconsoleError as error:
            found = error
        console.call_later(then, found)

    # A daemon: a host that hangs does not keep the console open.
    threading.Thread(target=do, name="background", daemon=True).start()


def carry_out_quietly(console: Console, command: Command, then: Callable[[Ended], object]) -> None:
    """As Console.carry_out, for whoever tells the end in its own words. Runs then() in any case."""

    def ended(found: Ended | VmconsoleError) -> None:
        if isinstance(found, VmconsoleError):
            found = Ended(command, found.exit_code, error=found.message, hint=found.hint)
        console.commands.insert(0, found)
        console.feed.look_now()
        then(found)

    in_background(console, lambda: carry_out(command, console.services), ended)
