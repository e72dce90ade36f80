"""The router types an artifact can hold, imported when one is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from routers.base import Router

if TYPE_CHECKING:
    from routers.embedding import EmbeddingRouter

_TRAINABLE = {
    "linear": "routers.linear:LinearRouter",
}
_CLASSES = {**_TRAINABLE}


class StoredRouter(Router, Protocol):
    """A router that can be kept in an artifact folder.

    Attributes
    ----------
    type : str
        Its key in the registry.
    min_confidence : float
        Calibrated threshold in [0, 1] for `routers.base.decide`.
    """

    type: ClassVar[str]
    min_confidence: float

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the router's files into a folder; return the settings that `load` needs."""
        ...

    @classmethod
    def load(
        cls, folder: Path, name: str, categories: tuple[str, ...], settings: Mapping[str, Any]
    ) -> Self:
        """Read what `write` wrote.

        Raises
        ------
        Exception
            Any, when the files are not what `write` wrote.
        """
        ...


def router_types() -> tuple[str, ...]:
    """Return the names of all types."""
    return tuple(_CLASSES)


def trainable_types() -> tuple[str, ...]:
    """Return the names of the types that learn from labelled prompts."""
    return tuple(_TRAINABLE)


def router_class(type_name: str) -> type[StoredRouter]:
    """Import the class of a router type.

    Raises
    ------
    KeyError
        There is no such type.
    """
    found: type[StoredRouter] = _import(_CLASSES[type_name])
    return found


def trainable_class(type_name: str) -> type[EmbeddingRouter]:
    """Import the class of a router type that learns from labelled prompts.

    Raises
    ------
    KeyError
        There is no such type.
    """
    found: type[EmbeddingRouter] = _import(_TRAINABLE[type_name])
    return found


def _import(path: str) -> Any:  # noqa: ANN401
    module, name = path.split(":")
    return getattr(import_module(module), name)
