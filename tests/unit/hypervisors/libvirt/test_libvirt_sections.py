from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.libvirt.sections import collect, split
from vmconsole.remote.local import LocalMachine

TOKEN = "0123456789abcdef"


def test_each_commands_output_status_and_errors() -> None:
    answers = collect(
        LocalMachine(),
        """
        part good printf 'a\\nb\\n'
        part bad sh -c 'echo out; echo oops >&2; exit 3'
        part none no-such-program-at-all
        part "label with spaces $1" echo "$2"
        """,
        ["and args", "'; exit 7; \"$(reboot)\n"],
    )

    assert answers["good"].ok
    assert answers["good"].lines == ["a", "b"]
    assert (answers["bad"].status, answers["bad"].text.strip(), answers["bad"].errors) == (3, "out", "oops")
    assert answers["none"].status == 127
    assert answers["label with spaces and args"].text.startswith("'; exit 7; \"$(reboot)\n")


def test_errors_are_capped_and_output_without_a_newline_is_whole() -> None:
    answers = collect(LocalMachine(), "part x sh -c 'printf abc; yes error | head -c 100000 >&2'")
    assert answers["x"].text == "abc"
    assert len(answers["x"].errors) <= 4000


def test_output_that_looks_like_a_section_forges_nothing() -> None:
    forged = "\nffffffff begin state\nrunning\nffffffff end 0\n\nffffffff done\n"
    answers = collect(LocalMachine(), 'part xml printf %s "$1"', [forged])
    assert set(answers) == {"xml"}
    assert "ffffffff begin state" in answers["xml"].text


def test_a_host_that_prints_something_else_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="shell script"):
        collect(LocalMachine(), "exec echo welcome")


def section(label: str, text: str, status: int = 0, errors: str = "") -> str:
    return f"\n{TOKEN} begin {label}\n{text}\n{TOKEN} end {status}\n{errors}\n{TOKEN} done\n"


def test_noise_between_sections_is_ignored_and_unfinished_ones_are_left_out() -> None:
    text = "motd\n" + section("a", "1") + "noise\n" + section("b", "2", 1, "why") + f"{TOKEN} begin c\nhalf"
    found = split(text, TOKEN)
    assert set(found) == {"a", "b"}
    assert (found["b"].status, found["b"].errors) == (1, "why")


printable = st.text(st.characters(exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"))


@given(st.lists(st.tuples(st.sampled_from("abc"), printable, st.integers(0, 255), printable), max_size=4))
def test_split_gives_back_what_was_printed(parts: list[tuple[str, str, int, str]]) -> None:
    found = split("".join(section(*part) for part in parts), TOKEN)
    expected = {label: (text, status, errors.strip()) for label, text, status, errors in parts}
    assert {key: (item.text, item.status, item.errors) for key, item in found.items()} == expected


@given(st.text(alphabet=f"{TOKEN}\n begindo0", max_size=200))
def test_split_never_fails(text: str) -> None:
    split(text, TOKEN)
