"""Print a shell completion script.

vmconsole completion bash > /etc/bash_completion.d/vmconsole
"""

from __future__ import annotations

import argparse

from vmconsole.cli.output import Output
from vmconsole.errors import EXIT_DONE
from vmconsole.front.services import Services

HELP = "print a shell completion script"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    import shtab

    from vmconsole.cli.main import build_parser

    script = shtab.complete(build_parser(), args.shell)
    output.document({"shell": args.shell, "script": script})
    output.raw(script)
    return EXIT_DONE
