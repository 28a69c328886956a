"""The real rig: libvirtd, QEMU and sshd. `lab/__init__.py` says how to write a test with it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from e2e_world import World, open_world
from lab.gate import check, collection_gate
from lab.guest import Guest
from lab.session import Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    collection_gate(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A failure comes with QEMU's last words: they are gone with the lab."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and call.when == "call" and isinstance(lab, Lab):
        for name, text in lab.last_words():
            report.sections.append((f"QEMU's last words on {name}", text))
    return report


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The session's lab; hosts and guests start when they are asked for."""
    check()
    with Lab() as one:
        yield one


@pytest.fixture
def make_guest(lab: Lab) -> Iterator[Callable[..., Guest]]:
    """`lab.guest`, and the guests are removed when the test ends."""
    with ExitStack() as stack:

        def make(*args: Any, **more: Any) -> Guest:
            return stack.enter_context(lab.guest(*args, **more))

        yield make


@pytest.fixture
def e2e(lab: Lab, tmp_path: Path) -> Iterator[World]:
    """A backup server with the lab's first host, and the whole command line: see e2e_world."""
    with open_world(lab, tmp_path / "world") as world:
        yield world
