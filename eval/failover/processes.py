"""Child processes: the two upstreams, and gateways that the command starts itself."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from eval.failover.wire import ROLES

START_S = 60.0
STOP_S = 15.0


class FailoverError(ValueError):
    """The scenarios cannot be run; the message says why."""


class Upstream:
    """The process of one upstream; it can be killed, and started again on the same port."""

    def __init__(self, role: str, port: int) -> None:
        self.role = role
        self.port = port
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Up to and with ``/v1``."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        """Start it and wait until it listens; raises `FailoverError` when the port is taken."""
        command = ["-m", "eval.failover.upstream", "--role", self.role, "--port", str(self.port)]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=asyncio.subprocess.PIPE
        )
        if self._process.stdout is None:
            raise FailoverError(f"the {self.role} upstream has no output to read its port from")
        said = await self._process.stdout.readline()
        if not said:
            raise FailoverError(
                f"the {self.role} upstream must listen on port {self.port}; it cannot. "
                "Name free ports with --ports"
            )
        self.port = int(said)

    async def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def calls(self, session: aiohttp.ClientSession, nonce: str) -> list[dict[str, Any]]:
        """Return the calls it got for a nonce; none when it is down."""
        try:
            async with session.get(f"http://127.0.0.1:{self.port}/calls/{nonce}") as response:
                calls: list[dict[str, Any]] = await response.json()
        except aiohttp.ClientConnectionError:
            return []
        return calls


@asynccontextmanager
async def upstreams(ports: Sequence[int]) -> AsyncIterator[Mapping[str, Upstream]]:
    """Run both upstreams until the block ends; port 0 picks a free one."""
    both = {role: Upstream(role, port) for role, port in zip(ROLES, ports, strict=True)}
    try:
        for upstream in both.values():
            await upstream.start()
        yield both
    finally:
        for upstream in both.values():
            await upstream.kill()


@asynccontextmanager
async def gateway(
    command: Sequence[str], environ: Mapping[str, str], probe_url: str, folder: Path
) -> AsyncIterator[int]:
    """Run a gateway until the block ends; yields its process id once `probe_url` answers.

    Raises
    ------
    FailoverError
        With the end of its log, when it ends or does not answer.
    """
    log_path = folder / "gateway.log"
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=log, env=environ, cwd=folder
        )
    try:
        if not await _answers(process, probe_url):
            tail = log_path.read_text(encoding="utf-8", errors="replace")[-1_000:]
            raise FailoverError(f"{command[0]} must answer at {probe_url}; it does not:\n{tail}")
        yield process.pid
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _answers(process: asyncio.subprocess.Process, url: str) -> bool:
    async with aiohttp.ClientSession() as session:
        for _ in range(int(START_S / 0.1)):
            await asyncio.sleep(0.1)
            if process.returncode is not None:
                return False
            try:
                async with session.get(url) as response:
                    if response.status < 500:
                        return True
            except aiohttp.ClientError:
                continue
    return False
