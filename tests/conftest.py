from __future__ import annotations

from hypothesis import settings

# times on a busy machine say nothing about the code
settings.register_profile("default", deadline=None)
settings.load_profile("default")
