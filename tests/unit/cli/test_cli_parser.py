from __future__ import annotations

import pytest

from vmconsole.cli.main import VERBS, build_parser, parse, with_config
from vmconsole.errors import UsageError

ACTIONS = {
    "host": ("add", "list", "check", "trust", "remove"),
    "group": ("add", "list", "show", "edit", "remove"),
    "notify": ("test", "list"),
    "repo": ("init", "list", "info", "check", "compact", "accept"),
}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["bakcup"], "There is no command 'bakcup'. Did you mean 'backup'?"),
        (["host"], "vmconsole host needs an action: add, list, check, trust, remove."),
        (["host", "chek"], "There is no action 'chek'. Did you mean 'check'?"),
        (["host", "add", "kvm1"], "vmconsole host add needs ADDRESS."),
        (["backup", "--gruop", "x"], "vmconsole backup has no option --gruop. Did you mean '--group'?"),
        (["backup", "--gro", "x"], "vmconsole backup has no option --gro. Did you mean '--group'?"),
        (["--frobnicate"], "vmconsole has no option --frobnicate."),
        (["points", "a", "b"], "vmconsole points does not take 'b'."),
        (["runs", "--limit", "-1"], "Argument --limit: '-1' is not a number from 1 up."),
        (["runs", "--limit", "0"], "Argument --limit: '0' is not a number from 1 up."),
        (["runs", "--limit", "²"], "Argument --limit: '²' is not a number from 1 up."),
        (["restore", "x"], "One of the arguments --to --host is required."),
        (["restore", "x", "--to", "a", "--format", "vmdk"], "--format cannot be 'vmdk'; it is one of: raw."),
        (["--config"], "Argument --config: expected one argument."),
    ],
)
def test_wrong_usage_says_what_and_where_to_look(argv, message):
    with pytest.raises(UsageError) as caught:
        parse(argv)
    assert caught.value.message == message
    assert caught.value.hint.startswith("See: vmconsole")
    assert caught.value.hint.endswith("--help")


def test_the_schedule_needs_no_verb():
    args = parse(["--run-schedule", "--dry-run", "--at", "2026-12-24 22:00"])
    assert (args.run_schedule, args.schedule_plan, args.schedule_loop, args.verb) == (True, True, False, None)


@pytest.mark.parametrize("before", [True, False])
def test_common_options_before_and_after_the_verb(before):
    common = ["--config", "c.toml", "--json", "--quiet", "--no-color"]
    for words in (["points"], ["host", "list"], ["repo", "info", "main"]):
        args = parse([*common, *words] if before else [*words, *common])
        assert (args.config, args.json, args.quiet, args.no_color) == ("c.toml", True, True, True)


def test_options_in_the_middle_of_a_list():
    args = parse(["backup", "web", "--full", "db", "-n", "mail"])
    assert (args.guests, args.full, args.dry_run) == (["web", "db", "mail"], True, True)


def test_names_that_begin_with_a_dash():
    assert parse(["backup", "--full", "--", "-web", "--all"]).guests == ["-web", "--all"]


def test_commands_in_messages_reach_the_same_configuration():
    text = "Start with: vmconsole backup --all (then: vmconsole doctor), or vmconsole --quiet backup x"
    assert with_config(text, None) == text
    assert with_config(text, "a b.toml") == (
        "Start with: vmconsole --config 'a b.toml' backup --all (then: vmconsole --config 'a b.toml' doctor), "
        "or vmconsole --config 'a b.toml' --quiet backup x"
    )
    assert (
        with_config("Use a newer vmconsole that can backup.", "x") == "Use a newer vmconsole that can backup."
    )


@pytest.mark.parametrize(
    "words", [[], *([verb] for verb in VERBS), *([v, a] for v in ACTIONS for a in ACTIONS[v])]
)
def test_help_fits_80_columns(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        parse([*words, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(" ".join(["usage: vmconsole", *words]))
    assert max(map(len, text.splitlines())) <= 80
    assert "common options:" in text


def test_every_verb_explains_itself():
    text = build_parser().format_help()
    assert all(f"    {verb} " in text for verb in VERBS)
