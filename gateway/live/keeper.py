"""Keeps what one gateway serves level with its experts file and with its replicas.

It runs in the parent of a gateway's processes. The rule, see ``gateway/design.md``: a change on
disk becomes the newest version; the newest version in Redis is what every replica serves and, where
it can, writes to its own file.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gateway.backends.openai_http import OpenAIBackend
from gateway.composition import checked_registry
from gateway.errors import CacheError, ConfigError, ExpertError
from gateway.experts import Expert, ExpertRegistry
from gateway.live.answering import ANSWER_TIMEOUT_S, check_answers
from gateway.live.files import replace_text
from gateway.live.state import Live, write_live
from gateway.live.versions import Version, VersionStore, digest_of
from gateway.live.watch import Glance, Signature, artifacts_of, glance
from gateway.supervisor.child import ChildSpec
from gateway.supervisor.plan import EXPERT, expert_specs, process_of
from gateway.supervisor.supervisor import Supervisor

PERIOD_S = 0.25
"""Between two looks, in seconds; a change is taken when two looks saw the same of it."""
RETRY_S = 5.0
"""After which an edit that was refused is tried again: its reason may have passed."""
LOAD_TIMEOUT_S = 600.0
FILE, REPLICAS, ARTIFACTS, UNREADABLE = "file", "replicas", "artifacts", "unreadable"
"""Where an edit that was refused came from."""

_log = logging.getLogger(__name__)


class Keeper:
    """See above.

    Parameters
    ----------
    path : Path
        The experts file.
    run_dir : Path
        Where the workers are told what to serve.
    supervisor : Supervisor
        Runs the local experts.
    store : VersionStore
        Shared with the replicas.
    environ : Mapping of str to str
        Where keys are read that experts name by ``api_key_env``.
    linger_s : float
        How long a local expert that is not needed any more may finish its answers, in seconds.
    say : callable
        Tells the operator, in a line, of an edit that is refused.
    """

    def __init__(
        self,
        path: Path,
        run_dir: Path,
        supervisor: Supervisor,
        store: VersionStore,
        environ: Mapping[str, str],
        linger_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._path = path
        self._run_dir = run_dir
        self._supervisor = supervisor
        self._store = store
        self._environ = environ
        self._linger_s = linger_s
        self._say = say
        self._backend = OpenAIBackend(run_dir, environ)
        self._errors: dict[str, str] = {}
        self._retry_at_s: dict[str, float] = {}
        self._retired: dict[str, float] = {}
        self._lagging: set[str] = set()
        self._last: Glance | None = None
        self._is_new, self._unpublished = True, False

    def begin(self, registry: ExpertRegistry, text: str, specs: Sequence[ChildSpec]) -> None:
        """Serve the text of the file, already checked, with its local experts."""
        self._registry, self._served_text = registry, text
        self._disk_text: str | None = text
        self._artifacts = artifacts_of(registry)
        self._supervisor.start(specs)
        self._live = Live(1, 0, text)
        write_live(self._run_dir, self._live)

    async def run(self) -> None:
        """Keep level until cancelled."""
        try:
            while True:
                await asyncio.sleep(PERIOD_S)
                try:
                    await self.follow()
                    await self._look()
                    await self._stop_retired()
                except Exception:
                    _log.error("bug", exc_info=True)
        finally:
            await self._backend.aclose()

    # replicas

    async def follow(self) -> None:
        """Take the newest version, or make ours the newest; without Redis nothing happens."""
        try:
            current = await self._store.current()
            if self._is_new:
                self._unpublished |= not await self._is_stale(current)
                self._is_new = False
            behind = current is None or current.number < self._live.number
            if self._unpublished or current is None or behind:
                current = await self._store.publish(
                    self._live.text, FILE, least_number=max(1, self._live.number)
                )
                self._unpublished = False
            if current.text == self._live.text:
                self._in_step(current)
            elif self._may_try(REPLICAS, current.text):
                await self._take(current)
        except CacheError:
            return  # the workers report the state of Redis

    async def _is_stale(self, current: Version | None) -> bool:
        """Whether the file that we started with is an older version of what replicas serve."""
        digest = self._live.digest
        if current is None or current.digest == digest:
            return False
        return await self._store.was_current(digest)

    def _in_step(self, current: Version) -> None:
        found = self._errors.pop(REPLICAS, None)
        if found is not None or self._live.number != current.number:
            self._tell(self._live.generation, current.number, self._live.text)

    async def _take(self, version: Version) -> None:
        if not await self._apply(REPLICAS, version.text, version.number):
            return
        # an edit of its own that the file holds is not overwritten
        if FILE not in self._errors and await self._is_old(self._path):
            await self._rewrite()

    async def _rewrite(self) -> None:
        """Write what is served to the file."""
        text = self._live.text
        try:
            await asyncio.to_thread(replace_text, self._path, text)
        except OSError as error:
            self._lagging.add(digest_of(text))
            _log.info("experts file not rewritten", extra={"fields": {"why": str(error)}})
        else:
            self._disk_text = self._served_text = text

    async def _is_old(self, path: Path) -> bool:
        """Whether the file still holds what we know, or what a replica on the same disk wrote."""
        text = (await asyncio.to_thread(glance, path, self._registry)).text
        if text is None or text == self._disk_text:
            return text is not None
        return await self._store.was_current(digest_of(text))

    # disk

    async def _look(self) -> None:
        """Take a change on disk, once it is whole."""
        seen = await asyncio.to_thread(glance, self._path, self._registry)
        steady, self._last = seen == self._last, seen
        if not steady:
            return
        if seen.text is None:
            if self._errors.pop(FILE, None) is not None:
                self._disk_text = None  # what was refused is gone; should it come back, it is new
            self._refuse(UNREADABLE, "", seen.fault)
            return
        if self._errors.pop(UNREADABLE, None) is not None:
            self._tell(self._live.generation, self._live.number, self._live.text)
        changed, self._disk_text = seen.text != self._disk_text, seen.text
        if changed or (FILE in self._errors and self._may_try(FILE, seen.text)):
            await self._take_edit(seen.text)
        elif seen.artifacts != self._artifacts or (
            ARTIFACTS in self._errors and self._may_try(ARTIFACTS, self._live.text)
        ):
            self._artifacts = seen.artifacts
            await self._apply(ARTIFACTS, self._live.text, self._live.number)

    async def _take_edit(self, text: str) -> None:
        digest = digest_of(text)
        if digest in self._lagging:
            self._lagging.discard(digest)  # a read-only copy that comes after the replicas' word
        elif text in {self._live.text, self._served_text}:  # an edit that was refused, taken back
            if self._errors.pop(FILE, None) is not None:
                self._tell(self._live.generation, self._live.number, self._live.text)
            if text != self._live.text:
                await self._rewrite()
        elif await self._apply(FILE, text, self._live.number + 1):
            self._unpublished, self._served_text = True, text
            await self.follow()

    # both

    def _may_try(self, source: str, text: str) -> bool:
        return time.monotonic() >= self._retry_at_s.get(source + digest_of(text), 0.0)

    async def _apply(self, source: str, text: str, number: int) -> bool:
        """Check an edit and have the workers serve it; False when it is refused."""
        try:
            registry, artifacts, specs = await asyncio.to_thread(self._checked, text)
            if source == FILE:  # what replicas publish was checked there, or forced
                await check_answers(self._backend, registry, self._registry, "restart the gateway")
            await self._start(registry, specs)
        except ConfigError as error:
            self._refuse(source, text, str(error))
            return False
        self._retry_at_s.clear()
        self._errors.pop(source, None)
        self._registry, self._artifacts = registry, artifacts
        self._retire(specs)
        self._tell(self._live.generation + 1, number, text)
        _log.info("experts changed", extra={"fields": {"version": number, "source": source}})
        return True

    def _checked(self, text: str) -> tuple[ExpertRegistry, Signature, list[ChildSpec]]:
        registry = checked_registry(text, self._path, self._environ)
        return registry, artifacts_of(registry), expert_specs(registry, self._run_dir)

    def _refuse(self, source: str, text: str, error: str) -> None:
        self._retry_at_s[source + digest_of(text)] = time.monotonic() + RETRY_S
        if self._errors.get(source) == error:
            return
        self._errors[source] = error
        fields = {"source": source, "why": error}
        _log.error("edit of the experts refused, nothing changed", extra={"fields": fields})
        self._say(f"edit of the experts refused, nothing changed: {error}".replace("\n", "; "))
        live = self._live
        self._tell(live.generation, live.number, live.text, n_refused=live.n_refused + 1)

    def _tell(
        self, generation: int, number: int, text: str, *, n_refused: int | None = None
    ) -> None:
        error = "\n".join(self._errors.values()) or None
        counted = self._live.n_refused if n_refused is None else n_refused
        self._live = Live(generation, number, text, error, counted)
        write_live(self._run_dir, self._live)

    # local experts

    async def _start(self, registry: ExpertRegistry, specs: Sequence[ChildSpec]) -> None:
        """Start the local experts that do not run yet and wait until they are up."""
        new = [spec for spec in specs if spec.name not in self._supervisor.names]
        self._supervisor.start(new)
        names = {spec.name for spec in new}
        experts = [e for e in registry.local_weights.values() if process_of(e) in names]
        waiting = [asyncio.create_task(self._wait_until_up(expert)) for expert in experts]
        try:
            await asyncio.gather(*waiting)
        except ConfigError:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            for name in names:
                await self._supervisor.stop(name)
            raise

    async def _wait_until_up(self, expert: Expert) -> None:
        deadline_s = time.monotonic() + LOAD_TIMEOUT_S
        while True:
            try:
                await self._backend.get(expert, "models", ANSWER_TIMEOUT_S)
            except ExpertError:
                await asyncio.sleep(PERIOD_S)
            else:
                return
            state = self._supervisor.state(process_of(expert))
            if state.startswith("restarting") or time.monotonic() > deadline_s:
                raise ConfigError(f"expert {expert.name!r} does not start: {state}")
            seen = await asyncio.to_thread(glance, self._path, self._registry)
            if seen.text not in {None, self._disk_text}:
                raise ConfigError("overtaken by another edit before its local experts were up")

    def _retire(self, specs: Sequence[ChildSpec]) -> None:
        wanted = {spec.name for spec in specs}
        for name in self._supervisor.names:
            if name in wanted:
                self._retired.pop(name, None)
            elif name.startswith(EXPERT):
                self._retired.setdefault(name, time.monotonic() + self._linger_s)

    async def _stop_retired(self) -> None:
        for name, due_s in list(self._retired.items()):
            if time.monotonic() >= due_s:
                del self._retired[name]
                await self._supervisor.stop(name)
