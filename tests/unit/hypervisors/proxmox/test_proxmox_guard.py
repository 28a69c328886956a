"""The program on the node: what it takes, what it gives back, whoever dies. QEMU is a fake monitor here."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from vmconsole.errors import BackupFailed, GuestBusy, HostError, HostUnreachable
from vmconsole.hypervisors.proxmox.document import Document
from vmconsole.hypervisors.proxmox.guard import Guard, clean
from vmconsole.remote.local import LocalMachine

STUBS = Path(__file__).parents[3] / "rig/pve/stubs"
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node's state: what the stubs of qm and pvesm keep."""
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setenv("PVE_STUBS", str(state))
    monkeypatch.setenv("PATH", f"{STUBS}:{os.environ['PATH']}")
    return state


@pytest.fixture
def document(tmp_path):
    def make(run="r1", **more):
        log = tmp_path / "log"
        defaults = {
            "undo": ({"run": ["sh", "-c", f"echo undone {run} >>{log}"]},),
            "commit": ({"run": ["sh", "-c", f"echo committed {run} >>{log}"]},),
        }
        return Document(777, run, str(tmp_path / "777.vmc"), BOOT, **{**defaults, **more})

    return make


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    return lambda: path.read_text().splitlines() if path.exists() else []


def wait_for(look, seconds=20):
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end
        time.sleep(0.05)


def gone(document, node):
    return not Path(document.folder).exists() and not (node / "777.lock").exists()


MACHINE = LocalMachine("pve1")


def test_it_holds_the_lock_and_commits(node, document, log):
    guard = Guard.start(MACHINE, document())
    assert (node / "777.lock").read_text() == "backup\n"
    assert Path(document().folder).stat().st_mode & 0o777 == 0o700
    assert guard.commit() == ""
    assert log() == ["committed r1"]
    assert gone(document(), node)


def test_it_rolls_back(node, document, log):
    guard = Guard.start(MACHINE, document())
    assert guard.rollback() == ""
    assert log() == ["undone r1"]
    assert gone(document(), node)


def test_the_end_of_our_connection_is_a_rollback(node, document, log):
    guard = Guard.start(MACHINE, document())
    guard._line.close()
    assert log() == ["undone r1"]
    assert gone(document(), node)


def test_silence_is_a_rollback(node, document, log):
    made = document(silence=1)
    process = MACHINE.start(["perl", "-e", _source(), "--", "hold"])
    process.write(made.text.encode() + b"\n")
    assert process.read_line(10) == b"@ hello\n"
    wait_for(lambda: gone(made, node))
    process.close()
    assert log() == ["undone r1"]


def _source():
    from vmconsole.hypervisors.proxmox.guard import source

    return source()


@pytest.mark.parametrize(
    ("refusal", "error", "words", "hint"),
    [
        (
            "unable to open file '/etc/pve/nodes/a/qemu-server/777.conf.tmp.7' - Permission denied",
            HostError, "lost quorum", "pvecm status",
        ),
        (
            "Configuration file 'nodes/a/qemu-server/777.conf' does not exist",
            GuestBusy, "Guest 777 is not on pve1 any more", "moved to another node, or was removed; try again",
        ),
    ],
)  # fmt: skip
def test_a_lock_that_nobody_holds_and_is_refused(
    node, document, tmp_path, monkeypatch, refusal, error, words, hint
):
    qm = tmp_path / "bin/qm"
    qm.parent.mkdir()
    qm.write_text(f'#!/bin/sh\n[ "$1" != set ] || {{ echo "{refusal}" >&2; exit 2; }}\n')
    qm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{qm.parent}:{os.environ['PATH']}")
    with pytest.raises(error, match=words) as caught:
        Guard.start(MACHINE, document())
    assert hint in caught.value.hint
    assert gone(document(), node)


def test_its_watcher_undoes_what_a_killed_guard_left(node, document, log):
    guard = Guard.start(MACHINE, document())
    _kill_first(document())
    wait_for(lambda: gone(document(), node))
    assert log() == ["undone r1"]
    with pytest.raises(HostUnreachable):
        guard.commit()


def _kill_first(document, *, all_of_them=False):
    first = int(Path(document.folder, "owner").read_text().split()[1].partition(":")[0])
    others = map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())
    for process in [*(others if all_of_them else ()), first]:
        os.kill(process, signal.SIGKILL)


def test_clean_undoes_what_all_left(node, document, log):
    guard = Guard.start(MACHINE, document())
    _kill_first(document(), all_of_them=True)
    guard._line.close()
    assert not gone(document(), node)
    assert clean(MACHINE, document().text) == ""
    assert gone(document(), node)
    assert log()[0] == "undone r1"


