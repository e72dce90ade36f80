"""Runs all children of one gateway and tells the workers how they are."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from gateway.supervisor.child import Child, ChildSpec

STATE_FILE = "children.json"
STOP_GRACE_S = 5.0

_log = logging.getLogger(__name__)


class Supervisor:
    """Keeps children running; use as ``async with``.

    Parameters
    ----------
    run_dir : Path
        Private folder for sockets, logs and the state file.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._children: dict[str, Child] = {}
        self._tasks: dict[str, asyncio.Task[int]] = {}
        self._failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    @property
    def names(self) -> tuple[str, ...]:
        """The children that were started and not stopped."""
        return tuple(self._children)

    def start(self, specs: Iterable[ChildSpec]) -> None:
        """Start children; they are restarted when they end."""
        for spec in specs:
            child = Child(spec, self._write_state)
            self._children[spec.name] = child
            task = asyncio.create_task(child.run(), name=spec.name)
            task.add_done_callback(self._note_end)
            self._tasks[spec.name] = task

    async def failed(self) -> int:
        """Wait for a child that cannot be restarted; returns its exit code."""
        return await asyncio.shield(self._failed)

    def state(self, name: str) -> str:
        """Return what is known of a child; see `Child`."""
        return self._children[name].state

    def settle(self) -> None:
        """Note that all children work: from now on each is restarted, however it ends."""
        for child in self._children.values():
            child.settled = True

    async def stop(self, prefix: str = "", grace_s: float = STOP_GRACE_S) -> None:
        """Stop the children whose name starts with `prefix`."""
        names = [name for name in self._children if name.startswith(prefix)]
        await asyncio.gather(*(self._children[name].stop(grace_s) for name in names))
        tasks = [self._tasks.pop(name) for name in names]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for name in names:
            del self._children[name]

    def _note_end(self, task: asyncio.Task[int]) -> None:
        if task.cancelled() or self._failed.done():
            return
        error = task.exception()
        if error is not None:
            self._failed.set_exception(error)
        elif task.result() != 0:
            self._failed.set_result(task.result())

    def _write_state(self) -> None:
        state = {
            name: {"pid": child.pid, "state": child.state} for name, child in self._children.items()
        }
        draft = self._run_dir / f"{STATE_FILE}.new"
        try:
            draft.write_text(json.dumps(state), encoding="utf-8")
            draft.replace(self._run_dir / STATE_FILE)
        except OSError as error:  # on a full disk the children go on, told of or not
            _log.error("states not written", extra={"fields": {"why": str(error)}})


def read_states(run_dir: Path) -> Mapping[str, str]:
    """Return what the supervisor last said of each child, by name."""
    try:
        state = json.loads((run_dir / STATE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {name: child["state"] for name, child in state.items()}
