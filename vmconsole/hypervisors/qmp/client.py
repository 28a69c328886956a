"""QMP over a byte stream: one short session with a QEMU process.

QEMU serves one client at a time and Proxmox polls every guest through the same socket, so a session
has a budget: whoever holds it longer makes others fail. A client that vanished early can leave its
reply to the next one; therefore every command carries an id nobody else uses, and replies with any
other id are dropped, as events are.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from vmconsole.errors import HostError, HostUnreachable, NotPermitted, ProtocolError
from vmconsole.remote.machine import Machine, Stream

BUDGET = 2.0
"""Seconds a session may last from the greeting on."""
PATIENCE = 10.0
"""Seconds to wait for the greeting: pvestatd, or another tool, may be served first."""

_MAX_LINE = 32 << 20
_OPEN_ATTEMPTS = 3
_OPEN_PAUSE = 0.3


class QmpError(HostError):
    """QEMU refused a command. error_class: `GenericError`, `CommandNotFound`, `DeviceNotFound` …"""

    def __init__(self, message: str, *, error_class: str, description: str, subject: str = "") -> None:
        super().__init__(message, subject=subject)
        self.error_class = error_class
        self.description = description

    @property
    def unknown_command(self) -> bool:
        return self.error_class == "CommandNotFound"


class QmpClient:
    """A session after its greeting. Not thread-safe. name: whose QEMU it is, for messages."""

    def __init__(
        self,
        stream: Stream,
        name: str,
        *,
        budget: float = BUDGET,
        patience: float = PATIENCE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the stream over. Raises HostError when there is no greeting in time, ProtocolError."""
        self._stream = stream
        self._name = name
        self._monotonic = monotonic
        self._buffer = bytearray()
        self._prefix = f"vmc-{secrets.token_hex(6)}-"
        self._count = 0
        self._deadline = monotonic() + patience
        try:
            self.version, self.package = self._greet()
            self._deadline = monotonic() + budget
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(
        cls,
        machine: Machine,
        path: str,
        name: str,
        *,
        budget: float = BUDGET,
        patience: float = PATIENCE,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> QmpClient:
        """Open the socket of a machine. A few others may wait in it; the next one is refused at first."""
        for attempt in range(_OPEN_ATTEMPTS):
            try:
                stream = machine.open_unix(path)
                break
            except (HostUnreachable, NotPermitted):
                raise
            except HostError:
                if attempt == _OPEN_ATTEMPTS - 1:
                    raise
                sleep(_OPEN_PAUSE)
        return cls(stream, name, budget=budget, patience=patience, monotonic=monotonic)

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> Any:
        """What the command returns. timeout: seconds, never beyond the session's budget.

        Raises QmpError; HostError when there is no answer in time (QEMU may still carry it out) or
        QEMU went away; ProtocolError.
        """
        self._count += 1
        mark = f"{self._prefix}{self._count}"
        request: dict[str, Any] = {"execute": command, "id": mark}
        if arguments:
            request["arguments"] = dict(arguments)
        deadline = self._deadline
        if timeout is not None:
            deadline = min(deadline, self._monotonic() + timeout)
        self._send(json.dumps(request).encode() + b"\n", command, deadline)
        while True:
            reply = self._message(command, deadline)
            if reply.get("id") != mark:
                continue
            if "return" in reply:
                return reply["return"]
            raise self._refused(command, reply.get("error"))

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> QmpClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _greet(self) -> tuple[tuple[int, ...], str]:
        greeting = self._message("the greeting", self._deadline)
        try:
            version = greeting["QMP"]["version"]
            numbers = version["qemu"]
            found = tuple(int(numbers[part]) for part in ("major", "minor", "micro"))
            return found, str(version.get("package", ""))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(f"What answers for {self._name} is not QEMU's monitor.") from error

    def _send(self, data: bytes, command: str, deadline: float) -> None:
        try:
            self._stream.settimeout(self._left(command, deadline))
            self._stream.sendall(data)
        except TimeoutError as error:
            raise self._late(command) from error
        except OSError as error:
            raise self._gone(command, error) from error

    def _message(self, command: str, deadline: float) -> dict[str, Any]:
        line = self._line(command, deadline)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"QEMU of {self._name} answered no JSON to {command}.") from error
        if not isinstance(message, dict):
            raise ProtocolError(f"QEMU of {self._name} answered no object to {command}.")
        return message

    def _line(self, command: str, deadline: float) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > _MAX_LINE:
                raise ProtocolError(f"QEMU of {self._name} answered {command} without an end.")
            try:
                self._stream.settimeout(self._left(command, deadline))
                data = self._stream.recv(1 << 16)
            except TimeoutError as error:
                raise self._late(command) from error
            except OSError as error:
                raise self._gone(command, error) from error
            if not data:
                raise self._gone(command, None)
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _left(self, command: str, deadline: float) -> float:
        left = deadline - self._monotonic()
        if left <= 0:
            raise self._late(command)
        return left

    def _late(self, command: str) -> HostError:
        return HostError(
            f"QEMU of {self._name} did not answer in time ({command}).",
            hint="Is the guest's QEMU process stuck, or does another tool hold its monitor? "
            "Look at the processes on the node that use the guest's .qmp socket.",
            subject=self._name,
        )

    def _gone(self, command: str, error: Exception | None) -> HostError:
        if isinstance(error, HostError):
            return error  # an SSH connection that is gone says so itself
        why = f": {error}" if error else ""
        return HostError(f"QEMU of {self._name} went away ({command}){why}.", subject=self._name)

    def _refused(self, command: str, error: Any) -> QmpError:
        described = error if isinstance(error, dict) else {}
        kind = str(described.get("class", "GenericError"))
        text = "".join(c if c.isprintable() else "?" for c in str(described.get("desc", "no reason given")))
        return QmpError(
            f"QEMU of {self._name} refused {command}: {text[:400]}",
            error_class=kind,
            description=text,
            subject=self._name,
        )
