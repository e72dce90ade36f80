"""One request as a straight line: parse, plan, dispatch, relay, account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass

from gateway.accounting import Ledger
from gateway.backends.base import UpstreamRequest
from gateway.cache.answers import AnswerCache, Recording
from gateway.cache.sessions import session_keys
from gateway.dialects.base import Dialect, Sink, Translation
from gateway.dispatch import Dispatcher, Opened
from gateway.errors import ExpertError, ExpertTimeoutError, GatewayError, InvalidRequestError
from gateway.experts import Expert
from gateway.keys import Caller
from gateway.plan import Plan
from gateway.planner import Planner
from gateway.protocol import CHAT, EMBEDDINGS, upstream_body
from gateway.record import REJECTED, Record
from gateway.relay import StreamRelay
from gateway.relay_native import NativeRelay
from gateway.rescue import continued, successors
from gateway.timing import step_done

MOST_RESCUES = 2
"""An answer that broke more often than this ends with an error."""
_UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it arrived.

    Attributes
    ----------
    dialect : Dialect
        The format of `body` and of the answer.
    caller : Caller
        Who asks; nothing is ever shared between tenants.
    timeout_s : float or None
        How long the client will wait for the whole answer, in seconds; None: as long as it takes.
    session : str or None
        What the client calls the conversation; None: it is known by its beginning.
    sticky : bool
        Whether a conversation may keep its expert.
    """

    body: bytes
    dialect: Dialect
    caller: Caller
    request_id: str
    timeout_s: float | None = None
    session: str | None = None
    sticky: bool = True


class Pipeline:
    """Answers requests.

    Parameters
    ----------
    planner : Planner
        Chooses the experts.
    dispatcher : Dispatcher
        Calls them.
    ledger : Ledger
        Gets one record for each request.
    answers : AnswerCache
        Where complete answers are kept that may be given again.
    """

    def __init__(
        self, planner: Planner, dispatcher: Dispatcher, ledger: Ledger, answers: AnswerCache
    ) -> None:
        self._planner = planner
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._answers = answers

    async def answer(self, call: Call, sink: Sink) -> None:
        """Answer a request.

        Raises
        ------
        GatewayError
            When the answer failed before anything of it was sent; after that the client is told
            in the stream.
        """
        tenant = call.caller.tenant
        record = Record(call.request_id, tenant, call.caller.key_id)
        try:
            async with time_limit(call.timeout_s) as limit:
                asked = await call.dialect.parse(call.body, tenant)
                step_done("parse")
                record.model, record.stream = asked.request.model, asked.request.stream
                call.caller.check_model(record.model)
                plan, session = await self._plan(call, asked)
                record.note_plan(plan)
                step_done("plan")
                opened, recording = await self._open(asked, plan.experts, record)
                if opened.rest is None and limit is not None:
                    limit.reschedule(None)  # all of it has come: how fast it is read is not ours
                if session is not None:
                    self._planner.remember(session, plan)
                sink = asked.answer_to(sink, is_native(asked, opened.request))
                await self._relay(asked, plan, opened, record, sink)
                await sink.end()
                step_done("relay")
                if recording is not None and record.may_be_kept:
                    self._answers.keep(tenant, recording)
        except asyncio.CancelledError:
            record.outcome = "client_left"
            raise
        except GatewayError as error:
            if record.first_byte_s is None:
                record.status, record.outcome = error.status, error.code or error.type
                raise
            record.outcome = "cut"
            await sink.fail(error)
            await sink.end()
        except Exception:
            record.status, record.outcome = 500, "internal_error"
            raise
        finally:
            self._ledger.write(record)
            step_done("account")

    async def _plan(self, call: Call, asked: Translation) -> tuple[Plan, bytes | None]:
        """Return where a request goes, and the key that its conversation is remembered by."""
        request = asked.request
        if request.path == EMBEDDINGS:
            return self._planner.plan_embeddings(request.model), None
        session = None
        if request.path == CHAT and call.sticky and self._planner.is_routed(request.model):
            session = session_keys(
                call.caller.tenant, call.session, request.fields, request.messages
            )
        plan = await self._planner.plan(
            request.model,
            request.messages,
            asked.needs,
            call.caller.tenant,
            request.max_tokens,
            session.so_far if session else None,
            bytes(request.fields["messages"]) if request.path == CHAT else None,
        )
        return plan, session.next if session else None

    async def _open(
        self, asked: Translation, experts: Sequence[Expert], record: Record
    ) -> tuple[Opened, Recording | None]:
        """Open a kept answer, or the first expert's that gives one and what it is recorded by."""
        best, cached = experts[0], asked.request.cache
        if best.cache if cached is None else cached:
            request = upstream_request(asked, best, record.request_id)
            kept = await self._answers.find(record.tenant, best, request)
            if kept is not None:
                record.note_kept(best)
                return kept, None
        opened = await self._dispatch(asked, experts, record)
        keeps = opened.expert.cache if cached is None else cached
        return opened, Recording(opened) if keeps else None

    async def _dispatch(
        self, asked: Translation, experts: Sequence[Expert], record: Record
    ) -> Opened:
        """Open the answer of the first expert that gives one."""

        def request_for(expert: Expert) -> UpstreamRequest:
            return upstream_request(asked, expert, record.request_id)

        opened = await self._dispatcher.open(experts, request_for, record)
        if opened.expert is not experts[0]:
            record.reason = "fallback"
        record.note_expert(opened.expert)
        return opened

    async def _relay(
        self, asked: Translation, plan: Plan, opened: Opened, record: Record, sink: Sink
    ) -> None:
        """Pass the answer on and read what it cost."""
        record.status = opened.response.status
        if opened.rest is None and opened.reading is None:
            record.outcome = REJECTED
        headers = {
            "content-type": opened.response.headers.get("content-type", "application/json"),
            **record.headers(),
        }
        try:
            if opened.rest is not None:
                record.first_byte_s = record.elapsed_s()
                await sink.start(200, {**headers, **_UNBUFFERED})
                await self._relay_stream(asked, plan, opened, record, sink)
                return
        finally:
            await opened.aclose()
        if opened.reading is not None:
            record.note_reading(opened.reading, asked.request, opened.first)
        await sink.start(record.status, {**headers, "content-length": str(len(opened.first))})
        await sink.write(opened.first)  # raises where the answer cannot be translated
        record.first_byte_s = record.elapsed_s()

    async def _relay_stream(
        self, asked: Translation, plan: Plan, opened: Opened, record: Record, sink: Sink
    ) -> None:
        """Pass a stream on; where it breaks, another expert goes on with it."""
        relay: StreamRelay | NativeRelay
        if is_native(asked, opened.request):
            relay = NativeRelay()
        else:
            relay = StreamRelay(show_usage=asked.request.include_usage, note=record.cost)
        try:
            while True:
                try:
                    await _pump(opened, relay, sink)
                except ExpertError as error:
                    if not relay.complete:
                        self._dispatcher.note_cut(opened, error, record)
                        await opened.aclose()
                        opened = await self._rescue(asked, plan, opened, relay, record, error)
                        continue
                    # it broke after its end: the client has everything
                self._dispatcher.note_end(opened, record)
                break
            if missing := relay.end():
                await sink.write(missing)
        finally:
            await opened.aclose()
            record.note_reading(relay.reading, asked.request)

    async def _rescue(
        self,
        asked: Translation,
        plan: Plan,
        broken: Opened,
        relay: StreamRelay | NativeRelay,
        record: Record,
        error: ExpertError,
    ) -> Opened:
        """Open the rest of a broken answer on another expert; raises `error` when none can."""
        text = relay.text
        others = [expert for expert in plan.experts if expert is not broken.expert]
        able = successors(asked.request, text, [*others, broken.expert])
        if (
            isinstance(relay, NativeRelay)
            or text is None
            or not able
            or len(record.rescued_by) == MOST_RESCUES
        ):
            raise error

        def request_for(expert: Expert) -> UpstreamRequest:
            rest = continued(asked.request, text, relay.reading.chunks, expert)
            return upstream_request(Translation(rest), expert, record.request_id)

        opened = await self._dispatcher.open(able, request_for, record)
        if opened.rest is None:  # it refuses: that is no rest of an answer
            await opened.aclose()
            raise error
        if relay.reading.chunks == 0:
            record.forget_expert()
        relay.resume()
        record.rescued_by.append(opened.expert.name)
        record.note_expert(opened.expert)
        return opened


