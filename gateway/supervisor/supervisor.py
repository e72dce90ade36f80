"""Runs all children of one gateway and tells the workers how they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from gateway.supervisor.child import Child, ChildSpec

STATE_FILE = "children.json"
STOP_GRACE_S = 5.0


class Supervisor:
    """Keeps children running; use as ``async with``.

    Parameters
    ----------
    run_dir : Path
        Private folder for sockets, logs and the state file.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._children: list[Child] = []
        self._tasks: set[asyncio.Task[int]] = set()

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    def start(self, specs: Iterable[ChildSpec]) -> None:
        """Start children; they are restarted when they end."""
        for spec in specs:
            child = Child(spec, self._write_state)
            self._children.append(child)
            self._tasks.add(asyncio.create_task(child.run(), name=spec.name))

    async def failed(self) -> int:
        """Wait for a child that cannot be restarted; returns its exit code."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).result()

    def settle(self) -> None:
        """Note that all children work: from now on each is restarted, however it ends."""
        for child in self._children:
            child.settled = True

    async def stop(self, prefix: str = "", grace_s: float = STOP_GRACE_S) -> None:
        """Stop the children whose name starts with `prefix`."""
        chosen = [child for child in self._children if child.spec.name.startswith(prefix)]
        await asyncio.gather(*(child.stop(grace_s) for child in chosen))
        tasks = [task for task in self._tasks if task.get_name().startswith(prefix)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _write_state(self) -> None:
        state = {
            child.spec.name: {"pid": child.pid, "state": child.state} for child in self._children
        }
        draft = self._run_dir / f"{STATE_FILE}.new"
        draft.write_text(json.dumps(state), encoding="utf-8")
        draft.replace(self._run_dir / STATE_FILE)


def read_states(run_dir: Path) -> Mapping[str, str]:
    """Return what the supervisor last said of each child, by name."""
    try:
        state = json.loads((run_dir / STATE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {name: child["state"] for name, child in state.items()}
