"""Rebuilds the router that ships, with its data card.

Example::

    python -m routers.build_default DATA_FOLDER --out routers/default

``DATA_FOLDER`` holds ``train.jsonl.gz``, one JSON object a line with ``id``, ``source``,
``prompt``, ``category`` (or null), ``licence`` and ``licence_ok``.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from routers.artifact import check_target, save_router
from routers.cli import progress_bars
from routers.data import Row, normalised
from routers.export import BASE_ENCODER
from routers.train import TrainOptions, train
from routers.untrained import Plan, untrained_router

_PLAN = Plan(
    "linear", "default", encoder=BASE_ENCODER, max_tokens=64, foreign_category="multilingual"
)
_OPTIONS = TrainOptions(max_rows_per_source=1_200)


class RawRow(msgspec.Struct, frozen=True):
    """One row of the raw data; other fields are ignored."""

    source: str
    prompt: str
    category: str | None
    licence: str = ""
    licence_ok: bool = False


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Artifact to write.")
def main(folder: Path, out: Path) -> None:
    """Train the default router on the rows whose licence permits redistribution."""
    check_target(out)
    raw = _read(folder / "train.jsonl.gz")
    tested = {normalised(row.prompt) for path in folder.glob("test_*") for row in _read(path)}
    allowed = [
        Row(row.prompt, row.category, row.source, row.licence)
        for row in raw
        if row.licence_ok and row.category
    ]
    rows = [row for row in allowed if normalised(row.prompt) not in tested]
    with tempfile.TemporaryDirectory() as scratch, progress_bars() as progress:
        router = untrained_router(_PLAN, _OPTIONS.seed, Path(scratch))
        training = train(router, rows, [], _OPTIONS, progress)
        training["notes"] = [
            f"The encoder is {BASE_ENCODER}, quantised to int8.",
            f"{len(allowed) - len(rows)} rows that also stand in a test set were removed.",
        ]
        save_router(router, out, training)


def _read(path: Path) -> Sequence[RawRow]:
    decoder = msgspec.json.Decoder(RawRow)
    with gzip.open(path, "rb") as file:
        return [decoder.decode(line) for line in file]


if __name__ == "__main__":
    main()
