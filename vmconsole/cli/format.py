"""Figures and foreign text as people read them; they are worded in the same way in messages (model/words.py)."""

from __future__ import annotations

from vmconsole.model.words import age as age
from vmconsole.model.words import countdown as countdown
from vmconsole.model.words import duration as duration
from vmconsole.model.words import progress_size as progress_size
from vmconsole.model.words import size as size
from vmconsole.model.words import visible as visible
from vmconsole.model.words import visible_lines as visible_lines
