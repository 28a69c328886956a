"""At the end of a scheduled run: alerts are brought up to date and told, watchdogs called, figures written.

Never fails the run: what does not work is said on the terminal, and is an alert itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vmconsole.cli.output import Output
from vmconsole.front.parallel import together
from vmconsole.front.services import Services
from vmconsole.front.shop import shop_of, spaces_of
from vmconsole.model.ledger import Vanished
from vmconsole.model.message import Delivery
from vmconsole.runs.reporting import report_alerts


def ping(services: Services, groups: Collection[str], word: str = "") -> list[Delivery]:
    """Call the watchdogs of these groups, all at the same time; those without one are left out.

    word: `start` before a run, empty after a good one, `fail` after one that was not. Keep the result for tell().
    """
    watched = [group for group in services.config.groups() if group.ping and group.name in groups]
    return together(lambda group: services.pinger.ping(group.name, group.ping, word), watched)


def tell(
    services: Services,
    output: Output,
    *,
    run: str | None = None,
    pings: Sequence[Delivery] = (),
    troubles: Sequence[Delivery] = (),
    vanished: Sequence[Vanished] = (),
) -> None:
    """To be called whenever the schedule was looked at, also when nothing was due (run None): a guest can be
    overdue then, and the digest can be due. pings, of several of one group the last counts; troubles, vanished:
    as runs.alerts.Facts.
    """
    finished = services.history.of_run(run) if run else ()
    report, problem = report_alerts(
        shop_of(services),
        finished=finished,
        pings=pings,
        spaces=spaces_of(services),
        troubles=troubles,
        vanished=vanished,
    )
    if report is None:
        output.note(f"! Nobody could be told of alerts: {problem}", "yellow")
        return
    for alert in report.broken:
        output.note(f"! {alert.text}", "yellow")
        if alert.hint:
            output.note(f"  → {alert.hint}")
