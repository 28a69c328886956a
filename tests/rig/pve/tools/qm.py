"""qm config | pending | status | list | set | unlock | create | destroy | start | stop | shutdown | reset |
rescan | guest cmd | showcmd"""

from __future__ import annotations

import json
import re
import secrets
import time
import uuid
from collections.abc import Sequence

from pve.tools import conf, machine, storage, wire
from pve.tools.says import Died, Words, node_name, parse_size, print_size, words

_FLAGS = ("skiplock", "force", "verbose", "purge", "start", "unique", "current", "keepActive", "dryrun")
_AGENT = {
    "fsfreeze-freeze", "fsfreeze-status", "fsfreeze-thaw", "fstrim", "get-fsinfo", "get-host-name", "get-osinfo",
    "get-time", "get-users", "get-vcpus", "info", "network-get-interfaces", "ping", "shutdown",
}  # fmt: skip
_GIB_DISK = re.compile(r"([A-Za-z][\w.-]*):(\d+(?:\.\d+)?)")
_KEY = re.compile(
    r"acpi|agent|affinity|arch|args|autostart|audio0|balloon|bios|boot|bootdisk|cdrom|ci\w+|cores|cpu\w*|description|"
    r"freeze|hookscript|hostpci\d+|hotplug|hugepages|ipconfig\d+|ivshmem|keyboard|kvm|localtime|lock|machine|memory|meta|migrate_\w+|name|"
    r"nameserver|net\d+|numa\d*|onboot|ostype|parallel\d|protection|reboot|rng0|searchdomain|serial[0-3]|shares|"
    r"smbios1|smp|sockets|spice_enhancements|sshkeys|startdate|startup|tablet|tags|tdf|template|unused\d+|usb\d+|"
    r"vcpus|vga|vmgenid|vmstatestorage|watchdog"
)


def main(argv: Sequence[str]) -> int:
    if argv[:2] in (["guest", "cmd"], ["agent", "cmd"]):
        return _agent(words(argv[2:]))
    if argv[:1] == ["agent"]:
        return _agent(words(argv[1:]))
    verbs = {
        "config": _config, "pending": _pending, "status": _status, "list": _list, "set": _set, "unlock": _unlock,
        "create": _create, "destroy": _destroy, "start": _start, "stop": _stop, "shutdown": _shutdown,
        "rescan": _rescan, "showcmd": _showcmd,
    }  # fmt: skip
    if not argv or argv[0] not in verbs:
        raise Died(f"ERROR: unknown command 'qm {' '.join(argv)}'\nUSAGE: qm <COMMAND> [ARGS] [OPTIONS]")
    verbs[argv[0]](words(argv[1:], _FLAGS))
    return 0


def _here(given: Words) -> tuple[int, conf.Conf]:
    vmid = given.vmid()
    return vmid, conf.read(vmid, "qemu", node_name())


def _store(vmid: int, found: conf.Conf) -> None:
    conf.write(conf.path_of(vmid, "qemu", node_name()), found.text)


# --- looking ---


def _config(given: Words) -> None:
    given.only("current", "snapshot")
    _, found = _here(given)
    if found.comment:
        print(f"description: {found.description}")
    for key, value in sorted(found.values.items()):
        print(f"{key}: {value}")


def _pending(given: Words) -> None:
    _, found = _here(given)
    for key, value in sorted(found.values.items()):
        print(f"cur {key}: {value}")


def _status(given: Words) -> None:
    vmid, found = _here(given)
    running = wire.pid(vmid)
    print(f"status: {'running' if running else 'stopped'}")
    if given.on("verbose") and found.values.get("lock"):
        print(f"lock: {found.values['lock']}")
    if given.on("verbose") and running:
        with wire.qmp(vmid) as qmp:
            print(f"qmpstatus: {qmp('query-status')['status']}")


def _list(given: Words) -> None:
    print(f"{'VMID':>10} {'NAME':<20} {'STATUS':<10} {'MEM(MB)':<10} {'BOOTDISK(GB)':>12} PID       ")
    for vmid, kind, node in conf.all_guests():
        if kind == "qemu" and node == node_name():
            values, pid = conf.read(vmid, kind, node).values, wire.pid(vmid)
            name, memory = values.get("name", f"VM {vmid}"), values.get("memory", "512")
            state = "running" if pid else "stopped"
            print(f"{vmid:>10} {name:<20} {state:<10} {memory:<10} {0:>12.2f} {pid}")


