"""Run the cases over the systems in alternation, and put the rounds together."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import psutil

from eval.bench.cases import Case
from eval.bench.load import Load, Sample, run_wrk
from eval.bench.streams import run_streams
from eval.bench.systems import System, Target

Report = Callable[[str], None]
OURS = "coe routed"
"""Start of the names of the systems that ratios are taken to: one worker, and several."""
ROUNDED = 4
WARM_UP_S = 1
"""For which the load runs before it is measured: a system that was idle begins cold."""
CLIENTS_A_SECOND = 100
"""A run is long enough for so many: its clients are new, and a busy system lets them in slowly."""
AROUND_S = 0.4
"""About, for starting the load twice and reading what it cost."""
RESET_PEAK = "5"
"""Written into ``/proc/<pid>/clear_refs``; see proc(5)."""


@contextmanager
def cores(count: int) -> Iterator[list[int]]:
    """Keep this process, and those it starts, to the first cores; all share them alike."""
    before = os.sched_getaffinity(0)
    chosen = sorted(before)[:count]
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement of one system under one case."""

    sample: Sample
    cpu_s: float
    memory_mb: float


def minutes(systems: Sequence[System], chosen: Sequence[Case], rounds: int, seconds: int) -> float:
    """Return about how long it takes to `measure`."""
    runs = [case for case in chosen for system in systems if _target(system, case) is not None]
    runs_s = sum(WARM_UP_S + _long_enough_s(case, seconds) + AROUND_S for case in runs)
    return rounds * runs_s / 60


def _long_enough_s(case: Case, seconds: int) -> int:
    return max(seconds, case.load.concurrency // CLIENTS_A_SECOND)


def _target(system: System, case: Case) -> Target | None:
    return system.streams if case.load.stream else system.whole


def measure(
    systems: Sequence[System],
    chosen: Sequence[Case],
    rounds: int,
    seconds: int,
    folder: Path,
    report: Report,
) -> dict[str, Any]:
    """Measure every system under every case, one after the other, several times.

    Returns
    -------
    dict
        ``rows``, each a system under a case, and ``ratios``: case -> ours, routed, with one worker
        or with several -> system -> what it takes beside ours.
    """
    taken: dict[tuple[str, str], list[Round]] = {}
    for index in range(rounds):
        for case in chosen:
            for system in systems:
                target = _target(system, case)
                if target is not None:
                    report(f"round {index + 1} of {rounds}: {case.label}: {system.name}")
                    found = taken.setdefault((case.label, system.name), [])
                    run_s = _long_enough_s(case, seconds)
                    found.append(_round(target, case.load, run_s, folder, report))
    return summarise(chosen, taken)


def summarise(
    chosen: Sequence[Case], taken: Mapping[tuple[str, str], Sequence[Round]]
) -> dict[str, Any]:
    """Put the rounds of each case and system together; see `measure`."""
    by_label = {case.label: case for case in chosen}
    rows = [_row(name, by_label[label], found) for (label, name), found in taken.items()]
    return {"rows": rows, "ratios": _ratios(taken)}


def _round(target: Target, load: Load, seconds: int, folder: Path, report: Report) -> Round:
    """Measure a system; one that has died answers nothing, and the others are measured on."""
    try:
        _send(target, load, WARM_UP_S, folder)
        _forget_peaks(target)
        before_s = _cpu_s(target)
        sample = _send(target, load, seconds, folder)
        time.sleep(0.1)  # what is done after an answer counts too
        return Round(sample, _cpu_s(target) - before_s, _peak_mb(target))
    except (CalledProcessError, OSError, psutil.Error) as error:
        report(f"no answer: {error}")
        unknown = math.nan
        return Round(Sample(0, seconds, unknown, unknown, unknown, 0, 0), unknown, 0.0)


def _send(target: Target, load: Load, seconds: int, folder: Path) -> Sample:
    if load.stream:
        return run_streams(target.url, target.model, target.headers, load, seconds)
    return run_wrk(target.url, target.model, target.headers, load, seconds, folder)


def _processes(target: Target) -> list[psutil.Process]:
    root = psutil.Process(target.pid)
    return [root, *root.children(recursive=True)]


def _cpu_s(target: Target) -> float:
    times = [process.cpu_times() for process in _processes(target)]
    return float(sum(each.user + each.system for each in times))


def _forget_peaks(target: Target) -> None:
    """Let the kernel's count of the most memory that each process has held begin anew."""
    for process in _processes(target):
        Path(f"/proc/{process.pid}/clear_refs").write_text(RESET_PEAK)


def _peak_mb(target: Target) -> float:
    """Return the most that the processes held since, shared pages counted once, in 10^6 bytes.

    The kernel keeps count: reading their pages while they work would take milliseconds of it. The
    peaks of the processes are added up, also where they were not at the same time.
    """
    return sum(_peak_bytes(process) for process in _processes(target)) / 1e6


def _peak_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    held = process.memory_full_info()
    return int(held.pss + max(0, 1024 * peak_kb - held.rss))


def _row(name: str, case: Case, rounds: Sequence[Round]) -> dict[str, Any]:
    samples = [one.sample for one in rounds]

    def median(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None and not math.isnan(value)]
        return round(statistics.median(known), ROUNDED) if known else None

    rates = [_rate(sample) for sample in samples]
    p50s = [sample.p50_ms for sample in samples if not math.isnan(sample.p50_ms)]
    return {
        "system": name,
        "case": case.name,
        "concurrency": case.load.concurrency,
        "p50_ms": median(p50s),
        "p95_ms": median([sample.p95_ms for sample in samples]),
        "p99_ms": median([sample.p99_ms for sample in samples]),
        "p50_ms_spread": [round(edge(p50s), ROUNDED) for edge in (min, max) if p50s],
        "requests_per_s": median(rates),
        "requests_per_s_spread": [round(min(rates), 1), round(max(rates), 1)],
        "cpu_s_per_1k": median([1000 * one.cpu_s / max(1, one.sample.requests) for one in rounds]),
        "peak_mb": round(max(one.memory_mb for one in rounds), 1),
        "refused": sum(sample.refused for sample in samples),
        "broken": sum(sample.broken for sample in samples),
        "chunk_p50_ms": median([sample.delay_p50_ms for sample in samples]),
        "chunk_p99_ms": median([sample.delay_p99_ms for sample in samples]),
    }


def _rate(sample: Sample) -> float:
    """Return the answers that were none of failure, for each second."""
    return (sample.requests - sample.refused) / sample.duration_s


def _ratios(taken: Mapping[tuple[str, str], Sequence[Round]]) -> dict[str, Any]:
    """Compare with ours round by round: what disturbed a round disturbed both of its sides."""
    ratios: dict[str, Any] = {}
    for (label, own), ours in taken.items():
        beside = [item for item in taken.items() if item[0][0] == label]
        for (_, name), found in beside if own.startswith(OURS) else ():
            if not name.startswith(OURS):
                pairs = list(zip(found, ours, strict=False))
                ratios.setdefault(label, {}).setdefault(own, {})[name] = {
                    "p50": _median_ratio([(a.sample.p50_ms, b.sample.p50_ms) for a, b in pairs]),
                    "requests_per_s": _median_ratio(
                        [(_rate(b.sample), _rate(a.sample)) for a, b in pairs]
                    ),
                }
    return ratios


def _median_ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return the median of a / b; above 1 speaks for ours."""
    known = [a / b for a, b in pairs if b and not math.isnan(a + b)]
    return round(statistics.median(known), 3) if known else None
