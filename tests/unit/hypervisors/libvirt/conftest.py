"""Hosts whose virsh is a script, and guards on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from libvirt_fake import FakeHost, Start, make_fake_host

from vmconsole.hypervisors.libvirt.guard import Guard


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    return make_fake_host(tmp_path, monkeypatch.setenv)


@pytest.fixture
def start(host: FakeHost) -> Iterator[Start]:
    """Starts guards, and ends them after the test."""
    started: list[Guard] = []

    def begin(**changes: object) -> Guard:
        started.append(Guard.start(host.machine, host.watched(**changes)))
        return started[-1]

    yield begin
    for guard in started:
        guard.done()
