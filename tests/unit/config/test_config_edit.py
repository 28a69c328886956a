from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from vmconsole.config.edit import ConfigEditor
from vmconsole.config.load import load
from vmconsole.errors import ConfigError

HOST = {"kind": "libvirt", "address": "root@kvm3", "port": None}


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_adding_keeps_everything_that_was_there(good_config: Path) -> None:
    before = good_config.read_text()
    editor = ConfigEditor.open(good_config)
    editor.add("hosts", "kvm3", {**HOST, "connect_timeout": "5 s", "identity_files": ("~/a", Path("/b"))})
    editor.add(
        "groups", "new", {"hosts": ["kvm3"], "exclude_disks": {'odd "name"': ["vdb"]}, "freeze": False}
    )
    config = editor.save()
    assert good_config.read_text().startswith(before)
    assert load(good_config) == config
    assert config.host("kvm3").connect_timeout == 5.0
    assert config.host("kvm3").identity_files[1] == Path("/b")
    assert config.file.groups["new"].exclude_disks == {'odd "name"': ("vdb",)}
    assert leftovers(good_config.parent) == []


def test_a_file_that_is_not_there_begins_with_the_given_text(tmp_path: Path) -> None:
    path = tmp_path / "new/config.toml"
    editor = ConfigEditor.open(path, start="# hello\n")
    editor.add("repositories", "main", {"location": "/r", "passphrase": {"file": "p"}})
    editor.save()
    assert path.read_text() == '# hello\n\n[repositories.main]\nlocation = "/r"\npassphrase = {file = "p"}\n'
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_removing_keeps_the_rest(good_config: Path) -> None:
    editor = ConfigEditor.open(good_config)
    editor.remove("groups", "daily")
    editor.remove("hosts", "kvm1")
    config = editor.save()
    assert list(config.hosts) == ["kvm2"]
    text = good_config.read_text()
    assert "kvm1" not in text
    assert "# kept" in text
    assert '[groups.rest]\nhosts = ["*"]' in text


def test_setting_fields_keeps_comments(good_config: Path) -> None:
    editor = ConfigEditor.open(good_config)
    editor.set("hosts", "kvm1", {"address": "root@new.example", "identity_files": None, "port": 22})
    config = editor.save()
    assert config.host("kvm1").port == 22
    assert config.host("kvm1").identity_files == ()
    text = good_config.read_text()
    assert "[hosts.kvm1] # the first one\n" in text
    assert 'address = "root@new.example"\n' in text


def test_names_must_be_free_to_add_and_known_to_remove(good_config: Path) -> None:
    editor = ConfigEditor.open(good_config)
    with pytest.raises(ConfigError, match="already a host 'kvm1'"):
        editor.add("hosts", "kvm1", HOST)
    with pytest.raises(ConfigError, match="no repository 'none'") as caught:
        editor.remove("repositories", "none")
    assert "main, second" in caught.value.hint


def test_a_wrong_result_never_replaces_the_file(good_config: Path) -> None:
    before = good_config.read_bytes()
    for section, name, values in (
        ("hosts", "kvm3", {"kind": "libvirt"}),
        ("hosts", "No Good", HOST),
        ("groups", "x", {"guests": ["kvm9/a"]}),
        ("repositories", "x", {"location": "/x", "passphrase": "hunter2"}),
    ):
        editor = ConfigEditor.open(good_config)
        editor.add(section, name, values)
        with pytest.raises(ConfigError):
            editor.save()
    editor = ConfigEditor.open(good_config)
    editor.remove("repositories", "main")
    with pytest.raises(ConfigError, match='there is no repository "main"'):
        editor.save()
    assert good_config.read_bytes() == before
    assert leftovers(good_config.parent) == []


def test_a_change_by_somebody_else_is_noticed(good_config: Path) -> None:
    editor = ConfigEditor.open(good_config)
    editor.add("hosts", "kvm3", HOST)
    theirs = good_config.read_text() + "# theirs\n"
    good_config.write_text(theirs)
    with pytest.raises(ConfigError, match="changed by somebody else"):
        editor.save()
    assert good_config.read_text() == theirs
    good_config.unlink()
    with pytest.raises(ConfigError, match="changed by somebody else"):
        editor.save()
    assert not good_config.exists()


def test_a_file_that_appeared_in_between_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    editor = ConfigEditor.open(path)
    editor.add("hosts", "kvm3", HOST)
    path.write_text("# theirs\n")
    with pytest.raises(ConfigError, match="changed by somebody else"):
        editor.save()
    assert path.read_text() == "# theirs\n"


def test_saving_twice_is_not_a_foreign_change(good_config: Path) -> None:
    editor = ConfigEditor.open(good_config)
    editor.add("hosts", "kvm3", HOST)
    editor.save()
    editor.add("hosts", "kvm4", HOST)
    assert set(editor.save().hosts) == {"kvm1", "kvm2", "kvm3", "kvm4"}


def test_a_link_stays_a_link_and_its_folder_counts(good_config: Path, tmp_path: Path) -> None:
    (tmp_path / "dots").mkdir()
    kept = good_config.rename(tmp_path / "dots/real.toml")
    good_config.symlink_to(kept)
    editor = ConfigEditor.open(good_config)
    editor.add("hosts", "kvm3", HOST)
    config = editor.save()
    assert good_config.is_symlink()
    assert "kvm3" in kept.read_text()
    assert config.repository("main").location == str(tmp_path / "repository")


