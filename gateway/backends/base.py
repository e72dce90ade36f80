"""The protocol of a backend: a way to reach an expert."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.experts import Expert


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One call of an expert.

    Attributes
    ----------
    path : str
        Below the expert's ``/v1``, e.g. ``chat/completions``.
    body : bytes
        JSON.
    stream : bool
        Whether a stream of events is asked for.
    request_id : str
        Sent on as ``x-request-id``.
    headers : Mapping of str to str
        Further ones that belong to the path.
    """

    path: str
    body: bytes
    stream: bool
    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)


class UpstreamResponse(Protocol):
    """An expert's answer, its status and headers come and its body on the way."""

    status: int
    headers: Mapping[str, str]

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raises `ExpertError` when it is cut or stalls."""
        ...

    async def read(self) -> bytes:
        """Return the whole body; raises `ExpertError` when it is cut or stalls."""
        ...

    async def aclose(self) -> None:
        """Drop the answer: the call upstream is cancelled when it is not finished."""
        ...


class Backend(Protocol):
    """Opens calls to experts."""

    async def open(self, expert: Expert, request: UpstreamRequest) -> UpstreamResponse:
        """Send a request and return when the status has come.

        Raises
        ------
        ExpertError
            When no status comes: refused, reset, silent for too long.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections that are kept open."""
        ...
