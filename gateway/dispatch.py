"""Open the answer of the first expert that gives one: guards, fallback, retries."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from gateway.backends.base import Backend, UpstreamRequest, UpstreamResponse
from gateway.diagnosis import fields_of, names_in
from gateway.errors import (
    ExpertBusyError,
    ExpertError,
    ExpertFullError,
    ExpertMisusedError,
    ExpertTimeoutError,
    ExpertUnavailableError,
)
from gateway.experts import Expert
from gateway.guard import Guard, Guards, RetryBudget
from gateway.metrics import Metrics
from gateway.protocol import CHAT, COMPLETIONS, EMBEDDINGS
from gateway.record import Record
from gateway.relay import Reading, StreamRelay, read_body, read_embeddings
from gateway.relay_native import NativeRelay, read_native
from gateway.timing import step_done

_log = logging.getLogger(__name__)

_READ = {CHAT: read_body, COMPLETIONS: read_body, EMBEDDINGS: read_embeddings}
_NATIVE = ("messages", "responses")
_READ |= dict.fromkeys(_NATIVE, read_native)
_TOO_LONG = re.compile(
    rb"context_length_exceeded|exceed_context_size|maximum context length|prompt is too long"
)
"""What OpenAI, llama.cpp, vLLM and Anthropic say of a prompt that does not fit."""
FIRST_BACKOFF_S = 0.1
MOST_WAIT_S = 2.0
"""A longer wait before a retry is left to the client."""


@dataclass(slots=True)
class Opened:
    """An expert's answer of which the first part has come; `aclose` must follow.

    Attributes
    ----------
    request : UpstreamRequest
        What it answers.
    first : bytes
        The first chunk of a stream, or the whole body.
    rest : AsyncIterator of bytes or None
        The other chunks of a stream; None when `first` is all.
    reading : Reading or None
        What a whole completion cost; None for a stream and for an error that is passed on.
    """

    expert: Expert
    request: UpstreamRequest
    response: UpstreamResponse
    first: bytes
    rest: AsyncIterator[bytes] | None
    reading: Reading | None
    guard: Guard
    closed: bool = False

    async def aclose(self) -> None:
        """Drop the answer and give its place back; once is enough."""
        if not self.closed:
            self.closed = True
            self.guard.leave()
            await self.response.aclose()


class Dispatcher:
    """Calls experts.

    Parameters
    ----------
    backend : Backend
        Reaches them.
    metrics : Metrics
        Counts failed calls.
    """

    def __init__(self, backend: Backend, metrics: Metrics) -> None:
        self._backend = backend
        self._metrics = metrics
        self.guards = Guards()
        self._budget = RetryBudget()

    async def open(
        self,
        experts: Sequence[Expert],
        request_for: Callable[[Expert], UpstreamRequest],
        record: Record,
    ) -> Opened:
        """Return the answer of the first expert, in their order, that gives one.

        A prompt that is too long for one may fit the next; when it fits none, the first refusal is
        returned. When all fail for a reason that may pass, they are tried again, as often as the
        best one's `max_retries` says, after a pause that grows and is never the same, as long as
        the retry budget lasts.

        Raises
        ------
        ExpertError
            The failure of the best expert that was called; of a refusal when none was. It tells
            of the others too.
        """
        self._budget.earn()
        counted: set[str] = set()
        round_ = 0
        while True:
            try:
                return await self._one_round(experts, request_for, record, counted)
            except ExpertError as error:
                wait_s = retry_wait_s(error, round_)
                last = round_ == experts[0].max_retries
                if wait_s is None or last or not self._budget.spend():
                    raise
            await asyncio.sleep(wait_s)
            round_ += 1

    async def _one_round(
        self,
        experts: Sequence[Expert],
        request_for: Callable[[Expert], UpstreamRequest],
        record: Record,
        counted: set[str],
    ) -> Opened:
        failures: list[ExpertError] = []
        refusals: list[ExpertError] = []
        too_long: Opened | None = None
        for expert in experts:
            guard = self.guards.of(expert)
            refused = guard.refusal()
            if refused is not None:
                refusals.append(refused)
                continue
            try:
                opened = await self._call(expert, guard, request_for(expert), record, counted)
            except ExpertError as error:
                self._note_failure(expert, error)
                failures.append(error)
                continue
            if not says_too_long(opened):
                return opened
            await opened.aclose()
            too_long = too_long or opened
        if too_long is not None:
            return too_long
        raise _as_one([*failures, *refusals])

    async def _call(
        self,
        expert: Expert,
        guard: Guard,
        request: UpstreamRequest,
        record: Record,
        counted: set[str],
    ) -> Opened:
        """Make one call; the guard learns how it went, but counts no request's failure twice.

        Parameters
        ----------
        counted : set of str
            Experts that this request has failed at already; added to.
        """
        probe = await guard.enter()
        record.attempts.append(expert.name)
        try:
            step_done("prepare")
            response = await self._backend.open(expert, request)
            step_done("upstream")
            try:
                opened = await _first_part(expert, guard, request, response)
                step_done("first_byte")
            except BaseException:
                await response.aclose()
                raise
        except ExpertError as error:
            blamed = _blamed(error, record)
            is_known = blamed is not None and expert.name in counted
            if not _says_broken(error, request) or (is_known and not probe):
                guard.breaker.abandoned(probe=probe)
            else:
                counted.add(expert.name)
                guard.breaker.failed(probe=probe, asked_s=error.asked_s, tenant=blamed)
            guard.leave()
            raise
        except BaseException:
            guard.breaker.abandoned(probe=probe)
            guard.leave()
            raise
        if probe or opened.rest is None:  # a stream can still break: see `note_end`
            guard.breaker.succeeded(probe=probe, tenant=record.tenant)
        return opened

    async def read_aside(self, expert: Expert, request: UpstreamRequest) -> bytes:
        """Return what an expert says beside its answers, e.g. how many tokens a prompt takes.

        The call waits for a place as answers do, but says nothing of how well the expert answers:
        its breaker does not count it.

        Raises
        ------
        ExpertError
            When the expert is left alone or full, fails, or takes longer than a first token may.
        """
        guard = self.guards.of(expert)
        if (refused := guard.refusal()) is not None:
            raise refused
        try:
            async with asyncio.timeout(expert.timeout_s.first_token):
                probe = await guard.enter()
                try:
                    return await self._read(expert, request)
                finally:
                    guard.breaker.abandoned(probe=probe)
                    guard.leave()
        except TimeoutError as error:
            raise ExpertTimeoutError(f"Expert {expert.name!r} did not answer in time.") from error

    async def _read(self, expert: Expert, request: UpstreamRequest) -> bytes:
        response = await self._backend.open(expert, request)
        try:
            if response.status != 200:
                raise ExpertError(f"Expert {expert.name!r} answered {response.status}.")
            return await response.read()
        finally:
            await response.aclose()

    def note_end(self, opened: Opened, record: Record) -> None:
        """Count a stream that came to its end."""
        opened.guard.breaker.succeeded(probe=False, tenant=record.tenant)

    def note_cut(self, opened: Opened, error: ExpertError, record: Record) -> None:
        """Count a failure in the middle of an answer."""
        self._note_failure(opened.expert, error)
        opened.guard.breaker.failed(probe=False, tenant=_blamed(error, record))

    def _note_failure(self, expert: Expert, error: ExpertError) -> None:
        self._metrics.expert_failures.labels(expert.name, error.code).inc()
        _log.warning("expert failed", extra={"fields": fields_of(expert, error)})


def _as_one(errors: Sequence[ExpertError]) -> ExpertError:
    """Return the first error, with what the others say behind its own words."""
    if not errors:
        return ExpertUnavailableError("No expert takes this request.")
    errors[0].message = " ".join(error.message for error in errors)
    return errors[0]


def _says_broken(error: ExpertError, request: UpstreamRequest) -> bool:
    """Whether a failure says that an expert is broken."""
    is_busy = isinstance(error, ExpertBusyError) and error.asked_s is None
    # an expert that answers chats need not serve completions or embeddings
    is_elsewhere = isinstance(error, ExpertMisusedError) and request.path != CHAT
    return not (is_busy or is_elsewhere)


def _blamed(error: ExpertError, record: Record) -> str | None:
    """Return the tenant whose request may be what failed; None where the server is the reason."""
    is_server = isinstance(error, ExpertUnavailableError) or error.asked_s is not None
    return None if is_server else record.tenant


async def _first_part(
    expert: Expert, guard: Guard, request: UpstreamRequest, response: UpstreamResponse
) -> Opened:
    try:
        refuse_failure(expert, response)
    except ExpertError as error:
        error.upstream = await names_in(response)
        raise
    if response.status == 200 and request.stream:
        refuse_other_than_events(expert, response)
        chunks = response.chunks()
        first = await anext(chunks, b"")
        if not first:
            raise ExpertError(f"Expert {expert.name!r} sent an empty stream.")
        refuse_failed_stream(request, first)
        return Opened(expert, request, response, first, chunks, None, guard)
    whole = await response.read()
    reading = _READ[request.path](whole) if response.status == 200 else None
    return Opened(expert, request, response, whole, None, reading, guard)


def retry_wait_s(error: ExpertError, round_: int) -> float | None:
    """Return how long to wait before another round, in seconds; None when it is no use.

    The wait is random (full jitter), so that clients that failed together do not come back
    together, and never shorter than what the expert asked for.
    """
    if isinstance(error, ExpertTimeoutError | ExpertFullError | ExpertMisusedError):
        return None
    asked_s = error.retry_after_s or 0.0
    if asked_s > MOST_WAIT_S:
        return None
    backoff_s = min(FIRST_BACKOFF_S * 2**round_, MOST_WAIT_S)
    return max(asked_s, random.uniform(0, backoff_s))  # noqa: S311  (not a secret)


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
    if status in {401, 403}:
        raise ExpertMisusedError(
            f"Expert {name!r} refused the gateway's key ({status}): see its api_key_env."
        )
    if status in {404, 501} or status < 400:
        raise ExpertMisusedError(
            f"Expert {name!r} answered {status}: see its base_url and its model."
        )
    asked_s = retry_after(response.headers.get("retry-after"))
    error: ExpertError
    if status == 429:
        error = ExpertBusyError(f"Expert {name!r} is over its limits.", retry_after_s=asked_s)
    elif status == 503:
        error = ExpertUnavailableError(f"Expert {name!r} is not ready.", retry_after_s=asked_s or 1)
    else:
        message = f"Expert {name!r} answered with status {status}."
        error = ExpertError(message, retry_after_s=asked_s)
    error.asked_s = asked_s
    raise error


def refuse_other_than_events(expert: Expert, response: UpstreamResponse) -> None:
    """Raise `ExpertError` when a streamed answer is something else, e.g. the page of a proxy."""
    kind = response.headers.get("content-type", "nothing said of its type")
    if not kind.lower().startswith("text/event-stream"):
        raise ExpertError(f"Expert {expert.name!r} sent no stream of events but {kind[:60]!r}.")


def refuse_failed_stream(request: UpstreamRequest, first: bytes) -> None:
    """Raise `ExpertError` when a stream fails before it says anything: nothing of it is sent."""
    if b"error" not in first:
        return  # the usual case, for which it is not worth reading twice
    relay = NativeRelay() if request.path in _NATIVE else StreamRelay(show_usage=False, note=dict)
    relay.feed(first)
    if relay.failure is not None and not relay.reading.chunks:
        raise relay.failure


def says_too_long(opened: Opened) -> bool:
    """Whether an expert refused a prompt as too long for it; another one may have more room."""
    return opened.response.status in {400, 413} and bool(_TOO_LONG.search(opened.first))


def retry_after(text: str | None) -> float | None:
    """Return what a Retry-After header says, in seconds; None when it says nothing of use.

    References
    ----------
    RFC 9110, section 10.2.3: seconds or a date; some providers send fractions of a second.
    """
    if text is None:
        return None
    try:
        wait_s = float(text)
    except ValueError:
        try:
            wait_s = max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, OverflowError):
            return None
    return wait_s if 0 <= wait_s < math.inf else None
