"""First steps: a configuration, a repository, a first host. Asks when it runs on a terminal.

vmconsole init                                                 asks
vmconsole init --repository /srv/backup/vms --host kvm1=root@kvm1.example
"""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from vmconsole.cli.output import Output
from vmconsole.cli.repo import full_location
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_DONE, UsageError

HELP = "first steps: configuration, repository, first host"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repository", metavar="LOCATION", help="a folder, or ssh://user@host:port/path")
    parser.add_argument("--host", metavar="NAME=ADDRESS", help="the first host, as in kvm1=root@kvm1.example")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    location = args.repository or output.prompt("Where should the Borg repository be (folder or ssh://…)?")
    if not location:
        raise UsageError(
            "Say where the repository should be.", hint="vmconsole init --repository /srv/backup/vms"
        )
    host = args.host or output.prompt("First host, as NAME=ADDRESS (kvm1=root@kvm1.example); empty for none")
    name, separator, address = host.partition("=")
    if host and not (name and separator and address):
        raise UsageError(f"{host!r} is not NAME=ADDRESS.", hint="As in: kvm1=root@kvm1.example")
    passphrase = services.config_path.parent / "passphrase"
    _new_passphrase(passphrase, output)
    services.editor.add(
        "repositories", "main", {"location": full_location(location), "passphrase": {"file": passphrase.name}}
    )
    output.line(f"✓ {services.config_path}")
    services.repository("main").create()
    output.line(f"✓ Repository main at {location}, encrypted (repokey-blake2).")
    output.line(f"  → Copy {passphrase} to a second place now: without it nobody can restore, ever.")
    if host:
        services.editor.add("hosts", name, {"kind": "libvirt", "address": address})
        services.editor.add("groups", "all", {"hosts": ["*"]})
        output.line(f"✓ Host {name}, and a group `all` that covers every guest.")
        output.line(f"  → Next: vmconsole host trust {name} && vmconsole host check {name}")
        output.line("  → Then: vmconsole backup --group all --dry-run")
    else:
        output.line("  → Next: vmconsole host add kvm1 root@kvm1.example")
    return EXIT_DONE


def _new_passphrase(path: Path, output: Output) -> None:
    """Made once, never overwritten: an old passphrase may open an old repository."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with path.open("x") as file:
            path.chmod(0o600)
            file.write(secrets.token_urlsafe(32) + "\n")
    except FileExistsError:
        output.line(f"✓ {path} is there already and is used.")
        return
    output.line(f"✓ {path}: a new random passphrase, readable by you alone.")
