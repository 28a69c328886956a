"""pct config | status | list | set | unlock | start | stop | destroy | restore

A container is a folder with a root file system; nothing runs in it, `start` only says so.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pve.tools import conf, storage
from pve.tools.says import Died, Words, node_name, words

RUNNING = Path("/run/lxc-rig")
_NEW = re.compile(r"([A-Za-z][\w.-]*):(\d+(?:\.\d+)?)")


def main(argv: Sequence[str]) -> int:
    verbs = {
        "config": _config, "status": _status, "list": _list, "set": _set, "unlock": _unlock, "start": _start,
        "stop": _stop, "destroy": _destroy, "restore": _restore,
    }  # fmt: skip
    if not argv or argv[0] not in verbs:
        raise Died(f"ERROR: unknown command 'pct {' '.join(argv)}'\nUSAGE: pct <COMMAND> [ARGS] [OPTIONS]")
    verbs[argv[0]](words(argv[1:], ["skiplock", "force", "purge", "start", "unique", "ignore-unpack-errors"]))
    return 0


def running(vmid: int, at: Path = Path("/")) -> bool:
    return storage.within(at, RUNNING / str(vmid)).exists()


def _here(given: Words) -> tuple[int, conf.Conf]:
    vmid = given.vmid()
    return vmid, conf.read(vmid, "lxc", node_name())


def _store(vmid: int, found: conf.Conf) -> None:
    conf.write(conf.path_of(vmid, "lxc", node_name()), found.text)


def _config(given: Words) -> None:
    _, found = _here(given)
    if found.comment:
        print(f"description: {found.description}")
    for key, value in sorted(found.values.items()):
        print(f"{key}: {value}")


def _status(given: Words) -> None:
    vmid, _ = _here(given)
    print(f"status: {'running' if running(vmid) else 'stopped'}")


def _list(given: Words) -> None:
    print(f"{'VMID':<10} {'Status':<10} {'Lock':<12} {'Name':<20}")
    for vmid, kind, node in conf.all_guests():
        if kind == "lxc" and node == node_name():
            values = conf.read(vmid, kind, node).values
            state = "running" if running(vmid) else "stopped"
            print(f"{vmid:<10} {state:<10} {values.get('lock', ''):<12} {values.get('hostname', ''):<20}")


def _set(given: Words) -> None:
    vmid = given.vmid()
    delete = given.get("delete")
    given.values.pop("delete", None)
    with conf.held(vmid, "lxc"):
        _, found = _here(given)
        conf.check_lock(found, "lxc")
        for key in filter(None, delete.split(",")):
            if key == "description":
                found.describe("")
            found.values.pop(key, None)
        if "description" in given.values:
            found.describe(given.values.pop("description")[-1])
        found.values |= {key: texts[-1] for key, texts in given.values.items()}
        _store(vmid, found)


def _unlock(given: Words) -> None:
    vmid = given.vmid()
    with conf.held(vmid, "lxc"):
        _, found = _here(given)
        found.values.pop("lock", None)
        _store(vmid, found)


def _start(given: Words) -> None:
    vmid, found = _here(given)
    conf.check_lock(found, "lxc")
    if running(vmid):
        raise Died(f"CT {vmid} already running")
    RUNNING.mkdir(exist_ok=True)
    (RUNNING / str(vmid)).touch()


def _stop(given: Words) -> None:
    vmid, found = _here(given)
    conf.check_lock(found, "lxc")
    (RUNNING / str(vmid)).unlink(missing_ok=True)


def _destroy(given: Words) -> None:
    vmid, found = _here(given)
    conf.check_lock(found, "lxc")
    if running(vmid) and not given.on("force"):
        raise Died(f"unable to destroy CT {vmid} - container is running")
    (RUNNING / str(vmid)).unlink(missing_ok=True)
    _free(found)
    conf.path_of(vmid, "lxc", node_name()).unlink()


def _free(found: conf.Conf) -> None:
    for item in conf.mounts(found).values():
        if not item["volume"].startswith("/") and storage.path_of(item["volume"], node_name()).exists():
            storage.free(item["volume"], node_name())


def _restore(given: Words) -> None:
    """From stdin the archive's own configuration is known only once it is unpacked, so rootfs is a must."""
    vmid = given.vmid()
    archive = given.plain[1]
    if taken := conf.find(vmid):
        if not given.on("force") or taken != ("lxc", node_name()):
            kind, node = taken
            raise Died(
                f"unable to restore CT {vmid} - {conf.KINDS[kind]} {vmid} already exists on node '{node}'"
            )
        old = conf.read(vmid, "lxc", node_name())
        conf.check_lock(old, "lxc")
        _free(old)
    wanted = {key: texts[-1] for key, texts in given.values.items() if conf.MOUNT.fullmatch(key)}
    if "rootfs" not in wanted and archive == "-":
        raise Died(
            "rootfs is required when restoring from stdin, it's not possible to read it from the archive"
        )
    wanted.setdefault("rootfs", f"{given.get('storage', 'local')}:8")
    path = conf.path_of(vmid, "lxc", node_name())
    conf.write(path, "lock: create\n")
    made: dict[str, str] = {}
    try:
        values = {key: _volume(vmid, value, made) for key, value in wanted.items()}
        _unpack(archive, values)
        root = storage.path_of(conf.properties(values["rootfs"], "volume")["volume"], node_name())
        stored = root / "etc/vzdump/pct.conf"
        if not stored.is_file():
            raise Died("unable to parse config: /etc/vzdump/pct.conf is not in the archive")
        found = conf.parse(stored.read_text())
        firewall = root / "etc/vzdump/pct.fw"
        if firewall.is_file():
            conf.write(conf.ETC / "firewall" / f"{vmid}.fw", firewall.read_text())
        shutil.rmtree(root / "etc/vzdump")
    except BaseException:
        for volid in made.values():
            storage.free(volid, node_name())
        path.unlink(missing_ok=True)
        raise
    kept = {
        key: value for key, value in found.values.items() if not conf.MOUNT.fullmatch(key) and key != "lock"
    }
    chosen = {
        key: given.get(key)
        for key in given.values
        if key in ("unprivileged", "hostname", "memory", "cores", "onboot", "protection")
        or key.startswith("net")
    }
    # What is given comes before what the archive says.
    if "description" in given.values:
        found.describe(given.get("description"))
    conf.write(path, conf.Conf(kept | values | chosen, found.comment).text)
    if given.on("start"):
        RUNNING.mkdir(exist_ok=True)
        (RUNNING / str(vmid)).touch()


def _volume(vmid: int, value: str, made: dict[str, str]) -> str:
    items = conf.properties(value, "volume")
    new = _NEW.fullmatch(items["volume"])
    if new is None:
        raise Died(f"unable to parse volume '{items['volume']}'")
    volid = storage.alloc(new[1], vmid, "", 0, "subvol", node_name())
    made[volid] = volid
    return conf.joined({**items, "volume": volid, "size": f"{new[2]}G"}, "volume")


def _unpack(archive: str, values: dict[str, str]) -> None:
    """Into the root file system, and then each mount point's part into its own volume."""
    places = {key: conf.properties(value, "volume") for key, value in values.items()}
    root = storage.path_of(places["rootfs"]["volume"], node_name())
    done = subprocess.run(
        ["tar", "xpf", archive, "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=user.*",
         "--xattrs-include=security.capability", "-C", str(root)],
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Died(f"command 'tar xpf - …' failed: {done.stderr.strip()}")
    for key, item in places.items():
        inside = root / item.get("mp", "").strip("/")
        if key != "rootfs" and item.get("mp") and inside.is_dir():
            target = storage.path_of(item["volume"], node_name())
            for entry in list(inside.iterdir()):
                shutil.move(entry, target / entry.name)
