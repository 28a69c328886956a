from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cli_world import HOSTILE

from vmconsole.cli.output import Output
from vmconsole.cli.telling import ping, tell
from vmconsole.errors import VmconsoleError
from vmconsole.model.alert import Alert, AlertKind
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.message import Delivery
from vmconsole.runs.reporting import Shop, report_alerts


@pytest.fixture
def inbox():
    """What arrives at json://127.0.0.1:PORT."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    got.append(server.server_address[1])
    yield got
    server.shutdown()
    server.server_close()


@pytest.fixture
def told(world, inbox):
    """Two channels: one that works, whose URL is a secret, and one that does not."""
    port = inbox.pop()
    secret = world.folder / "mail-url"
    secret.touch(0o600)
    secret.write_text(f"json://me:hunter22@127.0.0.1:{port}/t0pSecret\n")
    world.config.write_text(
        world.config.read_text()
        + '\n[notify.channels.mail]\nsecret = { file = "mail-url" }\n'
        + '\n[notify.channels.pager]\nurl = "json://me:hunter33@127.0.0.1:1/t0pSecret"\non = ["failure"]\n'
    )
    return world


def shop(world):
    services = world.wiring()
    channels = [services.channel(name) for name in services.config.notify.channels]
    return Shop(
        services.config,
        services.store,
        services.history,
        services.alerts,
        services.clock,
        channels,
        services.metrics,
    )


def test_a_test_reaches_every_channel_or_says_why_not(told, inbox):
    said = told.call("notify", "test")
    assert said.code == 1
    assert said.lines == [
        "✓ mail: sent to json://127.0.0.1/…",
        "✗ pager: json://127.0.0.1/… did not take the message: the connection was refused.",
        f"  → Put it right, then try: vmconsole --config {told.config} notify test pager",
    ]
    assert [body["title"] for body in inbox] == ["vmconsole: test"]
    assert "hunter" not in said.out + said.err


def test_one_channel_and_json(told, inbox):
    said = told.call("--json", "notify", "test", "mail")
    assert (said.code, len(inbox)) == (0, 1)
    assert said.document == {"channels": [{"name": "mail", "ok": True, "problem": None, "remedy": None}]}


def test_no_such_channel_and_none_at_all(told, world):
    said = told.call("notify", "test", "mial")
    assert said.code == 2
    assert "mail, pager" in said.err
    world.config.write_text(world.config.read_text().partition("\n[notify")[0])
    said = world.call("notify", "test")
    assert said.code == 2
    assert "nobody is told" in said.err


def test_doctor_tells_of_a_channel_that_failed_until_it_works(told):
    assert "✓ alerts: pager" in told.call("doctor").out
    told.call("notify", "test")
    said = told.call("doctor")
    assert said.code == 1
    assert "✗ alerts: pager – Channel pager does not work: json://127.0.0.1/…" in said.out
    assert "✓ alerts: mail" in said.out
    (told.folder / "mail-url").unlink()
    assert "✗ alerts: mail – The URL file" in told.call("doctor").out


def test_a_channel_that_is_configured_no_more_is_no_finding(told, world):
    told.call("notify", "test")
    world.config.write_text(world.config.read_text().partition("\n[notify.channels.pager]")[0])
    assert "pager" not in world.call("doctor").out


def test_the_alerts_that_hold_are_listed(told, inbox):
    told.call("inventory")
    report, problem = report_alerts(shop(told))
    assert problem == ""
    assert {alert.kind for alert in report.holding} == {AlertKind.UNPROTECTED}
    assert len(inbox) == 1
    said = told.call("notify", "list")
    assert said.code == 0
    assert said.lines[0].startswith("mail: json://127.0.0.1/…, told of digest, failure")
    assert "in no group: nothing backs it up." in said.out
    assert HOSTILE not in said.out
    assert "\x1b" not in said.out
    document = told.call("--json", "notify", "list").document
    assert [alert["kind"] for alert in document["alerts"]] == ["unprotected"]
    assert document["channels"][0]["place"] == "json://127.0.0.1/…"
    assert "hunter" not in json.dumps(document)


def test_all_alerts_are_listed_here(told):
    told.wiring().alerts.update(
        [Alert(AlertKind.FAILURE, f"u{n}", f"vm{n} was not backed up.") for n in range(9)], AlertKind
    )
    said = told.call("notify", "list")
    assert sum(line.startswith("✗ vm") for line in said.lines) == 9


def test_nothing_to_list(world):
    said = world.call("notify", "list")
    assert said.code == 0
    assert "! No channel is configured: nobody is told when a backup fails." in said.lines
    assert "✓ No alerts." in said.lines


# --- the digest --------------------------------------------------------------------------------


def record_a_night(world):
    services = world.wiring()
    now = services.clock.now()
    run = services.store.start_run("backup", "group daily").id
    for guest in world.host.guests[:1]:
        record = BackupRecord(
            0, run, guest.uuid, guest.name, "kvm1", "main", now - timedelta(hours=1), group="daily"
        )
        number = services.history.begin(record)
        values = {"ended": now, "seconds": 60.0, "bytes_read": 1 << 30, "state": BackupState.DONE}
        services.history.end(
            BackupRecord(
                number, run, guest.uuid, guest.name, "kvm1", "main", record.started, group="daily", **values
            )
        )


def test_the_digest_is_shown(world):
    world.call("inventory")
    record_a_night(world)
    (world.folder / "repository").mkdir()
    said = world.call("digest")
    assert said.code == 0
    assert said.lines[0] == "vmconsole digest: 1 of 1 guests protected, 1 unprotected"
    assert "Backups: 1 made, 0 failed; 1 GiB read, 0 B stored" in said.lines
    assert any(line.startswith("Repository main: 0 B added; ") for line in said.lines)
    assert world.call("--json", "digest", "--days", "1").document["sent"] == []


def test_the_digest_is_sent_to_those_who_take_it(told, inbox):
    said = told.call("digest", "--send")
    assert (said.code, said.lines) == (0, ["✓ mail: sent to json://127.0.0.1/…"])
    assert inbox[0]["title"].startswith("vmconsole digest: ")


def test_nobody_takes_it(world):
    said = world.call("digest", "--send")
    assert said.code == 2
    assert "No channel takes digests." in said.err


# --- the whole, as the scheduler calls it ------------------------------------------------------


def test_a_failure_is_told_and_figures_are_written(told, inbox):
    told.config.write_text(told.config.read_text() + '\n[notify]\nmetrics = "vmconsole.prom"\n')
    told.call("inventory")
    services = told.wiring()
    web = told.host.guests[0]
    run = services.store.start_run("backup", "group daily").id
    record = BackupRecord(0, run, web.uuid, "web", "kvm1", "main", services.clock.now(), group="daily")
    number = services.history.begin(record)
    services.history.end(
        BackupRecord(
            number,
            run,
            web.uuid,
            "web",
            "kvm1",
            "main",
            record.started,
            BackupState.FAILED,
            group="daily",
            error="The disk is full.",
            hint="Make room.",
        )
    )
    report, problem = report_alerts(shop(told), finished=services.history.of_run(run))
    assert problem == ""
    # the pager is broken; the mail hears of both
    assert [alert.key for alert in report.broken] == ["pager"]
    assert [body["title"] for body in inbox] == [
        "vmconsole: 1 backup failed, 1 guest unprotected",
        "vmconsole: 1 channel does not work",
    ]
    figures = (told.folder / "vmconsole.prom").read_text()
    assert f'vmconsole_backup_failed{{guest="web",uuid="{web.uuid}",host="kvm1",group="daily"}} 1' in figures
    assert 'vmconsole_alerts{kind="failure"} 1' in figures
    again, _ = report_alerts(shop(told))
    assert len(inbox) == 2
    assert {delivery.channel for delivery in again.deliveries} == {"metrics"}  # the pager is left alone


def test_a_run_is_not_broken_by_its_report(told):
    made = shop(told)

    class Broken:
        def __getattr__(self, name):
            raise VmconsoleError("The state database is locked.")

    broken = replace(made, alerts=Broken(), history=Broken())
    assert report_alerts(broken) == (None, "The state database is locked.")


class Pings:
    def __init__(self):
        self.got = []

    def ping(self, group, url, word=""):
        self.got.append((group, url, word))
        return Delivery(f"ping {group}", "It answered 404." if word == "fail" else "")


def test_watchdogs_are_called_for_groups_that_have_one(told):
    text = told.config.read_text().replace("[groups.daily]", '[groups.daily]\nping = "https://hc.example/id"')
    told.config.write_text(text + '\n[groups.other]\nguests = ["x"]\n')

    class Services:
        pinger = Pings()
        config = told.wiring().config

    assert ping(Services, ["daily", "other"], "start") == [Delivery("ping daily")]
    assert ping(Services, ["other"]) == []
    assert Services.pinger.got == [("daily", "https://hc.example/id", "start")]


def test_what_does_not_work_is_said_at_the_end_of_a_run(told, inbox, capsys):
    text = told.config.read_text().replace("[groups.daily]", '[groups.daily]\nping = "https://hc.example/id"')
    told.config.write_text(text)
    tell(told.wiring(), Output(), pings=[Delivery("ping daily", "It answered 404.", "Look.")])
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["! Ping daily does not work: It answered 404.", "  → Look."]
    assert said[2].startswith("! Channel pager does not work: ")
    assert [body["title"] for body in inbox] == ["vmconsole: 1 channel does not work"] * 2