def upstream_request(asked: Translation, expert: Expert, request_id: str) -> UpstreamRequest:
    """Return what an expert is asked: in the client's dialect where it speaks that."""
    request, native = asked.request, asked.native
    if native is not None and native.capability in expert.capabilities:
        body = native.body_for(expert)
        return UpstreamRequest(native.path, body, request.stream, request_id, native.headers)
    if native is not None and asked.native_only:
        raise InvalidRequestError(
            f"Expert {expert.name!r} does not take {', '.join(asked.native_only)}. Leave it out, "
            f"or name an expert with the capability {native.capability!r}."
        )
    body = upstream_body(request, expert.model, expert.system_prompt)
    return UpstreamRequest(request.path, body, request.stream, request_id)


def is_native(asked: Translation, sent: UpstreamRequest) -> bool:
    """Whether the answer comes in the client's dialect."""
    return asked.native is not None and asked.native.path == sent.path


async def _pump(opened: Opened, relay: StreamRelay | NativeRelay, sink: Sink) -> None:
    """Pass one expert's stream on.

    Raises
    ------
    ExpertError
        When it breaks: cut, stalled, reported by the expert, not to be translated for the client,
        or ended without an end.
    """

    async def write(data: bytes) -> None:
        try:
            await sink.write(data)
        except ExpertError as error:  # then what came with it is no end either
            relay.failure = error
            raise

    await write(relay.feed(opened.first))
    if opened.rest is not None and relay.failure is None:
        async for chunk in opened.rest:
            if data := relay.feed(chunk):
                await write(data)
            if relay.failure is not None:
                break
    if relay.failure is None and not relay.done:
        await write(relay.flush())
    if relay.failure is not None:
        raise relay.failure
    if not relay.complete:
        raise ExpertError(f"Expert {opened.expert.name!r} ended its answer in the middle.")


def time_limit(timeout_s: float | None) -> AbstractAsyncContextManager[asyncio.Timeout | None]:
    """Raise `ExpertTimeoutError` in the block when it takes longer; None sets no limit."""
    return nullcontext() if timeout_s is None else _time_limit(timeout_s)


@asynccontextmanager
async def _time_limit(timeout_s: float) -> AsyncIterator[asyncio.Timeout]:
    try:
        async with asyncio.timeout(timeout_s) as limit:
            yield limit
    except TimeoutError as error:
        raise ExpertTimeoutError(
            f"No answer within the {timeout_s:g} s that the request allows."
        ) from error
