"""``coe eval failover`` and ``coe eval soak``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from eval.failover.client import Target
from eval.failover.processes import FailoverError
from eval.failover.report import SOAK_START, START, markdown, soak_markdown, table_of
from eval.failover.run import chosen, play
from eval.failover.soak import falls_short, soak
from eval.failover.systems import SYSTEMS
from eval.notes import check_note, write_table
from routers.cli import progress_bars, wrong_use

FIXED_PORTS = (18_101, 18_102)
_PATH = click.Path(path_type=Path)
_PORT = click.IntRange(0, 65_535)

_EXAMPLES = """
\b
Examples:
  coe eval failover                                      this gateway, started for the purpose
  coe eval failover --only cut_stream,all_down --json
  coe eval failover --url http://127.0.0.1:4000/v1 --model faulty --key-env GATEWAY_KEY
  coe eval failover --system coe --system litellm --system portkey

The gateway at URL must send the model (default: faulty) to http://127.0.0.1:18101/v1, and fall back
to http://127.0.0.1:18102/v1, with limits of about 2 s for silence. The command runs these two
upstreams itself and makes them fail. Exit code 1: not everything passes.
"""


@click.command(name="failover", epilog=_EXAMPLES)
@click.option("--system", "systems", multiple=True, type=click.Choice(SYSTEMS), help="Start it.")
@click.option("--url", "urls", multiple=True, help="A gateway that runs, up to and with /v1.")
@click.option("--model", default="faulty", show_default=True, help="What it is asked for.")
@click.option("--key-env", help="Environment variable that holds its key.")
@click.option("--header", "headers", multiple=True, help="'Name: value', sent to it.")
@click.option("--ports", nargs=2, type=_PORT, help="Of the two upstreams. [default: 18101 18102]")
@click.option("--only", help="Scenarios to play, separated by commas. [default: all]")
@click.option("--rivals", type=_PATH, default=".venv-rivals", show_default=True)
@click.option("--write", "note", type=_PATH, help="Note whose marked table is replaced.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def failover(
    systems: tuple[str, ...],
    urls: tuple[str, ...],
    model: str,
    key_env: str | None,
    headers: tuple[str, ...],
    note: Path | None,
    as_json: bool,
    **how: Any,  # noqa: ANN401
) -> None:
    """Play faults of upstreams against gateways.

    What their clients get is graded.
    """
    with wrong_use():
        if note is not None:
            check_note(note, START)
        sent = {**dict(_headers(headers)), **_key(key_env)}
        targets = [Target(url, url.rstrip("/"), model, sent) for url in urls]
        found = _play_all([*systems, *targets] or ["coe"], **how)
    if as_json:
        click.echo(json.dumps(found[0] if len(found) == 1 else {"systems": found}))
    else:
        for one in found:
            Console().print(table_of(one))
    if note is not None:
        with wrong_use():
            write_table(note, START, markdown(found))
    if any(one["passed"] < one["total"] for one in found):
        sys.exit(1)


def _play_all(
    where: list[Target | str], ports: tuple[int, int] | None, only: str | None, rivals: Path
) -> list[dict[str, Any]]:
    scenarios = chosen(only)
    found = []
    with progress_bars() as progress:
        for one in where:
            free = (0, 0) if isinstance(one, str) else FIXED_PORTS
            how = scenarios, ports or free, rivals.absolute(), progress
            found.append(asyncio.run(play(one, *how)))
    return found


def _headers(lines: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise FailoverError(f"--header must be 'Name: value'; got {line!r}")
        yield name.strip(), value.strip()


def _key(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise FailoverError(f"--key-env: the variable {variable} must be set; it is not. Set it")
    return {"authorization": f"Bearer {key}"}


_SOAK_EXAMPLES = """
\b
Examples:
  coe eval soak
  coe eval soak --minutes 2 --json

Needs Linux. Exit code 1: an answer was lost or mixed up, memory grew, or descriptors leaked.
"""


@click.command(name="soak", epilog=_SOAK_EXAMPLES)
@click.option("--minutes", type=click.FloatRange(0.1), default=30.0, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--most-growth",
    type=click.FloatRange(0),
    default=0.05,
    show_default=True,
    help="Of a worker's memory after the warm-up, as a share.",
)
@click.option("--write", "note", type=_PATH, help="Note whose marked table is replaced.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def soak_command(
    minutes: float, workers: int, most_growth: float, note: Path | None, as_json: bool
) -> None:
    """Load this gateway for long, and see what wears out.

    At 80% of its capacity, while its upstreams fail.
    """
    with wrong_use(), progress_bars() as progress:
        if note is not None:
            check_note(note, SOAK_START)
        found = asyncio.run(soak(minutes, workers, progress))
    short = falls_short(found, most_growth)
    if as_json:
        click.echo(json.dumps({**found, "falls_short": short}))
    else:
        click.echo(soak_markdown(found))
        click.echo("\n".join([*short, *found["examples"]]) or "all as it should be")
    if note is not None:
        with wrong_use():
            write_table(note, SOAK_START, soak_markdown(found))
    if short:
        sys.exit(1)
