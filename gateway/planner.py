"""Choose the experts for a request: capability filter, choice cache, router, mapping."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from gateway.able import able, count_chars
from gateway.background import by_size, is_background
from gateway.cache.choices import Choice, ChoiceCache, choice_key
from gateway.cache.sessions import Session, Sessions
from gateway.composition import Composition
from gateway.errors import InvalidRequestError, ModelNotFoundError
from gateway.explore import explored
from gateway.metrics import Metrics
from gateway.plan import Cache, Plan, with_kept
from gateway.recent import Recent
from gateway.timing import step_done
from routers.base import Router, RouterError
from routers.keyword import KeywordRouter
from routers.mapping import DEFAULT_PRESET
from routers.text import RequestText, read_request

LONG_CHARS = 200_000
"""Conversations longer than this are read beside the event loop."""
MOST_ASKING = 64
"""Questions of routers that ask a service, at the same time."""

MOST_REMEMBERED_BYTES = 4096
"""Longer conversations are read anew each time: it seldom comes twice."""

_log = logging.getLogger(__name__)


class Planner:
    """Plans requests; the same code serves the endpoint, ``/v1/route`` and ``coe route``.

    Parameters
    ----------
    composition : Composition
        The experts, the router and the mapping. Assign another one to have it take over: a request
        is planned with one of them from its start to its end.
    cache : ChoiceCache or None
        None plans without a cache.
    sessions : Sessions or None
        Where conversations are remembered; None forgets them.
    executor : Executor
        Where texts are classified, so that the event loop goes on.
    metrics : Metrics
        Counts choices and times classifications.
    """

    def __init__(
        self,
        composition: Composition,
        cache: ChoiceCache | None,
        sessions: Sessions | None,
        executor: Executor,
        metrics: Metrics,
    ) -> None:
        self.composition = composition
        self._cache = cache
        self._sessions = sessions
        self._executor = executor
        self._asking = ThreadPoolExecutor(MOST_ASKING, "ask")
        self._metrics = metrics
        self._recent: Recent[Plan] = Recent()
        self._hits, self._misses = metrics.choices.labels("hit"), metrics.choices.labels("miss")

    async def plan(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        needs: Collection[str],
        tenant: str,
        max_tokens: int = 0,
        session: bytes | None = None,
        sent: bytes | None = None,
    ) -> Plan:
        """Return where a request goes.

        Parameters
        ----------
        max_tokens : int
            Most tokens of the answer; 0 when there is no limit.
        session : bytes or None
            Key of the conversation that it goes on with; None when it begins one.
        sent : bytes or None
            `messages` as they came; None where the request has no such part.

        Raises
        ------
        ModelNotFoundError
            When `model` is neither ``auto``, with or without a preset, nor an expert.
        InvalidRequestError
            When no expert is able to take the request; `ContextLengthError` when it is too long.
        """
        composition = self.composition
        registry = composition.registry
        if model in registry:
            return Plan((registry[model],), None, None, None, "off", 0.0)
        routes = composition.routes
        if model not in routes:
            raise self._not_found(model)
        if sent is not None and len(sent) > MOST_REMEMBERED_BYTES:
            sent = None
        key = (tenant, model, frozenset(needs), max_tokens, sent)
        plan = self._recent.get(composition, key)
        if plan is None:
            candidates = able(registry, messages, needs, max_tokens)
            plan = await self._routed(composition, messages, candidates, tenant, routes[model])
            if sent is not None:
                self._remember(composition, key, plan)
        elif plan.cache == "hit":
            self._hits.inc()
        found = await self._session(session, plan)
        if found is None or found.expert not in able(registry, messages, needs, max_tokens):
            return plan
        return with_kept(plan, registry[found.expert], found.category)

    async def _routed(
        self,
        composition: Composition,
        messages: Sequence[Mapping[str, Any]],
        candidates: Collection[str],
        tenant: str,
        preset: str,
    ) -> Plan:
        """Return where a conversation would go that begins now."""
        registry = composition.registry
        if registry.file.background == "cheapest" and is_background(messages):
            cheapest = by_size(composition, candidates)
            return Plan(cheapest, None, None, None, "off", 0.0, why="background")
        reading = await self._read(messages)
        router, choice, cache = await self._choose(composition, reading.text, tenant)
        decision = composition.decide(router, choice)
        ranked = composition.mapping.rank(decision, candidates, preset)
        on_trial = composition.explorations if preset == DEFAULT_PRESET else {}
        tried = explored(on_trial, reading.text, decision.probabilities, candidates)
        by_rule = _by_rule(router, reading.text)
        return Plan(
            tuple(registry[name] for name in dict.fromkeys((*tried, *ranked))),
            decision,
            reading,
            router,
            cache,
            0.0 if cache == "hit" or by_rule else composition.router_active_params_b(router),
            explores=bool(tried),
            by_rule=by_rule,
            preset=preset,
            mapping=composition.mapping,
        )

    def _remember(self, composition: Composition, key: Hashable, plan: Plan) -> None:
        """Have the same words take the same way for a while, as a choice from the cache."""
        if plan.cache == "off":
            self._recent.put(composition, key, plan)
        elif plan.router is composition.routers[0]:  # not one that stood in for it
            cached = replace(plan, cache="hit", router_active_params_b=0.0)
            self._recent.put(composition, key, cached)

    def is_routed(self, model: str) -> bool:
        """Whether a prompt is read for a model: not where it names an expert."""
        return model not in self.composition.registry

    def plan_embeddings(self, model: str) -> Plan:
        """Return the expert that makes embeddings: the one named, else the first that can.

        Nobody takes over for it: vectors of two models cannot be compared.

        Raises
        ------
        ModelNotFoundError
            When `model` is neither ``auto`` nor an expert.
        InvalidRequestError
            When the expert that is named, or every expert, is without them.
        """
        registry = self.composition.registry
        if model in registry:
            if "embeddings" not in registry[model].capabilities:
                raise InvalidRequestError(
                    f"'model' must be an expert with the capability embeddings; {model!r} is none. "
                    "Name another, or list it under the expert's capabilities in experts.yaml.",
                    param="model",
                )
            return Plan((registry[model],), None, None, None, "off", 0.0)
        if model not in self.composition.routes:
            raise self._not_found(model)
        for expert in registry.values():
            if "embeddings" in expert.capabilities:
                return Plan((expert,), None, None, None, "off", 0.0, why="capability")
        raise InvalidRequestError(
            "No expert makes embeddings. In experts.yaml, list 'embeddings' under the capabilities "
            "of one that does.",
            param="model",
        )

    def _not_found(self, model: str) -> ModelNotFoundError:
        known = ", ".join((*self.composition.routes, *self.composition.registry))
        return ModelNotFoundError(
            f"'model' must be one of: {known}; got {model[:80]!r}.", param="model"
        )

    async def explain(self, text: str) -> dict[str, str] | None:
        """Return the category that the LLM router names, and its reason; None when it has none."""
        router = self.composition.llm_router
        if router is None:
            return None
        loop = asyncio.get_running_loop()
        try:
            category, reason = await loop.run_in_executor(self._asking, router.explain, text)
        except RouterError as error:
            _log.warning("router failed", extra={"fields": {"why": str(error)}})
            return None
        return {"category": category, "reason": reason}

    async def _session(self, key: bytes | None, plan: Plan) -> Session | None:
        """Return what is known of the conversation that a request goes on with."""
        if key is None or self._sessions is None or plan.decision is None:
            return None
        return await self._sessions.get(key)

    def remember(self, key: bytes, plan: Plan) -> None:
        """Note which expert a conversation is with, and the category that led there."""
        if self._sessions is not None and plan.decision is not None:
            category = plan.kept_for or plan.decision.category
            self._sessions.set(key, Session(plan.experts[0].name, category))

    async def _read(self, messages: Sequence[Mapping[str, Any]]) -> RequestText:
        """Read a conversation; a very long one beside the event loop."""
        if count_chars(messages) < LONG_CHARS:
            return read_request(messages)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, read_request, messages)

    async def _choose(
        self, composition: Composition, text: str, tenant: str
    ) -> tuple[Router, Choice, Cache]:
        """Return the first router that answers, and what is known of a text with it."""
        *asked, trained = composition.routers
        breaker = composition.ask_breaker
        for router in asked:
            if breaker.rests_for_s > 0:
                continue
            probe = breaker.begin()
            try:
                timeout_s = composition.ask_timeout_s
                choice, cache = await self._choice(composition, router, text, tenant, timeout_s)
            except RouterError as error:
                breaker.failed(probe=probe, tenant=tenant if error.of_text else None)
                self._metrics.router_failures.labels(router.name).inc()
                _log.warning("router failed", extra={"fields": {"why": str(error)}})
            except BaseException:
                breaker.abandoned(probe=probe)
                raise
            else:
                if cache == "hit" or _by_rule(router, text):
                    breaker.abandoned(probe=probe)  # nobody was asked
                else:
                    breaker.succeeded(probe=probe, tenant=tenant)
                return router, choice, cache
        return trained, *await self._choice(composition, trained, text, tenant, None)

    async def _choice(
        self,
        composition: Composition,
        router: Router,
        text: str,
        tenant: str,
        timeout_s: float | None,
    ) -> tuple[Choice, Cache]:
        """Return what is known of a text with a router, from the cache where it is there.

        What the router answers at once is sooner had anew than from Redis.
        """
        if self._cache is None:
            return await self._classify(composition, router, text, timeout_s), "off"
        finer = composition.finer_for(router)
        key = choice_key(tenant, router, text, finer)
        step_done("plan")
        cached = self._cache.at_hand(key)
        if cached is not None:
            self._hits.inc()
            return cached, "hit"
        found, spent_s = self._classify_or_defer(composition, router, text)
        if isinstance(found, Choice):
            self._cache.set(key, found, shared=False)
        else:
            n_experts = 0 if finer is None else finer.n_experts
            cached = await self._cache.get(key, len(router.categories_), n_experts)
            step_done("cache")
            if cached is not None:
                self._hits.inc()
                return cached, "hit"
            found = await self._finish(found, router, timeout_s, spent_s)
            self._cache.set(key, found, shared=True)
        self._misses.inc()
        return found, "miss"

    async def _classify(
        self, composition: Composition, router: Router, text: str, timeout_s: float | None
    ) -> Choice:
        found, spent_s = self._classify_or_defer(composition, router, text)
        if isinstance(found, Choice):
            return found
        return await self._finish(found, router, timeout_s, spent_s)

    def _classify_or_defer(
        self, composition: Composition, router: Router, text: str
    ) -> tuple[Choice | Callable[[], Choice], float]:
        """Run a router here as far as that takes but a moment.

        Return the choice, or what does the rest, and the seconds that it took.
        """
        started_s = time.perf_counter()
        found = composition.choose_or_defer(router, text)
        spent_s = time.perf_counter() - started_s
        if isinstance(found, Choice):
            self._metrics.classify_seconds.observe(spent_s)
        step_done("classify")
        return found, spent_s

    async def _finish(
        self,
        deferred: Callable[[], Choice],
        router: Router,
        timeout_s: float | None,
        spent_s: float,
    ) -> Choice:
        """Run the rest of a router beside the event loop, `spent_s` after it was begun.

        `timeout_s` is None for one that computes and does not ask a service.
        """
        started_s = time.perf_counter()

        def choose() -> tuple[float, Choice]:
            return time.perf_counter(), deferred()

        # routers that ask a service wait: they must not hold up those that compute
        executor = self._executor if timeout_s is None else self._asking
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                begun_s, choice = await loop.run_in_executor(executor, choose)
        except TimeoutError as error:
            raise RouterError(f"{router.name} did not answer in time") from error
        self._metrics.classify_seconds.observe(spent_s + time.perf_counter() - started_s)
        step_done("queue", begun_s)
        step_done("encode" if timeout_s is None else "ask")
        return choice


def _by_rule(router: Router, text: str) -> bool:
    """Whether a rule of the operator decides for a text, so that no router is really run."""
    return isinstance(router, KeywordRouter) and router.matches(text)
