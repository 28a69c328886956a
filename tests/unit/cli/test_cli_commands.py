"""Whole commands, from the words of the shell to the exit code, on a shop in memory (cli_world.py)."""

from __future__ import annotations

import json
import os
import socket
import unicodedata
from dataclasses import replace
from datetime import datetime

import pytest
from cli_world import HOSTILE, Host, Repository, guest

from vmconsole.cli.main import VERBS
from vmconsole.errors import CommandFailed, HostKeyChanged, HostUnreachable, WrongPassphrase
from vmconsole.model.guest import Check, HostKind, Node, Storage
from vmconsole.model.run import RunState

EVERY_LOOK = [
    ["inventory"],
    ["inventory", "--refresh"],
    ["points"],
    ["points", "--group", "daily"],
    ["points", "--pruned"],
    ["prune", "--dry-run"],
    ["repo", "compact", "--dry-run"],
    ["runs"],
    ["host", "list"],
    ["host", "check"],
    ["group", "list"],
    ["group", "show", "daily"],
    ["repo", "list"],
    ["repo", "info"],
    ["backup", "--all", "--dry-run"],
    ["doctor"],
    ["completion", "bash"],
]
EVERY_CHANGE = [
    ["host", "add", "kvm2", "root@kvm2.example"],
    ["host", "trust", "kvm1", "--fingerprint", "SHA256:abc"],
    ["group", "add", "all", "--host", "*"],
    ["group", "edit", "daily", "--when", "daily 22:00"],
    ["group", "edit", "daily", "--tags", "gold", "--dry-run"],
    ["group", "remove", "daily"],
    ["repo", "init", "main"],
    ["repo", "accept"],
    ["undo-prune", "--all"],
]


@pytest.mark.parametrize("words", EVERY_LOOK + EVERY_CHANGE, ids=" ".join)
def test_every_command_says_one_json_document(world, words):
    said = world.call(*words, "--json")
    assert said.code == 0, said.err
    assert isinstance(said.document, dict)


@pytest.mark.parametrize("words", EVERY_LOOK, ids=" ".join)
def test_a_hostile_name_is_shown_and_not_obeyed(world, words):
    world.call("backup", "--all")
    said = world.call(*words)
    text = said.out + said.err
    assert not {unicodedata.category(c) for c in text if c not in "\n\t"} & {"Cc", "Cf", "Cs"}
    assert not any(line.startswith("✓ forged") for line in text.splitlines())


@pytest.mark.parametrize("words", [words for words in EVERY_LOOK if words[0] != "completion"], ids=" ".join)
def test_wrong_configuration_is_one_error_document(world, words):
    world.config.write_text('[hosts.kvm1]\nkind = "libvirt"\nadress = "x"\n')
    said = world.call(*words, "--json")
    assert said.code == 2
    assert said.document["error"] == "ConfigError"
    assert said.document["exit_code"] == 2
    assert "line 3" in said.document["message"]
    assert 'Did you mean "address"?' in said.err


# --- backup ------------------------------------------------------------------------------------


def test_a_backup_in_json_lines(world):
    said = world.call("backup", "web", "--json")
    assert said.code == 0
    events = said.documents
    assert [event["event"] for event in events][:1] == ["run_started"]
    assert events[-1]["event"] == "run_finished"
    assert events[-1]["exit_code"] == 0
    for event in events:
        assert datetime.fromisoformat(event["time"]).tzinfo is not None
    made = next(event for event in events if event["event"] == "point_made")
    assert made["guest"] == "web"
    assert said.err == ""


def test_results_go_to_stdout_and_the_rest_to_stderr(world):
    said = world.call("backup", "--group", "daily")
    assert said.code == 0
    assert [line[:6] for line in said.lines] == ["✓ web:"]
    assert "▶ web on kvm1" in said.err


def test_quiet_is_silent_when_all_is_well(world):
    said = world.call("--quiet", "backup", "web")
    assert (said.code, said.out, said.err) == (0, "", "")


