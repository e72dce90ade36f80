"""The gateway's own commands: ``coe serve`` and ``coe route``."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import click

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
    """Run the gateway.

    Its local experts run with it and, unless REDIS_URL is set, its cache. Every option can also be
    set as COE_<NAME> in the environment.
    """
    from gateway.serve import serve as run
    from gateway.settings import load_settings

    settings = load_settings(config=config, host=host, port=port, workers=workers)
    sys.exit(run(settings, lambda text: click.echo(f"coe: {text}", err=True)))


_readable = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


def _read(path: Path) -> bytes:
    with click.open_file(str(path), "rb") as file:
        read: bytes = file.read()
    return read


@click.command(
    epilog="""\b
Examples:
  coe route "Write a binary search in Python"
  coe route --file prompt.txt --json
  coe route --model auto:small "Is a verbal contract valid?"
  coe route --request request.json"""
)
@click.argument("prompt", required=False)
@click.option(
    "--file",
    "prompt_file",
    type=_readable,
    help="Read the prompt from a file; - is standard input.",
)
@click.option(
    "--request",
    "request_file",
    type=_readable,
    help="Read a chat completion request, as JSON, from a file; - is standard input.",
)
@click.option("--model", help="As in a request: auto:small, an expert. [default: auto]")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def route(
    prompt: str | None,
    prompt_file: Path | None,
    request_file: Path | None,
    model: str | None,
    config: Path,
    as_json: bool,
) -> None:
    """Show where a prompt would go, and why.

    Nothing is generated, and no gateway is needed.
    """
    if [prompt, prompt_file, request_file].count(None) != 2:
        raise click.UsageError("Give a prompt, --file or --request, one of them.")
    from gateway.errors import GatewayError
    from gateway.preview import preview, preview_request, print_preview

    try:
        if request_file is not None:
            shown = asyncio.run(preview_request(config, _read(request_file), model))
        else:
            text = prompt if prompt_file is None else _read(prompt_file).decode(errors="replace")
            shown = asyncio.run(preview(config, text or "", model))
    except GatewayError as error:  # the gateway would answer so, e.g. of a prompt too long
        raise click.UsageError(error.message) from error
    if as_json:
        click.echo(json.dumps(shown, ensure_ascii=False))
    else:
        print_preview(shown)
