"""Read ``experts.yaml``: every fault is reported with its line, what is allowed and the mend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from gateway.errors import ConfigError
from gateway.faults import Location, in_words, short, suggest, yaml_mend
from gateway.schema import (
    ExpertConfig,
    ExpertsFile,
    MappingTable,
    Runtime,
)

AUTO = "auto"
"""The `model` that asks for routing."""
_GUARD_KEYS = ("max_concurrency", "max_queue", "open_after_failures")
_JUDGED_LATER = frozenset(("router", "keywords", "mapping"))
"""Keys whose values a trained router must fit."""
_YAML_FAULTS = (YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError)
"""What ruamel.yaml raises: the last three for ``!!bool x``, ``+_`` and the like."""


def load_experts_file(path: Path) -> ExpertsFile:
    """Read and check an experts file.

    Parameters
    ----------
    path : Path
        A YAML file.

    Raises
    ------
    ConfigError
        Naming every fault of the file: line, key, what is allowed, what came, how to mend it.
    """
    return parse_experts_file(read_experts_text(path), path.name)


def read_experts_text(path: Path) -> str:
    """Return the text of an experts file, not checked.

    Raises
    ------
    ConfigError
        When it is missing or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} not found. Name the file with --config, or start from the experts.yaml "
            "that comes with the gateway"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} must be a text file that can be read; got {got}") from error


def parse_experts_file(text: str, name: str = "experts.yaml") -> ExpertsFile:
    """Check the text of an experts file; see `load_experts_file`.

    Parameters
    ----------
    text : str
        YAML.
    name : str
        What to call the file in errors.
    """
    try:
        tree = YAML(typ="rt").load(text)
        plain = _plain(tree)
    except MarkedYAMLError as error:
        line = f"{name}:{error.problem_mark.line + 1}" if error.problem_mark else name
        problem = error.problem or error.context or ""
        raise ConfigError(f"{line}: not valid YAML: {problem}. {yaml_mend(problem)}") from error
    except _YAML_FAULTS as error:
        raise ConfigError(f"{name}: not valid YAML: {type(error).__name__}: {error}") from error
    if not isinstance(tree, dict):
        got = "nothing" if tree is None else short(plain)
        raise ConfigError(
            f"{name} must be a mapping with the keys version, general, experts and mapping; "
            f"got {got}. Start from the experts.yaml that comes with the gateway"
        )
    try:
        parsed = ExpertsFile.model_validate(plain)
    except ValidationError as error:
        found = [in_words(item) for item in error.errors() if not _is_echo(item)]
    else:
        found = list(_cross_faults(parsed))
    # a fault under a merged key is reported once, at the anchor
    faults = [fault for fault in found if _written(tree, fault[0])] or found[:1]
    if faults:
        raise ConfigError("\n".join(f"{name}:{_line(tree, at)}: {text}" for at, text in faults))
    parsed.lines.update(_lines(tree))
    return parsed


def _is_echo(item: ErrorDetails) -> bool:
    """Whether pydantic calls a list too short only because its items are at fault."""
    return item["type"] == "too_short" and bool(item["input"])


def _written(tree: Any, location: Location) -> bool:  # noqa: ANN401
    """Whether a location stands in the file itself: not under a key merged in from an anchor."""
    node = tree
    for part in location:
        if isinstance(node, CommentedMap):
            if part not in node:
                return not node.merge
            if part not in (node.lc.data or ()):
                return False
        node = node[part]
    return True


