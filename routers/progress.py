"""How long work reports how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the units of it done, and the units there are."""


def silent(_stage: str, _done: int, _total: int) -> None:
    """Report nothing."""