def test_mode_and_owner_stay_but_never_open_up(good_config: Path) -> None:
    os.chown(good_config, 1234, 2345) if os.geteuid() == 0 else None
    for before, after in ((0o644, 0o640), (0o640, 0o640), (0o600, 0o600), (0o666, 0o640)):
        good_config.chmod(before)
        editor = ConfigEditor.open(good_config)
        editor.set("hosts", "kvm2", {"port": before})
        editor.save()
        assert good_config.stat().st_mode & 0o777 == after
    if os.geteuid() == 0:
        assert (good_config.stat().st_uid, good_config.stat().st_gid) == (1234, 2345)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    editor = ConfigEditor.open(tmp_path / "file/x/config.toml")
    editor.add("hosts", "kvm3", HOST)
    with pytest.raises(ConfigError, match="cannot be written"):
        editor.save()


def test_a_failure_while_writing_leaves_the_old_file(
    good_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = good_config.read_bytes()
    editor = ConfigEditor.open(good_config)
    editor.add("hosts", "kvm3", HOST)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        editor.save()
    assert good_config.read_bytes() == before
    assert leftovers(good_config.parent) == []


REPOSITORY = '[repositories.main]\nlocation = "/r"\nencryption = "none"\n'
A = 'kind = "libvirt"\naddress = "a"\n'
B = 'kind = "libvirt"\naddress = "b"\n'
INLINE_B = '{ kind = "libvirt", address = "b" }'
LAYOUTS = {
    "explicit parent": f"[hosts]\n[hosts.a]\n{A}[hosts.b]\n{B}",
    "out of order": f"[hosts.a]\n{A}{REPOSITORY}[hosts.b]\n{B}",
    "dotted": f'hosts.a.kind = "libvirt"\nhosts.a.address = "a"\nhosts.b = {INLINE_B}\n',
    "inline": f'hosts = {{ a = {{ kind = "libvirt", address = "a" }}, b = {INLINE_B} }}\n',
    "quoted": f'["hosts"."a"]\n{A}[ hosts . "b" ] # c\n{B}',
    "windows": f"[hosts.a]\n{A}\n[hosts.b]\n{B}".replace("\n", "\r\n"),
    "no newline at the end": f"[hosts.a]\n{A}[hosts.b]\n{B}".rstrip(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("change", ["add", "remove", "set"])
def test_any_layout_is_edited_right_or_refused(tmp_path: Path, layout: str, change: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(LAYOUTS[layout].encode())
    before = load(path)
    editor = ConfigEditor.open(path)
    try:
        if change == "add":
            editor.add("hosts", "kvm3", HOST)
        elif change == "remove":
            editor.remove("hosts", "a")
        else:
            editor.set("hosts", "b", {"address": "changed", "port": 2222})
    except ConfigError as error:
        refusal = error.message
        assert "edited safely" in refusal
        assert path.read_bytes() == LAYOUTS[layout].encode()
        assert (layout, "edited safely" in refusal) in (("dotted", True), ("inline", True))
        return
    after = editor.save()
    expected = {"add": {"a", "b", "kvm3"}, "remove": {"b"}, "set": {"a", "b"}}[change]
    assert set(after.hosts) == expected
    for name in expected & before.hosts.keys() - ({"b"} if change == "set" else set()):
        assert after.hosts[name] == before.hosts[name]
    if change == "set":
        assert (after.host("b").address, after.host("b").port) == ("changed", 2222)
    if layout == "windows":
        assert b"\n" not in path.read_bytes().replace(b"\r\n", b"")


def _add_host(path: str, name: str) -> None:
    while True:
        editor = ConfigEditor.open(Path(path))
        editor.add("hosts", name, HOST)
        try:
            editor.save()
        except ConfigError as error:
            if "somebody else" in error.message:
                continue
            raise
        return


def test_processes_that_edit_at_once_lose_nothing(good_config: Path) -> None:
    context = multiprocessing.get_context("spawn")
    names = ["p1", "p2", "p3"]
    workers = [context.Process(target=_add_host, args=(str(good_config), name)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
        worker.close()
    assert set(names) < set(load(good_config).hosts)


_texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(str.strip)


@settings(deadline=None, max_examples=60)
@given(
    _texts, st.lists(_texts, max_size=3), st.dictionaries(_texts, st.lists(_texts, max_size=2), max_size=2)
)
def test_any_text_survives_being_added(guest: str, tags: list[str], disks: dict[str, list[str]]) -> None:
    import tempfile

    guest = guest.replace("/", "_")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_text(REPOSITORY)
        editor = ConfigEditor.open(path)
        editor.add("groups", "g", {"guests": [guest], "tags": tags, "exclude_disks": disks})
        group = editor.save().file.groups["g"]
        assert group.guests == (guest,)
        assert group.tags == tuple(tags)
        assert group.exclude_disks == {key: tuple(value) for key, value in disks.items()}
        tomlkit.parse(path.read_text())