def test_quiet_still_tells_warnings(world):
    world.host.warnings = ("No agent.",)
    said = world.call("backup", "web", "--quiet")
    assert (said.code, said.out, said.err) == (3, "", "! web: No agent.\n")


def test_a_summary_of_many(world):
    said = world.call("backup", "--all")
    assert "3 of 3 guests backed up, read" in said.err
    assert "vmconsole --config" in said.err, "the hint can be copied as it is"


def test_a_guest_that_fails_is_told_once(world):
    world.host._fake.prepare = lambda export: export.fail.update(
        release=CommandFailed("virsh died.", hint="Look.")
    )
    said = world.call("backup", "web")
    assert said.code == 1
    assert said.err.count("virsh died.") == 1
    assert "  → Look." in said.err


def test_a_repository_that_fails_is_told_once(world):
    world.repository.id = lambda: (_ for _ in ()).throw(WrongPassphrase("It does not open.", subject="main"))
    said = world.call("backup", "web")
    assert said.code == 12
    assert said.err.count("It does not open.") == 1
    lines = world.call("backup", "web", "--json").documents
    assert lines[-1]["event"] == "run_finished"
    assert [line["event"] for line in lines].count("guest_failed") == 1


@pytest.mark.parametrize("words", [[], ["web", "--all"], ["--group", "daily", "--all"]])
def test_what_to_back_up_must_be_said_once(world, words):
    said = world.call("backup", *words)
    assert said.code == 2
    assert "vmconsole backup --help" in said.err or "backup --help" in said.err


def test_an_unknown_guest(world):
    said = world.call("backup", "we")
    assert said.code == 2
    assert "Did you mean 'web'" in said.err


def test_hosts_out_of_reach(world):
    world.unreachable()
    for words in (["web"], ["--all"], ["--group", "daily"]):
        said = world.call("backup", *words, "--json")
        assert said.code == 20
        assert said.document["error"] == "HostUnreachable"
        assert "timeout" in said.document["message"]


def test_one_of_two_hosts_out_of_reach(world):
    world.call("host", "add", "kvm2", "root@kvm2.example")
    said = world.call("backup", "kvm2/web", "--json")
    assert said.code == 0
    world.unreachable()
    said = world.call("backup", "--all")
    assert said.code == 20
    assert "The guests of host kvm1 were left out: kvm1 cannot be reached" in said.err
    assert len(said.lines) == 3


def test_a_changed_host_key_keeps_its_own_remedy(world):
    world.host.error = HostKeyChanged(
        "The key has CHANGED.", hint="Ask first; then: vmconsole host trust", subject="kvm1"
    )
    said = world.call("backup", "web", "--json")
    assert said.code == 20
    assert (said.document["error"], said.document["hint"]) == (
        "HostKeyChanged",
        "Ask first; then: vmconsole host trust",
    )


def test_an_empty_group_and_an_empty_shop(world):
    world.host.guests = [guest("other", 9)]
    assert "Group daily covers no guest now" in world.call("backup", "-g", "daily").err
    world.host.guests = []
    assert "There are no guests on kvm1" in world.call("backup", "--all").err
    world.config.write_text('state_dir = "state"\n[repositories.main]\nlocation = "r"\nencryption = "none"\n')
    assert "vmconsole --config" in world.call("backup", "--all").err
    assert world.call("backup", "--all").code == 2


def test_a_dry_run_changes_nothing_and_says_so(world):
    world.host.warnings = ("No agent.",)
    said = world.call("backup", "--all", "--dry-run")
    assert said.code == 0
    assert "! No agent." in said.out
    assert "Nothing was changed. About 3 MiB would be read." in said.err
    assert world.call("points", "--json").document == {"points": []}
    assert world.call("runs", "--json").document == {"runs": []}
    plan = world.call("backup", "web", "-n", "--json").document["plan"][0]
    assert (plan["mode"], plan["bytes_expected"], plan["warnings"]) == ("full", 1 << 20, ["No agent."])


# --- in the background -------------------------------------------------------------------------


