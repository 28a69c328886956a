"""The command lines that the demo's virsh understands, and virsh's own words for those it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


class BadUsage(Exception):
    """The text is what virsh prints after `error: `."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """required, optional: names of positional arguments, which may also be given as --NAME VALUE."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    values: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Line:
    """A parsed command line."""

    command: str
    uri: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()

    def get(self, name: str, default: str = "") -> str:
        return self.values.get(name, default)


def _syntax(text: str) -> Syntax:
    """`domain xmlfile? --timeout= --metadata`: required, optional, with value, flag."""
    words = text.split()
    plain = [word for word in words if not word.startswith("--")]
    options = [word[2:] for word in words if word.startswith("--")]
    return Syntax(
        required=tuple(word for word in plain if not word.endswith("?")),
        optional=tuple(word[:-1] for word in plain if word.endswith("?")),
        values=frozenset(option[:-1] for option in options if option.endswith("=")),
        flags=frozenset(option for option in options if not option.endswith("=")),
    )


_COMMANDS = {
    name: _syntax(text)
    for name, text in {
        "backup-begin": "domain backupxml? checkpointxml? --reuse-external",
        "backup-dumpxml": "domain",
        "capabilities": "",
        "checkpoint-create": "domain xmlfile? --redefine --redefine-validate --quiesce",
        "checkpoint-delete": "domain checkpointname? --metadata --children --children-only",
        "checkpoint-dumpxml": "domain checkpointname? --no-domain --size --security-info",
        "checkpoint-list": "domain --name --tree --roots --leaves --topological --parent",
        "define": "file --validate",
        "destroy": "domain --graceful",
        "domblkinfo": "domain device? --human --all",
        "domblklist": "domain --details --inactive",
        "domblkerror": "domain",
        "domblkthreshold": "domain dev threshold",
        "domcapabilities": "--virttype= --emulatorbin= --arch= --machine=",
        "domfsfreeze": "domain --mountpoint=",
        "domfsthaw": "domain --mountpoint=",
        "domid": "domain",
        "domjobabort": "domain --postcopy",
        "domjobinfo": "domain --completed --keep-completed --anystats --rawstats",
        "domname": "domain",
        "domstate": "domain --reason",
        "domstats": "domain? --raw --nowait --state --cpu-total --balloon --vcpu --interface --block "
        "--backing",
        "domuuid": "domain",
        "dumpxml": "domain --inactive --security-info --migratable",
        "guest-agent-timeout": "domain timeout?",
        "hostname": "",
        "list": "--all --inactive --uuid --name --title --state-running --state-paused "
        "--state-shutoff --state-other --id --persistent --transient",
        "net-list": "--all --name --uuid --inactive",
        "nodeinfo": "",
        "nwfilter-list": "",
        "pool-dumpxml": "pool --inactive",
        "pool-list": "--all --name --details --inactive --uuid",
        "pool-refresh": "pool",
        "qemu-agent-command": "domain cmd --timeout= --block --async --pretty",
        "resume": "domain",
        "shutdown": "domain --mode=",
        "snapshot-list": "domain --name --tree --internal --external",
        "start": "domain --paused --autodestroy",
        "suspend": "domain",
        "undefine": "domain --nvram --checkpoints-metadata",
        "uri": "",
        "version": "--daemon",
        "vol-list": "pool --details",
        "vol-path": "vol --pool=",
        "vol-pool": "vol --uuid",
    }.items()
}
_GLOBAL_VALUES = {"-c": "uri", "--connect": "uri", "-k": "", "-K": "", "-l": "", "--log": ""}
_GLOBAL_FLAGS = {"-q", "--quiet", "-r", "--readonly", "-t", "--timing"}


def parse(argv: Sequence[str]) -> Line:
    """virsh's arguments without the program's name. Raises BadUsage."""
    words = list(argv)
    uri = ""
    while words and words[0].startswith("-"):
        option, equals, value = words.pop(0).partition("=")
        if option in _GLOBAL_VALUES:
            value = value if equals else (words.pop(0) if words else "")
            uri = value if _GLOBAL_VALUES[option] else uri
        elif option in ("-V", "-v", "--version"):
            return Line("--version")
        elif option not in _GLOBAL_FLAGS:
            raise BadUsage(f"unsupported option '{option}'. See --help.")
    if not words:
        raise BadUsage("the demo host has no interactive virsh")
    command = words.pop(0)
    if command not in _COMMANDS:
        raise BadUsage(f"unknown command: '{command}'")
    values, flags = _arguments(command, _COMMANDS[command], words)
    return Line(command, uri, values, flags)


def _arguments(command: str, syntax: Syntax, words: list[str]) -> tuple[dict[str, str], frozenset[str]]:
    values: dict[str, str] = {}
    flags: set[str] = set()
    positional: list[str] = []
    names = (*syntax.required, *syntax.optional)
    options = True
    while words:
        word = words.pop(0)
        name, equals, value = word[2:].partition("=")
        if not options or not word.startswith("--"):
            positional.append(word)
        elif word == "--":
            options = False
        elif name in syntax.flags and not equals:
            flags.add(name)
        elif name in syntax.values or name in names:
            if not equals and not words:
                raise BadUsage(f"expected syntax: --{name} <string>")
            values[name] = value if equals else words.pop(0)
        else:
            raise BadUsage(f"command '{command}' doesn't support option --{name}")
    free = [name for name in names if name not in values]
    if len(positional) > len(free):
        raise BadUsage(f"unexpected data '{positional[len(free)]}'")
    values.update(zip(free, positional, strict=False))
    for name in syntax.required:
        if name not in values:
            raise BadUsage(f"command '{command}' requires <{name}> option")
    return values, frozenset(flags)
