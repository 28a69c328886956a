"""QMP and the guest agent, one short connection each, as qemu-server has them."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pve.tools.says import Died

RUN = Path("/run/qemu-server")
_SLOW = {"guest-fsfreeze-freeze": 3600.0, "guest-fsfreeze-thaw": 180.0, "guest-ping": 3.0}


class Qmp:
    """An open monitor. Raises Died as qemu-server words it."""

    def __init__(self, path: Path | str, vmid: int, timeout: float = 5.0) -> None:
        self._vmid = vmid
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._socket.connect(str(path))
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Died(
                        f"VM {vmid} qmp command failed - unable to connect to VM {vmid} qmp socket - timeout"
                    ) from None
                time.sleep(0.1)
            except OSError as error:
                self._socket.close()
                raise Died(f"VM {vmid} not running ({error.strerror})") from None
        self._file = self._socket.makefile("rb")
        try:
            self._line()
            self("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def __call__(self, command: str, /, **arguments: Any) -> Any:
        number = os.urandom(4).hex()
        request = {"execute": command, "arguments": arguments, "id": number}
        with suppress(ConnectionError):  # then there is no answer either
            self._socket.sendall(json.dumps(request).encode())
        while True:
            answer = self._line()
            if answer.get("id") != number:
                continue
            if "error" in answer:
                raise Died(f"VM {self._vmid} qmp command '{command}' failed - {answer['error']['desc']}")
            return answer["return"]

    def _line(self) -> dict[str, Any]:
        try:
            line = self._file.readline()
        except TimeoutError:
            raise Died(f"VM {self._vmid} qmp command failed - got timeout") from None
        except ConnectionError:
            line = b""
        if not line:
            raise Died(f"VM {self._vmid} qmp command failed - client closed connection")
        return dict(json.loads(line))


def agent(path: Path | str, vmid: int, command: str, timeout: float = 10.0) -> Any:
    """One command to the guest agent, in step with it first: a former client may have left half an answer."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(_SLOW["guest-ping"])
        try:
            line.connect(str(path))
        except OSError:
            raise Died("QEMU guest agent is not running") from None
        file = line.makefile("rb")
        number = int.from_bytes(os.urandom(4), "big")
        try:
            sync = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
            line.sendall(b"\xff" + json.dumps(sync).encode() + b"\n")
            while json.loads(file.readline().rpartition(b"\xff")[2] or b"{}").get("return") != number:
                pass
            line.settimeout(_SLOW.get(command, timeout))
            line.sendall(json.dumps({"execute": command}).encode() + b"\n")
            answer = json.loads(file.readline())
        except TimeoutError:
            raise Died("QEMU guest agent is not running") from None
        except ValueError:
            raise Died(f"VM {vmid} qga command '{command}' failed - client closed connection") from None
    if "error" in answer:
        raise Died(f"Agent error: {answer['error']['desc']}")
    return answer["return"]


def qmp(vmid: int, timeout: float = 5.0) -> Qmp:
    return Qmp(RUN / f"{vmid}.qmp", vmid, timeout)


def pid(vmid: int, run: Path = RUN, proc: Path = Path("/proc")) -> int:
    """Of the running QEMU; 0 when it is off."""
    try:
        number = int((run / f"{vmid}.pid").read_text())
        arguments = (proc / str(number) / "cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return 0
    return number if any(word.endswith(f"/{vmid}.pid".encode()) for word in arguments) else 0