def test_clean_waits_for_a_guard_that_lives(node, document):
    guard = Guard.start(MACHINE, document())
    assert "still runs" in clean(MACHINE, document().text)
    assert (node / "777.lock").exists()
    guard.rollback()


def test_clean_lets_a_guard_finish_that_is_undoing(node, document, log, tmp_path):
    """As after a connection that broke: it is no program that holds on to the guest."""
    wait = f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo undone >>{tmp_path}/log"
    made = document(undo=({"run": ["sh", "-c", wait]},))
    process = MACHINE.start(["perl", "-e", _source(), "--", "hold"])
    process.write(made.text.encode() + b"\n")
    assert process.read_line(10) == b"@ hello\n"
    process.close_stdin()
    wait_for((tmp_path / "begun").exists)
    timer = threading.Timer(0.5, (tmp_path / "go").touch)
    timer.start()
    assert clean(MACHINE, made.text) == ""
    timer.join()
    process.close()
    assert gone(made, node)


def test_the_next_run_undoes_a_dead_one_first(node, document, log):
    first = Guard.start(MACHINE, document())
    _kill_first(document(), all_of_them=True)
    first._line.close()
    second = Guard.start(MACHINE, document("r2"))
    assert log() == ["undone r1"]
    assert second.commit() == ""
    assert log() == ["undone r1", "committed r2"]


def test_two_runs_do_not_share_a_guest(node, document, log):
    first = Guard.start(MACHINE, document())
    with pytest.raises(GuestBusy, match="run r1 of vmconsole"):
        Guard.start(MACHINE, document("r2"))
    assert log() == []
    first.rollback()


def test_a_lock_of_others_stays(node, document, log):
    (node / "777.lock").write_text("backup\n")
    with pytest.raises(GuestBusy, match="VM is locked"):
        Guard.start(MACHINE, document())
    assert (node / "777.lock").read_text() == "backup\n"
    assert not Path(document().folder).exists()
    assert clean(MACHINE, document().text) == ""
    assert (node / "777.lock").exists()


def test_after_a_reboot_clean_frees_volumes_and_the_lock(node, document, log):
    (node / "777.lock").write_text("backup\n")
    assert clean(MACHINE, document(lock=True).text.replace(BOOT, "another")) == ""
    assert log() == ["undone r1"]
    assert not (node / "777.lock").exists()


def test_steps_hand_results_over_and_say_what_failed(node, document):
    guard = Guard.start(MACHINE, document())
    assert guard.do([{"run": ["echo", "é"], "keep": "said"}, {"run": ["false"], "ignore": "."}]) == {
        "said": "é\n"
    }
    with pytest.raises(BackupFailed, match="nothing here"):
        guard.do([{"run": ["sh", "-c", "echo nothing here >&2; exit 3"]}])
    assert guard.do([{"run": ["true"], "if": "never"}, {"run": ["true"], "mark": "once"}]) == {}
    assert guard.do([{"run": ["echo", "1"], "if": "once", "keep": "a"}]) == {"a": "1\n"}
    assert guard.do([{"run": ["echo", "1"], "if": "once", "keep": "a"}]) == {}
    guard.rollback()


def test_what_cannot_be_undone_stays_noted(node, document):
    guard = Guard.start(MACHINE, document(undo=({"run": ["sh", "-c", "echo storage is away; exit 1"]},)))
    assert "storage is away" in guard.rollback()
    assert (node / "777.lock").exists()
    assert Path(document().folder, "owner").exists()
    left = clean(MACHINE, document().text)
    assert left.startswith("an earlier run left something: ")
    assert left.endswith("storage is away")


# --- the guest's agent ---


def busy_agent(node, tmp_path, monkeypatch):
    """It has taken the freeze and does not answer; Proxmox says of it that it is not running."""
    qm = tmp_path / "bin/qm"
    qm.parent.mkdir()
    qm.write_text(
        "#!/bin/sh\n"
        'if [ "$1 $4" = "guest fsfreeze-freeze" ]; then exec sleep 60; fi\n'
        '[ "$1" != guest ] || { echo "QEMU guest agent is not running" >&2; exit 255; }\n'
        f'exec {STUBS}/qm "$@"\n'
    )
    qm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{qm.parent}:{os.environ['PATH']}")


def cut(guard):
    return guard.cut([], lambda name, seconds: None)[0]


@pytest.mark.slow
def test_an_agent_that_does_not_answer_may_freeze_yet(node, document, tmp_path, monkeypatch):
    busy_agent(node, tmp_path, monkeypatch)
    made = document(freeze=True, patience=0.1)
    guard = Guard.start(MACHINE, made)
    assert cut(guard).pending
    assert "may be frozen" in guard.rollback()
    assert not (node / "777.lock").exists()
    assert "may be frozen" in clean(MACHINE, made.text)
    monkeypatch.setenv("PATH", f"{STUBS}:{os.environ['PATH']}")
    assert clean(MACHINE, made.text) == ""
    assert (node / "frozen").read_text() == "fsfreeze-thaw\n"
    assert gone(made, node)


