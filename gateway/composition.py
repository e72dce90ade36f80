"""What requests are planned with: the experts, the routers and the mapping, swapped as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.cache.choices import Choice
from gateway.config import parse_experts_file
from gateway.errors import ConfigError
from gateway.experts import AUTO, Expert, ExpertRegistry, check_keys
from gateway.explore import Exploration, explorations
from gateway.guard import Breaker
from gateway.schema import LlmRouterConfig, MappingTable
from routers.artifact import ArtifactError, checked_card, load_router, read_card
from routers.base import (
    Decision,
    FloatArray,
    Router,
    RouterError,
    active_params_to_embed_b,
    decide,
    predict_and_embed,
    predict_or_defer,
)
from routers.card import Card
from routers.finer import FinerMap
from routers.keyword import KeywordRouter, RuleError
from routers.llm import Ask, LlmRouter
from routers.mapping import (
    DEFAULT_PRESET,
    ExpertMapping,
    MappingError,
    ScoredMapping,
    WrittenMapping,
)

_log = logging.getLogger(__name__)

AskExpert = Callable[[Expert, float], Ask]
ROUTER_FAILURES = 3
"""Failures in a row after which a router that asks a service is left alone for a while."""


@dataclass(frozen=True, slots=True)
class Composition:
    """A composition of experts, ready to serve.

    Attributes
    ----------
    routers : tuple of Router
        Asked in this order until one answers; they have the same categories. The last one is
        trained, runs in this process, and always answers.
    trained : Router
        That one, without the keywords that may stand before it.
    card : Card
        What it was loaded from.
    llm_router : LlmRouter or None
        The one among them that can say why; None without one.
    explorations : Mapping of str to Exploration
        Experts that are tried out, by name.
    ask_breaker : Breaker
        Of the router that asks a service; an edit closes it.
    """

    registry: ExpertRegistry
    routers: tuple[Router, ...]
    mapping: ExpertMapping
    trained: Router
    card: Card
    llm_router: LlmRouter | None
    explorations: Mapping[str, Exploration] = field(default_factory=dict)
    ask_breaker: Breaker = field(default_factory=lambda: Breaker(ROUTER_FAILURES))

    @property
    def routes(self) -> dict[str, str]:
        """What `model` may be to be routed -> the preset it is routed under."""
        presets = self.mapping.presets
        named = presets if len(presets) > 1 else ()
        return {AUTO: DEFAULT_PRESET, **{f"{AUTO}:{preset}": preset for preset in named}}

    @property
    def best_single(self) -> Expert | None:
        """The expert that alone would score highest by the table; without one, the largest.

        None when there is neither a table nor an expert of known size.
        """
        if isinstance(self.mapping, ScoredMapping):
            return self.registry[self.mapping.best_single]
        sized = [e for e in self.registry.values() if e.active_params_b is not None]
        return max(sized, key=lambda expert: expert.active_params_b or 0.0, default=None)

    @property
    def best_single_params_b(self) -> float | None:
        """Its 10^9 active parameters; None when they are not known."""
        best = self.best_single
        return None if best is None else best.active_params_b

    @property
    def ask_timeout_s(self) -> float | None:
        """How long a router that asks a service may take, in seconds; None without one."""
        config = self.registry.file.llm_router
        return None if config is None else config.timeout_s

    @property
    def finer(self) -> FinerMap | None:
        """The mapping's finer categories; None when it has none."""
        return self.mapping.finer if isinstance(self.mapping, ScoredMapping) else None

    def finer_for(self, router: Router) -> FinerMap | None:
        """Return the finer categories, if they know the embeddings of a router."""
        return self.finer if self.finer is not None and self.finer.knows(router) else None

    def router_active_params_b(self, router: Router) -> float:
        """Return the 10^9 parameters that one classification takes, finer categories included."""
        if self.finer_for(router) is None:
            return router.active_params_b
        return active_params_to_embed_b(router)

    def choose_or_defer(self, router: Router, text: str) -> Choice | Callable[[], Choice]:
        """Run a router, and finer categories on the embedding that it made on the way.

        Where that takes more than a moment, as finer categories do, return what does it.
        """
        finer = self.finer_for(router)
        if finer is not None:
            return lambda: _finer_choice(router, finer, text)
        row = predict_or_defer(router, text)
        return (lambda: Choice(row())) if callable(row) else Choice(row)

    def decide(self, router: Router, choice: Choice) -> Decision:
        """Return the decision for what is known of a text."""
        asked = self.registry.file.min_confidence
        threshold = router.min_margin if asked == "auto" else asked
        return decide(choice.probabilities, router.categories_, threshold, choice.expected)


def _finer_choice(router: Router, finer: FinerMap, text: str) -> Choice:
    row, embedding = predict_and_embed(router, text)
    return Choice(row, None if embedding is None else finer.expected_of(embedding, text))


def label(router: Router) -> str:
    """Return a router as ``name@version``, as in ``x-coe-router``."""
    return f"{router.name}@{router.version}"


class _Unloaded:
    """A router known by its card: enough to see whether the others fit it."""

    def __init__(self, card: Card) -> None:
        self.name, self.version, self.categories_ = card.name, card.version, card.categories
        self.min_margin, self.active_params_b = card.min_margin, card.active_params_b

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """Refuse."""
        raise RouterError(f"{self.name} is not loaded")


