"""The command line: builds the parser from the verbs' own modules and runs one of them."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from vmconsole import __version__
from vmconsole.cli.output import Output
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_USAGE, VmconsoleError

# In the order of `vmconsole --help`. Each module has HELP, configure(parser), run(args, services, output).
VERBS = (
    "init",
    "host",
    "inventory",
    "group",
    "backup",
    "points",
    "restore",
    "repo",
    "runs",
    "stop",
    "doctor",
    "demo",
    "completion",
)

EPILOG = """\
exit codes: 0 done, 1 failed, 2 usage or configuration, 3 finished with warnings, 10 repository missing,
11 repository locked, 12 wrong passphrase, 20 host unreachable, 70 internal error, 130 interrupted;
any other code means failure.
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Raises SystemExit(2) for wrong usage, SystemExit(0) for --help and --version."""
    return build_parser().parse_args(argv)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmconsole",
        description="Back up the virtual machines of KVM/libvirt hosts, off-host, over SSH, into Borg.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vmconsole {__version__}")
    _common(parser, top=True)
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND")
    for name in VERBS:
        module = importlib.import_module(f"vmconsole.cli.{name}")
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(verb)
        _common_below(verb)
    return parser


def run(args: argparse.Namespace, services: Services) -> int:
    """Carry out parsed arguments. VmconsoleErrors are printed, not raised; returns the exit code."""
    output = Output(json=args.json, quiet=args.quiet, color=not args.no_color)
    if args.verb is None:
        output.error(
            VmconsoleError(
                "The interactive console is not part of this version.",
                hint="Use the commands: vmconsole --help",
            )
        )
        return EXIT_USAGE
    module = importlib.import_module(f"vmconsole.cli.{args.verb}")
    command: Callable[[argparse.Namespace, Services, Output], int] = module.run
    try:
        return command(args, services, output)
    except VmconsoleError as error:
        output.error(error)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`… | head`); that is its choice.
        sys.stderr.close()
        return 0


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
        help="no progress, only results and errors",
    )
    group.add_argument("--no-color", action="store_true", default=flag_default, help="no colours")
