"""Play the scenarios against gateways."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from eval.failover.bench import FIRST_S, Bench, Scenario
from eval.failover.client import Target
from eval.failover.processes import FailoverError, upstreams
from eval.failover.scenarios import SCENARIOS
from eval.failover.systems import running
from routers.progress import Progress, silent


def chosen(names: str | None) -> tuple[Scenario, ...]:
    """Return the scenarios of these names, separated by commas; all for None."""
    if names is None:
        return SCENARIOS
    known = {scenario.id: scenario for scenario in SCENARIOS}
    unknown = [name for name in names.split(",") if name not in known]
    if unknown:
        raise FailoverError(
            f"--only must name scenarios: {', '.join(known)}; got {', '.join(unknown)}"
        )
    return tuple(known[name] for name in names.split(","))


async def play(
    where: Target | str,
    scenarios: Sequence[Scenario],
    ports: Sequence[int],
    rivals: Path,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Play scenarios against one gateway.

    Parameters
    ----------
    where : Target or str
        A gateway that runs already, or one of `eval.failover.systems.SYSTEMS`, to be started.
    ports : sequence of int
        Of the faulty and of the healthy upstream; 0 picks a free one.
    rivals : Path
        Where other gateways are installed.

    Returns
    -------
    dict
        `system`, `scenarios` (`id`, `verdict` and `evidence` of each), `passed`, `safe` and
        `total`.

    Raises
    ------
    FailoverError
        When the gateway is not pointed at the upstreams, or does not start.
    """
    async with upstreams(ports) as ups:
        if isinstance(where, Target):
            return await _play_all(Bench(where, ups, _session()), scenarios, progress)
        with tempfile.TemporaryDirectory() as folder:
            async with running(where, ups, Path(folder), rivals) as target:
                return await _play_all(Bench(target, ups, _session()), scenarios, progress)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))


async def _play_all(
    bench: Bench, scenarios: Sequence[Scenario], progress: Progress
) -> dict[str, Any]:
    found = []
    async with bench.session:
        await bench.settle(FIRST_S)
        for i, scenario in enumerate(scenarios):
            progress(bench.target.name, i, len(scenarios))
            found.append(await scenario.run(bench))
        progress(bench.target.name, len(scenarios), len(scenarios))
    verdicts = [one["verdict"] for one in found]
    return {
        "system": bench.target.name,
        "scenarios": found,
        "passed": verdicts.count("pass"),
        "safe": verdicts.count("safe"),
        "total": len(found),
    }