def _agent(given: Words) -> int:
    """`qm guest cmd ID COMMAND`: what the agent returned, as JSON; nothing for an empty answer."""
    vmid, found = _here(given)
    if len(given.plain) != 2 or given.plain[1] not in _AGENT:
        raise Died("400 Parameter verification failed.\ncommand: value is not a known agent command")
    if not wire.pid(vmid):
        raise Died(f"VM {vmid} is not running")
    if conf.properties(found.values.get("agent", "0"), "enabled").get("enabled") != "1":
        raise Died("No QEMU guest agent configured")
    command = given.plain[1]
    if command != "ping":
        wire.agent(wire.RUN / f"{vmid}.qga", vmid, "guest-ping")
    result = wire.agent(wire.RUN / f"{vmid}.qga", vmid, f"guest-{command}")
    if result not in ({}, None):
        print(json.dumps(result, indent=3, sort_keys=True))
    return 0


def _showcmd(given: Words) -> None:
    vmid, found = _here(given)
    print(" ".join(machine.argv(vmid, found)))


# --- changing ---


def _updates(given: Words, vmid: int) -> dict[str, str]:
    """The options that are configuration keys, checked. Disks given as STORAGE:GiB are made."""
    found = {}
    for key, texts in given.values.items():
        if not (conf.DRIVE.fullmatch(key) or _KEY.fullmatch(key)):
            raise Died(f"Unknown option: {key}\n400 unable to parse option\nqm set <vmid> [OPTIONS]")
        found[key] = texts[-1]
        if key == "lock" and texts[-1] not in conf.LOCKS:
            raise Died(
                "400 Parameter verification failed.\n"
                f"lock: value '{texts[-1]}' does not have a value in the enumeration '{', '.join(sorted(conf.LOCKS))}'"
            )
        if conf.DRIVE.fullmatch(key):
            found[key] = _drive(vmid, texts[-1])
        if key.startswith("net") and "=" not in texts[-1].split(",")[0]:
            found[key] = texts[-1].replace(
                texts[-1].split(",")[0], f"{texts[-1].split(',')[0]}={new_mac()}", 1
            )
    return found


def _drive(vmid: int, value: str) -> str:
    items = conf.properties(value)
    volid = items.get("file", "")
    if volid in {"none", "cdrom"} or items.get("media") == "cdrom":
        return value
    if made := _GIB_DISK.fullmatch(volid):
        size = parse_size(made[2], "G")
        form = items.pop("format", "raw")
        items |= {"file": storage.alloc(made[1], vmid, "", size, form, node_name()), "size": print_size(size)}
    else:
        path = storage.path_of(volid, node_name())
        if not path.exists():
            raise Died(f"volume '{volid}' does not exist")
        items["size"] = print_size(
            storage.image_size(path, items.get("format") or storage.volume_format(volid))
        )
    return conf.joined(items)


def _set(given: Words) -> None:
    vmid = given.vmid()
    skip, delete, digest = given.on("skiplock"), given.get("delete"), given.get("digest")
    for name in ("skiplock", "delete", "digest", "force"):
        given.values.pop(name, None)
    if not given.values and not delete:
        raise Died("400 no options specified")
    with conf.held(vmid, "qemu"):
        _, found = _here(given)
        if digest and digest != conf.digest(conf.path_of(vmid, "qemu", node_name()).read_text()):
            raise Died("detected modified configuration - file changed by other user? Try again.")
        if not skip:
            conf.check_lock(found, "qemu")
        updates = _updates(given, vmid)
        said = " ".join(f"-{key} {value}" for key, value in sorted(updates.items()))
        print(f"update VM {vmid}: {said}" + (f" -delete {delete}" if delete else ""), flush=True)
        for key in filter(None, re.split(r"[,;\s]+", delete)):
            if key == "description":
                found.describe("")
            gone = found.values.pop(key, None)
            if gone and conf.DRIVE.fullmatch(key):
                spare = next(f"unused{n}" for n in range(256) if f"unused{n}" not in found.values)
                found.values[spare] = conf.properties(gone)["file"]
        if "description" in updates:
            found.describe(updates.pop("description"))
        found.values |= updates
        _store(vmid, found)


