"""Good and broken edits on three replicas under steady load; ``make test-edits`` runs all of it.

Not one request may fail, and every replica must serve each good edit within `LIMIT_S`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from tests.servers import Gateway, Valkey, run_gateway, run_upstream, wait_for

LIMIT_S = 2.0
REPLICAS = 3
CLIENTS_PER_REPLICA = 2
PAUSE_S = 0.05
"""Between two requests of a client."""
TEXT = """\
# edited again and again
version: 1
general: steady
experts:
  - name: steady  # always there
    backend: openai
    base_url: {url}
    model: ok
  - name: varied
    backend: openai
    base_url: {url}
    model: ok
    description: "0"
mapping:
  math: [varied, steady]
"""
BROKEN = (
    "version: 1\ngeneral: nobody\n",
    "experts: [",
    "",
    "version: 1\ngeneral: steady\nexperts: []\nmapping: {}\n",
)
QUESTIONS = ("What is the integral of x squared?", "Hello there", "Is this contract valid?")


@dataclass
class Outcome:
    """What was seen."""

    requests: int = 0
    failures: list[str] = field(default_factory=list)
    good_s: list[float] = field(default_factory=list)
    broken: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "edits": len(self.good_s) + self.broken,
            "good": len(self.good_s),
            "broken": self.broken,
            "seconds": round(self.seconds, 1),
            "requests": self.requests,
            "failed_requests": len(self.failures),
            "failures": self.failures[:5],
            "level_after_s": {"median": median(self.good_s), "max": max(self.good_s)},
        }


@contextmanager
def replicas(folder: Path, url: str) -> Iterator[tuple[list[Gateway], list[Path]]]:
    """Run gateways on one Redis, each with its own copy of the file."""
    valkey = Valkey(folder)
    valkey.start()
    gateways, files = [], []
    try:
        with ExitStack() as stack:
            for index in range(REPLICAS):
                home = folder / str(index)
                home.mkdir()
                files.append(home / "experts.yaml")
                files[-1].write_text(TEXT.format(url=url))
                running = run_gateway(files[-1], home, REDIS_URL=valkey.url)
                gateways.append(stack.enter_context(running))
            yield gateways, files
    finally:
        valkey.kill()


def run(n_edits: int, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Make `n_edits` edits, spread over `seconds`, and return what was seen."""
    outcome, stop = Outcome(), threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="e", dir="/tmp") as name,
        run_upstream() as upstream,
        replicas(Path(name), upstream.base_url) as (gateways, files),
    ):
        clients = [
            threading.Thread(target=ask, args=(gateway, outcome, stop))
            for gateway in gateways
            for _ in range(CLIENTS_PER_REPLICA)
        ]
        for client in clients:
            client.start()
        try:
            started_s = time.monotonic()
            edit(Editors(gateways, files, random.Random(seed)), outcome, n_edits, seconds)
            outcome.seconds = time.monotonic() - started_s
        finally:
            stop.set()
            for client in clients:
                client.join()
    return outcome.summary()


def ask(gateway: Gateway, outcome: Outcome, stop: threading.Event) -> None:
    """Send requests, whole and streamed, routed and pinned, one after the other."""
    url = f"{gateway.url}/v1/chat/completions"
    number = 0
    with httpx.Client(timeout=30) as client:
        while not stop.is_set():
            number += 1
            body = {
                "model": "auto" if number % 3 else "steady",
                "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
                "stream": number % 2 == 0,
            }
            outcome.requests += 1
            try:
                answer = client.post(url, json=body)
                whole = answer.status_code == 200 and (
                    not body["stream"] or answer.text.rstrip().endswith("data: [DONE]")
                )
                if not whole:
                    outcome.failures.append(f"{answer.status_code}: {answer.text[-200:]}")
            except httpx.HTTPError as error:
                outcome.failures.append(repr(error))
            stop.wait(PAUSE_S)


