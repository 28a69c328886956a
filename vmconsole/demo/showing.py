"""The demo's shop, as the command that shows it needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vmconsole.demo.report import build_report
from vmconsole.demo.shop import Shop
from vmconsole.model.point import RestorePoint


class DemoShop:
    """The demo's host, and what the commands need of it."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self.config_path = shop.write_config()

    def night(self, number: int) -> None:
        """Let the day before night `number` happen in the guests; the first night finds them as they are."""
        if number > 1:
            self._shop.night(number)

    def report(self, points: Sequence[RestorePoint]) -> dict[str, Any]:
        return build_report(points, self._shop.sha256)
