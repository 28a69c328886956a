"""A guest's configuration → a QEMU process in Proxmox's layout (qemu.py), and its end."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pve.qemu import QEMU7, Drive, Qemu
from pve.tools import conf, storage, wire
from pve.tools.says import Died, node_name, settings

_VERSION = re.compile(r"-(\d+)\.(\d+)(?:\+pve\d+)?$")
_BACKED = ("scsi", "virtio", "sata", "efidisk")


def natural(key: str) -> tuple[str, int]:
    match = re.fullmatch(r"([a-z]+)(\d+)", key)
    return (match[1], int(match[2])) if match else (key, 0)


def choices(vmid: int) -> dict[str, Any]:
    """program, proxmox and incoming, as the test wants them for this guest."""
    known = settings()
    every = json.loads(Path(known["machines"]).read_text())
    return {"program": known["qemu"], "proxmox": True, **every.get(str(vmid), {})}


def layout(found: conf.Conf) -> str:
    """Machine versions before 10.0 have -drive."""
    match = _VERSION.search(found.values.get("machine", ""))
    return "drive" if match and int(match[1]) < 10 else "blockdev"


def make(vmid: int, found: conf.Conf, *incoming: str) -> Qemu:
    chosen = choices(vmid)
    drives = []
    for key, item in sorted(conf.drives(found).items(), key=lambda pair: natural(pair[0])):
        if natural(key)[0] not in _BACKED:
            continue
        path = storage.path_of(item["file"], node_name())
        if not path.exists():
            raise Died(f"volume '{item['file']}' does not exist")
        drives.append(
            Drive(
                key, path, item.get("format") or storage.volume_format(item["file"]),
                iothread=item.get("iothread") == "1", discard=item.get("discard") == "on",
            )
        )  # fmt: skip
    extra = ["-pidfile", f"/var/run/qemu-server/{vmid}.pid", "-serial", f"file:{wire.RUN}/{vmid}.console"]
    extra += ["-chardev", "socket,id=qmp-event,path=/var/run/qmeventd.sock,reconnect=5"]
    extra += ["-mon", "chardev=qmp-event,mode=control"]
    extra += ["-serial", "pty", *shlex.split(found.values.get("args", "")), *incoming]
    if smbios := conf.properties(found.values.get("smbios1", "")).get("uuid"):
        extra += ["-smbios", f"type=1,uuid={smbios}"]
    return Qemu(
        vmid, drives, layout=layout(found), program=chosen.get("program") or QEMU7, proxmox=chosen["proxmox"],
        paused=False, memory=int(found.values.get("memory", "512")), extra=extra,
        log=wire.RUN / f"{vmid}.log",
    )  # fmt: skip


def argv(vmid: int, found: conf.Conf) -> list[str]:
    return make(vmid, found).command()


def start(vmid: int, found: conf.Conf, *incoming: str) -> None:
    """Returns once its monitor answers. It then belongs to the node's first process."""
    if os.getpid() != os.getpgrp():
        os.setsid()
    for path in (wire.RUN / f"{vmid}.log", wire.RUN / f"{vmid}.console"):
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
    try:
        make(vmid, found, *incoming).start()
    except (RuntimeError, TimeoutError) as error:
        log = wire.RUN / f"{vmid}.log"
        said = log.read_text()[-500:].strip() if log.exists() else ""
        raise Died(f"start failed: QEMU exited with code 1\n{error} {said}") from None


def stop(vmid: int) -> None:
    """As `qm stop`: the process ends, the guest is not asked."""
    pid = wire.pid(vmid)
    if not pid:
        return
    os.kill(pid, signal.SIGTERM)
    _await_end(vmid, 5.0)
    if wire.pid(vmid):
        os.kill(pid, signal.SIGKILL)
        _await_end(vmid, 5.0)
    for path in wire.RUN.glob(f"{vmid}.*"):
        path.unlink(missing_ok=True)


def shutdown(vmid: int, timeout: float) -> None:
    """Through the agent; qmeventd then ends the process, unless somebody holds the machine."""
    with suppress(Died):
        wire.agent(wire.RUN / f"{vmid}.qga", vmid, "guest-shutdown", timeout=2.0)
    deadline = time.monotonic() + timeout
    while wire.pid(vmid):
        # qmeventd may end it in the middle of this.
        with suppress(Died), wire.qmp(vmid) as qmp:
            if qmp("query-status")["status"] == "shutdown":
                break
        if time.monotonic() > deadline:
            raise Died("VM quit/powerdown failed - got timeout")
        time.sleep(0.1)
    stop(vmid)


def _await_end(vmid: int, patience: float) -> None:
    deadline = time.monotonic() + patience
    while wire.pid(vmid) and time.monotonic() < deadline:
        time.sleep(0.02)
