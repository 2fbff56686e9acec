"""No test depends on how busy the machine is: property tests have no deadline for a single example."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
