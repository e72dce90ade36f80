"""In a worker: serve what the parent says, from one request to the next."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from gateway.backends.ask import ExpertAsk
from gateway.composition import Composition, compose
from gateway.config import parse_experts_file
from gateway.errors import ConfigError
from gateway.experts import Expert, ExpertRegistry, check_keys
from gateway.live.state import Live, read_live, stamp_of
from gateway.supervisor.plan import socket_of

PERIOD_S = 0.1
RETRY_S = 5.0
WARM_UP = ("Hello, how are you?",)
"""Classified before the first request comes: what loads on first use is loaded then."""
WARM_UP_LATER = ("Wie geht es dir heute, mein Freund?",)
"""The same for what few requests need and takes long to load, beside the first requests."""

_log = logging.getLogger(__name__)


class Follower:
    """Holds the composition that is served, and takes over another one when there is one.

    Parameters
    ----------
    run_dir : Path
        Where the parent writes what to serve.
    path : Path
        The experts file: relative paths in it start from its folder.
    environ : Mapping of str to str
        Where keys are read that experts name by ``api_key_env``.
    retry_s : float
        After how long a composition that could not be taken over is tried again, in seconds.

    Attributes
    ----------
    live : Live
        What is served now.
    composition : Composition
        Made of it.

    Raises
    ------
    ConfigError
        When it cannot be served.
    """

    def __init__(
        self, run_dir: Path, path: Path, environ: Mapping[str, str], retry_s: float = RETRY_S
    ) -> None:
        self._run_dir = run_dir
        self._path = path
        self._environ = environ
        self._stamp = stamp_of(run_dir)
        self._said = self.live = read_live(run_dir)
        self._failure: str | None = None
        self._n_failures = 0
        self._retry_s = retry_s
        self._retry_at_s = math.inf
        self.composition = self._composed(self.live, None)

    @property
    def error(self) -> str | None:
        """Why the last edit is not served; None when it is."""
        return self._failure or self._said.error

    @property
    def n_refused(self) -> int:
        """Edits that were refused since the gateway, or this worker of it, started."""
        return self._said.n_refused + self._n_failures

    async def run(
        self,
        prepare: Callable[[Iterable[Expert]], None],
        swap: Callable[[Composition], None],
    ) -> None:
        """Call `swap` with each composition that takes over, until cancelled.

        Parameters
        ----------
        prepare : callable
            Called before, in a thread, with its experts: imports what they need.
        """
        await asyncio.to_thread(_warm_up_later, self.composition)
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                stamp = stamp_of(self._run_dir)
                is_new = stamp != self._stamp or time.monotonic() >= self._retry_at_s
                said = read_live(self._run_dir) if is_new else None
            except OSError as error:
                self._failure = f"{self._run_dir} must stay while the gateway runs: {error}"
                self._retry_at_s = 0.0  # it is read anew as soon as it is there again
                continue
            if said is not None:
                self._stamp = stamp
                await self._take(said, prepare, swap)

    async def _take(
        self,
        said: Live,
        prepare: Callable[[Iterable[Expert]], None],
        swap: Callable[[Composition], None],
    ) -> None:
        is_retry, self._said, self._retry_at_s = said == self._said, said, math.inf
        if said.generation != self.live.generation:
            try:
                composition = await asyncio.to_thread(self._composed, said, self.composition)
                await asyncio.to_thread(prepare, composition.registry.values())
            except Exception as error:  # an import that fails, too: the next edit may mend it
                is_told = isinstance(error, ConfigError)
                self._failure = str(error) if is_told else f"{type(error).__name__}: {error}"
                self._retry_at_s = time.monotonic() + self._retry_s
                if not is_retry:
                    self._n_failures += 1
                    fields = {"version": said.number, "why": self._failure}
                    _log.error("experts not taken over", extra={"fields": fields})
                return
            self.composition = composition
            swap(composition)
        self._failure, self.live = None, said

    def _composed(self, live: Live, before: Composition | None) -> Composition:
        registry = ExpertRegistry(parse_experts_file(live.text, self._path.name), self._path)
        check_keys(registry, self._environ)
        composition = compose(registry, self._ask, before)
        if before is None or composition.trained is not before.trained:
            composition.routers[-1].predict_proba(WARM_UP)
            if before is not None:  # in a thread, while the composition before goes on
                _warm_up_later(composition)
        return composition

    def _ask(self, expert: Expert, timeout_s: float) -> ExpertAsk:
        key = self._environ[expert.api_key_env] if expert.api_key_env else None
        is_local = expert.backend == "local"
        socket_path = socket_of(self._run_dir, expert) if is_local else None
        return ExpertAsk(expert, socket_path, key, timeout_s)


def _warm_up_later(composition: Composition) -> None:
    try:
        composition.routers[-1].predict_proba(WARM_UP_LATER)
    except Exception as error:  # it must not end the following of edits; requests meet it again
        _log.error("router not warm", extra={"fields": {"why": f"{type(error).__name__}: {error}"}})
