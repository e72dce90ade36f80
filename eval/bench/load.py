"""Load from wrk, which is written in C: it costs little beside what it measures."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eval.bench.prompts import NUMBER, prompts

_SCRIPT = """
local n = 0
function request()
  if distinct then n = n + 1 end
  local at = n % #before + 1
  return wrk.format("POST", nil, nil, before[at] .. (stamp + n) .. after[at])
end
function init(args)
  math.randomseed(tonumber(args[1]))
  stamp = math.random(1, 10^9)
end
function done(summary, latency, requests)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  local form = '{"requests": %d, "duration_us": %d, "p50_us": %f, "p95_us": %f, "p99_us": %f, '
  io.write("RESULT ", string.format(form .. '"refused": %d, "broken": %d}\\n', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(95), latency:percentile(99),
    errors.status, broken))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What clients send.

    Attributes
    ----------
    prompt_chars : int
        Length of the prompt.
    distinct : bool
        Whether every prompt is another one.
    concurrency : int
        Clients; each sends its next request when it has its answer.
    stream : bool
        Whether streams are asked for.
    mixed : bool
        Whether what follows the question of a long prompt is on another topic.
    """

    prompt_chars: int
    distinct: bool
    concurrency: int
    stream: bool = False
    mixed: bool = False

    @property
    def texts(self) -> list[str]:
        """The prompts, one where all are the same."""
        texts = prompts(self.prompt_chars, mixed=self.mixed)
        return texts if self.distinct else texts[:1]

    def around(self, model: str) -> list[tuple[str, str]]:
        """Return what is before and after the number in each body; one where all are the same."""
        bodies = []
        for prompt in self.texts:
            message = {"role": "user", "content": prompt}
            body = json.dumps({"model": model, "messages": [message], "stream": self.stream})
            before, _, after = body.partition(NUMBER)
            bodies.append((before, after))
        return bodies


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run measured; times in milliseconds.

    Attributes
    ----------
    requests : int
        Answered, refusals included.
    refused : int
        Answered with a status of 400 or more.
    broken : int
        Not answered: no connection, or one that broke or timed out.
    delay_p50_ms, delay_p99_ms : float or None
        How long a chunk of a stream was under way; None where nothing was streamed.
    """

    requests: int
    duration_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: int
    broken: int
    delay_p50_ms: float | None = None
    delay_p99_ms: float | None = None


def run_wrk(
    url: str, model: str, headers: dict[str, str], load: Load, seconds: int, folder: Path
) -> Sample:
    """Send requests for some seconds, and return what came of it."""
    bodies = load.around(model)
    script = folder / "wrk.lua"
    lines = [
        f"before = {_lua(before for before, _ in bodies)}",
        f"after = {_lua(after for _, after in bodies)}",
        f"distinct = {str(load.distinct).lower()}",
        'wrk.headers["content-type"] = "application/json"',
        *(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()),
    ]
    script.write_text("\n".join(lines) + _SCRIPT)
    seed = str(hash((url, load, script.stat().st_mtime_ns)) % 2**31)
    flags = ["-t1", f"-c{load.concurrency}", f"-d{seconds}s", "--timeout", "30s"]
    done = subprocess.run(  # noqa: S603  (our own command)
        ["wrk", *flags, "-s", str(script), url, "--", seed if load.distinct else "1"],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.partition("RESULT ")[2])
    unknown = math.nan if found["requests"] == 0 else 1.0
    return Sample(
        found["requests"],
        found["duration_us"] / 1e6,
        unknown * found["p50_us"] / 1e3,
        unknown * found["p95_us"] / 1e3,
        unknown * found["p99_us"] / 1e3,
        found["refused"],
        found["broken"],
    )


def _lua(texts: Iterable[str]) -> str:
    return "{" + ", ".join(f"[==[{text}]==]" for text in texts) + "}"
