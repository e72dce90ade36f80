"""What was made of the requests of the last minute, by their own words."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

MOST = 1024
"""How many are remembered; the oldest give way."""
KEPT_S = 60.0

Made = TypeVar("Made")


class Recent(Generic[Made]):
    """Remembers a while, as long as what things were made with stays the same object.

    Parameters
    ----------
    clock : callable
        Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._made_with: object = None
        self._known: dict[Hashable, tuple[float, Made]] = {}

    def get(self, made_with: object, key: Hashable) -> Made | None:
        """Return what was put under a key; None for what is not known, too old or of another."""
        put_s, made = self._known.get(key, (0.0, None))
        fresh = made_with is self._made_with and self._clock() - put_s < KEPT_S
        return made if fresh else None

    def put(self, made_with: object, key: Hashable, made: Made) -> None:
        """Remember what was made; all that was made with something else is forgotten."""
        if made_with is not self._made_with:
            self._made_with, self._known = made_with, {}
        elif len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = (self._clock(), made)
