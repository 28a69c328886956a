"""A guest that may have been frozen when nobody waited any more."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from vmconsole.errors import HostError
from vmconsole.hypervisors.proxmox import clean
from vmconsole.hypervisors.proxmox.journal import FREEZE_KIND
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.model.run import JournalEntry

PROCESS = "boot:7:1"


@pytest.fixture
def thaw(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Clean up such an entry, where qm says this, and QEMU is this one now."""

    def carry_out(status: int, errors: str, process: str = PROCESS) -> str:
        done = SimpleNamespace(status=status, errors=errors)
        machine = SimpleNamespace(run=lambda command, **more: done)
        nodes: Any = SimpleNamespace(host="pve", machine=lambda name: machine)
        monkeypatch.setattr(clean, "process_of", lambda machine, vmid: process)
        payload = {"node": "pve1", "vmid": "777", "name": "web", "process": PROCESS}
        entry = JournalEntry(1, "r1", "p", "pve", FREEZE_KIND, payload, datetime.now(UTC))
        return clean.clean_export(nodes, ProxmoxSettings(), entry)

    return carry_out


def test_an_agent_that_answers_has_thawed_it(thaw: Any) -> None:
    assert "is thawed" in thaw(0, "")


def test_an_agent_that_does_not_answer_may_freeze_it_yet(thaw: Any) -> None:
    """Proxmox says so of every agent that is busy."""
    with pytest.raises(HostError, match="its agent does not answer"):
        thaw(255, "QEMU guest agent is not running")


@pytest.mark.parametrize("process", ["boot:8:2", ""])
def test_in_another_qemu_nothing_is_frozen(thaw: Any, process: str) -> None:
    assert "nothing is frozen" in thaw(255, "QEMU guest agent is not running", process)


@pytest.mark.parametrize(
    "said", ["VM 777 is not running", "VM 777 not running", "No QEMU guest agent configured"]
)
def test_a_guest_that_is_off_or_has_no_agent_is_not_frozen(thaw: Any, said: str) -> None:
    assert "nothing is frozen" in thaw(255, said)