@pytest.mark.slow
def test_what_is_known_to_be_frozen_keeps_nothing_else(node, document, tmp_path, monkeypatch, log):
    busy_agent(node, tmp_path, monkeypatch)
    guard = Guard.start(MACHINE, document(freeze=True, patience=0.1))
    assert cut(guard).pending
    assert guard.commit(frozen=True) == ""
    assert log() == ["committed r1"]
    assert gone(document(), node)


def test_an_agent_that_was_not_asked_freezes_nothing(node, document):
    (node / "agent").write_text("none")
    guard = Guard.start(MACHINE, document(freeze=True, patience=0.1))
    report = cut(guard)
    assert not report.frozen
    assert not report.pending
    assert guard.rollback() == ""


@pytest.mark.slow
def test_nothing_is_frozen_in_a_qemu_that_is_gone(node, document, tmp_path, monkeypatch):
    busy_agent(node, tmp_path, monkeypatch)
    qemu = subprocess.Popen(["sleep", "600"])
    start = Path(f"/proc/{qemu.pid}/stat").read_text().rpartition(")")[2].split()[19]
    made = document(freeze=True, patience=0.1, process=f"{qemu.pid}:{start}")
    guard = Guard.start(MACHINE, made)
    assert cut(guard).pending
    qemu.kill()
    qemu.wait()
    assert guard.rollback() == ""
    assert gone(made, node)


# --- QEMU's monitor ---


class Monitor:
    """One client at a time; before each answer come an event and somebody else's answer."""

    def __init__(self, path):
        self.commands = []
        self.quit = lambda: None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client, client.makefile("rw") as stream:
                stream.write('{"QMP": {}}\n')
                stream.flush()
                for line in stream:
                    request = json.loads(line)
                    self.commands.append(request["execute"])
                    if request["execute"] == "quit":
                        self.quit()
                        return
                    answer = {"return": {"status": "running"}, "id": request["id"]}
                    if request["execute"] == "query-block-exports":
                        answer["return"] = []
                    if request["execute"] == "refuse":
                        answer = {
                            "error": {"class": "GenericError", "desc": "No space left"},
                            "id": request["id"],
                        }
                    for message in (
                        {"event": "STOP"},
                        {"return": {"status": "x"}, "id": "libvirt-1"},
                        answer,
                    ):
                        stream.write(json.dumps(message) + "\n")
                    stream.flush()


@pytest.fixture
def monitor(tmp_path):
    made = Monitor(tmp_path / "qmp")
    yield made
    made.listener.close()


def test_answers_of_others_and_events_are_passed_over(node, document, monitor, tmp_path):
    guard = Guard.start(MACHINE, document(qmp=str(tmp_path / "qmp")))
    assert guard.do([{"qmp": "query-status", "keep": "a"}]) == {"a": {"status": "running"}}
    assert guard.state().word == "running"
    with pytest.raises(BackupFailed, match="No space left"):
        guard.do([{"qmp": "refuse"}])
    assert guard.do([{"qmp": "refuse", "ignore": "No space"}]) == {}
    guard.rollback()


def test_a_guest_that_was_paused_goes_on_when_all_is_undone(node, document, monitor, tmp_path):
    guard = Guard.start(MACHINE, document(qmp=str(tmp_path / "qmp"), undo=()))
    guard.do([{"pause": True}])
    guard.rollback()
    assert monitor.commands.count("stop") == 1
    assert not Path(document().folder).exists()


def test_without_qemu_what_was_in_it_needs_no_undoing(node, document, tmp_path, log):
    made = document(qmp=str(tmp_path / "no"), undo=({"qmp": "blockdev-del"}, *document().undo))
    guard = Guard.start(MACHINE, made)
    assert guard.rollback() == ""
    assert log() == ["undone r1"]


def test_a_qemu_that_dies_while_it_is_undone_leaves_nothing(node, document, monitor, tmp_path, log):
    qemu = subprocess.Popen(["sleep", "600"])

    def end():
        monitor.listener.close()
        (tmp_path / "qmp").unlink()
        threading.Timer(0.5, lambda: (qemu.kill(), qemu.wait())).start()

    monitor.quit = end
    start = Path(f"/proc/{qemu.pid}/stat").read_text().rpartition(")")[2].split()[19]
    undo = ({"qmp": "quit"}, {"qmp": "blockdev-del"}, *document().undo)
    made = document(qmp=str(tmp_path / "qmp"), process=f"{qemu.pid}:{start}", undo=undo)
    guard = Guard.start(MACHINE, made)
    assert guard.rollback() == ""
    assert set(log()) == {"undone r1"}
    assert gone(made, node)