class Editors:
    """Ways to edit, on a replica chosen by chance."""

    def __init__(self, gateways: list[Gateway], files: list[Path], chance: random.Random) -> None:
        self.gateways, self.files, self.chance = gateways, files, chance
        self.count = 0

    def on_disk(self) -> None:
        """Change a line of a file."""
        file = self.chance.choice(self.files)
        lines = file.read_text().splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("    description"))
        lines[at] = f'    description: "{self.count}"'
        self.write(file, "\n".join(lines) + "\n")

    def write(self, file: Path, text: str) -> None:
        """Write in place or by rename."""
        if self.chance.random() < 0.5:
            file.write_text(text)
        else:
            draft = file.with_name("draft")
            draft.write_text(text)
            draft.replace(file)

    def over_http(self) -> None:
        """Patch an expert."""
        patch = {"description": f"{self.count}"}
        self.admin("PATCH", "experts/varied", patch).raise_for_status()

    def come_and_go(self) -> None:
        """Add an expert, or remove it."""
        if self.admin("GET", "experts/guest", None).status_code == 200:
            self.admin("DELETE", "experts/guest", None).raise_for_status()
        else:
            steady = self.admin("GET", "experts/steady", None).json()["expert"]
            self.admin("PUT", "experts/guest", {**steady, "name": "guest"}).raise_for_status()

    def back(self) -> None:
        """Go back to the version before."""
        kept = self.admin("GET", "versions", None).json()["versions"]
        if len(kept) > 1:
            wanted = {"version": kept[1]["version"]}
            self.admin("POST", "rollback", wanted).raise_for_status()

    def broken_on_disk(self) -> None:
        """Break a file, and mend it after a while."""
        file = self.chance.choice(self.files)
        good = file.read_text()
        self.write(file, self.chance.choice(BROKEN))
        time.sleep(0.6)
        self.write(file, good)

    def broken_over_http(self) -> None:
        """Send an edit that must be refused."""
        refused = self.admin("PATCH", "experts/steady", {"max_queue": -1})
        assert refused.status_code == 400, refused.text

    def admin(self, method: str, path: str, body: object) -> httpx.Response:
        """Call the admin API of one of the replicas."""
        gateway = self.chance.choice(self.gateways)
        content = b"" if body is None else json.dumps(body).encode()
        return httpx.request(
            method,
            f"{gateway.url}/admin/{path}",
            content=content,
            headers={"if-match": "*"},
            timeout=30,
        )


def edit(editors: Editors, outcome: Outcome, n_edits: int, seconds: float) -> None:
    """Make edits at a steady pace; each good one must reach all replicas before the next."""
    good: list[Callable[[], None]] = [
        editors.on_disk,
        editors.over_http,
        editors.come_and_go,
        editors.back,
    ]
    broken = [editors.broken_on_disk, editors.broken_over_http]
    level(editors.gateways, None)
    started_s = time.monotonic()
    for number in range(n_edits):
        time.sleep(max(0.0, started_s + number * seconds / n_edits - time.monotonic()))
        editors.count += 1
        if number % 3 == 2:
            broken[number // 3 % len(broken)]()
            outcome.broken += 1
            continue
        before = served(editors.gateways[0])
        began_s = time.monotonic()
        good[(number - number // 3) % len(good)]()
        level(editors.gateways, before)
        outcome.good_s.append(round(time.monotonic() - began_s, 3))
        wait_for(lambda: len({file.read_text() for file in editors.files}) == 1)


def level(gateways: list[Gateway], before: str | None) -> None:
    """Wait until all serve the same version, another one than before."""
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        seen = {served(gateway) for gateway in gateways}
        if len(seen) == 1 and before not in seen:
            return
        time.sleep(0.02)
    raise AssertionError(f"not level after 20 s: {seen}")


def served(gateway: Gateway) -> str:
    """Return the digest of what a replica serves, with its version's number."""
    config = gateway.get("/readyz").json()["config"]
    return f"{config['version']}:{config['digest']}"


def main() -> None:
    """Run and print the figures; exit code 1 when they fall short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    found = run(options.edits, options.seconds)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    sys.exit(bool(found["failed_requests"]) or found["level_after_s"]["max"] > LIMIT_S)


if __name__ == "__main__":
    main()
