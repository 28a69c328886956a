"""prune, undo-prune, pin, repo compact and repo accept, on a shop in memory."""

from __future__ import annotations

import json

import pytest
from cli_world import HOSTILE

from vmconsole.errors import RepositoryDamaged


@pytest.fixture
def world(world):
    """Three points each of two guests, of which a group keeps one."""
    world.config.write_text(world.config.read_text() + "keep = { last = 1 }\n")
    for _ in range(3):
        assert world.call("backup", "--group", "daily").code == 0
    return world


def archives(world, guest="web", *options):
    document = world.call("points", *options, "--json").document
    return [point["archive"] for point in document["points"] if point["guest"] == guest]


def last(said):
    """The document after the lines of a run."""
    return json.loads(said.lines[-1])


def test_a_preview_changes_nothing(world):
    before = archives(world)
    said = world.call("prune", "--dry-run", "--json")
    assert said.code == 0
    document = said.document
    assert (document["dry_run"], document["kept"], document["pruned"], document["bytes_freed"]) == (
        True,
        1,
        2,
        None,
    )
    (guest,) = document["guests"]
    assert guest["guest"] == "web"
    assert [(p["archive"], p["keep"], p["why"], p["rules_of"]) for p in guest["points"]] == [
        (before[0], True, "last 1 of 1", "daily"),
        (before[1], False, "not kept by any rule", "daily"),
        (before[2], False, "not kept by any rule", "daily"),
    ]
    shown = world.call("prune", "--dry-run")
    assert "✓ kept" in shown.out
    assert "– pruned" in shown.out
    assert "1 point kept, 2 to prune." in shown.out
    assert "is not known" in shown.err
    assert archives(world) == before


def test_pruned_points_vanish_from_lists_and_come_back(world):
    newest, middle, oldest = archives(world)
    said = world.call("prune")
    assert said.code == 0
    assert "2 points pruned, 1 kept." in said.out
    assert "vmconsole --config" in said.out
    assert "undo-prune --all" in said.out
    assert archives(world) == [newest]
    assert archives(world, "web", "--pruned") == [middle, oldest]
    shown = world.call("points", "--pruned")
    assert "pruned 20" in shown.out
    pruned = world.call("points", "--pruned", "--json").document["points"]
    assert all(point["pruned"] for point in pruned)
    again = world.call("prune")
    assert "Nothing to prune: 1 point kept." in again.out
    back = world.call("undo-prune", middle)
    assert f"✓ {middle} is back." in back.out
    assert archives(world) == [newest, middle]
    assert world.call("undo-prune", "web@latest", "--json").document["points"] == [
        {"archive": oldest, "repository": "main"}
    ]
    assert world.call("points", "--pruned").err.startswith("Nothing is pruned.")


def test_what_mended_rules_keep_comes_back(world):
    newest, middle, oldest = archives(world)
    world.call("prune")
    world.config.write_text(world.config.read_text().replace("last = 1", "last = 2"))
    shown = world.call("prune", "--dry-run")
    assert "✓ kept again" in shown.out
    assert oldest not in shown.out
    assert "2 points kept, 0 to prune." in shown.out
    world.call("prune")
    assert archives(world) == [newest, middle]
    assert "✓ web: 1 point is kept again in main" in world.call("runs", "last").out


def test_undo_by_group_and_all(world):
    world.call("prune")
    assert world.call("undo-prune", "--group", "daily", "--json").document["points"]
    assert len(archives(world)) == 3
    assert "Nothing is pruned by group daily." in world.call("undo-prune", "--group", "daily").err
    world.call("prune", "--group", "daily")
    assert len(world.call("undo-prune", "--all", "--json").document["points"]) == 2
    assert "Nothing is pruned." in world.call("undo-prune", "--all").err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["undo-prune"], 2, "Say which points"),
        (["undo-prune", "x", "--all"], 2, "one of them"),
        (["undo-prune", "x"], 2, "No pruned point is named so"),
        (["undo-prune", "--group", "nobody"], 2, "There is no group 'nobody'"),
        (["prune", "--group", "nobody"], 2, "There is no group 'nobody'"),
        (["prune", "--repository", "nobody"], 2, "There is no repository 'nobody'"),
        (["pin", "x"], 2, "There is no restore point 'x'"),
        (["repo", "compact", "nobody"], 2, "There is no repository 'nobody'"),
        (["repo", "accept", "nobody"], 2, "There is no repository 'nobody'"),
    ],
)
def test_mistakes_are_told_with_a_remedy(world, words, code, message):
    said = world.call(*words)
    assert said.code == code
    assert message in said.err
    assert "→" in said.err


def test_a_pruned_point_is_restored_by_its_full_name(world, tmp_path):
    newest, middle, _ = archives(world)
    world.call("prune")
    said = world.call("restore", middle, "--to", str(tmp_path / "out/"), "--dry-run")
    assert said.code == 0
    assert "was pruned on" in said.err
    assert f"undo-prune {middle}" in said.err
    assert world.call("restore", "web@-1", "--to", str(tmp_path / "x"), "--dry-run").code != 0
    assert newest in world.call("restore", "web@latest", "--to", "x/", "--dry-run", "--json").out


