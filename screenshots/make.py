"""Draws the README's pictures from the running program: python screenshots/make.py [--to DIR] [NAME ...]

Runs the demo's two nights, then drives the console on the shop that they leave, and writes what a person would see as
SVG, and as PNG where CairoSVG and the font Fira Code are installed (Debian: fonts-firacode).
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from vmconsole.interfaces import Cancel
from vmconsole.tui.app import Console, Settings
from vmconsole.wiring.services import Wiring


@dataclass(frozen=True, slots=True)
class Picture:
    """keys: pressed one after the other; `wait:TEXT` waits until TEXT is on the screen."""

    name: str
    keys: Sequence[str] = ()
    width: int = 120
    height: int = 36
    theme: str = "dark"


PICTURES = (
    Picture("guests"),
    Picture("guests-80x24", width=80, height=24),
    Picture("guests-light", theme="light"),
    Picture("guests-colour-blind", theme="colour-blind"),
    Picture("guests-ansi", theme="ansi"),
    Picture("groups", ("2", "wait:covers", "e", "wait:at the next prune")),
    Picture("night", ("2", "wait:covers", "t", "wait:done at")),
    Picture("runs", ("3", "wait:took", "down")),
    Picture("points", ("4", "wait:web-01"), 200, 50),
    Picture("repositories", ("5", "wait:id "), 140, 44),
    Picture("hosts", ("6", "wait:kvm1", "down")),
    Picture("restore", ("r", "wait:what")),
    Picture("help", ("question_mark", "wait:back up"), 100, 40),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=HERE, help="folder to write into")
    parser.add_argument("names", nargs="*", help="only these")
    options = parser.parse_args()
    wanted = options.names
    pictures = [picture for picture in PICTURES if not wanted or picture.name in wanted]
    # The same place each time: it is in the pictures.
    shop = Path(tempfile.gettempdir()) / "vmconsole-shop"
    shutil.rmtree(shop, ignore_errors=True)
    try:
        subprocess.run(
            [sys.executable, "-m", "vmconsole", "--quiet", "demo", "--headless", "--dir", str(shop)],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=HERE.parent,
        )
        for picture in pictures:
            asyncio.run(draw(picture, shop / "config.toml", options.to))
            print(f"{picture.name}.svg")
    finally:
        shutil.rmtree(shop, ignore_errors=True)
    convert([options.to / f"{picture.name}.svg" for picture in pictures])


async def draw(picture: Picture, config: Path, folder: Path) -> None:
    services = Wiring(config, Cancel())
    console = Console(services, Settings(theme=picture.theme))
    # The demo's hosts are gone by now; the pictures show what was last seen of them.
    console.feed.ask = lambda _: None  # type: ignore[method-assign]
    async with console.run_test(size=(picture.width, picture.height)) as pilot:

        async def until(found, what: str) -> None:
            for _ in range(1200):
                if found():
                    return
                await pilot.pause(0.05)
            sys.exit(f"{picture.name}: waited for {what}; the screen:\n{seen(console)}")

        await until(lambda: not console.loading and console.picture.recent, "the shop")
        for key in picture.keys:
            if key.startswith("wait:"):
                await until(lambda text=key[5:]: text in seen(console), key)
            else:
                await pilot.press(key)
                await pilot.pause()
        await pilot.pause(0.2)
        (folder / f"{picture.name}.svg").write_text(console.export_screenshot(title="vmconsole"))
    services.close()


def seen(console: Console) -> str:
    lines = console.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in line) for line in lines)


def convert(drawn: Sequence[Path]) -> None:
    fonts = subprocess.run(
        ["fc-list", ":family=Fira Code"], capture_output=True, text=True, check=False
    ).stdout
    try:
        import cairosvg
    except ImportError:
        cairosvg = None
    if cairosvg is None or "Fira" not in fonts:
        print("No PNG: CairoSVG or the font Fira Code is missing.")
        return
    for path in drawn:
        cairosvg.svg2png(url=str(path), write_to=str(path.with_suffix(".png")), scale=1.0)


if __name__ == "__main__":
    main()
