"""The one table of keys."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from pathlib import Path

import pytest

import vmconsole.tui.screens
from vmconsole.tui.keymap import KEYS, PLACES, Risk, bindings, key_names, keys_of, readme_table

FORBIDDEN = {f"ctrl+{letter}" for letter in "abdhijkmzc"} | {"ctrl+left_square_bracket", "f10", "f11"}
CONTEXTS = sorted({key.context for key in KEYS} - {"all", "list"})
SCREENS = sorted(
    {
        thing.CONTEXTS
        for module in pkgutil.iter_modules(vmconsole.tui.screens.__path__)
        for thing in vars(importlib.import_module(f"vmconsole.tui.screens.{module.name}")).values()
        if isinstance(getattr(thing, "CONTEXTS", None), tuple)
    }
)
"""The contexts of each screen there is."""


def test_ids_are_unique():
    assert [name for name, count in Counter(key.id for key in KEYS).items() if count > 1] == []


@pytest.mark.parametrize("contexts", SCREENS, ids="-".join)
def test_no_key_does_two_things_on_one_screen(contexts):
    names = Counter(name for key in keys_of(contexts) for name in key.keys.split(","))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_context_is_one_of_a_screen():
    assert set(CONTEXTS) <= {context for contexts in SCREENS for context in contexts}


def test_keys_that_terminals_and_tmux_take_are_left_alone():
    used = {name for key in KEYS for name in key.keys.split(",")}
    assert used & FORBIDDEN == set()
    assert not any(name.startswith("alt+") for name in used)


@pytest.mark.parametrize("key", [key for key in KEYS if key.risk is Risk.DESTROYS], ids=lambda key: key.id)
def test_what_cannot_be_undone_is_not_on_a_bare_small_letter(key):
    assert not any(re.fullmatch("[a-z]", name) for name in key.keys.split(",")), key


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_screen_shows_few_keys(context):
    assert sum(key.shown for key in keys_of((context,))) <= 5


def test_read_only_leaves_what_changes_nothing():
    kept = keys_of(("all", "list", *CONTEXTS), read_only=True)
    assert kept
    assert all(key.risk is Risk.NONE for key in kept)


@pytest.mark.parametrize("place", PLACES)
def test_every_key_of_a_place_has_its_action(place):
    screen = importlib.import_module(f"vmconsole.tui.screens.{place}").screen()
    for key in keys_of(screen.CONTEXTS[1:]):
        assert callable(getattr(screen, f"action_{key.action}", None)), f"{place}: {key.id}"


def test_every_key_of_all_screens_has_its_action():
    from vmconsole.tui.app import Console

    for key in keys_of(("all",)):
        assert callable(getattr(Console, f"action_{key.action}", None)), key.id


def test_bindings_can_be_remapped_by_id():
    assert {binding.id for binding in bindings("all")} == {key.id for key in keys_of(("all",))}


def test_keys_are_named_as_people_name_them():
    assert key_names("question_mark,f1") == ["?", "f1"]


def test_the_readme_lists_the_keys_as_they_are():
    """Otherwise: python -c "from vmconsole.tui.keymap import readme_table; print(readme_table())" and paste."""
    readme = Path(__file__).parents[3].joinpath("README.md").read_text()
    assert readme_table() in readme