def _plain(node: Any) -> Any:  # noqa: ANN401  (a YAML tree holds anything)
    """Return a round-trip YAML tree as plain dicts, lists and scalars, merge keys applied."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return node if type(node) is kind else kind(node)
    return node


def _line(tree: Any, location: Location) -> int:  # noqa: ANN401
    """Return the 1-based line of the deepest part of `location` that a YAML tree holds."""
    line, node = tree.lc.line, tree
    for part in location:
        try:
            places = node.lc
            place = places.item(part) if isinstance(part, int) else places.key(part)
            line, node = place[0], node[part]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return int(line) + 1


def _lines(tree: Any) -> Iterator[tuple[str, int]]:  # noqa: ANN401
    """Yield what `ExpertsFile.lines` holds."""
    for key in _JUDGED_LATER & tree.keys():
        yield key, _line(tree, (key,))
        for inner in tree[key] if isinstance(tree[key], dict) else ():
            yield f"{key}.{inner}", _line(tree, (key, inner))


def _cross_faults(file: ExpertsFile) -> Iterator[tuple[Location, str]]:
    """Yield the faults that only show between keys."""
    names = [expert.name for expert in file.experts]
    for index, expert in enumerate(file.experts):
        if expert.name in names[:index]:
            first = names.index(expert.name)
            yield (
                ("experts", index, "name"),
                f"experts[{index}].name must be unique; {expert.name!r} is also experts[{first}]."
                " Rename one",
            )
        if expert.name == AUTO:
            yield (
                ("experts", index, "name"),
                f"experts[{index}].name must not be {AUTO!r}: that asks for routing. Rename it",
            )
        yield from _backend_faults(index, expert)
    yield from _weights_faults(file.experts)
    yield from _reference_faults(file, names)


def _backend_faults(index: int, expert: ExpertConfig) -> Iterator[tuple[Location, str]]:
    at = ("experts", index)
    if expert.backend == "openai" and expert.base_url is None:
        yield (
            (*at, "base_url"),
            f"experts[{index}].base_url is missing; backend openai needs it. "
            "Write the server's address, e.g. http://localhost:8000/v1",
        )
    if expert.backend == "local" and expert.base_url is not None:
        yield (
            (*at, "base_url"),
            f"experts[{index}].base_url must be left out with backend local: the "
            "gateway runs that process itself. Remove it, or use backend: openai",
        )
    if expert.backend == "litellm" and (
        native := {"messages", "responses"} & {*expert.capabilities}
    ):
        yield (
            (*at, "capabilities"),
            f"experts[{index}].capabilities must not hold {', '.join(sorted(native))} with backend "
            "litellm: such requests are translated. Remove it",
        )
    if expert.backend != "local" and expert.runtime != Runtime():
        yield (*at, "runtime"), f"experts[{index}].runtime is for backend local only. Remove it"
    active_b, total_b = expert.active_params_b, expert.total_params_b
    if active_b is not None and total_b is not None and active_b > total_b:
        yield (
            (*at, "active_params_b"),
            f"experts[{index}].active_params_b must be at most total_params_b ({total_b}); "
            f"got {active_b}",
        )


def _weights_faults(experts: Sequence[ExpertConfig]) -> Iterator[tuple[Location, str]]:
    """Experts over the same weights must agree on what the weights decide."""
    first: dict[str, tuple[int, ExpertConfig]] = {}
    for index, expert in enumerate(experts):
        if expert.weights is None:
            continue
        other_index, other = first.setdefault(expert.weights, (index, expert))
        shared = ["total_params_b"]
        if expert.backend == "local":
            shared += ["backend", "model", "context_window", "runtime", *_GUARD_KEYS]
        for key in shared:
            if getattr(expert, key) != getattr(other, key):
                yield (
                    ("experts", index, key),
                    f"experts[{index}].{key} must equal experts[{other_index}].{key} "
                    f"({getattr(other, key)!r}): both name the weights {expert.weights!r}; "
                    f"got {getattr(expert, key)!r}",
                )


def _reference_faults(file: ExpertsFile, names: list[str]) -> Iterator[tuple[Location, str]]:
    if file.general not in names:
        yield (
            ("general",),
            f"general must name an expert; got {file.general!r}. {suggest(file.general, names)}",
        )
    if file.llm_router is not None and file.llm_router.expert not in names:
        got = file.llm_router.expert
        yield (
            ("llm_router", "expert"),
            f"llm_router.expert must name an expert; got {got!r}. {suggest(got, names)}",
        )
    asked = file.llm_router and file.llm_router.expert
    if asked in {expert.name for expert in file.experts if expert.backend == "litellm"}:
        yield (
            ("llm_router", "expert"),
            f"llm_router.expert must not be one with backend litellm; got {asked!r}. Name another",
        )
    ranks = {} if isinstance(file.mapping, MappingTable) else file.mapping
    for category, ranked in ranks.items():
        for index, name in enumerate(ranked):
            if name not in names:
                yield (
                    ("mapping", category, index),
                    f"mapping.{category}[{index}] must name an expert; got {name!r}. "
                    f"{suggest(name, names)}",
                )
