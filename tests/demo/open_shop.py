"""An open demo shop for tests, with groups of their own and, if asked for, a guest whose backup takes a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vmconsole.__main__ import main
from vmconsole.interfaces import Cancel
from vmconsole.wiring.services import Wiring

SLOW = "db-01"
_MIB = 1 << 20


@contextmanager
def open_shop(folder: Path, groups: str = "", *, slow: bool = False) -> Iterator[Path]:
    """Yields the configuration. groups: TOML in place of the shop's own. slow: 240 MiB that cannot be compressed
    are on the guest SLOW.
    """
    with ExitStack() as stack:
        wiring = Wiring(None, Cancel())
        stack.callback(wiring.close)
        shop = stack.enter_context(wiring.demo(folder))
        if slow:
            disk = shop._shop.guest(SLOW).disks[0].disk
            disk.resize(400 * _MIB)
            noise = os.urandom(8 * _MIB)
            for at in range(120, 360, 8):
                disk.write_many([(at * _MIB, noise[at:] + noise[:at])])
        config = shop.config_path
        if groups:
            head, _, _ = config.read_text().partition("[groups.")
            config.write_text(head + groups)
        assert main(["--config", str(config), "repo", "init", "backup"]) == 0
        yield config
