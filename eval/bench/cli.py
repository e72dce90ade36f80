"""The command ``coe eval bench``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from routers.cli import wrong_use

_PATH = click.Path(path_type=Path)

_BENCH_EXAMPLES = """
\b
Examples:
  coe eval bench --quick
  coe eval bench --rivals .venv-bench --out eval/bench
  coe eval bench --case stream-20@128 --seconds 5
  coe eval bench --quick --only relay,coe --json

Needs Linux, nginx and wrk. `make bench-rivals` installs the rivals into .venv-bench.
"""


@click.command(name="bench", epilog=_BENCH_EXAMPLES)
@click.option("--quick", is_flag=True, help="Fewer cases: those that the documentation shows.")
@click.option("--case", "labels", multiple=True, help="These cases, such as same-20@32.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--seconds",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="A run; at least one for each hundred clients.",
)
@click.option("--cores", "n_cores", type=click.IntRange(1), default=2, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--rivals", "rivals_folder", type=_PATH, help="Where the rivals are installed.")
@click.option("--only", default="", help="Groups of systems, separated by commas. [default: all]")
@click.option("--out", type=_PATH, help="Folder for bench.json, bench.png and README.md.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench_command(as_json: bool, only: str, out: Path | None, **asked: Any) -> None:  # noqa: ANN401
    """Measure what the gateway adds to a request.

    In one run beside a direct call, a bare relay and its rivals.
    """
    from eval.bench.command import run_bench, write
    from eval.bench.report import markdown

    wanted = [word for word in only.split(",") if word]
    with wrong_use():
        report = partial(click.echo, err=True)
        found = run_bench(wanted=wanted, out=out, report=report, **asked)
    click.echo(json.dumps(found) if as_json else markdown(found))
    if out is not None:
        with wrong_use():
            write(found, out)
