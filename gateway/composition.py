"""What requests are planned with: the experts, the router and the mapping, swapped as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.errors import ConfigError
from gateway.experts import ExpertRegistry
from routers.artifact import ArtifactError, load_router, read_card
from routers.base import Router
from routers.mapping import ExpertMapping, MappingError


@dataclass(frozen=True, slots=True)
class Composition:
    """A composition of experts, ready to serve.

    Attributes
    ----------
    min_confidence : float
        Below this top probability a prompt goes to the general expert.
    """

    registry: ExpertRegistry
    router: Router
    mapping: ExpertMapping
    min_confidence: float

    @property
    def router_label(self) -> str:
        """The router as ``name@version``."""
        return f"{self.router.name}@{self.router.version}"


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


def compose(registry: ExpertRegistry) -> Composition:
    """Load the router of a registry and check that the mapping fits it.

    Raises
    ------
    ConfigError
        When the router cannot be loaded, or the mapping names a category it does not have.
    """
    mapping = ExpertMapping(registry.mapping, registry.file.general)
    with _named(registry):
        router = load_router(registry.router_path)
        mapping.check(router.categories_)
    asked = registry.file.min_confidence
    min_confidence = router.min_confidence if asked == "auto" else asked
    return Composition(registry, router, mapping, min_confidence)


@contextmanager
def _named(registry: ExpertRegistry) -> Iterator[None]:
    """Turn an error of the router or the mapping into one that names the experts file."""
    try:
        yield
    except ArtifactError as error:
        raise ConfigError(f"{registry.path.name}: router: {error}") from error
    except MappingError as error:
        raise ConfigError(f"{registry.path.name}: {error}") from error