def test_detached_runs_are_started_as_asked_and_named(world):
    me = f"{socket.gethostname()}:{os.getpid()}:1"

    def begin(argv):
        with_store = world.wiring()
        with_store.store._process = me
        with_store.store.start_run("backup", "all guests")
        with_store.close()
        return me

    world.on_detach = begin
    said = world.call("backup", "web", "--full", "db", "--detach", "--json")
    assert said.code == 0
    assert said.document["run"]["subject"] == "all guests"
    config = str(world.config)
    assert world.detached == [["--config", config, "backup", "--full", "--", "web", "db"]]
    assert "--follow" in world.call("backup", "--group", "daily", "--detach").out
    assert world.detached[-1] == ["--config", config, "backup", "--group=daily"]


def test_a_detached_run_that_never_began_tells_why(world):
    gone = f"{socket.gethostname()}:4194999:1"

    def die(argv):
        (world.folder / "state" / "detached.log").write_text("✗ There is no guest 'x'.\n  → Look.\n")
        return gone

    world.on_detach = die
    said = world.call("backup", "x", "--detach", "--json")
    assert said.code == 1
    assert said.document["message"] == "Nothing was started: There is no guest 'x'."
    assert said.document["hint"] == "Look."


def test_what_cannot_work_is_said_before_anything_is_started(world):
    assert world.call("backup", "--group", "dialy", "--detach").code == 2
    assert world.detached == []


def test_stop(world):
    assert world.call("stop", "last").code == 2
    wiring = world.wiring()
    run = wiring.store.start_run("backup", "web")
    said = world.call("stop", "last")
    assert said.code == 1
    assert "is not a process of this machine" in said.err

    def end(process):
        assert process == run.process
        wiring.store.finish_run(run.id, RunState.CANCELLED, "Stopped.", 130)
        return True

    world.on_stop = end
    said = world.call("stop", run.id[:-2], "--json")
    assert said.code == 0
    assert said.document["stopped"]
    assert said.document["run"]["state"] == "cancelled"
    assert "is not running: cancelled" in world.call("stop", run.id).out
    wiring.close()


def test_runs_and_logs(world):
    assert "No runs yet" in world.call("runs").err
    world.call("backup", HOSTILE, "web")
    world.host.error = CommandFailed("no")
    run = world.call("runs", "--json").document["runs"][0]
    assert run["state"] == "done"
    log = world.call("runs", "last").out
    assert "commit" in log
    assert "✓ web: full" in log
    assert not any(line.startswith("✓ forged") for line in log.splitlines())
    stored = world.call("runs", run["run"], "--json").documents
    assert {"time", "event", "run"} <= stored[0].keys()
    followed = world.call("runs", "last", "--follow")
    assert followed.code == 0
    assert followed.out.endswith("✓ done\n")


def test_a_run_that_died(world):
    wiring = world.wiring()
    wiring.store._process = f"{socket.gethostname()}:4194999:1"
    wiring.store.start_run("backup", "web")
    wiring.close()
    shown = world.call("runs").lines[1].split("\t")
    assert shown[1] == "✗ died"
    assert shown[4] == "–", "nobody knows how long it took"
    assert "doctor --clean" in shown[5]
    assert world.call("runs", "last", "--follow").code == 1


# --- points, restore ---------------------------------------------------------------------------


def test_points(world):
    assert "No restore points yet" in world.call("points").err
    world.call("backup", "--all")
    points = world.call("points", "--json").document["points"]
    assert len(points) == 3
    assert {point["guest"] for point in points} == {"web", "web-test", HOSTILE}
    assert [point["guest"] for point in world.call("points", "web", "--json").document["points"]] == ["web"]
    said = world.call("points", "wep")
    assert said.code == 2
    assert "Did you mean 'web'?" in said.err


def test_a_dead_host_does_not_hide_the_points_that_replace_it(world):
    world.call("backup", "--all")
    world.unreachable()
    said = world.call("points", "--group", "daily", "--json")
    assert said.code == 0
    assert [point["guest"] for point in said.document["points"]] == ["web"]
    assert "as last seen" in said.err


