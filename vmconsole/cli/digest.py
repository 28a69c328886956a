"""The digest: how the last week was. The schedule sends it, as [notify] says.

vmconsole digest                 show it
vmconsole digest --send          send it to the channels that take digests
"""

from __future__ import annotations

import argparse
from datetime import timedelta

from vmconsole.cli.notify import delivery_document, show_deliveries
from vmconsole.cli.output import Output
from vmconsole.cli.parser import at_least_one
from vmconsole.errors import EXIT_DONE, EXIT_FAILED, UsageError
from vmconsole.front.services import Services
from vmconsole.front.shop import shop_of, spaces_of
from vmconsole.model.point import iso

HELP = "how the last week was, and what comes next"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--send", action="store_true", help="send it to the channels that take digests")
    parser.add_argument("--days", type=at_least_one, default=7, metavar="N", help="how far back (default: 7)")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    shop = shop_of(services)
    takers = [channel for channel in shop.channels if "digest" in channel.on]
    if args.send and not takers:
        raise UsageError(
            "No channel takes digests.",
            hint='Add "digest" to on under [notify.channels.NAME].',
        )
    facts = shop.facts(spaces=spaces_of(services))
    since = facts.now - timedelta(days=args.days)
    message = shop.digest(facts, since)
    done = shop.teller.send_digest(message) if args.send else []
    output.document(
        {
            "since": iso(since),
            "until": iso(facts.now),
            "title": message.title,
            "body": message.body,
            "sent": [delivery_document(each) for each in done],
        }
    )
    if args.send:
        show_deliveries(done, takers, output)
        return EXIT_DONE if all(each.ok for each in done) else EXIT_FAILED
    output.line(message.title, style="bold")
    for line in message.body.split("\n"):
        output.line(line)
    return EXIT_DONE
