"""What is written down of one attempt."""

from __future__ import annotations

import fakes
import pytest

from vmconsole.events import Warned
from vmconsole.model.history import BackupState
from vmconsole.model.point import Consistency, RestorePoint
from vmconsole.runs.recording import Recorder
from vmconsole.runs.work import Target


class History:
    def __init__(self):
        self.records = []

    def begin(self, record):
        self.records.append(record)
        return 1

    def end(self, record):
        self.records.append(record)


@pytest.mark.parametrize(
    ("warnings", "state", "error", "hint"),
    [
        ((), BackupState.DONE, "", ""),
        ([("No agent.", "Install it.")], BackupState.WARNINGS, "No agent.", "Install it."),
        ([("No agent.", ""), ("A raw disk.", "")], BackupState.WARNINGS, "No agent. (and 1 more)", ""),
    ],
)
def test_a_warning_is_told_in_its_own_words(warnings, state, error, hint):
    history = History()
    clock, diary = fakes.FakeClock(), fakes.Diary()
    target = Target(fakes.guest(), fakes.FakeHypervisor(diary), fakes.FakeRepository(diary))
    recorder = Recorder(history, clock, target, "run1")
    context = recorder.listening(fakes.context([]))
    for message, remedy in warnings:
        context.events(Warned("run1", "web", message, remedy))
    point = RestorePoint("a", "web", "u", "kvm1", "libvirt", clock.now(), Consistency.CRASH, ())
    recorder.made(point, 1.0)
    made = history.records[-1]
    assert (made.state, made.error, made.hint) == (state, error, hint)