def test_points_of_a_guest_nobody_remembers_are_judged_by_their_name(world):
    world.call("backup", "--all")
    world.host.guests = []
    said = world.call("points", "--group", "daily", "--json")
    assert [point["guest"] for point in said.document["points"]] == ["web"]


def test_a_backup_in_progress_does_not_hide_the_points(world):
    world.call("backup", "web")
    world.repository.locked = "for a while"
    said = world.call("points", "--json")
    assert (said.code, len(said.document["points"])) == (0, 1)
    assert "main is locked by a backup. Its points are as last seen." in said.err
    said = world.call("restore", "web@latest", "--to", str(world.folder / "vda.raw"))
    assert said.code == 0
    assert "… waiting for main: main is locked by a backup." in said.err
    world.repository.locked = "for ever"
    assert world.call("restore", "web@latest", "--to", str(world.folder / "again.raw")).code == 11


def test_a_locked_repository_of_which_nothing_is_known(world):
    world.repository.locked = "for ever"
    assert world.call("points", "--json").document["error"] == "RepositoryLocked"


def test_restore_to_files(world):
    world.call("backup", "web")
    folder = world.folder / "new" / "place"
    said = world.call("restore", "web@latest", "--to", f"{folder}/", "--dry-run", "--json")
    assert said.document["files"] == [{"disk": "vda", "path": str(folder / "vda.raw"), "size": 4 << 20}]
    assert not folder.exists()
    said = world.call("restore", "web@latest", "--to", f"{folder}/")
    assert said.code == 0
    assert (folder / "vda.raw").read_bytes() == world.host._fake.content
    again = world.call("restore", "web@latest", "--to", f"{folder}/", "--json")
    assert again.code == 1
    assert "never overwrites" in again.document["message"]


def test_a_container_is_restored_to_its_tar(world):
    world.call("backup", "web")
    (point,), content = world.repository.saved, b"a tar" * 1000
    disk = replace(point.disks[0], id="rootfs", path="container/rootfs.tar", format="tar", size=len(content))
    world.repository.saved[0] = replace(point, disks=(disk,))
    world.repository.disks[point.archive, disk.path] = content
    folder = world.folder / "place"
    said = world.call("restore", "web@latest", "--to", f"{folder}/", "--dry-run")
    assert f"rootfs → {folder}/rootfs.tar, 4.9 KiB\n" in said.out
    assert world.call("restore", "web@latest", "--to", f"{folder}/").code == 0
    assert (folder / "rootfs.tar").read_bytes() == content
    (shown,) = world.call("points", "--json").document["points"]
    assert (shown["disks"][0]["format"], shown["size"]) == ("tar", len(content))


def test_a_restore_to_a_folder_that_cannot_be_made(world):
    world.call("backup", "web")
    said = world.call("restore", "web@latest", "--to", "/proc/nowhere/")
    assert said.code == 1
    assert "/proc/nowhere cannot be made" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "x", "--as", "copy"], "--as, --storage and --start"),
        (["--host", "kvm1", "--disk", "vda"], "with all its disks"),
        (["--host", "kvm9"], "There is no host 'kvm9'"),
        (["--to", "x", "--disk", "vdz"], "has no disk 'vdz'"),
    ],
)
def test_restores_that_make_no_sense(world, words, message):
    world.call("backup", "web")
    said = world.call("restore", "web@latest", *words)
    assert said.code == 2
    assert message in said.err


def test_a_dry_run_of_a_whole_guest_looks_for_the_name(world):
    world.call("backup", "web")
    said = world.call("restore", "web@latest", "--host", "kvm1", "--dry-run", "--json")
    assert said.code == 1
    assert said.document["error"] == "GuestExists"
    said = world.call("restore", "web@latest", "--host", "kvm1", "--as", "copy", "--dry-run")
    assert said.code == 0
    assert "kvm1/copy: 1 disk, 4 MiB (sparse)" in said.out


