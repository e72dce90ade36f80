"""The gateway's own commands: ``coe serve``, ``coe route``, ``coe experts``."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from gateway.settings import load_settings

FALLS_SHORT = 1

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="COE_CONFIG",
    default="experts.yaml",
    show_default=True,
    help="The expert registry.",
)


@click.command(
    epilog="""\b
Examples:
  coe serve
  coe serve --config my-experts.yaml --port 9000 --workers 2
  REDIS_URL=redis://localhost:6379/0 coe serve"""
)
@config_option
@click.option("--host", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port; 0 picks a free one. [default: 8080]")
@click.option("--workers", type=int, help="HTTP worker processes. [default: 1]")
def serve(config: Path, host: str | None, port: int | None, workers: int | None) -> None:
    """Run the gateway, its local experts and, unless REDIS_URL is set, its cache.

    Every option can also be set as COE_<NAME> in the environment.
    """
    from gateway.serve import serve as run

    settings = load_settings(config=config, host=host, port=port, workers=workers)
    sys.exit(run(settings, lambda text: click.echo(f"coe: {text}", err=True)))


@click.command(
    epilog="""\b
Examples:
  coe route "Write a binary search in Python"
  coe route --file prompt.txt --json"""
)
@click.argument("prompt", required=False)
@click.option(
    "--file",
    "prompt_file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="Read the prompt from a file; - is standard input.",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def route(prompt: str | None, prompt_file: Path | None, config: Path, as_json: bool) -> None:
    """Show where a prompt would go and why; nothing is generated, no gateway is needed."""
    if (prompt is None) == (prompt_file is None):
        raise click.UsageError("Give a prompt or --file, one of them.")
    if prompt_file is not None:
        with click.open_file(str(prompt_file), encoding="utf-8", errors="replace") as file:
            prompt = file.read()
    from gateway.preview import preview, print_preview

    shown = asyncio.run(preview(config, prompt or ""))
    if as_json:
        click.echo(json.dumps(shown, ensure_ascii=False))
    else:
        print_preview(shown)


@click.group()
def experts() -> None:
    """Look at the experts of a registry."""


@experts.command(
    "list",
    epilog="""\b
Examples:
  coe experts list
  coe experts list --config my-experts.yaml --json""",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_experts(config: Path, as_json: bool) -> None:
    """Show the experts, their sizes, and the categories that go to them."""
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check_experts(config: Path, as_json: bool) -> None:
    """Call every expert for real, whole and streamed; local ones are started for it.

    Exit code 1 when an expert fails.
    """
    from gateway.inspection import check_registry, print_checks

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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect_expert(source: str, as_json: bool) -> None:
    """Derive a model's total and active parameters from its config.json or GGUF header."""
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
