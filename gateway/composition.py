"""What requests are planned with: the experts, the routers and the mapping, swapped as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.errors import ConfigError
from gateway.experts import Expert, ExpertRegistry
from gateway.schema import LlmRouterConfig
from routers.artifact import ArtifactError, load_router, read_card
from routers.base import Decision, FloatArray, Router, decide
from routers.keyword import KeywordRouter, RuleError
from routers.llm import Ask, LlmRouter
from routers.mapping import ExpertMapping, MappingError

AskExpert = Callable[[Expert, float], Ask]


@dataclass(frozen=True, slots=True)
class Composition:
    """A composition of experts, ready to serve.

    Attributes
    ----------
    routers : tuple of Router
        Asked in this order until one answers; they have the same categories. The last one is
        trained, runs in this process, and always answers.
    """

    registry: ExpertRegistry
    routers: tuple[Router, ...]
    mapping: ExpertMapping

    def decide(self, router: Router, probabilities: FloatArray) -> Decision:
        """Return the decision for one row of a router's probabilities."""
        asked = self.registry.file.min_confidence
        threshold = router.min_confidence if asked == "auto" else asked
        return decide(probabilities, router.categories_, threshold)


def label(router: Router) -> str:
    """Return a router as ``name@version``, as in ``x-coe-router``."""
    return f"{router.name}@{router.version}"


def check(registry: ExpertRegistry) -> None:
    """Check that the mapping fits the router, without loading it.

    Raises
    ------
    ConfigError
        When the router is missing, or the mapping names a category it does not have.
    """
    with _named(registry):
        categories = read_card(registry.router_path).categories
        ExpertMapping(registry.mapping, registry.file.general).check(categories)


def compose(registry: ExpertRegistry, ask: AskExpert | None = None) -> Composition:
    """Load the routers of a registry and check that the mapping fits them.

    Parameters
    ----------
    ask : callable or None
        Given an expert and a time limit in seconds, returns how to ask it. None leaves the LLM
        router out, for lack of a running expert.

    Raises
    ------
    ConfigError
        When the router cannot be loaded, or the mapping names a category it does not have.
    """
    mapping = ExpertMapping(registry.mapping, registry.file.general)
    with _named(registry):
        trained = load_router(registry.router_path)
        mapping.check(trained.categories_)
        routers: list[Router] = [trained]
        config = registry.file.llm_router
        if config is not None and ask is not None:
            routers.insert(0, _llm_router(registry, config, trained.categories_, ask))
        if registry.file.keywords:
            routers = [KeywordRouter(registry.file.keywords, router) for router in routers]
    return Composition(registry, tuple(routers), mapping)


def _llm_router(
    registry: ExpertRegistry, config: LlmRouterConfig, categories: tuple[str, ...], ask: AskExpert
) -> LlmRouter:
    """Return the LLM router; what belongs to a category is what its first expert is good at."""
    expert = registry[config.expert]
    first = {
        name: (*registry.mapping.get(name, ()), registry.general.name)[0] for name in categories
    }
    described = {name: registry[chosen].description for name, chosen in first.items()}
    try:
        return LlmRouter(
            ask(expert, config.timeout_s),
            expert.name,
            described,
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
        raise ConfigError(f"{registry.path.name}: router: {error}") from error
    except (MappingError, RuleError) as error:
        raise ConfigError(f"{registry.path.name}: {error}") from error