def test_a_dry_run_of_a_whole_guest_says_what_cannot_be_carried_over(world):
    world.call("backup", "web")
    world.host.notes = ("The card of \x1b[2Jnet0 goes to another bridge.",)
    words = ("restore", "web@latest", "--host", "kvm1", "--as", "copy", "--dry-run", "--start")
    assert "! The card of \\x1b[2Jnet0 goes to another bridge." in world.call(*words).out
    document = world.call(*words, "--json").document
    assert document["notes"] == list(world.host.notes)
    assert (document["start"], document["storage"], document["guest"]) == (True, "", "copy")


def test_a_dry_run_does_not_wait_for_a_backup_to_end(world):
    world.call("backup", "web")
    world.repository.locked = "for a while"
    said = world.call("restore", "web@latest", "--host", "kvm1", "--as", "copy", "--dry-run", "--json")
    assert (said.code, said.document["error"]) == (11, "RepositoryLocked")


@pytest.mark.parametrize("verb", ["verify", "rollback", "boot", "drill", "copy"])
def test_what_is_planned_says_what_does_the_job_today(world, verb):
    said = world.call(verb, "web@latest", "--json")
    assert said.code == 2
    assert said.document["message"].endswith(" is not in this version.")
    assert "vmconsole " in said.document["hint"]
    assert said.document["subject"] == verb
    assert verb not in VERBS


# --- hosts, groups, repositories ---------------------------------------------------------------


def test_trust_needs_a_terminal_or_a_fingerprint(world):
    said = world.call("host", "trust", "kvm1")
    assert said.code == 2
    assert "--fingerprint SHA256:abc" in said.err
    assert world.call("host", "trust", "kvm1", "--fingerprint", "SHA256:xyz").code == 2
    assert world.trusted == []
    assert world.call("host", "trust", "kvm1", "--fingerprint", "abc").code == 0
    assert world.trusted == [("SHA256:abc", False)]


def test_a_changed_key_is_not_replaced_by_the_way(world):
    world.key = type(world.key)(
        *(getattr(world.key, n) for n in ("host", "address", "type", "fingerprint", "line")), "SHA256:old"
    )
    said = world.call("host", "trust", "kvm1", "--fingerprint", "SHA256:abc", "--json")
    assert (said.code, said.document["error"]) == (20, "HostKeyChanged")
    assert "SHA256:old" in said.err
    said = world.call("host", "trust", "kvm1", "--fingerprint", "SHA256:abc", "--replace", "--json")
    assert (said.code, said.document["before"]) == (0, "SHA256:old")
    assert world.trusted == [("SHA256:abc", True)]


def test_a_key_that_cannot_be_stored(world):
    world.disk_full = True
    said = world.call("host", "trust", "kvm1", "--fingerprint", "SHA256:abc")
    assert said.code == 1
    assert "cannot be stored: No space left on device" in said.err


CLUSTER = """
[hosts.pve]
kind = "proxmox"
address = "root@pve1.example"
"""


def test_trust_covers_the_nodes_of_a_cluster(world):
    world.config.write_text(world.config.read_text() + CLUSTER)
    world.nodes = ("pve2", "pve3")
    said = world.call("host", "trust", "pve", "--fingerprint", "SHA256:abc")
    # One fingerprint is of one key: the others are shown, never trusted by the way.
    assert said.code == 3
    assert world.trusted_hosts == ["pve"]
    assert "host trust pve/pve2 --fingerprint SHA256:abc" in said.out
    assert world.call("host", "trust", "pve/pve2", "--fingerprint", "SHA256:abc").code == 0
    assert world.trusted_hosts == ["pve", "pve/pve2"]
    document = world.call("host", "trust", "pve", "--fingerprint", "SHA256:abc", "--json").document
    assert [(node["host"], node["trusted"]) for node in document["nodes"]] == [
        ("pve/pve2", False), ("pve/pve3", False),
    ]  # fmt: skip
    said = world.call("host", "trust", "pve")
    assert said.code == 2
    assert "host trust pve --fingerprint" in said.err


