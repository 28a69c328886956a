from __future__ import annotations

import re
import unicodedata
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from vmconsole.cli.progress import Progress, bar
from vmconsole.events import (
    DiskProgress,
    GuestFailed,
    PointMade,
    Restored,
    RunFinished,
    RunStarted,
    StepStarted,
    Throttled,
    Waiting,
)

MIB = 1 << 20
NAMES = st.text(st.characters(exclude_categories=()), min_size=1, max_size=250)


class Now:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def watch():
    """(progress, now, what is on the screen), on a terminal of 80 columns that never starts to draw."""
    now = Now()
    stopping = [False]
    progress = Progress(Console(file=StringIO(), width=80), now, lambda: stopping[0], 2)
    progress.stop_now = lambda: stopping.__setitem__(0, True)
    return progress, now, lambda: shown(progress)


def shown(progress):
    return [line.plain for line in progress._picture().renderables]


def test_a_backup_from_begin_to_end(watch):
    progress, now, screen = watch
    progress.follow(RunStarted("r", "backup", "all guests"))
    assert screen() == ["⠋ backup all guests  0 s", "  0 of 2 guests, 0 s"]
    now.seconds = 3.0
    progress.follow(StepStarted("r", "web", "freeze"))
    now.seconds = 5.0
    assert screen()[0].split(maxsplit=1)[1] == "web  freeze  2 s"
    progress.follow(StepStarted("r", "web", "read"))
    progress.follow(DiskProgress("r", "web", "vda", 0, 400 * MIB))
    now.seconds = 15.0
    progress.follow(DiskProgress("r", "web", "vda", 100 * MIB, 400 * MIB))
    line = screen()[0]
    assert re.fullmatch(r". web vda ━+─+  25 %  100/400 MiB  +10 MiB/s +30 s left", line), line
    progress.follow(DiskProgress("r", "web", "vda", 400 * MIB, 400 * MIB))
    progress.follow(StepStarted("r", "web", "commit"))
    now.seconds = 16.0
    assert screen()[0].split(maxsplit=1)[1] == "web  commit  1 s"
    progress.follow(PointMade("r", "web", "a", "full", "crash", 1.0, 1, 1))
    assert screen()[1] == "  1 of 2 guests, 16 s"
    progress.follow(GuestFailed("r", "db", "E", "m", "h"))
    assert screen()[1] == "  2 of 2 guests, 16 s"
    progress.follow(RunFinished("r", "failed", 1.0, 1))


def test_a_host_that_is_held_back_says_why(watch):
    progress, _now, screen = watch
    progress.follow(DiskProgress("r", "web", "vda", 1, MIB))
    progress.follow(Throttled("r", "kvm1", 12 * MIB, "its guests' writes take 4.1 times as long"))
    assert screen()[1] == "  kvm1 held to 12 MiB/s: its guests' writes take 4.1 times as long"
    progress.follow(Throttled("r", "kvm1", 6 * MIB, "it waits for its disks 43 % of the time"))
    assert screen()[1] == "  kvm1 held to 6 MiB/s: it waits for its disks 43 % of the time"
    progress.follow(Throttled("r", "kvm1", 0, "back to full speed"))
    assert len(screen()) == 2


def test_a_disk_that_stands_still_says_so(watch):
    progress, now, screen = watch
    progress.follow(DiskProgress("r", "web", "vda", 1, MIB))
    now.seconds = 20.0
    assert screen()[0].endswith("nothing came for 20 s")


def test_waiting_for_a_lock(watch):
    progress, _, screen = watch
    progress.follow(Waiting("r", "main", "borg on backup2 has it"))
    assert "main  waiting: borg on backup2 has it" in screen()[0]
    progress.follow(StepStarted("r", "web", "plan"))
    assert "waiting" not in screen()[0]


def test_the_disks_of_a_restore(watch):
    progress, now, screen = watch
    progress.follow(StepStarted("r", "web", "restore vda"))
    progress.follow(DiskProgress("r", "web", "vda", 0, MIB))
    progress.follow(Restored("r", "a", "/vda.raw", MIB, 1.0))
    progress.follow(DiskProgress("r", "web", "vdb", 0, 2 * MIB))
    now.seconds = 2.0
    progress.follow(DiskProgress("r", "web", "vdb", MIB, 2 * MIB))
    assert " web vdb ━" in screen()[0]


def test_a_clean_stop_is_announced(watch):
    progress, _, screen = watch
    progress.stop_now()
    assert screen()[-1].startswith("Stopping cleanly. Ctrl-C again")


@given(NAMES, st.text(max_size=20), st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.integers(20, 200))
def test_every_name_fits_on_one_harmless_line(name, disk, done, total, width):
    now = Now()
    progress = Progress(Console(file=StringIO(), width=width), now, lambda: True, 0)
    progress.follow(RunStarted("r", "backup", name))
    lines = shown(progress)
    progress.follow(StepStarted("r", name, "read"))
    lines += shown(progress)
    progress.follow(DiskProgress("r", name, disk, min(done, total), total))
    now.seconds = 4.0
    progress.follow(DiskProgress("r", name, disk, min(done, total), total))
    lines += shown(progress)
    for line in lines:
        assert cell_len(line) <= max(1, width - 3), "room for an echoed ^C"
        assert not {unicodedata.category(c) for c in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_hundred_per_cent_is_never_said_too_early(done, total):
    line = bar("x", min(done, total), total, "", 80).plain
    assert ("100 %" in line) == (done >= total)


def test_the_bar_gives_way_before_the_figures():
    assert bar("web vda", MIB, 4 * MIB, "1 MiB/s", 36).plain == "web vda   25 %  1.0/4.0 MiB"
    assert "━" in bar("web vda", MIB, 4 * MIB, "", 50).plain


def test_nothing_stays_on_the_screen():
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with Progress(console, Now(), lambda: False, 0) as progress:
        progress.follow(StepStarted("r", "web", "read"))
        progress.pause()
        console.print("asked")
        progress.resume()
    # the cursor is moved up and the line erased, each time the display ends
    assert screen.getvalue().count("\x1b[?25h") == 2
    assert screen.getvalue().rstrip("\n").endswith("\x1b[1A\x1b[2K")
