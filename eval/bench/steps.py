"""The steps of a request as our gateway times them itself."""

from __future__ import annotations

import http.client
import re
import statistics
from urllib.parse import urlsplit

from eval.bench.load import Load
from eval.bench.systems import Target

_STEP = re.compile(r"(\w+);dur=([\d.]+)")


def steps_ms(target: Target, load: Load, n_requests: int) -> dict[str, float]:
    """Return the median milliseconds of each step, over requests one after the other.

    Parameters
    ----------
    load : Load
        Its concurrency does not count.

    Raises
    ------
    OSError, HTTPException
        The gateway has died.
    """
    where = urlsplit(target.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    headers = {"content-type": "application/json", "x-coe-timing": "on", **target.headers}
    bodies = load.around(target.model)
    taken: dict[str, list[float]] = {}
    for index in range(n_requests):
        number = 10**9 + index * load.distinct
        before, after = bodies[number % len(bodies)]
        body = f"{before}{number}{after}"
        connection.request("POST", where.path, body.encode(), headers)
        answer = connection.getresponse()
        answer.read()
        for step, ms in _STEP.findall(answer.headers.get("server-timing", "")):
            taken.setdefault(step, []).append(float(ms))
    connection.close()
    # a step that few requests take, such as classifying what is cached, is none of the rest's
    return {
        step: round(statistics.median(found), 3)
        for step, found in taken.items()
        if len(found) > n_requests / 2
    }
