"""Experts that speak the OpenAI protocol over HTTP: bytes pass through, connections are pooled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import aiohttp

from gateway.backends.base import UpstreamRequest
from gateway.errors import ExpertError, ExpertTimeoutError, ExpertUnavailableError
from gateway.experts import Expert
from gateway.supervisor.plan import socket_of
from gateway.timing import current_timer, step_done

_CHUNK_BYTES = 65_536
KEEP_ALIVE_S = 4.0
"""Idle connections are dropped before the 5 s after which uvicorn, and so vLLM, drops them."""
PROBE_AFTER_S = 2.0
"""Silence within a stream after which its server is asked whether it is there, in seconds."""
PROBE_TIMEOUT_S = 1.0


@contextmanager
def mapped_errors(expert: Expert) -> Iterator[None]:
    """Turn every failure of the HTTP client into an `ExpertError`."""
    name = expert.name
    try:
        yield
    except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
        reason = "is restarting" if expert.backend == "local" else "cannot be reached"
        raise ExpertUnavailableError(f"Expert {name!r} {reason}.", retry_after_s=1) from error
    except TimeoutError as error:
        raise ExpertTimeoutError(f"Expert {name!r} did not answer in time.") from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise ExpertError(f"Expert {name!r} broke the connection.") from error


class HttpResponse:
    """An answer on the wire; see `gateway.backends.base.UpstreamResponse`.

    Parameters
    ----------
    probe : callable
        Asks the expert for anything; raises `ExpertUnavailableError` when nobody listens any more.
    """

    def __init__(
        self,
        expert: Expert,
        response: aiohttp.ClientResponse,
        probe: Callable[[], Awaitable[object]],
    ) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._expert = expert
        self._response = response
        self._probe = probe

    async def chunks(self) -> AsyncIterator[bytes]:
        """See `UpstreamResponse.chunks`."""
        timeouts, content = self._expert.timeout_s, self._response.content
        with mapped_errors(self._expert):
            async with asyncio.timeout(timeouts.first_token):
                chunk = await content.readany()
            while chunk:
                yield chunk
                soon = await self._chunk_within(min(PROBE_AFTER_S, timeouts.idle))
                if soon is None:
                    async with asyncio.timeout(max(timeouts.idle - PROBE_AFTER_S, 0)):
                        soon = await self._after_silence()
                chunk = soon

    async def _after_silence(self) -> bytes:
        """Return the next chunk; gives up once nobody listens where the stream came from.

        A vLLM server that is told to stop may leave its streams open and silent.
        """
        while True:
            try:
                await self._probe()
            except ExpertUnavailableError:
                raise
            except ExpertError:
                pass  # slow, or without such a list, but there
            chunk = await self._chunk_within(PROBE_AFTER_S)
            if chunk is not None:
                return chunk

    async def _chunk_within(self, wait_s: float) -> bytes | None:
        """Return the next chunk; None when it did not come in time."""
        try:
            async with asyncio.timeout(wait_s) as silence:
                return await self._response.content.readany()
        except TimeoutError:
            if not silence.expired():
                raise  # the answer as a whole has taken too long
            return None

    async def read(self) -> bytes:
        """See `UpstreamResponse.read`."""
        parts = []
        with mapped_errors(self._expert):
            while not self._response.content.at_eof():
                async with asyncio.timeout(self._expert.timeout_s.idle):
                    parts.append(await self._response.content.readany())
        return b"".join(parts)

    async def aclose(self) -> None:
        """See `UpstreamResponse.aclose`."""
        # a finished answer has given its connection back already; an open one is cut
        self._response.close()


class OpenAIBackend:
    """Calls experts with aiohttp: one pool for all hosts; local sockets are opened anew.

    Parameters
    ----------
    run_dir : Path
        Where the Unix sockets of the local processes are.
    environ : Mapping of str to str
        Where the keys are read that experts name by ``api_key_env``.
    """

    def __init__(self, run_dir: Path, environ: Mapping[str, str]) -> None:
        self._run_dir = run_dir
        self._environ = environ
        self._connectors: dict[str, aiohttp.BaseConnector] = {}
        self._sessions: dict[tuple[str, bool], aiohttp.ClientSession] = {}

    async def open(self, expert: Expert, request: UpstreamRequest) -> HttpResponse:
        """See `Backend.open`."""
        limits = expert.timeout_s
        timeout = aiohttp.ClientTimeout(total=limits.total, sock_connect=limits.connect)
        with mapped_errors(expert):
            asked = self._session(expert).post(
                f"{base_url(expert)}/{request.path}",
                data=aiohttp.BytesPayload(request.body),
                headers=self._headers(expert, request),
                timeout=timeout,
                allow_redirects=False,
            )
            # a whole answer may take as long as everything; one more timer would cost its time
            async with asyncio.timeout(limits.first_token) if request.stream else nullcontext():
                response = await asked
        return HttpResponse(expert, response, lambda: self.get(expert, "models", PROBE_TIMEOUT_S))

    async def get(self, expert: Expert, path: str, timeout_s: float) -> bytes:
        """Return the body of ``GET /v1/<path>``; raises `ExpertError` when it is not a 200."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        with mapped_errors(expert):
            async with self._session(expert).get(
                f"{base_url(expert)}/{path}",
                timeout=timeout,
                headers=self._key_header(expert),
                allow_redirects=False,
            ) as response:
                body = await response.read()
        if response.status != 200:
            raise ExpertError(f"Expert {expert.name!r} answered {response.status} to GET {path}.")
        return body

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        for session in self._sessions.values():
            await session.close()
        for connector in self._connectors.values():
            await connector.close()

    def _session(self, expert: Expert) -> aiohttp.ClientSession:
        pool = str(socket_of(self._run_dir, expert)) if expert.backend == "local" else ""
        timed = current_timer() is not None
        session = self._sessions.get((pool, timed))
        if session is None:
            if pool not in self._connectors:
                self._connectors[pool] = _connector(pool)
            session = self._sessions[pool, timed] = aiohttp.ClientSession(
                connector=self._connectors[pool],
                connector_owner=False,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_CHUNK_BYTES,
                trace_configs=[_tracing()] if timed else [],
            )
        return session

    def _headers(self, expert: Expert, request: UpstreamRequest) -> dict[str, str]:
        return {
            "content-type": "application/json",
            "accept": "text/event-stream" if request.stream else "application/json",
            "accept-encoding": "identity",
            "x-request-id": request.request_id,
            **request.headers,
            **self._key_header(expert, request.path),
        }

    def _key_header(self, expert: Expert, path: str = "") -> dict[str, str]:
        if expert.api_key_env is None:
            return {}
        key = self._environ[expert.api_key_env]
        anthropic = {"x-api-key": key} if path.startswith("messages") else {}
        return {"authorization": f"Bearer {key}", **anthropic}


def _connector(socket_path: str) -> aiohttp.BaseConnector:
    """Return a pool of connections: to a local process, or to all hosts where there is no path."""
    if socket_path:
        # llama.cpp closes a connection after a stream without saying so before: one that is used
        # again at once would break. A new one on this machine costs next to nothing
        return aiohttp.UnixConnector(path=socket_path, limit=0, force_close=True)
    return aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=KEEP_ALIVE_S)


def _tracing() -> aiohttp.TraceConfig:
    """Return what times the steps of a call; it costs as much as some of them."""

    async def connected(*_: object) -> None:
        step_done("connect")

    async def sent(*_: object) -> None:
        step_done("send")

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_create_end.append(connected)
    tracing.on_connection_reuseconn.append(connected)
    tracing.on_request_chunk_sent.append(sent)
    return tracing


def base_url(expert: Expert) -> str:
    """Return the address of an expert's ``/v1``."""
    return expert.base_url or "http://localhost/v1"
