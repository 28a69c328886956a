"""Hosts: the hypervisors that are reached over SSH.

vmconsole host add kvm1 root@kvm1.example   write it into the configuration
vmconsole host trust kvm1                   look at its key, and trust it
vmconsole host check kvm1                   what is missing, and what fixes it
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vmconsole.cli import findings
from vmconsole.cli.documents import key_document
from vmconsole.cli.output import Output
from vmconsole.cli.selection import listed
from vmconsole.cli.table import Column
from vmconsole.errors import (
    EXIT_DONE,
    EXIT_WARNINGS,
    Cancelled,
    ConfigError,
    HostKeyChanged,
    UsageError,
    VmconsoleError,
)
from vmconsole.front import changing
from vmconsole.front.parallel import together
from vmconsole.front.services import Services
from vmconsole.interfaces import HostKey
from vmconsole.model.group import Selector

HELP = "add, list, check, trust and remove hosts"


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = verbs.add_parser("add", help="add a host to the configuration")
    add.add_argument("name", metavar="NAME", help="short name, as in kvm1")
    add.add_argument("address", metavar="ADDRESS", help="user@host[:port], or a name from ssh_config")
    add.add_argument(
        "--kind", choices=("libvirt", "proxmox"), default="libvirt", help="what runs the guests there"
    )
    add.add_argument(
        "--identity-file", action="append", default=[], metavar="FILE", help="private key to log in with"
    )
    add.add_argument(
        "--scratch", metavar="DIR", help="libvirt: folder on the host for copy-on-write space during a backup"
    )
    add.add_argument("--uri", help="libvirt: connection URI as seen on the host (default: qemu:///system)")
    add.add_argument(
        "--fleecing", metavar="STORAGE|DIR", help="proxmox: storage or folder for the same purpose"
    )
    verbs.add_parser("list", help="list hosts")
    check = verbs.add_parser("check", help="what is missing for backups")
    check.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    trust = verbs.add_parser("trust", help="show the host's key and trust it")
    trust.add_argument("name", metavar="NAME", help="a host, with all its nodes, or HOST/NODE")
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
    if args.uri:
        values["uri"] = args.uri
    if args.fleecing:
        values["fleecing"] = args.fleecing
    changing.add(services, "hosts", args.name, values)
    output.document({"host": {"name": args.name, **values}, "config": str(services.config_path)})
    output.line(f"✓ Host {args.name} was added to {services.config_path}.")
    output.hint(f"Next: vmconsole host trust {args.name}")
    return EXIT_DONE


def _list(args: argparse.Namespace, services: Services, output: Output) -> int:
    hosts = services.config.hosts
    output.document(
        {"hosts": [{"name": name, "kind": h.kind, "address": h.address} for name, h in hosts.items()]}
    )
    if not hosts:
        output.note("No host yet. Add one with: vmconsole host add kvm1 root@kvm1.example")
        return EXIT_DONE
    columns = (Column("host"), Column("kind"), Column("address", least=20))
    output.table(columns, [(name, h.kind, h.address) for name, h in hosts.items()])
    return EXIT_DONE


def _check(args: argparse.Namespace, services: Services, output: Output) -> int:
    for name in args.names:
        services.config.host(name)
    names = args.names or list(services.config.hosts)
    if not names:
        raise UsageError(
            "No host is configured yet.", hint="Add one with: vmconsole host add kvm1 root@kvm1.example"
        )
    with output.busy(f"Asking {listed(names)} …"):
        found = [
            finding
            for each in together(lambda name: findings.of_host(services, name), names)
            for finding in each
        ]
    output.document({"checks": findings.document(found, "host")})
    findings.show(found, output)
    return findings.exit_code(found)


def _trust(args: argparse.Namespace, services: Services, output: Output) -> int:
    """The host's key, and then those of a cluster's other nodes: guests are read on the node they are on."""
    host, _, node = args.name.partition("/")
    services.config.host(host)
    document = _trust_one(args.name, args, services, output)
    others, problem = ((), None) if node else _other_nodes(host, services, output)
    left = []
    nodes = []
    for other in others:
        if args.fingerprint:
            # What was given is the fingerprint of one key, not of all.
            key = _scan(other, services, output)
            trusted = key.trusted == key.fingerprint
            nodes.append(key_document(key, trusted=trusted))
            left += [] if trusted else [key]
        else:
            nodes.append(_trust_one(other, args, services, output))
    output.document(document | ({"nodes": nodes} if others else {}))
    for key in left:
        output.note(
            f"! {key.host} ({key.address}) is not trusted yet: {key.type} {key.fingerprint}", "yellow"
        )
        output.remedy(
            f"Compare it there, then: vmconsole host trust {key.host} --fingerprint {key.fingerprint}"
        )
    if problem is not None:
        output.line(f"! Its other nodes are not known yet: {problem.message}")
        output.remedy(problem.hint or f"Then again: vmconsole host trust {host}")
    output.hint(f"Next: vmconsole host check {host}")
    return EXIT_WARNINGS if left or problem else EXIT_DONE


def _other_nodes(
    host: str, services: Services, output: Output
) -> tuple[Sequence[str], VmconsoleError | None]:
    """Names of nodes, or why the host does not tell them; its own key is trusted all the same."""
    try:
        with output.busy(f"Asking {host} for its nodes …"):
            return services.host_nodes(host), None
    except VmconsoleError as error:
        return (), error


def _scan(name: str, services: Services, output: Output) -> HostKey:
    with output.busy(f"Asking {name} for its key …"):
        return services.scan_host_key(name)


def _trust_one(name: str, args: argparse.Namespace, services: Services, output: Output) -> dict[str, Any]:
    """Look at one key and trust it; returns its document. Raises unless it is the expected one."""
    key = _scan(name, services, output)
    if key.trusted == key.fingerprint:
        output.line(f"✓ {name}: the {key.type} key {key.fingerprint} is trusted already.")
        return key_document(key, trusted=True)
    _show_key(key, output)
    if key.trusted and not args.replace:
        raise HostKeyChanged(
            f"The key of {name} is not the one that was trusted; it stays refused.",
            hint=f"Compare it on the host's own console: {_compare(key)}\n"
            f"If it is right: vmconsole host trust {name} --replace",
            subject=name,
        )
    _confirm(args, key, output)
    try:
        services.trust_host_key(key, replace=args.replace)
    except OSError as error:
        raise VmconsoleError(
            f"The key of {name} cannot be stored: {error.strerror}.",
            hint="Look at owner, mode and space of the folder that known_hosts is in.",
            subject=name,
        ) from error
    output.line(f"✓ {name}: trusted.")
    return key_document(key, trusted=True)


def _show_key(key: HostKey, output: Output) -> None:
    output.note(f"{key.host} ({key.address}) presents the {key.type} key")
    output.note(f"  {key.fingerprint}", style="bold")
    if key.trusted:
        output.note("! The key trusted so far is", style="red")
        output.note(f"  {key.trusted}", style="red")
        output.note("If nobody has reinstalled the host or changed its key, somebody sits in between.", "red")


def _confirm(args: argparse.Namespace, key: HostKey, output: Output) -> None:
    """Raises unless the key is the one that is expected."""
    if args.fingerprint:
        if args.fingerprint.removeprefix("SHA256:") != key.fingerprint.removeprefix("SHA256:"):
            raise UsageError(
                f"The key of {key.host} has the fingerprint {key.fingerprint}, not {args.fingerprint}.",
                hint="Nothing was trusted. Somebody may sit in between, or the fingerprint is that of "
                f"another key of the host: {_compare(key)}",
                subject=key.host,
            )
        return
    if not output.can_ask:
        replace = " --replace" if args.replace else ""
        raise UsageError(
            "Nothing was trusted: there is no terminal to ask on.",
            hint="Compare the fingerprint, then: "
            f"vmconsole host trust {key.host}{replace} --fingerprint {key.fingerprint}",
            subject=key.host,
        )
    output.note("Compare it on the host's own console:")
    output.note(f"  {_compare(key)}")
    if not output.ask("Is it the same?"):
        raise Cancelled("Nothing was trusted.", subject=key.host)


def _compare(key: HostKey) -> str:
    kind = "ecdsa" if key.type.startswith("ecdsa") else key.type.removeprefix("ssh-")
    return f"ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub"


def _remove(args: argparse.Namespace, services: Services, output: Output) -> int:
    services.config.host(args.name)
    others = [name for name in services.config.hosts if name != args.name]
    in_use = [group.name for group in services.config.groups() if _needs(group.selector, args.name, others)]
    if in_use:
        raise ConfigError(
            f"Host {args.name} is needed by {'group' if len(in_use) == 1 else 'groups'} {', '.join(in_use)} "
            f"in {services.config_path}.",
            hint=f"Change it there first, or remove it: vmconsole group remove {in_use[0]}",
            subject=args.name,
        )
    changing.remove(services, "hosts", args.name)
    output.document({"removed": {"host": args.name}, "config": str(services.config_path)})
    output.line(f"✓ Host {args.name} was removed from {services.config_path}. Its restore points stay.")
    return EXIT_DONE


def _needs(selector: Selector, host: str, others: Sequence[str]) -> bool:
    """Whether one of its patterns matches this host and none of the others."""
    guests = (pattern for pattern in (*selector.guests, *selector.exclude) if "/" in pattern)
    return any(
        fnmatchcase(host, pattern) and not any(fnmatchcase(other, pattern) for other in others)
        for pattern in (*selector.hosts, *(pattern.partition("/")[0] for pattern in guests))
    )
