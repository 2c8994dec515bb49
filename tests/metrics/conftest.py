from __future__ import annotations

from hypothesis import settings

# Time limits of single examples fail at random on a busy machine.
settings.register_profile("metrics", deadline=None)
settings.load_profile("metrics")
