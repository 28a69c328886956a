"""run.py TOOL ARGUMENTS: what the programs in a node's first PATH folder start."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2])

from pve.tools.says import Died, meet_fault  # noqa: E402


def main() -> int:
    tool = sys.argv[1]
    try:
        meet_fault(" ".join(sys.argv[1:]))
        return int(import_module(f"pve.tools.{tool}").main(sys.argv[2:]) or 0)
    except Died as death:
        print(death, file=sys.stderr)
        return death.status
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
