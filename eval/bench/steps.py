"""The steps of a request as our gateway times them itself."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from eval.bench.load import Load
from eval.bench.systems import Target

LOG_TIMEOUT_S = 5.0
"""Log lines are written some time after their answers."""


def steps_ms(target: Target, log: Path, load: Load, n_requests: int) -> list[dict[str, Any]]:
    """Return the median milliseconds of each step, over requests one after the other.

    Parameters
    ----------
    log : Path
        What the gateway writes: relaying and accounting end after the answer has begun, so that no
        header can say how long they take.
    load : Load
        Its concurrency does not count.

    Returns
    -------
    list of dict
        The requests for which the router's encoder did not run, and those for which it did, where
        there are any: ``encoder`` (whether it ran), ``share`` of the requests, ``all_ms`` (median
        of the sums), and ``steps``: step -> ``ms``, the median over those that have it, and their
        ``share``.

    Raises
    ------
    OSError, HTTPException
        The gateway has died.
    ValueError
        Its log does not hold the steps of all requests.
    """
    begin = log.stat().st_size
    wanted = _ask(target, load, n_requests)
    deadline_s = time.monotonic() + LOG_TIMEOUT_S
    while len(found := _timed(log, begin, wanted)) < len(wanted):
        if time.monotonic() > deadline_s:
            raise ValueError(
                f"{log} must hold the steps of {n_requests} requests; {len(found)} are"
            )
        time.sleep(0.1)
    return summarise_steps(found)


def summarise_steps(requests: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Put the steps of requests together; see `steps_ms`."""
    return [
        {
            "encoder": ran,
            "share": round(len(those) / len(requests), 3),
            "all_ms": round(statistics.median(sum(steps.values()) for steps in those), 3),
            "steps": _medians(those),
        }
        for ran in (False, True)
        if (those := [steps for steps in requests if ("encode" in steps) == ran])
    ]


def _medians(requests: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    longest = max(requests, key=len)  # in the order of its steps, then those that it has not
    names = dict.fromkeys([*longest, *(name for steps in requests for name in steps)])
    taken = {name: [steps[name] for steps in requests if name in steps] for name in names}
    return {
        name: {
            "ms": round(statistics.median(ms), 3),
            "share": round(len(ms) / len(requests), 3),
        }
        for name, ms in taken.items()
    }


def _ask(target: Target, load: Load, n_requests: int) -> set[str]:
    """Send the requests; returns their ids."""
    where = urlsplit(target.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    headers = {"content-type": "application/json", "x-coe-timing": "on", **target.headers}
    bodies = load.around(target.model)
    ids = set()
    for index in range(n_requests):
        number = 10**9 + index * load.distinct
        before, after = bodies[number % len(bodies)]
        body = f"{before}{number}{after}"
        connection.request("POST", where.path, body.encode(), headers)
        answer = connection.getresponse()
        answer.read()
        ids.add(answer.headers["x-request-id"])
    connection.close()
    return ids


def _timed(log: Path, begin: int, wanted: set[str]) -> list[dict[str, float]]:
    """Return the steps of those requests that the log has, from a byte on."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().rpartition(b"\n")[0].splitlines()
    entries = [json.loads(line) for line in lines if b'"timing"' in line]
    return [
        {name: ms for name, ms in entry.items() if isinstance(ms, float)}
        for entry in entries
        if entry.get("request_id") in wanted
    ]
