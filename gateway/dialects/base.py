"""What a dialect is: a request turned into a chat completion, and the answer turned back.

Routing, stickiness, fallback and the rescue of broken streams know chat completions only, so they
work the same for every dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.errors import GatewayError
from gateway.experts import Expert
from gateway.protocol import ChatRequest
from gateway.schema import Capability


class Sink(Protocol):
    """Where an answer is written to."""

    async def start(self, status: int, headers: dict[str, str]) -> None:
        """Send the status and the headers."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a part of the body."""
        ...

    async def fail(self, error: GatewayError) -> None:
        """Tell of a failure in the middle of a stream, in the form of the dialect."""
        ...

    async def end(self) -> None:
        """Send what is left; nothing follows."""
        ...


@dataclass(frozen=True, slots=True)
class Native:
    """A request as an expert takes it that speaks the dialect itself.

    Attributes
    ----------
    path : str
        Below the expert's ``/v1``.
    capability : str
        What such an expert lists in ``experts.yaml``.
    body_for : callable
        Returns the body for an expert: the client's, but for what the gateway must change.
    headers : Mapping of str to str
        Sent along.
    """

    path: str
    capability: Capability
    body_for: Callable[[Expert], bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


def _same(sink: Sink, native: bool) -> Sink:
    return sink


@dataclass(frozen=True, slots=True)
class Translation:
    """A request of a dialect as a chat completion, and the way back.

    Attributes
    ----------
    request : ChatRequest
        What experts are asked that do not speak the dialect.
    native : Native or None
        What those are asked that do; None where no dialect but the request's own is needed.
    answer_to : callable
        Given the client's sink and whether the answer is in the dialect already, returns the sink
        that the expert's answer is written to.
    """

    request: ChatRequest
    native: Native | None = None
    answer_to: Callable[[Sink, bool], Sink] = _same
    native_only: tuple[str, ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities that an expert must have for this request."""
        if self.native is None or not self.native_only:
            return self.request.needs
        return self.request.needs | {self.native.capability}


class Dialect(Protocol):
    """A wire format of clients."""

    async def parse(self, body: bytes, tenant: str) -> Translation:
        """Check a request body and translate it.

        Raises
        ------
        InvalidRequestError
            Naming the field at fault.
        """
        ...
