"""Each expert by its own backend."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.backends.base import UpstreamRequest, UpstreamResponse
from gateway.backends.litellm_sdk import LiteLLMBackend
from gateway.backends.openai_http import OpenAIBackend
from gateway.experts import Expert


class ChosenBackend:
    """A `Backend` that hands on to the one an expert names.

    Parameters
    ----------
    http : OpenAIBackend
        For experts that speak the OpenAI protocol over HTTP, local ones too.
    litellm : LiteLLMBackend
        For any other provider.
    """

    def __init__(self, http: OpenAIBackend, litellm: LiteLLMBackend) -> None:
        self.http = http
        self._litellm = litellm

    def prepare(self, experts: Iterable[Expert]) -> None:
        """Import what these experts need now, so that no request has to wait for it."""
        if any(expert.backend == "litellm" for expert in experts):
            self._litellm.load()

    async def open(self, expert: Expert, request: UpstreamRequest) -> UpstreamResponse:
        """See `Backend.open`."""
        if expert.backend == "litellm":
            return await self._litellm.open(expert, request)
        return await self.http.open(expert, request)

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        await self.http.aclose()
        await self._litellm.aclose()
