"""First steps: a configuration, a repository, a first host.

vmconsole init              asks
vmconsole init --repository /srv/backup/vms --host kvm1=root@kvm1.example
vmconsole init --systemd    a timer starts the backups that are due
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path

from vmconsole.cli import init_systemd
from vmconsole.cli.output import Output
from vmconsole.cli.repo import full_location, open_or_make
from vmconsole.errors import EXIT_DONE, ConfigError, UsageError
from vmconsole.front import changing
from vmconsole.front.services import Services

HELP = "first steps: configuration, repository, first host"
_REPOSITORY = "main"
_GROUP = "all"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repository", metavar="LOCATION", help="a folder, or ssh://user@host:port/path")
    parser.add_argument("--host", metavar="NAME=ADDRESS", help="the first host, as in kvm1=root@kvm1.example")
    parser.add_argument(
        "--kind", choices=("libvirt", "proxmox"), default="libvirt", help="what runs the guests there"
    )
    init_systemd.configure(parser)


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    if args.systemd:
        return init_systemd.run(args, services, output)
    if args.user or args.dry_run or args.replace or args.remove:
        raise UsageError("--user, --dry-run, --replace and --remove go with --systemd.", hint="Add --systemd")
    _refuse_second(services)
    asking = output.can_ask and not args.repository
    if asking:
        output.note(f"This writes {services.config_path} and makes a Borg repository. Ctrl-C leaves.")
    location = args.repository or output.prompt("Where should the repository be (folder or ssh://…)")
    if not location:
        raise UsageError(
            "Say where the repository should be.", hint="vmconsole init --repository /srv/backup/vms"
        )
    host = args.host or (output.prompt("First host, as NAME=ADDRESS (empty: later)") if asking else "")
    name, address = _host(host)
    passphrase = services.config_path.parent / "passphrase"
    fresh = _new_passphrase(passphrase)
    first = {name: {"kind": args.kind, "address": address}} if name else {}
    made = _write(services, output, full_location(location), passphrase, first)
    output.document(
        {
            "config": str(services.config_path),
            "repository": {"name": _REPOSITORY, "id": made, "location": full_location(location)},
            "passphrase_file": str(passphrase),
            "host": name or None,
        }
    )
    output.line(f"✓ {services.config_path}")
    output.line(
        f"✓ {passphrase}: " + ("a new random passphrase" if fresh else "was there already, and is used")
    )
    output.line(f"✓ Repository {_REPOSITORY} at {full_location(location)}, encrypted (repokey-blake2)")
    if name:
        output.line(f"✓ Host {name}, and a group `{_GROUP}` that covers every guest")
    output.hint(f"Copy {passphrase} to a second place now: without it nobody can restore, ever.")
    if name:
        output.hint(f"Next: vmconsole host trust {name} && vmconsole host check {name}")
        output.hint(f"Then: vmconsole backup --group {_GROUP} --dry-run")
        output.hint(
            f"Every night: vmconsole group edit {_GROUP} --when 'daily 22:00' && vmconsole init --systemd"
        )
    else:
        output.hint("Next: vmconsole host add kvm1 root@kvm1.example")
    return EXIT_DONE


def _refuse_second(services: Services) -> None:
    if services.config_path.exists() and services.config.repositories:
        raise ConfigError(
            f"{services.config_path} names a repository already; init is for the first steps.",
            hint="Add to it: vmconsole host add, group add, repo init. Look at it: vmconsole doctor",
            subject=str(services.config_path),
        )


def _host(text: str) -> tuple[str, str]:
    name, _, address = text.partition("=")
    if text and not (name and address):
        raise UsageError(f"{text!r} is not NAME=ADDRESS.", hint="As in: --host kvm1=root@kvm1.example")
    return name, address


def _write(
    services: Services,
    output: Output,
    location: str,
    passphrase: Path,
    hosts: Mapping[str, dict[str, object]],
) -> str:
    """The configuration, then the repository; a failure leaves neither. Returns the repository's id."""
    undo: list[tuple[str, str]] = []

    def add(section: str, name: str, values: dict[str, object]) -> None:
        changing.add(services, section, name, values)
        undo.append((section, name))

    try:
        add("repositories", _REPOSITORY, {"location": location, "passphrase": {"file": passphrase.name}})
        for name, values in hosts.items():
            add("hosts", name, values)
            if _GROUP not in services.config.file.groups:
                add("groups", _GROUP, {"hosts": ["*"]})
        return open_or_make(_REPOSITORY, services, output, existing=False)
    except BaseException:
        for section, name in reversed(undo):
            changing.remove(services, section, name)
        raise


def _new_passphrase(path: Path) -> bool:
    """Made once, never overwritten: an old passphrase may open an old repository. True when it is new."""
    temporary = path.with_name(f".passphrase.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists():
            return False
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
                file.flush()
                os.fsync(descriptor)
            # a link fails when the name is taken meanwhile, and is never seen half-written
            path.hardlink_to(temporary)
        finally:
            temporary.unlink()
    except OSError as error:
        raise ConfigError(
            f"The passphrase file {path} cannot be made: {error.strerror}.",
            hint=f"Look at the folder's owner and mode: ls -ld {shlex.quote(str(path.parent))}",
            subject=str(path),
        ) from error
    return True
