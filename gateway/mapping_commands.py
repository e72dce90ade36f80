"""``coe map``: which experts to keep and which category goes to which."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from routers.cli import progress_bars, wrong_use
from routers.mapmaker import SolvedMap, Worth
from routers.mapping import DEFAULT_PRESET
from routers.scores import COST_COLUMNS
from routers.solve import Limits

_EXAMPLES = """
\b
Examples:
  coe map scores.jsonl --price 0.002
  coe map scores.jsonl --total-params-b 80 --preset small=0.01 --preset best=0 --write
  coe map scores.jsonl --price-of money --price 0.05 --write
  coe map scores.jsonl --sizes models.csv --total-params-b 20 --json

Each line of SCORES is {"id": "...", "prompt": "...", "category": "...", "scores": {expert: 0 to
1}}.
"""
_PATH = click.Path(path_type=Path)


@click.command(name="map", epilog=_EXAMPLES)
@click.argument("files", metavar="SCORES...", nargs=-1, required=True, type=_PATH)
@click.option(
    "--config",
    type=_PATH,
    envvar="COE_CONFIG",
    default="experts.yaml",
    show_default=True,
    help="The expert registry: sizes, and the router whose categories are mapped.",
)
@click.option("--sizes", type=_PATH, help="Map the categories of SCORES over this CSV's models.")
@click.option(
    "--price-of",
    type=click.Choice(list(COST_COLUMNS)),
    default="params",
    show_default=True,
    help="What is paid for: active_params_b, latency_s or usd_per_million_tokens of the experts.",
)
@click.option("--total-params-b", type=click.FloatRange(0, min_open=True), help="Budget, resident.")
@click.option("--active-params-b", type=click.FloatRange(0, min_open=True), help="Cap, on average.")
@click.option(
    "--n-experts", type=click.IntRange(1), help="Most experts kept; the general one always is."
)
@click.option(
    "--price",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Of `model: auto`, in score (0 to 1) per 10^9, second, or dollar.",
)
@click.option("--preset", "presets", multiple=True, help="NAME=PRICE, for `model: auto:NAME`.")
@click.option("--weights", type=_PATH, help="JSON {category: number}, or /admin/stats: traffic.")
@click.option("--plain", is_flag=True, help="Keep to the table: no finer categories.")
@click.option("--write", is_flag=True, help="Put the mapping into the registry, keeping comments.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def map_command(
    files: tuple[Path, ...],
    total_params_b: float | None,
    active_params_b: float | None,
    n_experts: int | None,
    price: float,
    presets: tuple[str, ...],
    as_json: bool,
    **sources: Any,  # noqa: ANN401 (options, passed on)
) -> None:
    """Choose experts by their scores under a budget, exactly.

    Maximises expected score minus price x active parameters, averaged over the categories; the
    kept experts of all presets share one budget of resident parameters. A preset that would take
    more than --active-params-b gets a higher price, and that is told. With --config, finer
    categories are learned from the prompts, and kept where they gain more than a standard error on
    held-out prompts.
    """
    from gateway.mapping_run import run_map

    limits = Limits(total_params_b, active_params_b, n_experts)
    with wrong_use(), progress_bars() as progress:
        prices = _prices(price, presets)
        solved = run_map(files, prices, limits, progress, **sources)
    if as_json:
        click.echo(json.dumps(_shown(solved)))
    else:
        _print(solved)


def _prices(price: float, presets: tuple[str, ...]) -> dict[str, float]:
    from gateway.schema import NAME_PATTERN

    prices = {DEFAULT_PRESET: price}
    for preset in presets:
        name, _, number = preset.partition("=")
        try:
            prices[name] = float(number)
        except ValueError:
            prices[name] = -1.0
        if not name or not 0 <= prices[name] < float("inf"):
            raise ValueError(f"--preset must be NAME=PRICE, a price of 0 or more; got {preset!r}")
        if not re.fullmatch(NAME_PATTERN, name):
            raise ValueError(
                "--preset: clients name it in model='auto:NAME', so NAME must be up to 64 of "
                f"A-Z a-z 0-9 . _ -, the first a letter or digit; got {name!r}"
            )
    return prices


def _shown(solved: SolvedMap) -> dict[str, Any]:
    return {
        "objective": solved.objective,
        "kept": solved.mapping.experts,
        "resident_params_b": round(solved.resident_params_b, 6),
        "price_of": solved.mapping.price_of,
        "finer": solved.mapping.finer is not None,
        "presets": {preset: solved.mapping.plain(preset) for preset in solved.mapping.presets},
        "expected": {preset: asdict(worth) for preset, worth in solved.worth.items()},
        "warnings": solved.warnings,
    }


def _print(solved: SolvedMap) -> None:
    console = Console(markup=False, emoji=False)
    table = Table(box=None)
    for heading in ("category", *solved.mapping.presets):
        table.add_column(heading, overflow="fold")
    plain = {preset: solved.mapping.plain(preset) for preset in solved.mapping.presets}
    for category in solved.mapping.categories:
        table.add_row(category, *(ranked[category][0] for ranked in plain.values()))
    console.print(table)
    console.print("The table alone, on the prompts that it is made of, if the router never errs:")
    for preset, worth in solved.worth.items():
        low, high = worth.score_ci95
        console.print(
            f"{preset}: score {worth.score:.4f} ({low:.4f} to {high:.4f}) at "
            f"{worth.active_params_b:.2f} B active{_cost(solved, worth)}"
        )
    kept = ", ".join(solved.mapping.experts)
    console.print(f"kept: {kept}; {solved.resident_params_b:g} B resident")
    for warning in solved.warnings:
        console.print(f"note: {warning}")


def _cost(solved: SolvedMap, worth: Worth) -> str:
    shown = {"latency": f", {worth.cost:.2f} s", "money": f", {worth.cost:.3f} USD for 10^6 tokens"}
    return shown.get(solved.mapping.price_of, "")
