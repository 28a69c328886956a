"""Hosts: the hypervisors that are reached over SSH.

vmconsole host add kvm1 root@kvm1.example     write it into the configuration
vmconsole host trust kvm1                     look at its key, and trust it
vmconsole host check kvm1                     what is missing for backups, and what fixes it
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmconsole.cli.doctor import host_checks, show_checks
from vmconsole.cli.output import Output
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_DONE, EXIT_FAILED, Cancelled, UsageError

HELP = "add, list, check, trust and remove hosts"


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = verbs.add_parser("add", help="add a host to the configuration")
    add.add_argument("name", metavar="NAME", help="short name, as in kvm1")
    add.add_argument("address", metavar="ADDRESS", help="user@host[:port], or a name from ssh_config")
    add.add_argument("--kind", choices=("libvirt",), default="libvirt")
    add.add_argument(
        "--identity-file", action="append", default=[], metavar="FILE", help="private key to log in with"
    )
    add.add_argument(
        "--scratch", metavar="DIR", help="folder on the host for copy-on-write space during a backup"
    )
    verbs.add_parser("list", help="list hosts")
    check = verbs.add_parser("check", help="what is missing for backups")
    check.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    trust = verbs.add_parser("trust", help="show the host's key and trust it")
    trust.add_argument("name", metavar="NAME")
    trust.add_argument(
        "--fingerprint", metavar="SHA256:…", help="trust only a key with this fingerprint, without asking"
    )
    trust.add_argument(
        "--replace", action="store_true", help="replace a different key that was trusted before"
    )
    remove = verbs.add_parser("remove", help="remove a host from the configuration")
    remove.add_argument("name", metavar="NAME")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    actions = {"add": _add, "list": _list, "check": _check, "trust": _trust, "remove": _remove}
    return actions[args.action](args, services, output)


def _add(args: argparse.Namespace, services: Services, output: Output) -> int:
    values: dict[str, object] = {"kind": args.kind, "address": args.address}
    if args.identity_file:
        values["identity_files"] = [str(Path(file).expanduser().absolute()) for file in args.identity_file]
    if args.scratch:
        values["scratch"] = args.scratch
    services.editor.add("hosts", args.name, values)
    output.line(f"✓ {args.name} was added to {services.config_path}.")
    output.line(f"  → Next: vmconsole host trust {args.name}")
    return EXIT_DONE


def _list(args: argparse.Namespace, services: Services, output: Output) -> int:
    hosts = services.config.hosts
    if output.json:
        output.document(
            {"hosts": [{"name": name, "kind": h.kind, "address": h.address} for name, h in hosts.items()]}
        )
    output.table(("host", "kind", "address"), [(name, h.kind, h.address) for name, h in hosts.items()])
    return EXIT_DONE


def _check(args: argparse.Namespace, services: Services, output: Output) -> int:
    for name in args.names:
        services.config.host(name)
    checks = [
        (name, check) for name in args.names or services.config.hosts for check in host_checks(services, name)
    ]
    if output.json:
        output.document(
            {
                "checks": [
                    {
                        "host": name,
                        "name": c.name,
                        "ok": c.ok,
                        "warning": c.warning,
                        "detail": c.detail,
                        "remedy": c.remedy or None,
                    }
                    for name, c in checks
                ]
            }
        )
    show_checks(checks, output)
    return EXIT_DONE if all(check.ok or check.warning for _, check in checks) else EXIT_FAILED


def _trust(args: argparse.Namespace, services: Services, output: Output) -> int:
    services.config.host(args.name)
    key = services.scan_host_key(args.name)
    if key.trusted == key.fingerprint:
        output.line(f"✓ {args.name}: the {key.type} key {key.fingerprint} is trusted already.")
        return EXIT_DONE
    output.note(f"{args.name} ({key.address}) presents the {key.type} key")
    output.note(f"  {key.fingerprint}", style="bold")
    if key.trusted:
        output.note(
            f"! The key trusted so far is {key.trusted}. If nobody changed it, somebody sits in between.",
            "red",
        )
        if not args.replace:
            raise UsageError(
                f"The key of {args.name} is not the one that was trusted.",
                hint="Compare it on the host's console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub); "
                f"if it is right: vmconsole host trust {args.name} --replace",
                subject=args.name,
            )
    if args.fingerprint:
        if args.fingerprint != key.fingerprint:
            raise UsageError(
                f"The key of {args.name} has the fingerprint {key.fingerprint}, not {args.fingerprint}.",
                hint="Nothing was trusted.",
                subject=args.name,
            )
    elif not output.ask("Compare it with `ssh-keygen -lf` on the host's own console. Trust it?"):
        raise Cancelled(
            "Nothing was trusted. Without a terminal, say which key you expect: "
            f"vmconsole host trust {args.name} --fingerprint {key.fingerprint}"
        )
    services.trust_host_key(key, replace=args.replace)
    output.line(f"✓ {args.name}: trusted.")
    output.line(f"  → Next: vmconsole host check {args.name}")
    return EXIT_DONE


def _remove(args: argparse.Namespace, services: Services, output: Output) -> int:
    services.config.host(args.name)
    services.editor.remove("hosts", args.name)
    output.line(f"✓ {args.name} was removed from {services.config_path}. Its restore points stay.")
    return EXIT_DONE