def test_nodes_that_are_trusted_already(world):
    world.config.write_text(world.config.read_text() + CLUSTER)
    world.nodes = ("pve2",)
    world.key = replace(world.key, trusted="SHA256:abc")
    said = world.call("host", "trust", "pve")
    assert said.code == 0
    assert "✓ pve/pve2: the ssh-ed25519 key SHA256:abc is trusted already." in said.lines
    assert world.call("host", "trust", "nobody/pve2").code == 2


def test_a_cluster_that_does_not_tell_its_nodes(world):
    world.config.write_text(world.config.read_text() + CLUSTER)
    world.nodes = HostUnreachable("root may not log in.", hint="ssh-copy-id root@pve1.example")
    said = world.call("host", "trust", "pve", "--fingerprint", "SHA256:abc")
    assert said.code == 3
    assert world.trusted_hosts == ["pve"]
    assert "! Its other nodes are not known yet: root may not log in." in said.lines
    assert "ssh-copy-id" in said.out


def test_a_cluster_is_added_and_shown(world):
    said = world.call("host", "add", "pve", "root@pve1", "--kind", "proxmox", "--fleecing", "local-lvm")
    assert said.code == 0
    text = world.config.read_text()
    assert 'kind = "proxmox"' in text
    assert 'fleecing = "local-lvm"' in text
    assert world.call("host", "add", "kvm9", "root@k", "--fleecing", "x").code == 2
    pve = world.hosts["pve"] = Host("pve")
    pve.kind = HostKind.PROXMOX
    pve.guests = [replace(guest("golden", 7, host="pve"), node="pve2", template=True, lock="backup")]
    pve.nodes = (Node("pve1", True, "10.0.0.1", "9.1"), Node("pve2", True), Node("pve3", False))
    pve.storages = (Storage("ceph", "rbd", True, content=("images",)),)
    pve.host_warnings = ("Node pve3 is offline.",)
    said = world.call("inventory", "pve")
    assert "3 nodes (pve3 offline)" in said.out
    assert "! Node pve3 is offline." in said.err
    assert "pve2" in said.out
    assert "template" in said.out
    (shown,) = world.call("inventory", "pve", "--json").document["hosts"]
    assert [node["name"] for node in shown["nodes"]] == ["pve1", "pve2", "pve3"]
    assert shown["nodes"][2] == {
        "name": "pve3", "online": False, "address": None, "version": None,
        "load": {"cpu": None, "io": None, "memory": None},
    }  # fmt: skip
    assert shown["storages"][0]["name"] == "ceph"
    assert shown["warnings"] == ["Node pve3 is offline."]
    (only,) = shown["guests"]
    assert (only["node"], only["template"], only["lock"], only["ha"], only["in_host_jobs"]) == (
        "pve2", True, "backup", None, None,
    )  # fmt: skip


def test_checks_and_their_exit_codes(world):
    world.host.checks = [
        Check("libvirt", ok=True),
        Check("nbd", ok=False, remedy="apt install", warning=True),
    ]
    said = world.call("host", "check")
    assert said.code == 0
    assert "! kvm1: nbd" in said.out
    assert "→ apt install" in world.call("host", "check", "--quiet").out
    assert world.call("doctor").code == 3
    world.host.checks = [Check("libvirt", ok=False, detail="too old")]
    assert world.call("host", "check").code == 1
    world.unreachable()
    assert world.call("host", "check").code == 20
    assert world.call("doctor").code == 20
    world.repository.there = False
    assert world.call("doctor").code == 1, "two different things are wrong"
    said = world.call("doctor", "--json")
    assert {check["subject"] for check in said.document["checks"]} == {"this machine", "kvm1", "main"}


