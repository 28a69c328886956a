"""For all tests: properties are not failed by a busy machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("vmconsole", deadline=None)
settings.load_profile("vmconsole")
