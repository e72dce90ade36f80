"""The breaker and the retry budget, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.backends.base import UpstreamRequest, UpstreamResponse
from gateway.dispatch import MOST_WAIT_S, Dispatcher, retry_after, retry_wait_s
from gateway.errors import ExpertError, ExpertTimeoutError, ExpertUnavailableError
from gateway.experts import Expert, ExpertRegistry
from gateway.guard import FIRST_REST_S, LAST_REST_S, TRUSTED_S, Breaker, RetryBudget
from gateway.metrics import Metrics
from gateway.record import Record
from tests.servers import NOBODY_URL, write_experts


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(probe=breaker.begin())


def test_it_opens_after_failures_in_a_row_only(clock: Clock) -> None:
    breaker = Breaker(3, clock)
    fail(breaker, 2)
    breaker.succeeded(probe=breaker.begin())
    fail(breaker, 2)
    assert breaker.rests_for_s == 0
    fail(breaker)
    assert breaker.rests_for_s == FIRST_REST_S


def test_one_probe_decides(clock: Clock) -> None:
    breaker = Breaker(1, clock)
    fail(breaker)
    clock.now_s += FIRST_REST_S
    assert breaker.rests_for_s == 0
    probe = breaker.begin()
    assert breaker.rests_for_s > 0  # one probe at a time
    breaker.succeeded(probe=probe)
    assert breaker.rests_for_s == 0


def test_an_answer_that_was_under_way_does_not_end_the_rest(clock: Clock) -> None:
    breaker = Breaker(1, clock)
    before = breaker.begin()
    fail(breaker)
    breaker.succeeded(probe=before)
    assert breaker.rests_for_s == FIRST_REST_S


def test_each_failed_probe_doubles_the_rest_up_to_a_limit(clock: Clock) -> None:
    breaker = Breaker(1, clock)
    rests = []
    for _ in range(8):
        fail(breaker)
        rests.append(breaker.rests_for_s)
        clock.now_s += breaker.rests_for_s
    assert rests[:4] == [1, 2, 4, 8]
    assert rests[-1] == LAST_REST_S


def test_a_probe_whose_client_left_lets_the_next_one_through(clock: Clock) -> None:
    breaker = Breaker(1, clock)
    fail(breaker)
    clock.now_s += FIRST_REST_S
    breaker.abandoned(probe=breaker.begin())
    assert breaker.rests_for_s == 0


def test_it_waits_as_long_as_the_expert_asks_within_reason(clock: Clock) -> None:
    breaker = Breaker(3, clock)
    breaker.failed(probe=False, asked_s=7)
    assert breaker.rests_for_s == 7
    breaker.failed(probe=False, asked_s=10_000)
    assert breaker.rests_for_s == LAST_REST_S


def test_null_never_opens(clock: Clock) -> None:
    breaker = Breaker(None, clock)
    fail(breaker, 100)
    breaker.failed(probe=False, asked_s=7)
    assert breaker.rests_for_s == 0


def test_calls_that_fail_together_open_it_once(clock: Clock) -> None:
    breaker = Breaker(3, clock)
    for _ in range(8):
        breaker.failed(probe=False)
    assert breaker.rests_for_s == FIRST_REST_S


@given(st.integers(1, 300))
def test_retries_are_a_share_of_the_requests(n_requests: int) -> None:
    budget = RetryBudget()
    retries = 0
    for _ in range(n_requests):
        budget.earn()
        while budget.spend():
            retries += 1
    assert retries <= RetryBudget.RESERVE + RetryBudget.SHARE * n_requests


def test_waiting_longer_than_is_bearable_or_after_a_timeout_is_left_to_the_client() -> None:
    assert retry_wait_s(ExpertError("x", retry_after_s=MOST_WAIT_S + 1), 0) is None
    assert retry_wait_s(ExpertTimeoutError("x"), 0) is None


@given(st.floats(0, MOST_WAIT_S), st.integers(0, 20))
def test_a_retry_comes_no_sooner_than_asked_and_not_late(asked_s: float, round_: int) -> None:
    wait_s = retry_wait_s(ExpertUnavailableError("x", retry_after_s=asked_s), round_)
    assert wait_s is not None
    assert asked_s <= wait_s <= MOST_WAIT_S


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        ("7", 7.0),
        ("0.25", 0.25),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, wait_s: float | None) -> None:
    assert retry_after(header) == wait_s


def test_a_date_to_come_is_waited_for() -> None:
    wait_s = retry_after(formatdate(time.time() + 60, usegmt=True))
    assert wait_s is not None
    assert 55 < wait_s <= 60


# whose failures


def fail_for(breaker: Breaker, tenant: str | None, times: int = 3) -> None:
    for _ in range(times):
        breaker.failed(probe=breaker.begin(), tenant=tenant)


def test_failures_of_one_tenant_do_not_take_an_expert_from_another(clock: Clock) -> None:
    breaker = Breaker(3, clock)
    for tenant in ("a", "b", "a"):
        breaker.succeeded(probe=breaker.begin(), tenant=tenant)
    fail_for(breaker, "a", 50)
    assert breaker.rests_for_s == 0
    breaker.failed(probe=breaker.begin(), tenant="b")  # it fails for others too
    assert breaker.rests_for_s == FIRST_REST_S


def test_a_server_that_is_not_there_fails_for_all(clock: Clock) -> None:
    breaker = Breaker(3, clock)
    breaker.succeeded(probe=breaker.begin(), tenant="b")
    fail_for(breaker, "a", 2)
    fail_for(breaker, None, 1)
    assert breaker.rests_for_s == FIRST_REST_S


@pytest.mark.parametrize("answered", ["a", None])
def test_without_an_answer_to_another_tenant_failures_count(
    answered: str | None, clock: Clock
) -> None:
    breaker = Breaker(3, clock)
    breaker.succeeded(probe=breaker.begin(), tenant=answered)
    fail_for(breaker, "a")
    assert breaker.rests_for_s == FIRST_REST_S


def test_an_answer_of_long_ago_proves_nothing(clock: Clock) -> None:
    breaker = Breaker(3, clock)
    breaker.succeeded(probe=breaker.begin(), tenant="b")
    clock.now_s += TRUSTED_S + 1
    fail_for(breaker, "a")
    assert breaker.rests_for_s == FIRST_REST_S


class FailingBackend:
    """A backend whose experts all fail in one way."""

    def __init__(self, error: type[ExpertError]) -> None:
        self._error = error
        self.n_calls = 0

    async def open(self, expert: Expert, request: UpstreamRequest) -> UpstreamResponse:
        self.n_calls += 1
        raise self._error("no")

    async def aclose(self) -> None:
        return


@pytest.mark.parametrize("n_requests", [1, 3])
def test_the_retries_of_a_request_count_as_one_failure(n_requests: int, tmp_path: Path) -> None:
    path = write_experts(tmp_path / "e.yaml", [{"name": "only", "base_url": NOBODY_URL}], {})
    (expert,) = ExpertRegistry.load(path).values()
    backend = FailingBackend(ExpertError)
    dispatcher = Dispatcher(backend, Metrics(CollectorRegistry()))
    request = UpstreamRequest("chat/completions", b"{}", stream=False, request_id="id")

    async def ask() -> None:
        for number in range(n_requests):
            with pytest.raises(ExpertError):
                await dispatcher.open([expert], lambda _: request, Record(str(number), "t"))

    asyncio.run(ask())
    assert expert.open_after_failures == 3
    assert backend.n_calls > n_requests
    assert (dispatcher.guards.of(expert).breaker.rests_for_s > 0) is (n_requests == 3)
