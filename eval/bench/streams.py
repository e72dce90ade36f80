"""Load of streams: a client that notes when each chunk came. wrk sees whole answers only."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
import uvloop

from eval.bench.load import Load, Sample

_STAMP = re.compile(rb'"content":\s*"t(\d+) "')


@dataclass(slots=True)
class _Seen:
    first_ms: list[float] = field(default_factory=list)
    delays_ms: list[float] = field(default_factory=list)
    streams: int = 0
    refused: int = 0
    broken: int = 0


def run_streams(
    url: str, model: str, headers: dict[str, str], load: Load, seconds: float
) -> Sample:
    """Ask for streams for some seconds; the percentiles are those of the first chunk."""
    seen = _Seen()
    bodies = [(before.encode(), after.encode()) for before, after in load.around(model)]
    started_s = time.perf_counter()
    uvloop.run(_run(url, headers, bodies, load, seconds, seen))
    took_s = time.perf_counter() - started_s
    p50_ms, p95_ms, p99_ms = _percentiles(seen.first_ms)
    delay_p50_ms, _, delay_p99_ms = _percentiles(seen.delays_ms)
    return Sample(
        seen.streams + seen.refused,
        took_s,
        p50_ms,
        p95_ms,
        p99_ms,
        seen.refused,
        seen.broken,
        delay_p50_ms,
        delay_p99_ms,
    )


def _percentiles(values: list[float]) -> list[float]:
    return [float(value) for value in np.percentile(values or [float("nan")], (50, 95, 99))]


async def _run(
    url: str,
    headers: dict[str, str],
    bodies: Sequence[tuple[bytes, bytes]],
    load: Load,
    seconds: float,
    seen: _Seen,
) -> None:
    until_s = time.perf_counter() + seconds
    stamp = time.time_ns() if load.distinct else 1
    clients = [
        _client(
            url,
            headers,
            bodies,
            stamp + index * 10**6 * load.distinct,
            load.distinct,
            until_s,
            seen,
        )
        for index in range(load.concurrency)
    ]
    await asyncio.gather(*clients)


async def _client(
    url: str,
    headers: dict[str, str],
    bodies: Sequence[tuple[bytes, bytes]],
    stamp: int,
    distinct: bool,
    until_s: float,
    seen: _Seen,
) -> None:
    where = urlsplit(url)
    sent = {"host": where.netloc, "content-type": "application/json", **headers}
    head = f"POST {where.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in sent.items())
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    while time.perf_counter() < until_s:
        stamp += distinct
        before, after = bodies[stamp % len(bodies)]
        body = before + str(stamp).encode() + after
        asked_ns = time.monotonic_ns()
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        try:
            usable = await _read_answer(reader, asked_ns, seen)
        except (asyncio.IncompleteReadError, ConnectionError):
            seen.broken += 1
            usable = False
        if not usable:
            writer.close()
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.close()


async def _read_answer(reader: asyncio.StreamReader, asked_ns: int, seen: _Seen) -> bool:
    """Read a stream; False where there is none, and the connection holds the rest of a refusal."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200") or b"transfer-encoding: chunked" not in head:
        seen.refused += 1
        return False
    first = True
    while size := int(await reader.readuntil(b"\n"), 16):
        data = await reader.readexactly(size + 2)
        now_ns = time.monotonic_ns()
        for written in _STAMP.findall(data):
            seen.delays_ms.append((now_ns - int(written)) / 1e6)
            if first:
                seen.first_ms.append((now_ns - asked_ns) / 1e6)
                first = False
    await reader.readexactly(2)
    seen.streams += 1
    return True