def _unlock(given: Words) -> None:
    vmid = given.vmid()
    with conf.held(vmid, "qemu"):
        _, found = _here(given)
        found.values.pop("lock", None)
        _store(vmid, found)


def _create(given: Words) -> None:
    vmid = given.vmid()
    start, _ = given.on("start"), given.values.pop("start", None)
    for name in ("pool", "storage", "force"):
        given.values.pop(name, None)
    refuse_taken(vmid, "create")
    with conf.held(vmid, "qemu"):
        found = conf.Conf(_updates(given, vmid))
        found.values.setdefault("smbios1", f"uuid={uuid.uuid4()}")
        found.values.setdefault("vmgenid", str(uuid.uuid4()))
        found.values.setdefault("meta", f"creation-qemu=10.0.2,ctime={int(time.time())}")
        _store(vmid, found)
    if start:
        machine.start(vmid, found)


def _destroy(given: Words) -> None:
    vmid, found = _here(given)
    given.only("purge", "skiplock", "destroy-unreferenced-disks")
    if not given.on("skiplock"):
        conf.check_lock(found, "qemu")
    if wire.pid(vmid):
        raise Died(f"VM {vmid} is running - destroy failed")
    destroy(vmid, found)


def destroy(vmid: int, found: conf.Conf) -> None:
    for item in conf.drives(found).values():
        if storage.path_of(item["file"], node_name()).exists():
            storage.free(item["file"], node_name())
    conf.path_of(vmid, "qemu", node_name()).unlink()


def refuse_taken(vmid: int, verb: str) -> None:
    if taken := conf.find(vmid):
        kind, node = taken
        raise Died(f"unable to {verb} VM {vmid} - {conf.KINDS[kind]} {vmid} already exists on node '{node}'")


def _rescan(given: Words) -> None:
    print("rescan volumes...")
    for vmid, kind, node in conf.all_guests():
        if kind != "qemu" or node != node_name() or given.get("vmid", str(vmid)) != str(vmid):
            continue
        with conf.held(vmid, "qemu"):
            found = conf.read(vmid, kind, node)
            conf.check_lock(found, kind)
            known = {item["file"] for item in conf.drives(found).values()} | set(found.values.values())
            for one in (
                one for pool in storage.storages().values() if pool.active() for one in storage.volumes(pool)
            ):
                if one.vmid == vmid and one.volid not in known:
                    spare = next(f"unused{n}" for n in range(256) if f"unused{n}" not in found.values)
                    found.values[spare] = one.volid
                    print(f"VM {vmid} add unreferenced volume '{one.volid}' as '{spare}' to config")
            for key, item in conf.drives(found).items():
                path = storage.path_of(item["file"], node_name())
                if path.exists():
                    item["size"] = print_size(storage.image_size(path, path.suffix[1:]))
                    found.values[key] = conf.joined(item)
            _store(vmid, found)


# --- power ---


def _start(given: Words) -> None:
    """--migratedfrom NODE --stateuri URI: the receiving end of a live migration."""
    vmid = given.vmid()
    found = conf.read(vmid, "qemu", given.get("migratedfrom") or node_name())
    if not given.on("skiplock") and not given.get("migratedfrom"):
        conf.check_lock(found, "qemu")
    if found.values.get("template") == "1":
        raise Died("you can't start a vm if it's a template")
    if wire.pid(vmid):
        raise Died(f"VM {vmid} already running")
    machine.start(vmid, found, *(["-incoming", given.get("stateuri")] if given.get("stateuri") else []))


def _stop(given: Words) -> None:
    vmid, found = _here(given)
    if not given.on("skiplock"):
        conf.check_lock(found, "qemu")
    machine.stop(vmid)


def _shutdown(given: Words) -> None:
    vmid, found = _here(given)
    conf.check_lock(found, "qemu")
    if conf.properties(found.values.get("agent", "0"), "enabled").get("enabled") == "1":
        machine.shutdown(vmid, float(given.get("timeout", "60")))
    else:
        machine.stop(vmid)


def new_mac() -> str:
    return "BC:24:11:" + ":".join(f"{byte:02X}" for byte in secrets.token_bytes(3))
