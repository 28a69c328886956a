"""The systemd units: what they hold, and how `init --systemd` puts them there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vmconsole.cli import init_systemd, unit_files
from vmconsole.cli.unit_files import SERVICE, TIMER, Values, is_ours, render, values_of
from vmconsole.config.load import load
from vmconsole.errors import ConfigError

PACKAGED = Path(__file__).resolve().parents[3] / "packaging/systemd"
HOME = Path("/home/of/root")
USUAL = Values(
    HOME,
    ["/usr/local/bin/vmconsole"],
    Path("/etc/vmconsole/config.toml"),
    Path("/var/lib/vmconsole"),
    [Path("/var/lib/vmconsole"), HOME / ".config/borg", HOME / ".cache/borg"],
    [Path("/srv/backup/vms")],
    {},
)


class FakeSystemd:
    def __init__(self):
        self.runs = True
        self.called = []
        self.problem = ""
        self.user = False

    def command(self, *words):
        return ["systemctl", *(["--user"] if self.user else []), *words]

    def call(self, *words):
        self.called.append(words)
        return self.problem


@pytest.fixture
def systemd(world, tmp_path, monkeypatch):
    fake = FakeSystemd()

    def here(_self, *, user):
        fake.user = user
        return fake

    monkeypatch.setattr("vmconsole.wiring.services.Wiring.systemd", here)
    fake.folder = tmp_path / "system"
    monkeypatch.setattr(init_systemd, "SYSTEM_FOLDER", fake.folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return fake


# --- what is in them ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [SERVICE, TIMER])
def test_the_packaged_units_are_what_init_writes_for_the_usual_places(name):
    expected = render(USUAL, user=False)[name]
    assert (PACKAGED / name).read_text() == expected, f"write anew what {__file__} renders"


@pytest.mark.parametrize("user", [False, True])
def test_systemd_understands_them(tmp_path, user):
    if shutil.which("systemd-analyze") is None:
        assert not os.environ.get("CI"), "systemd-analyze is missing: apt-get install systemd"
        pytest.skip("systemd-analyze is not installed")
    odd = tmp_path / 'odd $HOME 50% "x"\\'
    odd.mkdir()
    program = tmp_path / "python $HOME %n"
    program.symlink_to(sys.executable)
    start = [str(program), "-m", "vmconsole"]
    made = [odd, HOME / "50%/borg"]
    values = Values(HOME, start, odd / "c.toml", odd, made, [odd / "r"], {"main": odd / "secret"})
    files = []
    for name, text in render(values, user=user).items():
        files.append(tmp_path / name)
        files[-1].write_text(text)
    scope = ["--user"] if user else []
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        ["systemd-analyze", *scope, "verify", *files],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""


def test_the_service_is_locked_in(tmp_path):
    if shutil.which("systemd-analyze") is None:
        assert not os.environ.get("CI"), "systemd-analyze is missing: apt-get install systemd"
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / SERVICE
    unit.write_text(render(USUAL, user=False)[SERVICE])
    limit = ["--offline=true", "--threshold=25"]  # tenths of its scale from 0 to 10
    done = subprocess.run(["systemd-analyze", "security", *limit, unit], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


def test_what_the_configuration_names_is_in_the_service(world, tmp_path):
    text = world.config.read_text().replace('encryption = "none"', 'passphrase = { credential = "main" }')
    text = text.replace("[groups.daily]", '[groups.daily]\nrepository = "main"')
    text += '\n[repositories.far]\nlocation = "ssh://b@x/./r"\nencryption = "none"\n[notify]\nmetrics = "/m/v.prom"\n'
    world.config.write_text(text)
    service = render(values_of(load(world.config), user=False), user=False)[SERVICE]
    (writable,) = [line for line in service.splitlines() if line.startswith("ReadWritePaths=")]
    words = writable.partition("=")[2].split()
    assert {f"-{tmp_path}/state", f"-{tmp_path}/repository", "-/m"} <= set(words)
    assert not any("ssh" in word for word in words)
    assert "\nLoadCredential=main:/etc/credstore/main\n" in service


def test_words_for_systemd():
    assert unit_files._argument("/a b/$x/50%") == '"/a b/$$x/50%%"'
    assert unit_files._word('/q"\\') == '"/q\\"\\\\"'
    with pytest.raises(ConfigError):
        unit_files._word("/a\nExecStart=/bin/sh")
    with pytest.raises(ConfigError):  # systemd takes no such program
        unit_files._program('/a"b/vmconsole')


def test_a_changed_unit_is_noticed():
    for text in render(USUAL, user=True).values():
        assert is_ours(text)
        assert not is_ours(text.replace("yes", "no").replace("Nice=10", "Nice=0") + "#")
    assert not is_ours("")


# --- putting them there -------------------------------------------------------------------------


def test_init_writes_the_units_and_starts_the_timer(world, systemd):
    said = world.call("init", "--systemd")
    assert said.code == 0, said.err
    assert sorted(path.name for path in systemd.folder.iterdir()) == [SERVICE, TIMER]
    assert f"--config {world.config} --run-schedule" in (systemd.folder / SERVICE).read_text()
    assert (systemd.folder / SERVICE).stat().st_mode & 0o777 == 0o644
    assert systemd.called == [("daemon-reload",), ("enable", "--now", TIMER)]
    assert "No group has a schedule" in said.err
    assert world.call("init", "--systemd", "--json").document["units"][0]["before"] == "same"


def test_a_dry_run_changes_nothing(world, systemd):
    said = world.call("init", "--systemd", "--dry-run")
    assert said.code == 0
    assert "OnCalendar=" in said.out
    assert "systemctl enable --now" in said.out
    assert not systemd.folder.exists()
    assert not systemd.called
    assert world.call("init", "--systemd", "--dry-run", "--json").document["started"] is False


def test_an_old_unit_of_ours_is_renewed_and_an_edited_one_is_not(world, systemd):
    world.call("init", "--systemd")
    unit = systemd.folder / SERVICE
    world.config.write_text(world.config.read_text().replace('"repository"', '"elsewhere"'))
    said = world.call("init", "--systemd")
    assert f"{unit}: renewed" in said.out
    edited = unit.read_text().replace("Nice=10", "Nice=5")
    unit.write_text(edited)
    said = world.call("init", "--systemd")
    assert said.code == 2
    assert "was edited" in said.err
    assert "systemctl edit vmconsole.service" in said.err
    assert unit.read_text() == edited
    assert "stays as it is" in world.call("init", "--systemd", "--dry-run").out
    assert world.call("init", "--systemd", "--replace").code == 0
    assert "Nice=10" in unit.read_text()
    assert (systemd.folder / f"{SERVICE}.bak").read_text() == edited


def test_remove_takes_them_away_and_keeps_what_was_edited(world, systemd):
    world.call("init", "--systemd")
    (systemd.folder / TIMER).write_text("[Timer]\nOnCalendar=hourly\n")
    systemd.called.clear()
    assert world.call("init", "--systemd", "--remove", "--dry-run").code == 0
    assert len(list(systemd.folder.iterdir())) == 2
    said = world.call("init", "--systemd", "--remove")
    assert said.code == 0
    assert [path.name for path in systemd.folder.iterdir()] == [f"{TIMER}.bak"]
    assert systemd.called == [("disable", "--now", TIMER), ("daemon-reload",)]
    assert world.call("init", "--systemd", "--remove", "--json").document["removed"] == []


def test_without_systemd_the_commands_are_said(world, systemd):
    systemd.runs = False
    said = world.call("init", "--systemd")
    assert said.code == 0
    assert "systemctl daemon-reload && systemctl enable --now vmconsole.timer" in said.out
    assert not systemd.called


def test_a_failing_systemctl_is_told(world, systemd):
    systemd.problem = "Failed to connect to bus"
    said = world.call("init", "--systemd")
    assert said.code == 3
    assert "Failed to connect to bus" in said.err


def test_a_users_own_units(world, systemd, tmp_path):
    said = world.call("init", "--systemd", "--user")
    assert said.code == 0, said.err
    service = (tmp_path / "xdg/systemd/user" / SERVICE).read_text()
    assert "ProtectSystem" not in service
    assert "User=" not in service
    assert "enable-linger" in said.err


def test_only_root_touches_the_system(world, systemd, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() or 1000)
    said = world.call("init", "--systemd")
    assert said.code == 2
    assert "--user" in said.err


@pytest.mark.parametrize("words", [["--dry-run"], ["--user"], ["--systemd", "--repository", "/x"]])
def test_options_that_do_not_belong(world, systemd, words):
    assert world.call("init", *words).code == 2


def test_secrets_from_the_environment_are_warned_of(world, systemd):
    world.config.write_text(
        world.config.read_text().replace('encryption = "none"', 'passphrase = { env = "BORG_SECRET" }')
    )
    assert "$BORG_SECRET is not set where systemd" in world.call("init", "--systemd", "--dry-run").err


# --- what doctor says of them -------------------------------------------------------------------


def _of_systemd(world):
    found = world.call("doctor", "--json").document["checks"]
    return [check for check in found if check["name"] == "systemd"]


@pytest.mark.parametrize("user", [False, True])
def test_doctor_names_a_service_that_the_configuration_has_outgrown(world, systemd, monkeypatch, user):
    monkeypatch.setattr(unit_files, "SYSTEM_FOLDER", systemd.folder)
    scope = ["--user"] if user else []
    assert _of_systemd(world) == []
    world.call("init", "--systemd", *scope)
    assert _of_systemd(world) == []
    secret = 'passphrase = { credential = "main" }\nencryption = "repokey-blake2"'
    world.config.write_text(world.config.read_text().replace('encryption = "none"', secret))
    (said,) = _of_systemd(world)
    assert said["warning"]
    assert said["remedy"] == f"Renew it: vmconsole init --systemd{' --user' if user else ''}"
    world.call("init", "--systemd", *scope)
    assert _of_systemd(world) == []


def test_doctor_says_nothing_of_a_service_that_was_edited_or_is_of_another_configuration(
    world, systemd, monkeypatch, tmp_path
):
    monkeypatch.setattr(unit_files, "SYSTEM_FOLDER", systemd.folder)
    world.call("init", "--systemd")
    service = systemd.folder / SERVICE
    ours = service.read_text()
    service.write_text(ours + "# mine\n")
    assert _of_systemd(world) == []
    for name, text in render(USUAL, user=False).items():
        (systemd.folder / name).write_text(text)
    assert _of_systemd(world) == []


def test_doctor_goes_on_when_no_service_can_start_this_program(world, systemd, monkeypatch):
    monkeypatch.setattr(unit_files, "SYSTEM_FOLDER", systemd.folder)
    world.call("init", "--systemd")
    monkeypatch.setattr(unit_files, "program", lambda: ['/opt/my "tools"/vmconsole'])
    (said,) = _of_systemd(world)
    assert not said["warning"]
    assert said["remedy"] == "Install vmconsole in another folder."
