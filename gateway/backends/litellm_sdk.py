"""Experts at providers with a protocol of their own, through the SDK of LiteLLM.

The SDK is imported when the first expert needs it: that takes seconds and about 160 MB. What it
does by itself is switched off: fetching a price list, reading ``.env`` files, logging, retries.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gateway.backends.base import UpstreamRequest, UpstreamResponse
from gateway.errors import (
    ExpertError,
    ExpertMisusedError,
    ExpertTimeoutError,
    ExpertUnavailableError,
)
from gateway.experts import Expert
from gateway.protocol import CHAT, COMPLETIONS, EMBEDDINGS
from gateway.sse import data_event

_CALLS = {CHAT: "acompletion", COMPLETIONS: "atext_completion", EMBEDDINGS: "aembedding"}
_LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")
_ARGUMENTS = {
    *("messages", "prompt", "input", "stream", "stream_options", "temperature", "top_p", "n"),
    *("stop", "max_tokens", "max_completion_tokens", "presence_penalty", "frequency_penalty"),
    *("logit_bias", "user", "response_format", "seed", "tools", "tool_choice", "logprobs"),
    *("top_logprobs", "parallel_tool_calls", "functions", "function_call", "modalities", "audio"),
    *("prediction", "reasoning_effort", "verbosity", "service_tier", "prompt_cache_key"),
    *("safety_identifier", "suffix", "echo", "best_of", "dimensions", "encoding_format"),
}
"""Fields of a request that become arguments. Others go along as ``extra_body``: as arguments they
could name an address, a key or a callback."""


def load_sdk() -> Any:  # noqa: ANN401  (its types are not installed everywhere)
    """Import the SDK and make it quiet."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_MODE"] = "PRODUCTION"
    sdk: Any = importlib.import_module("litellm")
    sdk.suppress_debug_info = True
    sdk.user_url_validation = True
    for name in _LOGGERS:  # they print, and repeat what providers say of prompts
        logging.getLogger(name).disabled = True
    return sdk


class LiteLLMBackend:
    """Calls experts with LiteLLM; see `gateway.backends.base.Backend`.

    Parameters
    ----------
    environ : Mapping of str to str
        Where the keys are read that experts name by ``api_key_env``.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._sdk: Any = None

    def load(self) -> None:
        """Import the SDK now, so that no request has to wait for it."""
        self._sdk = self._sdk or load_sdk()

    async def open(self, expert: Expert, request: UpstreamRequest) -> UpstreamResponse:
        """See `Backend.open`."""
        if self._sdk is None:
            await asyncio.to_thread(self.load)
        call = getattr(self._sdk, _CALLS[request.path])
        first_s = expert.timeout_s.first_token if request.stream else expert.timeout_s.total
        try:
            with mapped_errors(expert, self._sdk):
                async with asyncio.timeout(first_s):
                    answer = await call(**self._arguments(expert, request))
        except _RefusedError as refused:
            return Whole(refused.status, refused.headers, refused.body)
        if request.stream:
            return Streamed(expert, self._sdk, answer)
        return Whole(200, _JSON, answer.model_dump_json().encode())

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        if self._sdk is not None:
            await self._sdk.close_litellm_async_clients()

    def _arguments(self, expert: Expert, request: UpstreamRequest) -> dict[str, Any]:
        fields = json.loads(request.body)
        extra = {k: v for k, v in fields.items() if k not in _ARGUMENTS and k != "model"}
        arguments = {key: value for key, value in fields.items() if key in _ARGUMENTS}
        key = self._environ[expert.api_key_env] if expert.api_key_env else None
        return {
            **arguments,
            **({"extra_body": extra} if extra else {}),
            "model": expert.model,
            "api_key": key,
            "api_base": expert.base_url,
            "extra_headers": {"x-request-id": request.request_id},
            "timeout": expert.timeout_s.total,
            "max_retries": 0,
            "num_retries": 0,
        }


_JSON = {"content-type": "application/json"}


class Whole:
    """An answer that is complete; see `gateway.backends.base.UpstreamResponse`."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body = body

    async def chunks(self) -> AsyncIterator[bytes]:
        """See `UpstreamResponse.chunks`."""
        yield self._body

    async def read(self) -> bytes:
        """See `UpstreamResponse.read`."""
        return self._body

    async def aclose(self) -> None:
        """See `UpstreamResponse.aclose`."""


class Streamed:
    """An answer that comes in chunks; see `gateway.backends.base.UpstreamResponse`."""

    status = 200
    headers: Mapping[str, str] = {"content-type": "text/event-stream"}

    def __init__(self, expert: Expert, sdk: Any, stream: Any) -> None:  # noqa: ANN401
        self._expert = expert
        self._sdk = sdk
        self._stream = stream
        self._ends_at_s = asyncio.get_running_loop().time() + expert.timeout_s.total

    async def chunks(self) -> AsyncIterator[bytes]:
        """See `UpstreamResponse.chunks`."""
        loop = asyncio.get_running_loop()
        wait_s = self._expert.timeout_s.first_token
        pieces = aiter(self._stream)
        while True:
            try:
                with mapped_errors(self._expert, self._sdk):
                    async with asyncio.timeout_at(min(loop.time() + wait_s, self._ends_at_s)):
                        piece = await anext(pieces)
            except StopAsyncIteration:
                yield data_event(b"[DONE]")
                return
            except _RefusedError as refused:
                raise ExpertError(
                    f"Expert {self._expert.name!r} broke off its answer."
                ) from refused
            yield data_event(_chunk(piece.model_dump(exclude_none=True)))
            wait_s = self._expert.timeout_s.idle

    async def read(self) -> bytes:
        """See `UpstreamResponse.read`."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def aclose(self) -> None:
        """See `UpstreamResponse.aclose`."""
        await self._stream.aclose()


def _chunk(chunk: dict[str, Any]) -> bytes:
    """Return a chunk as JSON; the one with the usage has no choice, as OpenAI sends it."""
    said = any(choice.get("delta") or "finish_reason" in choice for choice in chunk["choices"])
    if "usage" in chunk and not said:
        chunk["choices"] = []
    return json.dumps(chunk, ensure_ascii=False).encode()


class _RefusedError(Exception):
    """The provider answered with an error status."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(status)
        self.status, self.headers, self.body = status, headers, body


@contextmanager
def mapped_errors(expert: Expert, sdk: Any) -> Iterator[None]:  # noqa: ANN401
    """Turn every failure of the SDK into an `ExpertError`, or into the status it stands for."""
    name = expert.name
    try:
        yield
    except (TimeoutError, sdk.Timeout) as error:
        raise ExpertTimeoutError(f"Expert {name!r} did not answer in time.") from error
    except sdk.APIConnectionError as error:
        message = f"Expert {name!r} cannot be reached."
        raise ExpertUnavailableError(message, retry_after_s=1) from error
    except sdk.exceptions.APIResponseValidationError as error:
        raise ExpertError(f"Expert {name!r} sent what is no answer.") from error
    except StopAsyncIteration:
        raise
    except Exception as error:
        status = getattr(error, "status_code", None)
        if not isinstance(status, int) or not 400 <= status < 600:
            raise ExpertMisusedError(
                f"LiteLLM cannot call expert {name!r} ({type(error).__name__}): see its model."
            ) from error
        told = {"message": _first_line(error), "type": type(error).__name__, "param": None}
        body = json.dumps({"error": {**told, "code": getattr(error, "code", None)}})
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        raise _RefusedError(status, {**headers, **_JSON}, body.encode()) from error


def _first_line(error: Exception) -> str:
    return (str(getattr(error, "message", error)).splitlines() or [""])[0][:500]
