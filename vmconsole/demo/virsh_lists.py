"""virsh's commands about the demo host as a whole: lists, versions, pools, statistics."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from vmconsole.demo import domain_xml
from vmconsole.demo.backup_job import Refused
from vmconsole.demo.guests import Guest
from vmconsole.demo.host import LIBVIRT_VERSION, POOL, QEMU_VERSION, Host
from vmconsole.demo.virsh_args import Line

_STATES = {"state-running": "running", "state-paused": "paused", "state-shutoff": "shut off"}


@dataclass(frozen=True, slots=True)
class Question:
    """One command about the host."""

    host: Host
    line: Line


def state(guest: Guest) -> str:
    if not guest.running:
        return "shut off"
    return "paused" if guest.paused else "running"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As virsh prints tables: columns padded by three blanks, a rule under the heading."""
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    lines = [" " + "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in
             (heading, *rows)]  # fmt: skip
    rule = "-" * (sum(widths) + 3 * len(widths) - 1)
    return "\n".join([lines[0].rstrip(), rule, *(line.rstrip() for line in lines[1:]), ""])


def _list(ask: Question) -> str:
    wanted = {_STATES[flag] for flag in ask.line.flags & _STATES.keys()}
    guests = sorted(ask.host.guests, key=lambda guest: (not guest.running, guest.domain_id, guest.name))
    if wanted:
        guests = [guest for guest in guests if state(guest) in wanted]
    elif "all" not in ask.line.flags:
        guests = [guest for guest in guests if guest.running != ("inactive" in ask.line.flags)]
    if "uuid" in ask.line.flags:
        return "".join(f"{guest.uuid}\n" for guest in guests)
    if "name" in ask.line.flags:
        return "".join(f"{guest.name}\n" for guest in guests)
    rows = [[str(guest.domain_id) if guest.running else "-", guest.name, state(guest)] for guest in guests]
    if "title" in ask.line.flags:
        for row, guest in zip(rows, guests, strict=True):
            row.append(guest.title)
        return table(("Id", "Name", "State", "Title"), rows)
    return table(("Id", "Name", "State"), rows)


def _domstats(ask: Question) -> str:
    name = ask.line.get("domain")
    guests = [guest for guest in ask.host.guests if not name or guest is ask.host.find(name)]
    if name and not guests:
        raise Refused(f"failed to get domain '{name}'")
    return "\n".join("".join(f"{text}\n" for text in _statistics(guest)) for guest in guests)


def _statistics(guest: Guest) -> Iterator[str]:
    yield f"Domain: '{guest.name}'"
    yield f"  state.state={5 if not guest.running else 3 if guest.paused else 1}"
    yield "  state.reason=1"
    if guest.running:
        yield f"  cpu.time={guest.domain_id * 61_000_000_000}"
    yield f"  balloon.current={guest.memory * 1024}"
    yield f"  balloon.maximum={guest.memory * 1024}"
    yield "  vcpu.current=2"
    yield "  vcpu.maximum=2"
    yield f"  block.count={len(guest.disks)}"
    for number, item in enumerate(guest.disks):
        yield f"  block.{number}.name={item.target}"
        yield f"  block.{number}.path={item.disk.path}"
        if guest.running:
            yield f"  block.{number}.rd.bytes=0"
            yield f"  block.{number}.wr.reqs={item.disk.writes}"
            yield f"  block.{number}.wr.bytes={item.disk.bytes_written}"
            yield f"  block.{number}.wr.times={round(item.disk.write_seconds * 1e9)}"
            yield f"  block.{number}.fl.reqs=0"
            yield f"  block.{number}.fl.times=0"
            yield f"  block.{number}.allocation={item.disk.allocated_bytes}"
            yield f"  block.{number}.capacity={item.disk.size}"
            yield f"  block.{number}.physical={item.disk.allocated_bytes}"


def _version(ask: Question) -> str:
    text = (
        f"Compiled against library: libvirt {LIBVIRT_VERSION}\n"
        f"Using library: libvirt {LIBVIRT_VERSION}\n"
        f"Using API: QEMU {LIBVIRT_VERSION}\n"
        f"Running hypervisor: QEMU {QEMU_VERSION}\n"
    )
    return text + (f"Running against daemon: {LIBVIRT_VERSION}\n" if "daemon" in ask.line.flags else "")


