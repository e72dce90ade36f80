"""What the HTTP routes work with: made once in `gateway.app`, found on the request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from gateway.accounting import Ledger
from gateway.backends.chosen import ChosenBackend
from gateway.cache.link import Link
from gateway.cache.responses import Responses
from gateway.composition import Composition
from gateway.dispatch import Dispatcher
from gateway.keys import KeyStore
from gateway.limits import Limits
from gateway.live.editor import Editor
from gateway.live.follower import Follower
from gateway.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.planner import Planner
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running gateway.

    Attributes
    ----------
    children : callable
        Returns what the supervisor says of each local process that is not up, by its weights.
    started_at : float
        Seconds since 1970.
    """

    settings: Settings
    follower: Follower
    editor: Editor
    dispatcher: Dispatcher
    planner: Planner
    pipeline: Pipeline
    backend: ChosenBackend
    cache: Link
    keys: KeyStore
    limits: Limits
    responses: Responses
    ledger: Ledger
    metrics: Metrics
    children: Callable[[], Mapping[str, str]]
    started_at: float

    @property
    def composition(self) -> Composition:
        """What requests are planned with now: it may be another one for the next request."""
        return self.planner.composition

    def swap(self, composition: Composition) -> None:
        """Plan the next requests with another composition; those under way keep theirs."""
        self.planner.composition = composition
        self.dispatcher.guards.keep(composition.registry.values())


def services_of(request: Request) -> Services:
    """Return the services of the application that handles a request."""
    return cast(Services, request.app.state.services)
