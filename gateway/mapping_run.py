"""From files to a solved mapping, and from it into the registry."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from gateway.config import parse_experts_file, read_experts_text
from gateway.errors import ConfigError
from gateway.experts import ExpertRegistry
from gateway.faults import suggest
from gateway.live.files import replace_text
from gateway.schema import MappingTable
from routers.artifact import load_router
from routers.base import GENERAL, FloatArray
from routers.data import DataError
from routers.estimate import estimate, one_hot
from routers.finer_choice import Routed, learn_finer, route_all, used_experts
from routers.mapmaker import SolvedMap, solve_map
from routers.mapping import PriceOf, ScoredMapping
from routers.progress import Progress
from routers.scores import COST_COLUMNS, Pool, ScoreTable, read_scores, read_sizes
from routers.solve import Limits

_TABLE_FILE = "mapping.json"
_YAML_WIDTH = 100
_ENOUGH_SCORED = 0.75
"""Share of the prompts of which an expert should have a score; `coe eval replay` asks the same."""


@dataclass(frozen=True, slots=True)
class _Problem:
    """What there is to map.

    Attributes
    ----------
    members : ndarray, shape (n_prompts, n_categories)
        How much each prompt belongs to each category: the labels decide where all of them are
        categories of the router, its probabilities otherwise.
    required : tuple of str
        Experts that are kept in any case.
    routed : Routed or None
        What the router says of the prompts; None where finer categories are not asked for.
    """

    table: ScoreTable
    pool: Pool
    categories: tuple[str, ...]
    members: FloatArray
    required: tuple[str, ...] = ()
    routed: Routed | None = None


def run_map(
    files: Sequence[Path],
    prices: Mapping[str, float],
    limits: Limits,
    progress: Progress,
    config: Path,
    sizes: Path | None,
    weights: Path | None,
    price_of: PriceOf,
    plain: bool,
    write: bool,
) -> SolvedMap:
    """Read scores and sizes and solve; see ``coe map``.

    Raises
    ------
    ValueError, ConfigError
        A file or an option is wrong; the message says which.
    """
    table = read_scores(files)
    registered: Sequence[str] = ()
    if sizes is not None:
        if write:
            raise ValueError("--write needs --config, not --sizes: it changes the registry")
        problem = _of_sizes(table, sizes, price_of)
    else:
        registry = ExpertRegistry.load(config)
        registered = tuple(registry)
        problem = _of_registry(table, registry, price_of, plain, progress)
    if problem.members.sum() == 0:
        raise DataError("no prompt of the score table has a category. Add them, or use --config")
    found = estimate(problem.table.scores, problem.members, problem.categories, problem.pool.names)
    share, gone = (found.share, ()) if weights is None else _share(weights, problem.categories)

    def solve_keeping(required: Collection[str]) -> SolvedMap:
        return solve_map(found, share, problem.pool, prices, limits, required, price_of)

    solved = solve_keeping(problem.required)
    if problem.routed is not None:
        solved = _refined(problem, problem.routed, solved, limits, solve_keeping, progress)
    if write:
        write_mapping(registry, solved.mapping)
    told = (
        *_places(problem.required, limits.n_experts),
        *_misnamed(table.categories, problem.categories),
        *_seldom_scored(problem.table),
        *_left_out(table, problem.pool, registered, price_of),
    )
    return replace(solved, warnings=(*solved.warnings, *told, *gone))


def _places(required: Sequence[str], n_experts: int | None) -> Sequence[str]:
    """Tell of the experts that are kept whatever they score, where places are few."""
    if n_experts is None:
        return ()
    return [
        f"--n-experts {n_experts} counts {name}, which is always kept: it is the general expert"
        for name in required
    ]


def _misnamed(labels: Sequence[str | None], categories: Sequence[str]) -> Sequence[str]:
    """Name what makes the router sort a table most of whose categories are its own."""
    strange = Counter(label for label in labels if label not in categories)
    if 2 * strange.total() >= len(labels):
        return ()
    return [
        f"the router sorts all prompts anew: {count} of {len(labels)} came with the category "
        f"{json.dumps(label)}, which it does not have. {suggest(label or '', categories)}"
        for label, count in strange.items()
    ]


def _seldom_scored(table: ScoreTable) -> Sequence[str]:
    """Name the experts that miss many of the scores."""
    n_scored = (~np.isnan(table.scores)).sum(axis=0).tolist()
    few = [
        f"{name} ({count} of {len(table)})"
        for name, count in zip(table.experts, n_scored, strict=True)
        if count < _ENOUGH_SCORED * len(table)
    ]
    return [f"compared on fewer prompts than there are: {', '.join(few)}"] if few else ()


def _left_out(
    table: ScoreTable, pool: Pool, registered: Sequence[str], price_of: PriceOf
) -> Sequence[str]:
    """Name the experts that the mapping does not know, so that they get no traffic."""
    paid = "" if price_of == "params" else f" or no {COST_COLUMNS[price_of]}"
    reasons = {
        f"no sizes{paid}": [name for name in table.experts if name not in pool.names],
        "no scores": [name for name in registered if name not in table.experts],
    }
    return [f"left out, {why}: {', '.join(names)}" for why, names in reasons.items() if names]


def _of_sizes(table: ScoreTable, sizes: Path, price_of: PriceOf) -> _Problem:
    scored, pool = _scored(table, read_sizes(sizes, price_of), str(sizes), price_of)
    categories = tuple(sorted({name for name in table.categories if name is not None}))
    return _Problem(scored, pool, categories, one_hot(scored.categories, categories))


def _of_registry(
    table: ScoreTable, registry: ExpertRegistry, price_of: PriceOf, plain: bool, progress: Progress
) -> _Problem:
    required = (registry.general.name,)
    pool = _pool_of(registry, COST_COLUMNS[price_of])
    scored, pool = _scored(table, pool, registry.path.name, price_of, required)
    router = load_router(registry.router_path)
    categories = router.categories_
    members = one_hot(scored.categories, categories)
    named = all(label in categories for label in scored.categories)
    if plain and named:
        return _Problem(scored, pool, categories, members, required)
    routed = route_all(router, scored.prompts, progress)
    members = members if named else routed.probabilities
    if plain:
        return _Problem(scored, pool, categories, members, required)
    return _Problem(scored, pool, categories, members, required, routed)


def _refined(
    problem: _Problem,
    routed: Routed,
    solved: SolvedMap,
    limits: Limits,
    solve_keeping: Callable[[Collection[str]], SolvedMap],
    progress: Progress,
) -> SolvedMap:
    """Give a mapping finer categories where they pay.

    Within limits they choose among the experts that the plain table keeps; without any, an expert
    may be kept for them alone.
    """
    prices = solved.mapping.prices
    unlimited = limits == Limits()
    pool = problem.pool if unlimited else problem.pool.only(solved.mapping.experts)
    finer, note = learn_finer(
        problem.table, problem.members, pool, prices, routed, progress, limits.active_params_b
    )
    if finer is not None:
        if unlimited:
            used = used_experts(finer, routed, pool, prices.values())
            solved = solve_keeping({*problem.required, *used})
        columns = [pool.names.index(name) for name in solved.mapping.experts]
        mapping = replace(solved.mapping, finer=finer.only(columns))
        solved = replace(solved, mapping=mapping)
    return replace(solved, warnings=(*solved.warnings, note))


def _pool_of(registry: ExpertRegistry, cost: str) -> Pool:
    """Return the experts whose sizes, and the key that prices are for, are known."""
    return Pool.of(
        {
            expert.name: (
                expert.total_params_b,
                expert.active_params_b,
                expert.weights,
                getattr(expert, cost),
            )
            for expert in registry.values()
            if expert.total_params_b is not None
            and expert.active_params_b is not None
            and getattr(expert, cost) is not None
        }
    )


def _paid(price_of: PriceOf) -> str:
    """Return what an expert must tell beside its sizes, for a sentence."""
    return "" if price_of == "params" else f" and {COST_COLUMNS[price_of]}"


def _scored(
    table: ScoreTable,
    pool: Pool,
    source: str,
    price_of: PriceOf,
    required: Sequence[str] = (),
) -> tuple[ScoreTable, Pool]:
    """Return table and pool of the experts that have both scores and sizes."""
    for name in required:
        if name not in table.experts:
            raise DataError(
                f"the general expert {name!r} is always kept, so it must have scores; it has none. "
                "Score it with coe eval score, or make another one general"
            )
        if name not in pool.names:
            raise DataError(
                f"the general expert {name!r} is always kept, so its sizes{_paid(price_of)} must "
                f"be in {source}; they are not. Add them, or make another one general"
            )
    names = [name for name in pool.names if name in table.experts]
    if not names:
        raise DataError(
            f"no expert has both scores and sizes: scores of {', '.join(table.experts)}; sizes in "
            f"{source} of {', '.join(pool.names) or 'none'}. Call them alike"
        )
    return table.of_experts(names), pool.only(names)


def _share(path: Path, categories: Sequence[str]) -> tuple[FloatArray, Sequence[str]]:
    """Read how much each category weighs, by hand or as counted; one left out weighs nothing.

    Also says what was counted of categories that there are not: those of a router before this one,
    and `GENERAL` for prompts of which a router that has no such category was unsure.
    """
    gone: Sequence[str] = ()
    try:
        weights = json.loads(path.read_text(encoding="utf-8"))
        is_counted = "by_category" in weights
        if is_counted:
            weights = {name: one["requests"] for name, one in weights["by_category"].items()}
        unknown = [name for name in weights if name not in categories]
        if unknown and is_counted and len(unknown) < len(weights):
            unsure = {GENERAL: ", the router was unsure"}
            told = ", ".join(f"{name} ({weights[name]}{unsure.get(name, '')})" for name in unknown)
            gone = [f"left out of {path.name}, requests of categories that there are not: {told}"]
        elif unknown:
            raise ValueError(f"unknown categories {', '.join(unknown)}")
        share = np.array([float(weights.get(name, 0.0)) for name in categories])
        if not (np.isfinite(share).all() and (share >= 0).all() and share.sum() > 0):
            raise ValueError("weights must be 0 or more, and not all 0")
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise DataError(
            f"{path} must be JSON {{category: number}} over {', '.join(categories)}, or what "
            f"/admin/stats returned; got {error}"
        ) from error
    return np.asarray(share / share.sum()), gone


def write_mapping(registry: ExpertRegistry, mapping: ScoredMapping) -> None:
    """Put a mapping into a registry's file and a table beside it; comments stay.

    Raises
    ------
    ConfigError
        The changed registry would not be valid, or cannot be written, or its experts were edited
        since it was read; nothing is changed then.
    """
    path = registry.path
    before = read_experts_text(path)
    file = parse_experts_file(before, path.name)
    if (file.experts, file.general) != (registry.file.experts, registry.file.general):
        raise ConfigError(f"{path}: its experts were edited in between. Make the map again")
    written = file.mapping
    name = written.table if isinstance(written, MappingTable) else _TABLE_FILE
    entry = {"mapping": {"table": name, "presets": dict(mapping.prices)}}
    text = _with_entry(before, entry)
    parse_experts_file(text, path.name)
    try:
        mapping.save(path.parent / name)
        replace_text(path, text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error


def _with_entry(text: str, entry: Mapping[str, Any]) -> str:
    """Return a registry's text with another mapping; every other line stays as it is.

    A mapping written by hand stays as a comment.
    """
    tree = YAML(typ="rt").load(text)
    if tree.fa.flow_style():  # JSON: no lines of its own, and no comments
        tree["mapping"] = entry["mapping"]
        return _dumped(tree)
    lines = text.splitlines()
    start = tree.lc.key("mapping")[0]
    starts = [tree.lc.key(key)[0] for key in tree]
    end = min((line for line in starts if line > start), default=len(lines))
    while lines[end - 1].lstrip().startswith("#") or not lines[end - 1].strip():
        end -= 1  # what stands before the next key belongs to it
    old = lines[start:end]
    if "table" in tree["mapping"]:
        kept = [line for line in old if line.lstrip().startswith("#")]
    else:
        kept = ["# Before coe map wrote it:", *(f"# {line}".rstrip() for line in old)]
    new = _dumped(entry).splitlines()
    return "\n".join([*lines[:start], *kept, *new, *lines[end:]]) + "\n"


def _dumped(tree: Mapping[str, Any]) -> str:
    text = StringIO()
    yaml = YAML(typ="rt")
    yaml.width = _YAML_WIDTH
    yaml.dump(tree, text)
    return text.getvalue()