def _nodeinfo(_: Question) -> str:
    processors = os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
    return (
        "CPU model:           x86_64\n"
        f"CPU(s):              {processors}\n"
        "CPU frequency:       2400 MHz\n"
        "CPU socket(s):       1\n"
        f"Core(s) per socket:  {processors}\n"
        "Thread(s) per core:  1\n"
        "NUMA cell(s):        1\n"
        f"Memory size:         {memory} KiB\n"
    )


def _pool_list(ask: Question) -> str:
    if "name" in ask.line.flags:
        return f"{POOL}\n"
    if "details" in ask.line.flags:
        total, free = _space(ask.host)
        row = (
            POOL,
            "running",
            "yes",
            "yes",
            *(f"{size / 1024**3:.2f} GiB" for size in (total, total - free, free)),
        )
        return table(
            ("Name", "State", "Autostart", "Persistent", "Capacity", "Allocation", "Available"), [row]
        )
    return table(("Name", "State", "Autostart"), [(POOL, "active", "yes")])


def _pool_dumpxml(ask: Question) -> str:
    _require_pool(ask.line.get("pool"))
    total, free = _space(ask.host)
    return (
        "<pool type='dir'>\n"
        f"  <name>{POOL}</name>\n"
        f"  <capacity unit='bytes'>{total}</capacity>\n"
        f"  <allocation unit='bytes'>{total - free}</allocation>\n"
        f"  <available unit='bytes'>{free}</available>\n"
        "  <source>\n  </source>\n"
        f"  <target>\n    <path>{escape(str(ask.host.folders.images))}</path>\n  </target>\n"
        "</pool>\n"
    )


def _pool_refresh(ask: Question) -> str:
    _require_pool(ask.line.get("pool"))
    return f"Pool {POOL} refreshed\n"


def _vol_list(ask: Question) -> str:
    _require_pool(ask.line.get("pool"))
    paths = [item.disk.path for guest in ask.host.guests for item in guest.disks]
    return table(("Name", "Path"), [(path.name, str(path)) for path in paths])


def _vol_path(ask: Question) -> str:
    if ask.line.get("pool"):
        _require_pool(ask.line.get("pool"))
    volume = ask.line.get("vol")
    for guest in ask.host.guests:
        for item in guest.disks:
            if volume in (item.disk.path.name, str(item.disk.path)):
                return f"{item.disk.path}\n"
    raise Refused(
        f"failed to get vol '{volume}'\n"
        f"error: Storage volume not found: no storage vol with matching path '{volume}'"
    )


def _vol_pool(ask: Question) -> str:
    _vol_path(ask)
    return f"{POOL}\n"


def _net_list(ask: Question) -> str:
    if "name" in ask.line.flags:
        return "default\n"
    return table(("Name", "State", "Autostart", "Persistent"), [("default", "active", "yes", "yes")])


def _require_pool(name: str) -> None:
    if name != POOL:
        raise Refused(
            f"failed to get pool '{name}'\n"
            f"error: Storage pool not found: no storage pool with matching name '{name}'"
        )


def _space(host: Host) -> tuple[int, int]:
    """Bytes in all and free where the images are."""
    found = os.statvfs(host.folders.images)
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


COMMANDS: dict[str, Callable[[Question], str]] = {
    "--version": lambda _: f"{LIBVIRT_VERSION}",
    "domcapabilities": lambda _: domain_xml.capabilities(),
    "domstats": _domstats,
    "hostname": lambda _: f"{os.uname().nodename}\n",
    "list": _list,
    "net-list": _net_list,
    "nodeinfo": _nodeinfo,
    "nwfilter-list": lambda _: table(("UUID", "Name"), []),
    "pool-dumpxml": _pool_dumpxml,
    "pool-list": _pool_list,
    "pool-refresh": _pool_refresh,
    "uri": lambda ask: f"{ask.line.uri or 'qemu:///session'}\n",
    "version": _version,
    "vol-list": _vol_list,
    "vol-path": _vol_path,
    "vol-pool": _vol_pool,
}
