"""The command line: builds the parser from the verbs' own modules and runs one of them."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from vmconsole import __version__
from vmconsole.cli.output import Output
from vmconsole.cli.parser import Parser
from vmconsole.cli.signals import interruptible
from vmconsole.config.console_schema import THEMES
from vmconsole.errors import Cancelled, UsageError, VmconsoleError
from vmconsole.front.services import Services

# In the order of `vmconsole --help`. Each has a module of its name (a dash is an underscore there) with HELP,
# configure(parser), run(args, services, output).
VERBS = (
    "init",
    "host",
    "inventory",
    "group",
    "backup",
    "points",
    "restore",
    "ls",
    "cat",
    "get",
    "prune",
    "undo-prune",
    "pin",
    "repo",
    "runs",
    "stop",
    "notify",
    "digest",
    "doctor",
    "demo",
    "completion",
)

EPILOG = """\
exit codes: 0 done, 1 failed, 2 usage or configuration, 3 finished with
warnings, 10 repository missing, 11 repository locked, 12 wrong passphrase,
20 host unreachable, 70 internal error, 130 interrupted; any other code means
failure.

First time here? Look around with `vmconsole demo`, begin with `vmconsole init`.
"""


def main(
    argv: Sequence[str],
    connect: Callable[[str | None], Services],
    console: Callable[[Services, argparse.Namespace], int] | None = None,
) -> int:
    """Carry out one command line; returns the exit code.

    connect: makes the services for the configuration file that --config names, or for the default one.
    console: shows the interactive console until it is left; returns the exit code.
    """
    try:
        args = parse(argv)
    except UsageError as error:
        # No arguments were understood, so these are looked for by hand.
        output = Output(json="--json" in argv, color="--no-color" not in argv)
        output.error(error)
        return output.finish(error.exit_code)
    except SystemExit as done:
        return Output().finish(int(done.code or 0))
    services = connect(args.config)
    args.open_console = console
    try:
        if console and args.verb is None and not args.run_schedule and _has_terminal(args):
            return console(services, args)
        with interruptible():
            return run(args, services)
    finally:
        services.close()


def _has_terminal(args: argparse.Namespace) -> bool:
    """Whether the console can be shown. What belongs to --run-schedule is told by run() where it is wrong."""
    asked = args.schedule_loop or args.schedule_plan or args.schedule_at or args.json
    return not asked and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Raises UsageError for wrong usage, SystemExit(0) for --help and --version."""
    return build_parser().parse(argv)


