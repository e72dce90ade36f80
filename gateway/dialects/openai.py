"""OpenAI's own formats that need no translation: chat and text completions, embeddings."""

from __future__ import annotations

from collections.abc import Callable

from gateway.dialects.base import Translation
from gateway.protocol import ChatRequest


class Plain:
    """A `Dialect` whose requests go to experts as they are.

    Parameters
    ----------
    read : callable
        Checks a body and reads what routing needs.
    """

    def __init__(self, read: Callable[[bytes], ChatRequest]) -> None:
        self._read = read

    async def parse(self, body: bytes, tenant: str) -> Translation:
        """See `Dialect.parse`."""
        return Translation(self._read(body))