def checked_registry(text: str, path: Path, environ: Mapping[str, str] | None) -> ExpertRegistry:
    """Return the experts of a text after every check that starts nothing.

    Parameters
    ----------
    path : Path
        Where the text stands or will stand: relative paths in it start from there.
    environ : Mapping of str to str or None
        Where the keys of the experts must be; None does not look for them.

    Raises
    ------
    ConfigError
        Naming what does not hold and how to mend it.
    """
    registry = ExpertRegistry(parse_experts_file(text, path.name), path)
    if environ is not None:
        check_keys(registry, environ)
    check(registry)
    return registry


def check(registry: ExpertRegistry) -> None:
    """Check all that `compose` would refuse, without loading the router's model.

    Raises
    ------
    ConfigError
        When a file of the router is missing or damaged, or the mapping, the keywords or the LLM
        router do not fit its categories.
    """
    with _named(registry):
        card = checked_card(registry.router_path)

    def ask(_: Expert, __: float) -> Ask:
        return lambda _: {}

    _assemble(registry, card, _Unloaded(card), ask)


def read_mapping(registry: ExpertRegistry) -> ExpertMapping:
    """Return the mapping of a registry.

    Raises
    ------
    ConfigError
        When the file of its table is missing or broken, or names an expert that there is not.
    """
    written = registry.file.mapping
    if not isinstance(written, MappingTable):
        return WrittenMapping(written, registry.file.general)
    path = registry.path.parent / written.table
    with _named(registry):
        mapping = ScoredMapping.load(path, written.presets, registry.file.general)
    for name in mapping.experts:
        if name not in registry:
            fault = (
                f"mapping.table: {path} must name experts; got {name!r}. "
                f"Allowed: {', '.join(registry)}. Make it again with coe map --write"
            )
            raise ConfigError(_placed(registry, fault))
    return mapping


def compose(
    registry: ExpertRegistry, ask: AskExpert | None = None, before: Composition | None = None
) -> Composition:
    """Load the routers of a registry and check that the mapping fits them.

    Parameters
    ----------
    ask : callable or None
        Given an expert and a time limit in seconds, returns how to ask it. None leaves the LLM
        router out, for lack of a running expert.
    before : Composition or None
        One whose router is taken over if its files are still the same.

    Raises
    ------
    ConfigError
        When the router cannot be loaded, or the mapping names a category it does not have.
    """
    with _named(registry):
        card = read_card(registry.router_path)
        same = before is not None and before.card == card
        trained = before.trained if before and same else load_router(registry.router_path)
    composition = _assemble(registry, card, trained, ask)
    if composition.finer is not None and not composition.finer.knows(trained):
        _log.warning("finer categories left out: they know another encoder; run coe map --write")
    return replace(composition, explorations=explorations(registry, trained))


def _assemble(
    registry: ExpertRegistry, card: Card, trained: Router, ask: AskExpert | None
) -> Composition:
    """Put together what serves; raises `ConfigError` where the parts do not fit."""
    mapping = read_mapping(registry)
    with _named(registry):
        mapping.check(trained.categories_)
        routers: list[Router] = [trained]
        config, llm = registry.file.llm_router, None
        if config is not None and ask is not None:
            llm = llm_router(
                registry, config, described(registry, mapping, trained.categories_), ask
            )
            routers.insert(0, llm)
        if registry.file.keywords:
            routers = [KeywordRouter(registry.file.keywords, router) for router in routers]
    return Composition(registry, tuple(routers), mapping, trained, card, llm)


def described(
    registry: ExpertRegistry, mapping: ExpertMapping, categories: Sequence[str]
) -> dict[str, str]:
    """Return what belongs to each category: what its first expert is good at."""
    plain = mapping.plain()
    first = {name: (*plain.get(name, ()), registry.general.name)[0] for name in categories}
    return {name: registry[chosen].description for name, chosen in first.items()}


def llm_router(
    registry: ExpertRegistry,
    config: LlmRouterConfig,
    categories: Mapping[str, str],
    ask: AskExpert,
) -> LlmRouter:
    """Return the LLM router over categories and what belongs to each."""
    expert = registry[config.expert]
    try:
        return LlmRouter(
            ask(expert, config.timeout_s),
            expert.name,
            f"{expert.base_url} {expert.model}",
            categories,
            expert.active_params_b or 0.0,
            config.method,
        )
    except ValueError as error:
        raise ConfigError(f"{registry.path.name}: llm_router: {error}") from error


@contextmanager
def _named(registry: ExpertRegistry) -> Iterator[None]:
    """Turn an error of the router or the mapping into one that names the experts file."""
    try:
        yield
    except ArtifactError as error:
        raise ConfigError(_placed(registry, f"router: {error}")) from error
    except RuleError as error:
        told = str(error).replace("rules", "keywords", 1)
        raise ConfigError(_placed(registry, told)) from error
    except MappingError as error:
        raise ConfigError(_placed(registry, str(error))) from error


def _placed(registry: ExpertRegistry, fault: str) -> str:
    """Return a fault after the name of the experts file and the line of the key it begins with."""
    lines = registry.file.lines
    key = max((key for key in lines if fault.startswith(key)), key=len, default=None)
    line = "" if key is None else f":{lines[key]}"
    return f"{registry.path.name}{line}: {fault}"
