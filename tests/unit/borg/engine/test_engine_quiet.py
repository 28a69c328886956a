"""Borg inside our process touches neither the terminal nor the rest of the process."""

from __future__ import annotations

import builtins
import json
import logging
import threading
import warnings

import borg.cache
import borg.remote
import pytest

from vmconsole.borg.engine import quiet


@pytest.fixture(autouse=True)
def prepared() -> None:
    quiet.prepare()


def test_the_process_is_left_as_it_was() -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, warnings.showwarning)
    quiet.prepare.__wrapped__()
    assert (root.handlers[:], root.level, warnings.showwarning) == before


def test_what_borg_logs_goes_to_who_listens_in_this_thread(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    other = threading.Thread(target=lambda: logging.getLogger("borg.locking").warning("elsewhere"))
    with quiet.listening(heard.append):
        logging.getLogger("borg.locking").warning("Killed stale lock %s.", "x")
        other.start()
        other.join()
    logging.getLogger("borg.locking").warning("nobody listens")
    assert [line for line in heard if "Killed" in line][:1] == ["Killed stale lock x."]
    assert "elsewhere" not in heard
    assert capsys.readouterr() == ("", "")


def test_what_the_other_side_says(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    log = {"type": "log_message", "levelname": "WARNING", "name": "borg", "message": "full\x1b[2J"}
    with quiet.listening(heard.append):
        for line in (
            json.dumps(log),
            "{no json",
            "Permission denied (publickey).",
            "",
            '{"type": "progress_percent"}',
        ):
            borg.remote.handle_remote_line(line + "\n")
    assert heard == ["Remote: full\x1b[2J", "Remote: {no json", "Remote: Permission denied (publickey)."]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("variable", "answer"),
    [
        ("BORG_RELOCATED_REPO_ACCESS_IS_OK", True),
        ("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", True),
        ("BORG_DELETE_I_KNOW_WHAT_I_AM_DOING", False),
        ("", False),
    ],
)
def test_questions_are_answered_not_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, answer: bool
) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(builtins, "input", ask)
    heard: list[str] = []
    with quiet.listening(heard.append):
        assert borg.cache.yes("Are you sure?\n[yN]", false_msg="no", env_var_override=variable) is answer
    assert heard == [f"Are you sure? ({'yes' if answer else 'no'})"]
    assert capsys.readouterr() == ("", "")
