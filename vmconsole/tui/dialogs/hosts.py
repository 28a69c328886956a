"""Adding a host, trusting its key, and taking it out again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from vmconsole.errors import VmconsoleError
from vmconsole.interfaces import HostKey
from vmconsole.tui.background import carry_out_quietly, in_background
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.dialogs.dialog import Ask
from vmconsole.tui.dialogs.form import Entry, Form
from vmconsole.tui.dialogs.said import Said
from vmconsole.tui.format import safe, safe_lines

if TYPE_CHECKING:
    from vmconsole.tui.app import Console

_ENTRIES = (
    Entry("name", "name", help="short, as in kvm1", needed=True),
    Entry("address", "address", help="root@kvm1.example, with :port if not 22", needed=True),
    Entry("kind", "kind", choices=("libvirt", "proxmox")),
    Entry("identity", "identity file", help="private key; empty: those of ssh and its agent"),
    Entry("scratch", "scratch folder", help="empty: /var/lib/libvirt/images", only=("kind", ("libvirt",))),
    Entry("uri", "libvirt URI", help="empty: qemu:///system", only=("kind", ("libvirt",))),
    Entry("fleecing", "fleecing", help="storage or folder; empty: chosen by itself", only=("kind", ("proxmox",))),
)  # fmt: skip


def add_command(values: Mapping[str, str]) -> Command:
    """`host add` with what the form was given."""
    argv = ["host", "add", values["name"], values["address"], "--kind", values["kind"]]
    for option, key in (
        ("identity-file", "identity"),
        ("scratch", "scratch"),
        ("uri", "uri"),
        ("fleecing", "fleecing"),
    ):
        if value := values.get(key):
            argv += [f"--{option}={value}"]
    return Command(tuple(argv), done=f"Host {values['name']} was added.")


def open_add_host(console: Console, then: Callable[[str], object]) -> None:
    """then: with the new host's name, once it is in the configuration."""

    def ended(found: Ended | None) -> None:
        if found is not None:
            then(found.command.argv[2])

    intro = "A hypervisor that is reached over SSH. Of a Proxmox cluster: any one node."
    console.push_screen(Form("New host", _ENTRIES, add_command, intro=intro), ended)


def remove_host(console: Console, name: str, then: Callable[[Ended], object] | None = None) -> None:
    text = Text.assemble(
        "The host is taken out of the configuration, with all its settings.\n",
        ("Its guests are not backed up any more. Its restore points stay.", "late"),
        end="",
    )

    def answered(yes: bool | None) -> None:
        if yes:
            command = Command(
                ("host", "remove", name), done=f"Host {name} was removed. Its restore points stay."
            )
            console.carry_out(command, then)

    console.push_screen(Ask(f"Remove {name}?", text, "Remove", name=name), answered)


class Trusting:
    """Asks a host for its key, shows it, and trusts it when the answer is yes; then the other nodes of a cluster.

    done: called at the end, with whether all keys are trusted.
    """

    def __init__(self, console: Console, host: str, done: Callable[[bool], object]) -> None:
        self._console, self._host, self._done = console, host, done
        self._left: list[str] = []
        self._all = True
        self._trusted = 0

    def begin(self) -> None:
        self._scan(self._host)

    def _scan(self, name: str) -> None:
        self._console.notify(f"Asking {name} for its key …", timeout=2, markup=False)
        in_background(
            self._console,
            lambda: self._console.services.scan_host_key(name),
            lambda found: self._scanned(name, found),
        )

    def _scanned(self, name: str, found: HostKey | VmconsoleError) -> None:
        if isinstance(found, VmconsoleError):
            command = Command(("host", "trust", name))
            ended = Ended(command, found.exit_code, error=found.message, hint=found.hint)
            self._console.push_screen(Said(ended), lambda _: self._refused())
        elif found.trusted == found.fingerprint:
            self._trust(found)
        else:
            ask = key_question(found)
            self._console.push_screen(ask, lambda yes: self._trust(found) if yes else self._refused())

    def _refused(self) -> None:
        self._all = False
        self._next()

    def _trust(self, key: HostKey) -> None:
        replace = ("--replace",) if key.trusted and key.trusted != key.fingerprint else ()
        command = Command(("host", "trust", key.host, *replace, "--fingerprint", key.fingerprint))
        known = key.trusted == key.fingerprint
        carry_out_quietly(self._console, command, lambda ended: self._ended(ended, known=known))

    def _ended(self, ended: Ended, *, known: bool) -> None:
        if not ended.ok:
            self._console.push_screen(Said(ended), lambda _: self._refused())
            return
        self._trusted += not known
        document = ended.document if isinstance(ended.document, dict) else {}
        nodes = document.get("nodes") or []
        self._left += [str(node["host"]) for node in nodes if not node.get("trusted")]
        self._next()

    def _next(self) -> None:
        if self._left:
            self._scan(self._left.pop(0))
            return
        if self._all:
            said = f"{self._host} is trusted." if self._trusted else f"{self._host} was trusted already."
            self._console.notify(said, markup=False)
        self._console.feed.ask([self._host])
        self._done(self._all)


def key_question(key: HostKey) -> Ask:
    """Shows the fingerprint, and where to compare it. A key that changed needs the host's name typed."""
    kind = "ecdsa" if key.type.startswith("ecdsa") else key.type.removeprefix("ssh-")
    compare = f"ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub"
    text = Text.assemble(safe(key.host, "strong"), " at ", safe(key.address), " shows the key\n", end="")
    text.append_text(safe(f"  {key.type} {key.fingerprint}", "key")).append("\n")
    changed = bool(key.trusted)
    if changed:
        text.append("The key trusted so far is another one:\n", "failed")
        text.append_text(safe(f"  {key.type} {key.trusted}", "failed")).append("\n")
        text.append(
            "Unless the host was installed anew or its key was replaced, somebody sits in between and would "
            "read all your guests. Ask whoever runs the host.\n",
            "failed",
        )
    text.append("\nCompare it on the host's own console, not over the network:\n")
    text.append_text(safe_lines(f"  {compare}\n", "strong"))
    text.append("Nothing is sent to the host before its key is trusted.", "quiet")
    if changed:
        return Ask("The key has CHANGED", text, "Trust the new key", name=key.host)
    return Ask(f"Is this the key of {key.host}?", text, "Yes, trust it", "No")


def said_of_cleaning(document: object) -> tuple[str, Sequence[str]]:
    """What `doctor --clean --json` did, in a sentence, and what could not be removed."""
    cleaned = document.get("cleaned", []) if isinstance(document, dict) else []
    done = sum(bool(item.get("done")) for item in cleaned)
    failed = [f"{item.get('host')}: {item.get('detail')}" for item in cleaned if not item.get("done")]
    return f"Removed {done} of {len(cleaned)} leftovers.", failed
