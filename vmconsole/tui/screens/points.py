"""Points."""

from vmconsole.tui.screens.later import Later


def screen() -> Later:
    return Later("points")