def test_doctor_names_what_a_dead_run_left_and_cleans_it(world):
    wiring = world.wiring()
    wiring.store._process = f"{socket.gethostname()}:4194999:1"
    run = wiring.store.start_run("backup", "web")
    wiring.store.journal(run.id).acquire("kvm1", "libvirt-export", {"name": HOSTILE})
    wiring.close()
    said = world.call("doctor")
    assert said.code == 3
    assert f"run {run.id} died and left its libvirt-export of db" in said.out
    assert "\x1b" not in said.out
    assert world.call("doctor", "--json").document["leftovers"][0]["run"] == run.id
    said = world.call("doctor", "--clean")
    assert said.code == 0
    assert "Cleaned libvirt-export." in said.out
    assert world.call("doctor").code == 0


def test_a_host_that_a_group_needs_stays(world):
    world.call("group", "add", "all", "--host", "*")
    said = world.call("host", "remove", "kvm1")
    assert said.code == 2
    assert "is needed by group all" in said.err
    world.call("host", "add", "kvm2", "root@kvm2.example")
    assert world.call("host", "remove", "kvm1").code == 0


def test_mistakes_in_a_wish_are_not_blamed_on_lines_of_the_file(world):
    before = world.config.read_text()
    for words in (
        ["host", "add", "A B", "root@x"],
        ["host", "add", "x", "root@a b"],
        ["group", "add", "g", "--host", "no"],
    ):
        said = world.call(*words)
        assert said.code == 2
        assert " line " not in said.err
        assert "Nothing was changed" in said.err
    assert world.config.read_text() == before


def test_a_broken_file_is_still_blamed_on_its_line(world):
    world.config.write_text("[hosts.kvm1\n")
    assert "line 1" in world.call("host", "add", "kvm2", "root@x").err


def test_group_show(world):
    said = world.call("group", "show", "daily")
    assert said.lines[-2:] == ["web\tkvm1\tname matches web*\t–", "– web-test\tkvm1\texcluded by web-test\t"]
    world.unreachable()
    said = world.call("group", "show", "daily", "--json")
    assert said.code == 20
    assert said.document["not_asked"] == [{"host": "kvm1", "error": "kvm1 cannot be reached: timeout"}]


def test_inventory_marks_unprotected_guests(world):
    said = world.call("inventory")
    assert [line.split("\t")[0] for line in said.lines[2:]] == ["✓ yes", "– left out", "! no"]
    assert "1 guest is in no group" in said.err
    hosts = world.call("inventory", "--json").document["hosts"]
    assert [guest["groups"] for guest in hosts[0]["guests"]] == [["daily"], [], []]


def test_inventory_serves_a_fresh_look_again_unless_told_otherwise(world):
    world.call("inventory")
    world.unreachable()
    assert world.call("inventory").code == 0
    said = world.call("inventory", "--refresh")
    assert said.code == 20
    assert "→ Is it up?" in said.out
    world.config.write_text(world.config.read_text() + "# changed\n")
    os.utime(world.config, (4e9, 4e9))
    assert world.call("inventory").code == 20, "another configuration, another look"


def test_repositories(world):
    said = world.call("repo", "check", "--json")
    assert said.code == 0
    assert said.documents[-1] == {"repositories": [{"name": "main", "problems": []}]}
    world.repository.problems = ["chunk lost"]
    said = world.call("repo", "check")
    assert said.code == 1
    assert "✗ main: 1 problem." in said.out
    world.repository.there = False
    assert world.call("repo", "info").code == 10
    assert world.call("points").code == 10


def test_a_repository_that_cannot_be_made_leaves_no_trace(world):
    before = world.config.read_text()
    broken = world.repositories["second"] = Repository("second")
    broken.create = lambda: (_ for _ in ()).throw(WrongPassphrase("no"))
    words = ["repo", "init", "second", "/srv/x", "--encryption", "none"]
    world.config.write_text(before.replace("[groups.daily]", '[groups.daily]\nrepository = "main"'))
    kept = world.config.read_text()
    assert world.call(*words).code == 12
    assert world.config.read_text().strip() == kept.strip()
    broken.create = lambda: "id"
    assert world.call(*words).code == 0
    assert 'location = "/srv/x"' in world.config.read_text()


