"""Choose the experts for a request: capability filter, choice cache, router, mapping."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from gateway.able import able, count_chars
from gateway.background import by_size, is_background
from gateway.cache.choices import Choice, ChoiceCache, choice_key
from gateway.cache.sessions import Session, Sessions
from gateway.composition import Composition
from gateway.errors import InvalidRequestError, ModelNotFoundError
from gateway.experts import Expert
from gateway.explore import explored
from gateway.metrics import Metrics
from gateway.timing import step_done
from routers.base import GENERAL, Decision, Router, RouterError
from routers.keyword import KeywordRouter
from routers.mapping import DEFAULT_PRESET, ExpertMapping
from routers.text import RequestText, read_request

LONG_CHARS = 200_000
"""Conversations longer than this are read beside the event loop."""
MOST_ASKING = 64
"""Questions of routers that ask a service, at the same time."""

SWITCH_MARGIN = 0.5
"""By how much more probable than the category before a new one must be to change the expert."""

LEAST_TOPIC_CHARS = 20
"""A shorter text changes no topic."""
LEAST_GENERAL_CHARS = 60
"""The same for a new category `general`: there "hm, that is wrong, try again" ends up too."""

Cache = Literal["hit", "miss", "off"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a request goes.

    Attributes
    ----------
    experts : tuple of Expert
        Best first; the later ones are the fallbacks. A pinned expert has none.
    decision : Decision or None
        What the router said; None when the client pinned an expert.
    reading : RequestText or None
        What of the conversation was classified; None likewise.
    router : Router or None
        The router that answered; None likewise.
    cache : {"hit", "miss", "off"}
        Whether the choice was found in the cache.
    router_active_params_b : float
        10^9 parameters spent on classifying: 0 for a cached choice or a pinned expert.
    stuck : bool
        Whether the conversation keeps an expert that the decision alone would not choose.
    explores : bool
        Whether the prompt tries out an expert; see `gateway.explore`.
    why : str
        The reason where there is no decision.
    preset : str or None
        The preset it was routed under; None when the client pinned an expert.
    mapping : ExpertMapping or None
        What ranked the experts; None likewise.
    """

    experts: tuple[Expert, ...]
    decision: Decision | None
    reading: RequestText | None
    router: Router | None
    cache: Cache
    router_active_params_b: float
    stuck: bool = False
    explores: bool = False
    why: str = "pinned"
    preset: str | None = None
    mapping: ExpertMapping | None = None

    @property
    def reason(self) -> str:
        """Why the first expert was chosen, as in ``x-coe-reason``."""
        if self.decision is None:
            return self.why
        if self.stuck:
            return "sticky"
        if self.explores:
            return "explore"
        if self.cache == "hit" and self.decision.reason == "routed":
            return "cached_choice"
        return self.decision.reason


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
        self._hits, self._misses = metrics.choices.labels("hit"), metrics.choices.labels("miss")

    async def plan(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        needs: Collection[str],
        tenant: str,
        max_tokens: int = 0,
        session: bytes | None = None,
    ) -> Plan:
        """Return where a request goes.

        Parameters
        ----------
        max_tokens : int
            Most tokens of the answer; 0 when there is no limit.
        session : bytes or None
            Key of the conversation that it goes on with; None when it begins one.

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
        candidates = able(registry, messages, needs, max_tokens)
        if registry.file.background == "cheapest" and is_background(messages):
            cheapest = by_size(composition, candidates)
            return Plan(cheapest, None, None, None, "off", 0.0, why="background")
        reading = await self._read(messages)
        router, choice, cache = await self._choose(composition, reading.text, tenant)
        decision = composition.decide(router, choice)
        ranked = composition.mapping.rank(decision, candidates, routes[model])
        on_trial = composition.explorations if routes[model] == DEFAULT_PRESET else {}
        tried = explored(on_trial, reading.text, decision.probabilities, candidates)
        kept = await self._kept(session, reading.text, decision, router, candidates)
        experts = tuple(registry[name] for name in dict.fromkeys((*kept, *tried, *ranked)))
        by_rule = isinstance(router, KeywordRouter) and router.matches(reading.text)
        spent = 0.0 if cache == "hit" or by_rule else router.active_params_b
        stuck = experts[0].name != (*tried, *ranked)[0]
        return Plan(
            experts,
            decision,
            reading,
            router,
            cache,
            spent,
            stuck,
            explores=bool(tried),
            preset=routes[model],
            mapping=composition.mapping,
        )

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

    async def _kept(
        self,
        key: bytes | None,
        text: str,
        decision: Decision,
        router: Router,
        candidates: Collection[str],
    ) -> tuple[str, ...]:
        """Return the expert that a conversation keeps; nobody when it keeps none."""
        if key is None or self._sessions is None:
            return ()
        session = await self._sessions.get(key)
        if session is None or session.expert not in candidates:
            return ()
        switches = pays(decision, text, router.categories_, session.category)
        return () if switches else (session.expert,)

    def remember(self, key: bytes, expert: Expert, decision: Decision) -> None:
        """Note which expert a conversation is with."""
        if self._sessions is not None:
            self._sessions.set(key, Session(expert.name, decision.category))

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
                chosen = await self._choice(composition, router, text, tenant, timeout_s)
            except RouterError as error:
                breaker.failed(probe=probe)
                self._metrics.router_failures.labels(router.name).inc()
                _log.warning("router failed", extra={"fields": {"why": str(error)}})
            except BaseException:
                breaker.abandoned(probe=probe)
                raise
            else:
                breaker.succeeded()
                return router, *chosen
        return trained, *await self._choice(composition, trained, text, tenant, None)

    async def _choice(
        self,
        composition: Composition,
        router: Router,
        text: str,
        tenant: str,
        timeout_s: float | None,
    ) -> tuple[Choice, Cache]:
        """Return what is known of a text with a router, from the cache where it is there."""
        if self._cache is None:
            return await self._classify(composition, router, text, timeout_s), "off"
        finer = composition.finer_for(router)
        key = choice_key(tenant, router, text, finer)
        n_experts = 0 if finer is None else finer.n_experts
        step_done("plan")
        cached = await self._cache.get(key, len(router.categories_), n_experts)
        step_done("cache")
        if cached is not None:
            self._hits.inc()
            return cached, "hit"
        choice = await self._classify(composition, router, text, timeout_s)
        self._cache.set(key, choice)
        self._misses.inc()
        return choice, "miss"

    async def _classify(
        self, composition: Composition, router: Router, text: str, timeout_s: float | None
    ) -> Choice:
        """Run a router; `timeout_s` is None for one that computes and does not ask a service."""
        started_s = time.perf_counter()
        # routers that ask a service wait: they must not hold up those that compute
        executor = self._executor if timeout_s is None else self._asking
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                choice = await loop.run_in_executor(executor, composition.choose, router, text)
        except TimeoutError as error:
            raise RouterError(f"{router.name} did not answer in time") from error
        self._metrics.classify_seconds.observe(time.perf_counter() - started_s)
        step_done("classify")
        return choice


def pays(decision: Decision, text: str, categories: Sequence[str], before: str) -> bool:
    """Whether a conversation should follow a new decision: a clear change of topic.

    Parameters
    ----------
    text : str
        What was classified: too short a text, like "commit it", changes no topic.
    before : str
        The category that led to its expert.
    """
    if decision.reason == "low_confidence" or decision.category == before:
        return False
    least_chars = LEAST_GENERAL_CHARS if decision.category == GENERAL else LEAST_TOPIC_CHARS
    if len(text) < least_chars:
        return False
    held = decision.probabilities[categories.index(before)] if before in categories else 0.0
    return bool(decision.confidence - held >= SWITCH_MARGIN)
