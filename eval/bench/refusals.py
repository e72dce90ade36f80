"""How soon a gateway that is full says so: wrk's percentiles do not tell refusals from answers."""

from __future__ import annotations

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from eval.bench.load import Load, run_wrk
from eval.bench.run import WARM_UP_S
from eval.bench.systems import Target

EVERY_S = 0.02
"""Between two of the clients that are timed."""


def refusals_ms(target: Target, load: Load, seconds: int, folder: Path) -> dict[str, float | None]:
    """Send a load, and time new clients beside it from their connection to the end of an answer.

    Returns
    -------
    dict
        ``n`` of them were refused, with ``p50_ms`` and ``p99_ms`` (None where none was), and
        ``admitted`` were not.

    Raises
    ------
    OSError, HTTPException, CalledProcessError
        The gateway has died.
    """
    before, after = load.around(target.model)[0]
    body = f"{before}1{after}".encode()
    refused, admitted = [], 0
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(
            run_wrk, target.url, target.model, target.headers, load, WARM_UP_S + seconds, folder
        )
        time.sleep(WARM_UP_S)
        while not loading.done():
            time.sleep(EVERY_S)
            asked_s = time.perf_counter()
            if _status(target, body) == http.client.SERVICE_UNAVAILABLE:
                refused.append(1000 * (time.perf_counter() - asked_s))
            else:
                admitted += 1
        loading.result()
    p50_ms, p99_ms = np.percentile(refused, (50, 99)).round(3).tolist() if refused else (None, None)
    return {"n": len(refused), "admitted": admitted, "p50_ms": p50_ms, "p99_ms": p99_ms}


def _status(target: Target, body: bytes) -> int:
    where = urlsplit(target.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    try:
        headers = {"content-type": "application/json", **target.headers}
        connection.request("POST", where.path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()