def build_parser() -> Parser:
    parser = Parser(
        prog="vmconsole",
        description="Back up the guests of Proxmox VE and KVM/libvirt hosts over SSH into Borg.\n"
        "Without a command: the interactive console.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"vmconsole {__version__}")
    scheduling = parser.add_argument_group("without a command")
    scheduling.add_argument(
        "--run-schedule", action="store_true", help="back up everything that is due or was missed, then end"
    )
    scheduling.add_argument(
        "--loop",
        dest="schedule_loop",
        action="store_true",
        help="with --run-schedule: stay, and back up whenever something is due",
    )
    scheduling.add_argument(
        "--dry-run",
        dest="schedule_plan",
        action="store_true",
        help="with --run-schedule: show the plan, change nothing",
    )
    scheduling.add_argument(
        "--at",
        dest="schedule_at",
        metavar="TIME",
        help='with --dry-run: the plan at another time, such as "2026-12-24 22:00"',
    )
    looks = parser.add_argument_group("the console")
    looks.add_argument("--read-only", action="store_true", help="nothing can be changed, started or stopped")
    looks.add_argument(
        "--theme",
        choices=THEMES,
        default="",
        metavar="NAME",
        help="dark, light, colour-blind, or the terminal's own colours (ansi)",
    )
    looks.add_argument("--ascii", action="store_true", help="no characters beyond ASCII in states and bars")
    looks.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal")
    _common(parser, top=True)
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND")
    for name in VERBS:
        module = _module(name)
        verb = verbs.add_parser(name, help=module.HELP, description=_description(module.__doc__ or ""))
        module.configure(verb)
        _common_below(verb)
    return parser


def _description(docstring: str) -> str:
    return re.sub(r"(?m)^ *vmconsole ", "  vmconsole ", docstring)


def run(args: argparse.Namespace, services: Services) -> int:
    """Carry out parsed arguments. VmconsoleErrors are printed, not raised; returns the exit code."""
    output = Output(
        json=args.json,
        quiet=args.quiet,
        color=not args.no_color,
        as_typed=lambda text: with_config(text, args.config),
    )
    try:
        code = _command(args)(args, services, output)
    except VmconsoleError as error:
        output.error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        # Set: a clean stop had been asked for, and was cut short.
        hint = "See what is left on hosts: vmconsole doctor" if services.cancel.is_set() else ""
        interrupted = Cancelled("Interrupted.", hint=hint)
        output.error(interrupted)
        code = interrupted.exit_code
    return output.finish(code)


def with_config(text: str, config: str | None) -> str:
    """The commands that a message names, for a copy and paste that reaches the same configuration."""
    if not config:
        return text
    command = f"vmconsole --config {shlex.quote(config)}"
    words = "|".join((*VERBS, "--run-schedule"))
    return re.sub(rf"\bvmconsole(?= (?:--quiet )?(?:{words})\b)", lambda _: command, text)


def _command(args: argparse.Namespace) -> Callable[[argparse.Namespace, Services, Output], int]:
    if (args.schedule_loop or args.schedule_plan or args.schedule_at) and not args.run_schedule:
        # Before a verb they would be lost, and a dry run with them.
        raise UsageError(
            "--loop, --dry-run and --at before a command belong to --run-schedule.",
            hint=f"Write the options of {args.verb} behind it." if args.verb else "Add --run-schedule",
        )
    if args.run_schedule:
        if args.verb is not None:
            raise UsageError(
                f"--run-schedule and {args.verb} are two commands.", hint="See: vmconsole --help"
            )
        return importlib.import_module("vmconsole.cli.run_schedule").run  # type: ignore[no-any-return]
    if args.verb is None:
        raise UsageError(
            "The console needs a terminal; every task has a command as well.",
            hint="All commands: vmconsole --help\nFirst time here? Look around with vmconsole demo, "
            "begin with vmconsole init",
        )
    command: Callable[[argparse.Namespace, Services, Output], int] = _module(args.verb).run
    return command


def _module(verb: str) -> ModuleType:
    return importlib.import_module(f"vmconsole.cli.{verb.replace('-', '_')}")


def _common_below(parser: argparse.ArgumentParser) -> None:
    """The common options also work after the verb, and after a verb's own sub-verb."""
    _common(parser, top=False)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in set(action.choices.values()):
                _common_below(sub)


def _common(parser: argparse.ArgumentParser, *, top: bool) -> None:
    # A default below would overwrite what was given above; only the top parser has defaults.
    flag_default = False if top else argparse.SUPPRESS
    group = parser.add_argument_group("common options")
    group.add_argument(
        "--config",
        metavar="FILE",
        default=None if top else argparse.SUPPRESS,
        help="configuration file (default: $VMCONSOLE_CONFIG, ~/.config/vmconsole/config.toml, "
        "/etc/vmconsole/config.toml)",
    )
    group.add_argument(
        "--json",
        action="store_true",
        default=flag_default,
        help="one JSON document on stdout, or JSON lines for what runs; the rest on stderr",
    )
    group.add_argument(
        "--quiet",
        "-q",
        action="store_true",
        default=flag_default,
        help="no progress and notes; only what was asked for, warnings and errors",
    )
    group.add_argument("--no-color", action="store_true", default=flag_default, help="no colours")
