"""The commands that make routers; `gateway.cli` mounts them under ``coe``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from routers.artifact import DEFAULT_FOLDER, check_target, read_card, save_router
from routers.card import Card
from routers.data import read_rows
from routers.encoder import ENCODER_FILE, SentenceEncoder
from routers.extras import MissingExtraError
from routers.registry import trainable_types
from routers.train import Progress as ProgressCallback
from routers.train import TrainOptions
from routers.train import train as train_router

_MAX_TOKENS = 256

_TRAIN_EXAMPLES = """
\b
Examples:
  coe train prompts.jsonl --out my-router
  coe train a.jsonl b.jsonl.gz --out my-router --max-rows-per-source 1500
  coe train prompts.jsonl --out my-router --encoder BAAI/bge-small-en-v1.5

Each line of DATA is {"prompt": "...", "category": "..."}; "source" may be added.
"""


@click.command(epilog=_TRAIN_EXAMPLES)
@click.argument(
    "files", metavar="DATA...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Artifact to write.")
@click.option(
    "--type", "type_", default="linear", type=click.Choice(trainable_types()), show_default=True
)
@click.option("--name", default="custom", show_default=True, help="The router's name.")
@click.option("--encoder", help="Folder or Hugging Face name; default: the encoder that ships.")
@click.option("--max-tokens", type=click.IntRange(8, 512), help="Tokens read of one prompt.")
@click.option("--max-rows-per-source", type=click.IntRange(1), help="Cap per source and category.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--json", "as_json", is_flag=True, help="Print the router card as JSON only.")
def train(
    files: tuple[Path, ...],
    out: Path,
    type_: str,
    name: str,
    encoder: str | None,
    max_tokens: int | None,
    max_rows_per_source: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Train a router on labelled prompts and write it as an artifact folder."""
    options = TrainOptions(type_, name, seed, max_rows_per_source=max_rows_per_source)
    try:
        check_target(out)
        rows = read_rows(files)
        with opened_encoder(encoder, max_tokens) as opened, progress_bar() as progress:
            router, report = train_router(rows, opened, options, progress)
            card = save_router(router, out, report)
    except (ValueError, MissingExtraError) as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(card)))
    else:
        _print_report(Console(), out, card)


@contextmanager
def opened_encoder(name: str | None, max_tokens: int | None) -> Iterator[SentenceEncoder]:
    """Open an encoder: None is the one that ships, a folder with ``encoder.onnx`` is used as it is.

    Any other folder or name is exported from sentence-transformers into a scratch folder first.
    """
    if name is None:
        shipped = read_card(DEFAULT_FOLDER).settings["max_tokens"]
        yield SentenceEncoder(DEFAULT_FOLDER, max_tokens or shipped)
    elif (Path(name) / ENCODER_FILE).is_file():
        yield SentenceEncoder(Path(name), max_tokens or _MAX_TOKENS)
    else:
        from routers.export import export_encoder, load_sentence_transformer

        with tempfile.TemporaryDirectory() as scratch:
            export_encoder(load_sentence_transformer(name), Path(scratch))
            yield SentenceEncoder(Path(scratch), max_tokens or _MAX_TOKENS)


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """Show on standard error how many texts are embedded."""
    columns = (TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("embedding", total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield update


def _print_report(console: Console, out: Path, card: Card) -> None:
    scores = card.training["held_out"]
    table = Table(title=f"{card.name}@{card.version} in {out}")
    table.add_column("category")
    table.add_column("rows", justify="right")
    table.add_column("F1 (hold-out)", justify="right")
    for category, f1 in scores["f1"].items():
        rows = card.training["data"]["per_category"][category]
        table.add_row(category, str(rows), f"{f1:.3f}")
    console.print(table)
    console.print(
        f"hold-out: accuracy {scores['accuracy']:.3f}, macro-F1 {scores['macro_f1']:.3f}, "
        f"calibration error {scores['ece']:.3f}; answers at or above {card.min_confidence:.3f} "
        f"are kept: {scores['coverage']:.1%} of prompts, accuracy {scores['covered_accuracy']:.3f}"
    )
