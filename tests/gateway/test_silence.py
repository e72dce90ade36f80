"""A stream that falls silent: is its server slow, or gone?"""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.backends.base import UpstreamRequest
from gateway.backends.openai_http import PROBE_AFTER_S, OpenAIBackend
from gateway.errors import ExpertTimeoutError, ExpertUnavailableError
from gateway.experts import ExpertRegistry
from tests.servers import write_experts

BEGUN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5\r\nfirst\r\n"
)
ENDED = b"4\r\nlast\r\n0\r\n\r\n"
REQUEST = UpstreamRequest("chat/completions", b"{}", stream=True, request_id="r")


async def read(tmp_path: Path, *, stops: bool, total_s: float = 600) -> list[bytes]:
    """Read a stream that is silent after its first chunk; the server then stops, or goes on."""

    writers = []
    answering = []

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        answering.append(asyncio.ensure_future(answer(reader, writer)))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            if (await reader.readline()).startswith(b"GET"):
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                return
            writer.write(BEGUN)
            if stops:
                server.close()  # as uvicorn does at a stop; the connection stays open
            await asyncio.sleep(1.5 * PROBE_AFTER_S)
            writer.write(ENDED)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    expert = {
        "name": "only",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "timeout_s": {"total": total_s},
    }
    registry = ExpertRegistry.load(write_experts(tmp_path / "experts.yaml", [expert], {}))
    backend = OpenAIBackend(tmp_path, {})
    try:
        response = await backend.open(registry["only"], REQUEST)
        try:
            return [chunk async for chunk in response.chunks()]
        finally:
            await response.aclose()
    finally:
        await backend.aclose()
        server.close()
        for writer in writers:  # one whose task never began, too
            writer.close()
            await writer.wait_closed()


def test_a_stream_of_a_server_that_is_gone_is_given_up_early(tmp_path: Path) -> None:
    started_s = time.monotonic()
    with pytest.raises(ExpertUnavailableError):
        asyncio.run(read(tmp_path, stops=True))
    assert time.monotonic() - started_s < 20  # idle would have been 30 s


def test_a_pause_of_a_server_that_is_there_is_waited_out(tmp_path: Path) -> None:
    assert asyncio.run(read(tmp_path, stops=False)) == [b"first", b"last"]


def test_a_silent_stream_ends_with_the_time_of_the_whole_answer(tmp_path: Path) -> None:
    started_s = time.monotonic()
    with pytest.raises(ExpertTimeoutError):
        asyncio.run(read(tmp_path, stops=False, total_s=1.2 * PROBE_AFTER_S))
    assert time.monotonic() - started_s < 20


async def read_whole(tmp_path: Path, *, idle_s: float, pause_s: float) -> bytes:
    """Read an answer that is not streamed, whose server pauses in the middle of it."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + b"12345")
            await asyncio.sleep(pause_s)
            writer.write(b"67890")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    expert = {"name": "only", "base_url": url, "timeout_s": {"idle": idle_s}}
    registry = ExpertRegistry.load(write_experts(tmp_path / "experts.yaml", [expert], {}))
    backend = OpenAIBackend(tmp_path, {})
    try:
        response = await backend.open(registry["only"], replace(REQUEST, stream=False))
        try:
            return await response.read()
        finally:
            await response.aclose()
    finally:
        await backend.aclose()
        server.close()


def test_a_whole_answer_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    started_s = time.monotonic()
    with pytest.raises(ExpertTimeoutError):
        asyncio.run(read_whole(tmp_path, idle_s=0.2, pause_s=60))
    assert time.monotonic() - started_s < 20  # total would have been 600 s


def test_a_whole_answer_may_pause(tmp_path: Path) -> None:
    assert asyncio.run(read_whole(tmp_path, idle_s=30, pause_s=0.3)) == b"1234567890"
