"""What the README shows is what the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from vmconsole.cli.main import VERBS, parse
from vmconsole.config.load import parse as parse_config

README = (Path(__file__).resolve().parents[3] / "README.md").read_text()
SHELL = "\n".join(re.findall(r"```(?:sh)?\n(.*?)```", README, re.DOTALL))
COMMANDS = re.findall(r"^vmconsole (.*?)(?: +#.*)?$", SHELL, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_shown_is_one_we_take(line):
    args = parse(shlex.split(line))
    assert args.run_schedule or args.verb in VERBS


def test_the_first_steps_are_shown():
    assert len(COMMANDS) >= 8


def test_the_configuration_shown_loads():
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    config = parse_config(Path("/x/config.toml"), text.encode())
    assert set(config.hosts) == {"kvm1", "pve"}
    assert config.group("daily").repository == "main"


def test_every_verb_is_in_the_table():
    table = re.findall(r"^\| (`.*?) \| ", README, re.MULTILINE)
    named = {word for row in table for word in re.findall(r"`([\w-]+)", row)}
    assert set(VERBS) - {"completion"} <= named
