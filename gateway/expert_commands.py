"""``coe experts``: look at the experts of a registry, try them, edit them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gateway.commands import config_option

FALLS_SHORT = 1
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Show the change, write nothing.")


@click.group()
def experts() -> None:
    """Look at the experts of a registry, try them, and edit them."""


@experts.command(
    "list",
    epilog="""\b
Examples:
  coe experts list
  coe experts list --config my-experts.yaml --json""",
)
@config_option
@json_option
def list_experts(config: Path, as_json: bool) -> None:
    """Show the experts, their sizes and their categories."""
    from gateway.inspection import list_registry, print_registry

    shown = list_registry(config)
    if as_json:
        click.echo(json.dumps(shown, ensure_ascii=False))
    else:
        print_registry(shown)


@experts.command(
    "check",
    epilog="""\b
Examples:
  coe experts check
  coe experts check --json | jq '.experts[] | select(.ok | not)'""",
)
@config_option
@json_option
def check_experts(config: Path, as_json: bool) -> None:
    """Call every expert for real.

    Each is asked for a token, a stream and a tool call; local ones are started for it. Exit
    code 1 when an expert fails, or claims a longer context than its server has.
    """
    from gateway.checking import check_registry, print_checks

    shown = asyncio.run(check_registry(config))
    if as_json:
        click.echo(json.dumps(shown, ensure_ascii=False))
    else:
        print_checks(shown)
    if not shown["ok"]:
        sys.exit(FALLS_SHORT)


@experts.command(
    "inspect",
    epilog="""\b
Examples:
  coe experts inspect models/mixtral/config.json
  coe experts inspect model.gguf
  coe experts inspect Qwen/Qwen3-30B-A3B --json""",
)
@click.argument("source", metavar="PATH|REPO")
@json_option
def inspect_expert(source: str, as_json: bool) -> None:
    """Derive the sizes of a model.

    Its total and active parameters are read from its config.json or its GGUF header.
    """
    from gateway.sizes import SizeError, inspect_model

    try:
        size = inspect_model(source)
    except SizeError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        click.echo(json.dumps(asdict(size)))
    else:
        click.echo(f"architecture: {size.architecture}")
        click.echo(f"total_params_b: {size.total_params_b:.4g}")
        click.echo(f"active_params_b: {size.active_params_b:.4g}")


@experts.command(
    "add",
    epilog="""\b
Examples:
  coe experts add math http://vllm-math:8000/v1 --category math
  coe experts add small http://localhost:11434/v1 --model llama3.2:3b
  coe experts add local models/qwen2.5-1.5b-q4.gguf --dry-run""",
)
@click.argument("name")
@click.argument("source", metavar="URL|GGUF")
@config_option
@click.option("--model", help="Which one, where the server has several.")
@click.option("--adapters/--no-adapters", default=True, help="Add the model's adapters too.")
@click.option("--api-key-env", help="Name of the environment variable with the server's key.")
@click.option("--description", help="What it is good at, in a few words.")
@click.option("--category", "categories", multiple=True, help="Put it first in this category.")
@click.option("--force", is_flag=True, help="Add --model although its server does not answer.")
@dry_run_option
@json_option
def add_expert(name: str, source: str, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Add an expert, filled in with what its server tells.

    The server is asked for its models, their context, capabilities and size. Adapters of vLLM
    become experts NAME-ADAPTER that share the weights. What is not known is null, with a note.
    """
    from gateway.registry_edits import add

    _told(lambda: add(name, source, **options), as_json)


@experts.command(
    "set",
    epilog="""\b
Examples:
  coe experts set math context_window=8192 capabilities=[tools,json_schema]
  coe experts set math "description=mathematics and proofs" --dry-run""",
)
@click.argument("name")
@click.argument("assignments", metavar="KEY=VALUE...", nargs=-1, required=True)
@config_option
@click.option("--force", is_flag=True, help="Even if no expert answers then.")
@dry_run_option
@json_option
def set_expert(name: str, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Set keys of an expert; values are written as in the file. Comments stay.

    Experts of which none answers are written when forced; a gateway that runs with others takes
    them once one answers, or at its next start.
    """
    from gateway.registry_edits import assign

    _told(lambda: assign(name, **options), as_json)


@experts.command(
    "remove",
    epilog="""\b
Examples:
  coe experts remove math
  coe experts remove math --force""",
)
@click.argument("name")
@config_option
@click.option("--force", is_flag=True, help="Even if `general` or the mapping name it.")
@dry_run_option
@json_option
def remove_expert(name: str, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Remove an expert; forced, it is taken out of the mapping too."""
    from gateway.registry_edits import remove

    _told(lambda: remove(name, **options), as_json)


def _told(edit: Callable[[], dict[str, Any]], as_json: bool) -> None:
    shown = edit()
    if as_json:
        click.echo(json.dumps(shown, ensure_ascii=False))
        return
    for line in shown["diff"]:
        click.echo(line)
    for note in shown["notes"]:
        click.echo(f"note: {note}")
    click.echo("written" if shown["written"] else "not written")