def test_pinned_points_are_shown_and_kept(world):
    newest, middle, oldest = archives(world)
    said = world.call("pin", "web@-2")
    assert said.code == 0, said.err
    assert f"✓ {oldest} is pinned." in said.out
    document = last(world.call("pin", oldest, middle, "--json"))
    assert [point["changed"] for point in document["points"]] == [False, True]
    assert world.repository.pinned.keys() == {oldest, middle}
    points = world.call("points", "--json").document["points"]
    assert [point["pinned"] for point in points] == [False, True, True]
    assert "pinned" in world.call("points").out
    assert "Nothing to prune" in world.call("prune").out
    assert f"✓ {middle} is pinned no longer." in world.call("pin", "--remove", middle).out
    assert f"– {middle} was not pinned." in world.call("pin", "--remove", middle).out
    world.call("prune")
    assert archives(world) == [newest, oldest]
    assert world.call("pin", middle).code == 0, "a pruned point that is pinned is back"
    assert archives(world) == [newest, middle, oldest]


def test_locked_by_a_backup_pins_and_marks_are_as_last_seen(world):
    newest, middle, oldest = archives(world)
    world.call("pin", oldest)
    world.call("prune")
    world.repository.locked = "yes"
    points = world.call("points", "--json").document["points"]
    assert [(p["archive"], p["pinned"]) for p in points] == [(newest, False), (oldest, True)]
    world.call("undo-prune", middle)
    assert len(archives(world)) == 3


def test_compact_deletes_after_the_time_to_undo(world):
    newest, *old = archives(world)
    world.call("prune")
    said = world.call("repo", "compact", "--dry-run", "--json")
    assert said.document["repositories"] == [
        {"name": "main", "delete": [], "later": old, "spared": [], "bytes_freed": None}
    ]
    shown = world.call("repo", "compact", "--dry-run")
    assert "main: 0 points to delete." in shown.out
    assert "2 points pruned less than 7 d ago" in shown.out
    world.call("repo", "compact")
    assert archives(world, "web", "--pruned") == old
    assert (
        world.call("repo", "compact", "--dry-run", "--now", "--json").document["repositories"][0]["delete"]
        == old
    )
    said = world.call("repo", "compact", "main", "--now")
    assert said.code == 0
    assert "✓ main: 2 points deleted, about 5 MiB freed, 1 GiB of 4 GiB free there now." in said.out
    assert archives(world) == [newest]
    assert archives(world, "web", "--pruned") == []
    document = last(world.call("repo", "compact", "--now", "--json"))
    (repository,) = document["repositories"]
    assert (repository["deleted"], repository["bytes_freed"], repository["error"]) == ([], 5 << 20, None)
    kinds = [run["kind"] for run in world.call("runs", "--json").document["runs"]]
    assert kinds.count("compact") == 3


def test_what_vanished_is_told_by_every_list_and_stops_compact(world):
    world.call("prune")
    gone = world.repository.saved.pop(1).archive
    said = world.call("points")
    assert f"1 restore point vanished from repository main, not deleted by vmconsole: {gone}." in said.err
    assert "repo accept main" in said.err
    refused = world.call("repo", "compact", "--now")
    assert refused.code == 1
    assert gone in refused.err
    assert "repo accept main" in refused.err
    assert world.call("repo", "compact", "--dry-run").code == 1
    assert last(world.call("repo", "compact", "--json"))["repositories"][0]["error"]
    assert "compact" not in world.repository.diary
    assert world.call("prune").code == 3
    accepted = world.call("repo", "accept", "--json").document["repositories"]
    assert [item["archive"] for item in accepted[0]["accepted"]] == [gone]
    assert "nothing had vanished" in world.call("repo", "accept", "main").out
    assert world.call("repo", "compact", "--now").code == 0
    assert "vanished" not in world.call("points").err


def test_accept_sees_how_things_are_now(world):
    archives(world)
    gone = world.repository.saved.pop().archive
    assert gone in world.call("repo", "accept", "main").out


def test_unreadable_pins_stop_prune_and_compact(world):
    world.call("points")
    world.repository.pinned = RepositoryDamaged("What is pinned cannot be read.", hint="Look at it.")
    for words in (["prune"], ["repo", "compact", "--now"], ["pin", "web@latest"]):
        said = world.call(*words)
        assert said.code == 1
        assert "What is pinned cannot be read." in said.err
    assert world.call("points").code == 0


def test_hostile_names_are_shown_and_not_obeyed(world):
    world.config.write_text(world.config.read_text().replace('guests = ["web*"]', 'guests = ["*"]'))
    for _ in range(2):
        world.call("backup", "--all")
    for words in (
        ["prune", "--dry-run"],
        ["prune"],
        ["points", "--pruned"],
        ["repo", "compact", "--now"],
        ["runs", "last"],
    ):
        said = world.call(*words)
        assert said.code == 0, said.err
        assert "\x1b" not in said.out + said.err
        assert HOSTILE not in said.out + said.err
        assert not any(line.startswith("✓ forged") for line in (said.out + said.err).splitlines())


def test_a_run_of_prune_can_be_read_again(world):
    world.call("prune")
    log = world.call("runs", "last")
    assert "✓ web: 2 points pruned in main" in log.out
    world.call("repo", "compact", "--now")
    log = world.call("runs", "last")
    assert "✓ main: 2 points deleted" in log.out
    assert "✓ main: compacted in" in log.out
