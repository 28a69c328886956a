"""Draws the README's pictures from the running program: python screenshots/make.py

Runs the demo in a pseudo-terminal and draws what a person would see.
"""

from __future__ import annotations

import os
import pty
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).resolve().parent
COLUMNS = 118


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder) / "shop"
        shown = run([sys.executable, "-m", "vmconsole", "demo", "--headless", "--dir", str(shop)])
        draw("demo", "vmconsole demo --headless", shown.replace(str(shop), "shop"))


def run(argv: list[str]) -> str:
    """The program's output on a terminal, as it stands when the program has ended."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": "50"}
        os.execv(argv[0], argv)
    output = bytearray()
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        output += piece
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    if status:
        sys.exit(f"{argv} ended with {status}:\n{output.decode()}")
    return settled(output.decode())


def settled(text: str) -> str:
    """What remains on the screen: progress bars erase themselves by moving up and clearing lines."""
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        for _ in range(line.count("\x1b[1A")):
            if lines:
                lines.pop()
        kept = re.split(r"\x1b\[2K", line)[-1]
        lines.append(re.sub(r"\x1b\[\?25[lh]|\x1b\[1A|\r", "", kept))
    return "\n".join(lines)


def draw(name: str, title: str, text: str) -> None:
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(text), soft_wrap=False)
        console.save_svg(str(HERE / f"{name}.svg"), title=title)


if __name__ == "__main__":
    main()
