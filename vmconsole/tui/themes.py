"""Colours. A theme gives Textual its own, and our texts theirs: a style is named after what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Span, Text

if TYPE_CHECKING:
    from textual.theme import Theme as TextualTheme

_DECORATION = frozenset({"", "strong", "quiet", "title"})
_BOLD = frozenset({"title", "failed", "late", "never", "warning", "key", "strong"})


@dataclass(frozen=True, slots=True)
class Theme:
    """colours: by the names that texts use; a missing one is the terminal's or the screen's own."""

    name: str
    label: str
    dark: bool
    colours: Mapping[str, str]
    ansi: bool = False

    def style(self, name: str) -> Style:
        """name: one or several of ours, or of Rich's, with blanks between."""
        found = Style()
        for word in name.split():
            found += self._style(word)
        return found

    def _style(self, word: str) -> Style:
        if word in self.colours:
            return Style.parse(self.colours[word]) + Style(bold=True if word in _BOLD else None)
        if word in _BOLD:
            return Style(bold=True)
        return Style.parse(word) if word in ("bold", "dim", "italic", "underline", "reverse") else Style()

    def paint(self, text: Text, *, few: bool = False) -> Text:
        """The same text with colours instead of names. few: only those that say something, for a slow line."""
        painted = text.copy()
        if few:
            painted.spans = [span for span in painted.spans if span.style not in _DECORATION]
        if isinstance(text.style, str):
            painted.style = self.style(text.style)
        painted.spans = [
            Span(span.start, span.end, self.style(span.style) if isinstance(span.style, str) else span.style)
            for span in painted.spans
        ]
        return painted


_DARK = {
    "ok": "#7fc97f",
    "late": "#f2b84b",
    "warning": "#f2b84b",
    "failed": "#ff6b6b",
    "running": "#6cb6ff",
    "queued": "#8f9bb3",
    "never": "#f2b84b",
    "paused": "#b48ead",
    "off": "#7a8599",
    "quiet": "#8f9bb3",
    "title": "#e6edf3",
    "key": "#6cb6ff",
    "cursor": "on #263a56",
    "marked": "#f2b84b",
    "head": "#8f9bb3",
}
_LIGHT = {
    "ok": "#1a7f37",
    "late": "#9a6700",
    "warning": "#9a6700",
    "failed": "#cf222e",
    "running": "#0550ae",
    "queued": "#57606a",
    "never": "#9a6700",
    "paused": "#8250df",
    "off": "#6e7781",
    "quiet": "#57606a",
    "title": "#1f2328",
    "key": "#0550ae",
    "cursor": "on #cfe3fb",
    "marked": "#9a6700",
    "head": "#57606a",
}
# Blue for well and orange for not: told apart without red and green.
_COLOUR_BLIND = _DARK | {
    "ok": "#56b4e9",
    "late": "#e69f00",
    "warning": "#e69f00",
    "never": "#e69f00",
    "failed": "#ff8c42 reverse",
    "running": "#f0e442",
    "marked": "#e69f00",
    "key": "#56b4e9",
}
_ANSI = {
    "ok": "green",
    "late": "yellow",
    "warning": "yellow",
    "failed": "red",
    "running": "blue",
    "queued": "dim",
    "never": "yellow",
    "paused": "magenta",
    "off": "dim",
    "quiet": "dim",
    "key": "cyan",
    "cursor": "reverse",
    "marked": "yellow",
    "head": "dim",
}

THEMES = (
    Theme("dark", "dark", dark=True, colours=_DARK),
    Theme("light", "light", dark=False, colours=_LIGHT),
    Theme("colour-blind", "colour-blind (blue and orange)", dark=True, colours=_COLOUR_BLIND),
    Theme("ansi", "the terminal's own colours", dark=True, colours=_ANSI, ansi=True),
)


def theme_named(name: str) -> Theme:
    return next((theme for theme in THEMES if theme.name == name), THEMES[0])


def for_textual(theme: Theme) -> TextualTheme:
    from textual.theme import BUILTIN_THEMES
    from textual.theme import Theme as TextualTheme

    if theme.ansi:
        own = BUILTIN_THEMES["ansi-dark"]
        # On a light and on a dark terminal these can both be seen.
        seen = {"border": "ansi_blue", "border-blurred": "ansi_bright_black"}
        return replace(own, name=f"vm-{theme.name}", variables=own.variables | seen)
    light = not theme.dark
    return TextualTheme(
        f"vm-{theme.name}",
        primary=theme.colours["key"],
        secondary=theme.colours["quiet"],
        warning=theme.colours["late"],
        error=theme.colours["failed"].split()[0],
        success=theme.colours["ok"],
        accent=theme.colours["key"],
        foreground=theme.colours["title"],
        background="#ffffff" if light else "#0f141b",
        surface="#f6f8fa" if light else "#151b24",
        panel="#eaeef2" if light else "#1c2430",
        dark=theme.dark,
        variables={
            "border": "#afb8c1" if light else "#35425a",
            "border-blurred": "#d0d7de" if light else "#263042",
        },
    )