def test_a_repository_that_is_there_is_taken_over_only_on_demand(world):
    place = world.folder / "repository"
    (place / "data").mkdir(parents=True)
    (place / "config").touch()
    said = world.call("repo", "init", "main")
    assert said.code == 1
    assert "--existing" in said.err
    assert world.call("repo", "init", "main", "--existing").code == 0


@pytest.mark.parametrize(
    "words", [["--passphrase-file", "x"], ["--encryption", "none"], ["--passphrase-env", "X"]]
)
def test_options_of_a_new_repository_need_a_location(world, words):
    assert world.call("repo", "init", "main", *words).code == 2


def test_a_passphrase_command_is_split_like_a_shell_does(world):
    text = world.config.read_text().replace("[groups.daily]", '[groups.daily]\nrepository = "main"')
    world.config.write_text(text)
    words = ["repo", "init", "second", "/srv/x", "--passphrase-command"]
    assert world.call(*words, "pass 'a").code == 2
    assert world.call(*words, "gpg -d 'my file'").code == 0
    assert '["gpg", "-d", "my file"]' in world.config.read_text()


# --- first steps -------------------------------------------------------------------------------


def test_init(world):
    world.config.unlink()
    said = world.call(
        "init", "--repository", str(world.folder / "r"), "--host", "kvm1=root@kvm1.example", "--json"
    )
    assert said.code == 0, said.err
    assert said.document["host"] == "kvm1"
    secret = world.folder / "passphrase"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert len(secret.read_text()) > 40
    assert secret.read_text().strip() not in world.config.read_text() + said.out + said.err
    assert world.call("group", "list", "--json").document["groups"][0]["hosts"] == ["*"]
    again = world.call("init", "--repository", "/x")
    assert again.code == 2
    assert "names a repository already" in again.err


def test_a_failed_init_can_be_done_again(world):
    world.config.unlink()
    working, world.repository.create = (
        world.repository.create,
        lambda: (_ for _ in ()).throw(WrongPassphrase("no")),
    )
    words = ["init", "--repository", str(world.folder / "r"), "--host", "kvm1=root@kvm1.example"]
    assert world.call(*words).code == 12
    secret = (world.folder / "passphrase").read_text()
    world.repository.create = working
    assert world.call(*words).code == 0
    assert (world.folder / "passphrase").read_text() == secret, "an old passphrase is never replaced"


def test_init_without_a_terminal_says_what_it_needs(world):
    world.config.unlink()
    said = world.call("init")
    assert said.code == 2
    assert "--repository" in said.err
    assert world.call("init", "--repository", "r", "--host", "kvm1").code == 2
    assert world.call("init", "--repository", "r", "--host", "K 1=x").code == 2
    assert not list(world.folder.glob("*.toml")) or "repositories" not in world.config.read_text()


def test_a_passphrase_that_cannot_be_written(world):
    world.config = world.folder / "file" / "config.toml"
    (world.folder / "file").touch()
    said = world.call("init", "--repository", "r")
    assert said.code == 2
    assert "cannot be made" in said.err


# --- the edges ---------------------------------------------------------------------------------


def test_no_command(world):
    said = world.call()
    assert said.code == 2
    assert "vmconsole --config" in said.err
    assert json.loads(world.call("--json").out)["exit_code"] == 2


def test_wrong_usage_in_json(world):
    said = world.call("bakcup", "--json")
    assert said.code == 2
    assert said.document["error"] == "UsageError"


def test_interrupted(world, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(world.host), "inventory", interrupt)
    monkeypatch.setattr("vmconsole.front.hosts.together", lambda work, items: [work(item) for item in items])
    said = world.call("inventory", "--refresh", "--json")
    assert said.code == 130
    assert said.document["exit_code"] == 130


def test_a_stopped_run(world):
    world.cancel.set("Stopped by SIGTERM.")
    said = world.call("backup", "web", "--json")
    assert said.code == 130
    assert said.documents[-1]["message"] == "Stopped by SIGTERM."
    world_runs = world.call("runs", "--json").document["runs"]
    assert world_runs[0]["state"] == "cancelled"
