from __future__ import annotations

import logging
import time

import pytest

from vmconsole.errors import ConfigError
from vmconsole.interfaces import Channel
from vmconsole.model.message import Message, Tone
from vmconsole.notify.channels import AppriseChannel
from vmconsole.notify.secrecy import place, without_secrets

MESSAGE = Message("2 guests failed", "web <b>failed</b>\n  → vmconsole runs", Tone.BAD)


def channel(url, limit=10.0):
    return AppriseChannel("mail", lambda: url, ("failure",), limit)


def test_a_message_arrives_as_it_was_written(server):
    made: Channel = channel(f"json://user:hunter22@127.0.0.1:{server.port}/t0pSecret")
    assert made.send(MESSAGE).ok
    ((_, path, body),) = server.got
    assert path.rstrip("/") == "/t0pSecret"
    assert (body["title"], body["message"], body["type"]) == (MESSAGE.title, MESSAGE.body, "failure")


def test_hostile_names_do_not_leave_as_controls(server):
    made = channel(f"json://127.0.0.1:{server.port}")
    assert made.send(Message("a\r\nBcc: x@y.example", "guest \x1b[2J\u202e\nline two")).ok
    body = server.got[0][2]
    assert body["title"] == r"a\r\nBcc: x@y.example"
    assert body["message"] == "guest \\x1b[2J\\u202e\nline two"


def test_a_refused_connection_says_so_without_secrets(closed_port):
    done = channel(f"json://user:hunter22@127.0.0.1:{closed_port}/t0pSecret?token=abcdef").send(MESSAGE)
    assert done.problem == "json://127.0.0.1/… did not take the message: the connection was refused."
    assert "vmconsole notify test mail" in done.hint


def test_what_apprise_logs_goes_nowhere_else(closed_port):
    logged = []
    handler = logging.Handler()
    handler.emit = logged.append
    logging.getLogger().addHandler(handler)
    try:
        channel(f"json://127.0.0.1:{closed_port}/t0pSecret").send(MESSAGE)
    finally:
        logging.getLogger().removeHandler(handler)
    assert not [record for record in logged if record.name.startswith("apprise")]


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_refusal_says_what_the_server_answered(server, status):
    server.status = [status]
    done = channel(f"json://user:hunter22@127.0.0.1:{server.port}/t0pSecret").send(MESSAGE)
    assert str(status) in done.problem
    assert "hunter22" not in done.problem
    assert "t0pSecret" not in done.problem


def test_a_server_that_never_answers_is_given_up(server):
    server.hang = True
    began = time.monotonic()
    done = channel(f"json://127.0.0.1:{server.port}/t0pSecret", limit=0.5).send(MESSAGE)
    assert time.monotonic() - began < 3
    assert done.problem == "json://127.0.0.1/… did not take the message within 0.5 s."


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("nosuch://t0pSecret", "of the kind nosuch:// "),
        ("t0pSecret", ""),
        ("", ""),
        ("json://", "of the kind json:// "),
        ("mailto://t0pSecret", "of the kind mailto:// "),
    ],
)
def test_a_url_that_nobody_understands(url, kind):
    for done in (channel(url).send(MESSAGE), channel(url).check()):
        assert not done.ok
        assert "t0pSecret" not in done.problem
        assert done.problem == f"Its URL {kind}is not one that Apprise understands."


def test_checking_sends_nothing(server):
    assert channel(f"json://127.0.0.1:{server.port}/x").check().ok
    assert server.got == []


def test_a_secret_that_cannot_be_fetched_is_the_problem():
    def fetch():
        raise ConfigError("The file /x is not there.", hint="Make it.")

    made = AppriseChannel("mail", fetch, ())
    assert (made.send(MESSAGE).problem, made.check().hint) == ("The file /x is not there.", "Make it.")
    assert made.place == "…"


def test_a_library_that_breaks_breaks_nothing(monkeypatch):
    def broken(url):
        raise RuntimeError(f"bug near {url}")

    monkeypatch.setattr("vmconsole.notify.channels._service", broken)
    done = channel("json://u:hunter22@kvm.example/t0pSecret").send(MESSAGE)
    assert "RuntimeError" in done.problem
    assert "hunter22" not in done.problem


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mailtos://me:pass@example.org?to=you@example.org", "mailtos://example.org/…"),
        ("mailto://user:p@ss@example.org", "mailto://example.org/…"),
        ("mailto://user:pa/ss@example.org", "mailto://…"),
        ("json://localhost:8080/x", "json://localhost/…"),
        ("jsons://[fe80::1]:443/x", "jsons://[fe80::1]/…"),
        ("tgram://123456789:abcdefg_hijklmnop/chat", "tgram://…"),
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "discord://…"),
        ("ntfy://my-secret.topic", "ntfy://…"),
        ("ntfys://token@ntfy.example/topic", "ntfys://ntfy.example/…"),
        ("sendgrid://SG.aaaa.bbbb:from@example.org", "sendgrid://…"),
        ("https://hc-ping.com/0b1c-uuid", "https://hc-ping.com/…"),
        ("hunter22", "…"),
        ("", "…"),
    ],
)
def test_only_scheme_and_host_are_shown(url, shown):
    assert place(url) == shown


def test_parts_of_a_url_vanish_from_a_text():
    url = "json://us%20er:hunter22@kvm.example/t0pSecret?a=b%2Fcd"
    text = f"{url} | us er | hunter22 | /t0pSecret | b/cd | kvm.example | json"
    assert without_secrets(text, url) == "json://… | … | … | /… | … | kvm.example | json"


def test_what_a_message_says_is_not_taken_for_the_cause(server):
    server.status = [500]
    done = channel(f"json://127.0.0.1:{server.port}/x").send(Message("t", "Exception: SSH timed out"))
    assert "500" in done.problem
    assert "in time" not in done.problem
