"""The scenarios, in the order they are played."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median

from eval.failover.bench import Bench, Outcome, Scenario, Verdict
from eval.failover.client import Asking
from eval.failover.wire import FAULTY, HEALTHY, N_PIECES, PROMPT_TOKENS

WHOLE = "the whole answer"
STREAM = Asking(stream=True)
QUICK_S = 1.0
"""An answer that needs no waiting for a dead upstream."""
N_REQUESTS = 12
N_LONG = 1_000
"""Pieces of a long answer: 4 MB as a stream, with the padding."""

Judge = Callable[[Outcome], Verdict]


def _one(
    id_: str,
    what: str,
    faulty: str,
    asking: Asking = Asking(),  # noqa: B008  (frozen)
    wanted: str = WHOLE,
    judge: Judge = Outcome.verdict,
) -> Scenario:
    """Return a scenario of one request."""

    async def play(bench: Bench) -> Verdict:
        return judge(await bench.request(faulty, asking=asking))

    return Scenario(id_, what, wanted, play)


# judges


def _filtered(outcome: Outcome) -> Verdict:
    seen = outcome.seen
    half = "".join(outcome.orders.pieces()[: N_PIECES // 2])
    kept = seen.finish_reason == "content_filter" and seen.text == half and not seen.told()
    return Verdict("pass" if kept else outcome.grade(), outcome.evidence())


def _tool_call(outcome: Outcome) -> Verdict:
    """Half a tool call: nobody can go on with it, so an error event is the best there is."""
    seen = outcome.seen
    false_end = seen.finish_reason is not None or (seen.done and seen.error is None)
    if false_end or seen.hung:
        return Verdict("fail", outcome.evidence())
    return Verdict("pass" if seen.error else outcome.grade(), outcome.evidence())


def _counted(outcome: Outcome) -> Verdict:
    """Pass the usage of the answer the client has, by the upstream that gave it."""
    usage = outcome.seen.usage or {}
    evidence = f"usage {usage}; {outcome.evidence()}"
    if not outcome.whole():
        return Verdict(outcome.grade(), evidence)
    got = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    right = got == (PROMPT_TOKENS[HEALTHY], N_PIECES)
    return Verdict("pass" if right else "fail", evidence)


def _counted_both(outcome: Outcome) -> Verdict:
    """Pass the completion tokens of both parts of an answer that was cut."""
    usage = outcome.seen.usage or {}
    evidence = f"usage {usage}; {outcome.evidence()}"
    if not outcome.whole():
        return Verdict(outcome.grade(), evidence)
    right = usage.get("completion_tokens") == N_PIECES
    return Verdict("pass" if right else "fail", evidence)


# scenarios of several requests


async def _refused(bench: Bench) -> Verdict:
    await bench.upstreams[FAULTY].kill()
    try:
        return (await bench.request()).verdict()
    finally:
        await bench.upstreams[FAULTY].start()


async def _client_error(bench: Bench) -> Verdict:
    """Make a mistake as a client: it is told so, and nobody is asked twice."""
    outcome = await bench.request("bad", "bad")
    told = outcome.seen.status == 400 and outcome.seen.error is not None
    once = max(len(calls) for calls in outcome.calls.values()) == 1
    return Verdict("pass" if told and once else outcome.grade(), outcome.evidence())


async def _flapping(bench: Bench) -> Verdict:
    outcomes = [await bench.request("flap") for _ in range(N_REQUESTS)]
    return _all_of(outcomes)


def _all_of(outcomes: list[Outcome], note: str = "") -> Verdict:
    grades = [outcome.grade() for outcome in outcomes]
    worst = next(grade for grade in ("fail", "safe", "pass") if grade in grades)
    example = outcomes[grades.index(worst)].evidence()
    n_right = grades.count("pass")
    return Verdict(worst, f"{n_right} of {len(grades)} right{note}; e.g. {example}")


async def _one_down(bench: Bench) -> Verdict:
    await bench.upstreams[FAULTY].kill()
    try:
        return _all_of(await asyncio.gather(*(bench.request() for _ in range(N_REQUESTS))))
    finally:
        await bench.upstreams[FAULTY].start()


async def _one_hung(bench: Bench) -> Verdict:
    """Pass when an upstream that is silent is left alone, not waited for every time."""
    outcomes = [await bench.request("silence", asking=STREAM) for _ in range(N_REQUESTS)]
    late_s = median(outcome.seen.elapsed_s for outcome in outcomes[N_REQUESTS // 2 :])
    verdict = _all_of(outcomes, f", the later half in {late_s:.2f} s each")
    if verdict.verdict == "pass" and late_s > QUICK_S:
        return Verdict("safe", verdict.evidence)
    return verdict


async def _all_down(bench: Bench) -> Verdict:
    for upstream in bench.upstreams.values():
        await upstream.kill()
    try:
        outcome = await bench.request()
    finally:
        for upstream in bench.upstreams.values():
            await upstream.start()
    seen = outcome.seen
    in_form = (seen.status or 0) >= 429 and "message" in (seen.error or {})
    return Verdict("pass" if in_form else outcome.grade(), outcome.evidence())


async def _recovery(bench: Bench) -> Verdict:
    """After all were down, the gateway must find its way back by itself."""
    for upstream in bench.upstreams.values():
        await upstream.kill()
    for _ in range(N_REQUESTS):
        await bench.request()
    for upstream in bench.upstreams.values():
        await upstream.start()
    started_s = time.monotonic()
    while not (outcome := await bench.request()).whole():
        if time.monotonic() > started_s + 30:
            return Verdict("fail", f"no answer for 30 s; {outcome.evidence()}")
        await asyncio.sleep(0.2)
    took_s = time.monotonic() - started_s
    return Verdict("pass" if took_s <= 5 else "safe", f"answers again after {took_s:.1f} s")


def _leaves(id_: str, what: str, fault: str, *, stream: bool) -> Scenario:
    """Return a scenario in which the client hangs up after half a second."""

    async def play(bench: Bench) -> Verdict:
        outcome = await bench.request(fault, fault, Asking(stream=stream, patience_s=0.5), 1_000)
        started_s = time.monotonic()
        while time.monotonic() < started_s + 3:
            calls = await bench.upstreams[FAULTY].calls(bench.session, outcome.orders.nonce)
            if calls and all(call["cancelled"] for call in calls):
                took_s = time.monotonic() - started_s
                return Verdict("pass", f"{len(calls)} call cancelled within {took_s:.1f} s")
            await asyncio.sleep(0.05)
        return Verdict("fail", f"the call goes on 3 s after the client left: {calls}")

    return Scenario(id_, what, "the call upstream is cancelled", play)


async def _slow_client(bench: Bench) -> Verdict:
    """Let a client pause for longer than the idle limit, while another one is served."""
    asking = Asking(stream=True, pause_s=3.0)
    slow = asyncio.create_task(bench.request("padded", asking=asking, n_pieces=N_LONG))
    await asyncio.sleep(1.5)
    other = await bench.request()
    outcome = await slow
    verdict = outcome.verdict()
    waited_s = other.seen.elapsed_s
    evidence = f"another client got its answer in {waited_s:.2f} s; {verdict.evidence}"
    held_up = not other.whole() or waited_s > 2 * QUICK_S
    return Verdict("safe" if verdict.verdict == "pass" and held_up else verdict.verdict, evidence)


def _play(
    id_: str, what: str, play: Callable[[Bench], Awaitable[Verdict]], wanted: str = WHOLE
) -> Scenario:
    return Scenario(id_, what, wanted, play)


_TOLD_400 = "400, nobody asked twice"
_TOLD_ERROR = "an error event, no false end"
_TOKENS = "the right usage"

SCENARIOS = (
    _one("rate_limit", "429", "status-429"),
    _one("rate_limit_retry_after", "429 with Retry-After: 3", "status-429-3"),
    _one("status_500", "500", "status-500"),
    _one("status_502", "502", "status-502"),
    _one("status_503", "503", "status-503"),
    _one("wrong_key", "401: the key configured for the expert", "status-401"),
    _play("refused", "connection refused", _refused),
    _one("reset", "connection reset", "reset"),
    _one("silence", "no answer", "silence"),
    _one("silent_stream", "headers, then no first token", "headers", STREAM),
    _one("reset_stream", "headers, then a reset", "headers-reset", STREAM),
    _one("slow_first_token", "first token after 1 s", "late-1", STREAM),
    _one("cut_stream", "stream reset in its middle", "cut", STREAM),
    _one("ended_early", "stream closed in its middle, in good order", "ends", STREAM),
    _one("stalled_stream", "silence in the middle of a stream", "stalls", STREAM),
    _one("malformed_chunk", "half a JSON event in a stream", "malformed", STREAM),
    _one("error_event", "an error event in a stream", "reports", STREAM),
    _one("missing_done", "a whole stream without [DONE]", "nodone", STREAM),
    _one("truncated_json", "half a JSON body, 200", "truncated"),
    _one("cut_body", "body reset in its middle", "cutbody"),
    _one("html_page", "a proxy's HTML page, 200", "html"),
    _one("html_stream", "the same for a stream", "html", STREAM),
    _one("context_length", "400 context_length_exceeded", "context"),
    _play("bad_request", "400: the client's mistake", _client_error, _TOLD_400),
    _one(
        "content_filter",
        "finish_reason content_filter in a stream",
        "filtered",
        STREAM,
        "passed on as it is",
        _filtered,
    ),
    _one(
        "tool_call_cut", "stream reset in a tool call", "toolcut", STREAM, _TOLD_ERROR, _tool_call
    ),
    _play("flapping", "every other answer a 500", _flapping),
    _play("one_down", "one upstream down, 12 requests at once", _one_down),
    _play("one_hung", "one upstream silent, 12 requests in turn", _one_hung, "no waiting for long"),
    _play("all_down", "both down", _all_down, "429 or 5xx in OpenAI form"),
    _play("recovery", "both down for 12 requests, then up", _recovery, "answers within 5 s"),
    _one(
        "usage_fallback", "accounting after fallback", "status-500", wanted=_TOKENS, judge=_counted
    ),
    _one(
        "usage_stream",
        "the same for a stream",
        "status-500",
        Asking(stream=True, usage=True),
        _TOKENS,
        _counted,
    ),
    _one(
        "usage_cut",
        "accounting of a stream cut in its middle",
        "cut",
        Asking(stream=True, usage=True),
        _TOKENS,
        _counted_both,
    ),
    _leaves("client_leaves", "the client hangs up", "silence", stream=False),
    _leaves("client_leaves_stream", "the same in a stream", "paced-0.1", stream=True),
    _play("slow_client", "the client pauses 3 s in 4 MB", _slow_client, "whole, nobody waits"),
)
"""All of them; each begins once the gateway asks the faulty upstream again."""
