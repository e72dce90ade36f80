"""One request as a straight line: parse, plan, dispatch, relay, account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from gateway.accounting import Ledger, Record
from gateway.backends.base import Backend, UpstreamRequest, UpstreamResponse
from gateway.composition import label
from gateway.errors import (
    ExpertBusyError,
    ExpertError,
    ExpertUnavailableError,
    GatewayError,
)
from gateway.experts import Expert
from gateway.metrics import Metrics
from gateway.planner import Plan, Planner
from gateway.protocol import ChatRequest, parse_chat_request, upstream_body
from gateway.relay import Reading, StreamRelay, Usage, read_body
from gateway.sse import data_event

PATH = "chat/completions"

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it arrived.

    Attributes
    ----------
    tenant : str
        Who asks; choices are never shared between tenants.
    """

    body: bytes
    tenant: str
    request_id: str


class Sink(Protocol):
    """Where an answer is written to."""

    async def start(self, status: int, headers: dict[str, str]) -> None:
        """Send the status and the headers."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a part of the body."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """An expert's answer of which the first part has come.

    Attributes
    ----------
    first : bytes
        The first chunk of a stream, or the whole body.
    rest : AsyncIterator of bytes or None
        The other chunks of a stream; None when `first` is all.
    reading : Reading or None
        What a whole completion cost; None for a stream and for an error that is passed on.
    """

    expert: Expert
    response: UpstreamResponse
    first: bytes
    rest: AsyncIterator[bytes] | None
    reading: Reading | None


class Pipeline:
    """Answers requests.

    Parameters
    ----------
    planner : Planner
        Chooses the experts.
    backend : Backend
        Reaches them.
    ledger : Ledger
        Gets one record for each request.
    metrics : Metrics
        Counts failed calls.
    """

    def __init__(
        self, planner: Planner, backend: Backend, ledger: Ledger, metrics: Metrics
    ) -> None:
        self._planner = planner
        self._backend = backend
        self._ledger = ledger
        self._metrics = metrics

    async def answer(self, call: Call, sink: Sink) -> None:
        """Answer a chat completion request.

        Raises
        ------
        GatewayError
            When the answer failed before anything of it was sent; after that the client is told
            in the stream.
        """
        record = Record(call.request_id, call.tenant)
        try:
            request = parse_chat_request(call.body)
            record.model, record.stream = request.model, request.stream
            plan = await self._planner.plan(
                request.model, request.messages, request.needs, call.tenant
            )
            note_plan(record, plan)
            opened = await self._dispatch(request, plan, record)
            try:
                await self._relay(request, opened, record, sink)
            finally:
                await opened.response.aclose()
        except asyncio.CancelledError:
            record.outcome = "client_left"
            raise
        except GatewayError as error:
            record.status, record.outcome = error.status, error.code or error.type
            raise
        except Exception:
            record.status, record.outcome = 500, "internal_error"
            raise
        finally:
            self._ledger.write(record)

    async def _dispatch(self, request: ChatRequest, plan: Plan, record: Record) -> Opened:
        """Open the answer of the first expert that gives one."""
        failure: ExpertError | None = None
        for expert in plan.experts:
            record.attempts.append(expert.name)
            try:
                opened = await self._open(expert, request, record.request_id)
            except ExpertError as error:
                self._metrics.expert_failures.labels(expert.name, error.code).inc()
                failure = error
                continue
            if failure is not None:
                record.reason = "fallback"
            record.expert = expert.name
            record.expert_active_params_b = expert.active_params_b
            return opened
        raise failure or ExpertUnavailableError("No expert is left to take this request.")

    async def _open(self, expert: Expert, request: ChatRequest, request_id: str) -> Opened:
        body = upstream_body(request, expert.model, expert.system_prompt)
        response = await self._backend.open(
            expert, UpstreamRequest(PATH, body, request.stream, request_id)
        )
        try:
            refuse_failure(expert, response)
            if response.status == 200 and request.stream:
                chunks = response.chunks()
                first = await anext(chunks, b"")
                if not first:
                    raise ExpertError(f"Expert {expert.name!r} sent an empty stream.")
                return Opened(expert, response, first, chunks, None)
            whole = await response.read()
            reading = read_body(whole) if response.status == 200 else None
            return Opened(expert, response, whole, None, reading)
        except BaseException:
            await response.aclose()
            raise

    async def _relay(
        self, request: ChatRequest, opened: Opened, record: Record, sink: Sink
    ) -> None:
        """Pass the answer on and read what it cost."""
        record.status = opened.response.status
        record.first_byte_s = record.elapsed_s()
        headers = {
            "content-type": opened.response.headers.get("content-type", "application/json"),
            **decision_headers(record),
        }
        if opened.rest is not None:
            await sink.start(200, {**headers, "cache-control": "no-cache"})
            await self._relay_stream(request, opened.first, opened.rest, record, sink)
            return
        if opened.reading is None:
            record.outcome = "rejected_by_expert"
        else:
            note_reading(record, opened.reading)
        await sink.start(record.status, {**headers, "content-length": str(len(opened.first))})
        await sink.write(opened.first)

    async def _relay_stream(
        self,
        request: ChatRequest,
        first: bytes,
        rest: AsyncIterator[bytes],
        record: Record,
        sink: Sink,
    ) -> None:
        def cost(usage: Usage) -> dict[str, Any]:
            return {"expert": record.expert, "active_params_b": record.active_params_b}

        relay = StreamRelay(show_usage=request.include_usage, cost=cost)
        try:
            await sink.write(relay.feed(first))
            async for chunk in rest:
                if data := relay.feed(chunk):
                    await sink.write(data)
            await sink.write(relay.flush())
            if not relay.complete and not relay.reading.error:
                raise ExpertError(f"Expert {record.expert!r} ended its answer in the middle.")
            record.outcome = "ok" if relay.complete else "expert_failed"
        except ExpertError as error:
            # the status is sent already: an event is the one way left to say it
            self._metrics.expert_failures.labels(record.expert or "none", error.code).inc()
            record.outcome = "cut"
            await sink.write(data_event(_encode(error.envelope())))
        finally:
            note_reading(record, relay.reading)


def refuse_failure(expert: Expert, response: UpstreamResponse) -> None:
    """Raise when a status means that another expert should be asked.

    What is left is passed on: success, and what the client itself did wrong.

    Raises
    ------
    ExpertError
        For 429, for 5xx, and for what only the operator can mend: a wrong key, model or address.
    """
    status, name = response.status, expert.name
    if status == 200 or status in {400, 405, 409, 413, 415, 422}:
        return
    retry_after_s = _seconds(response.headers.get("retry-after"))
    if status == 429:
        raise ExpertBusyError(f"Expert {name!r} is over its limits.", retry_after_s=retry_after_s)
    if status == 503:
        raise ExpertUnavailableError(
            f"Expert {name!r} is not ready.", retry_after_s=retry_after_s or 1
        )
    if status in {401, 403}:
        raise ExpertError(
            f"Expert {name!r} refused the gateway's key ({status}): see its api_key_env."
        )
    if status == 404:
        raise ExpertError(
            f"Expert {name!r} does not know its model ({status}): see its base_url and model."
        )
    raise ExpertError(f"Expert {name!r} answered with status {status}.")


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None


def note_plan(record: Record, plan: Plan) -> None:
    """Write the choice into the record."""
    record.reason, record.cache = plan.reason, plan.cache
    record.router_active_params_b = plan.router_active_params_b
    if plan.decision is not None and plan.router is not None:
        record.category = plan.decision.category
        record.confidence = round(plan.decision.confidence, 6)
        record.router = label(plan.router)


def note_reading(record: Record, reading: Reading) -> None:
    """Write what was read of the answer into the record."""
    record.finish_reason = reading.finish_reason
    if reading.usage is not None:
        record.prompt_tokens = reading.usage.prompt_tokens
        record.completion_tokens = reading.usage.completion_tokens
        record.usage = "reported"
    elif reading.chunks:
        record.completion_tokens = reading.chunks
        record.usage = "estimated"


def decision_headers(record: Record) -> dict[str, str]:
    """Return the ``x-coe-*`` headers; what is unknown is left out."""
    values = {
        "expert": record.expert,
        "category": record.category,
        "confidence": None if record.confidence is None else f"{record.confidence:.4f}",
        "reason": record.reason,
        "router": record.router,
        "active-params-b": None
        if record.active_params_b is None
        else f"{record.active_params_b:g}",
        "cache": record.cache,
    }
    # header values are ASCII; names of categories need not be
    return {
        f"x-coe-{name}": quote(value, safe=" @.:/")
        for name, value in values.items()
        if value is not None
    }
