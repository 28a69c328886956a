"""Alerts: whether they would arrive, and those that hold now.

vmconsole notify test            send a test to every channel
vmconsole notify test mail       to one
vmconsole notify list            the channels, and what is wrong now
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from vmconsole.cli.output import Output
from vmconsole.errors import EXIT_DONE, EXIT_FAILED, UsageError
from vmconsole.front.parallel import together
from vmconsole.front.services import Services
from vmconsole.front.shop import shop_of
from vmconsole.interfaces import Channel
from vmconsole.model.alert import Alert
from vmconsole.model.message import Delivery, Message
from vmconsole.model.point import iso
from vmconsole.runs.wording import alert_lines

HELP = "send a test to the channels; list the alerts that hold"
_NONE = "No channel is configured: nobody is told when a backup fails."
_ADD = 'Add one to the configuration: [notify.channels.mail] with secret = { file = "mail-url" }'


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    test = verbs.add_parser("test", help="send a test to every channel, or to one")
    test.add_argument("channel", nargs="?", metavar="CHANNEL", help="its name in [notify.channels]")
    verbs.add_parser("list", help="the channels, and the alerts that hold")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    return _test(args.channel, services, output) if args.action == "test" else _list(services, output)


def _test(name: str | None, services: Services, output: Output) -> int:
    names = [name] if name else list(services.config.notify.channels)
    if not names:
        raise UsageError(_NONE, hint=_ADD)
    channels = [services.channel(each) for each in names]
    now = services.clock.now()
    message = Message(
        "vmconsole: test",
        f"This is a test, sent on {now.astimezone(services.config.timezone):%Y-%m-%d %H:%M}. Alerts would arrive here.",
    )
    with output.busy(f"Sending to {', '.join(names)} …"):
        done = together(lambda each: each.send(message), channels)
    shop_of(services).teller.note_deliveries(done)
    output.document({"channels": [delivery_document(each) for each in done]})
    show_deliveries(done, channels, output)
    return EXIT_DONE if all(each.ok for each in done) else EXIT_FAILED


def show_deliveries(done: Sequence[Delivery], channels: Sequence[Channel], output: Output) -> None:
    places = {channel.name: channel for channel in channels}
    for delivery in done:
        if delivery.ok:
            output.line(f"✓ {delivery.channel}: sent to {places[delivery.channel].place}")
        else:
            output.line(f"✗ {delivery.channel}: {delivery.problem}")
            if delivery.hint:
                output.remedy(delivery.hint)


def delivery_document(delivery: Delivery) -> dict[str, Any]:
    return {
        "name": delivery.channel,
        "ok": delivery.ok,
        "problem": delivery.problem or None,
        "remedy": delivery.hint or None,
    }


def _list(services: Services, output: Output) -> int:
    channels = [services.channel(name) for name in services.config.notify.channels]
    alerts = services.alerts.holding()
    output.document(
        {
            "channels": [
                {"name": each.name, "place": each.place, "on": sorted(each.on)} for each in channels
            ],
            "alerts": [_alert_document(alert) for alert in alerts],
        }
    )
    for channel in channels:
        output.line(f"{channel.name}: {channel.place}, told of {', '.join(sorted(channel.on))}")
    if not channels:
        output.line(f"! {_NONE}")
        output.remedy(_ADD)
    if not alerts:
        output.line("✓ No alerts.")
    for line in alert_lines(alerts, services.clock.now(), services.config.timezone, singly=None):
        output.remedy(line.strip(" →")) if line.startswith("  →") else output.line(line)
    return EXIT_DONE


def _alert_document(alert: Alert) -> dict[str, Any]:
    return {
        "kind": alert.kind.value,
        "key": alert.key,
        "text": alert.text,
        "hint": alert.hint or None,
        "subject": alert.subject or None,
        "group": alert.group or None,
        "since": iso(alert.since) if alert.since else None,
        "sent": iso(alert.sent) if alert.sent else None,
    }
