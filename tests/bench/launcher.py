"""Starts the programs that are measured, from a process so small that its own memory is not in the figures.

The peak that the kernel reports for a program counts from the moment of the fork, when it still has its parent's
memory: a parent that has imported half of vmconsole would be the floor of every figure. So this file imports
little, and `Launcher` starts it as a process of its own: a JSON line in for each program, a JSON line out.
"""

import json
import os
import subprocess
import sys
import time


class Launcher:
    """Runs one program at a time. Use it as a context manager."""

    def __init__(self) -> None:
        # -I -S: nothing of the environment's packages is imported.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def run(
        self, argv: list[str], *, cwd: str, env: dict[str, str], out: str, stdin: str = "/dev/null"
    ) -> dict:
        """status; seconds; cpu: seconds of processor; memory: bytes, the largest of the program's own peak and
        those of the programs it waited for.

        out: the file that stdout goes to, and with .err at its end the one for stderr.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        order = {"argv": argv, "cwd": cwd, "env": env, "out": out, "stdin": stdin}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _run(order: dict) -> dict:
    out, given = order.pop("out"), order.pop("stdin")
    with open(out, "wb") as told, open(out + ".err", "wb") as complained, open(given, "rb") as source:
        began = time.monotonic()
        process = subprocess.Popen(
            order["argv"], cwd=order["cwd"], env=order["env"], stdin=source, stdout=told, stderr=complained
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    return {"status": process.returncode, "seconds": seconds, "cpu": cpu, "memory": usage.ru_maxrss * 1024}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)
