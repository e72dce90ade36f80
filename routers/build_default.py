"""Rebuilds the router that ships, with its data card.

Examples::

    python -m routers.build_default DATA_FOLDER --out routers/default
    python -m routers.build_default DATA_FOLDER --out routers/default --encoder routers/default
    python -m routers.build_default DATA_FOLDER --out knn --type knn
    python -m routers.build_default DATA_FOLDER --out modem --leave-out mmlu

``DATA_FOLDER`` holds ``train.jsonl.gz``, one JSON object a line with ``source``, ``prompt``,
``category`` (or null), ``licence`` and ``licence_ok``; and, so that their prompts are left out,
test sets named ``test_*.jsonl.gz``. Needs the ``finetune`` extra.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from routers.artifact import check_target, save_router
from routers.cli import progress_bars
from routers.data import normalised
from routers.default_data.rows import FOREIGN_CATEGORY, default_rows, read_raw, unseen_rows
from routers.default_data.written import asked_rows, written_rows
from routers.export import BASE_ENCODER
from routers.train import TrainOptions, train
from routers.untrained import TYPES, Plan, untrained_router

_TYPE = "cascade"
_TUNES = ("finetuned", "cascade")
"""Types that fine-tune an encoder that they are not given."""
_MAX_TOKENS = 88
_OPTIONS = TrainOptions(held_out=1 / 16)
_OUT_OF_SCOPE_SOURCE = "clinc_oos_train"
_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=_PATH, help="Artifact to write.")
@click.option("--type", type=click.Choice(TYPES), default=_TYPE, show_default=True)
@click.option("--encoder", help="Keep the encoder of this artifact; learn the rest anew.")
@click.option("--rows-per-category", type=int, help="Learn from at most so many of each.")
@click.option("--leave-out", "left_out", multiple=True, help="A source not to learn from.")
def main(
    folder: Path,
    out: Path,
    type: str,
    encoder: str | None,
    rows_per_category: int | None,
    left_out: tuple[str, ...],
) -> None:
    """Train the default router on the rows whose licence permits redistribution."""
    check_target(out)
    options = replace(_OPTIONS, max_rows_per_category=rows_per_category)
    raw = read_raw(folder / "train.jsonl.gz")
    tests = [row.prompt for path in folder.glob("test_*.jsonl.gz") for row in read_raw(path)]
    tested = {normalised(prompt) for prompt in tests}
    learned = [row for row in raw if row.source != _OUT_OF_SCOPE_SOURCE]
    out_of_scope = [row.prompt for row in raw if row.source == _OUT_OF_SCOPE_SOURCE]
    found, n_leaks = default_rows(learned, tested, _OPTIONS.seed)
    written = [
        row
        for row in (*written_rows(_OPTIONS.seed), *asked_rows())
        if normalised(row.prompt) not in tested
    ]
    rows = [row for row in (*found, *written) if row.source not in left_out]
    unseen = unseen_rows(raw, _OPTIONS.seed)
    plan = Plan(type, out.name, encoder or BASE_ENCODER, _MAX_TOKENS, FOREIGN_CATEGORY)
    with tempfile.TemporaryDirectory() as scratch, progress_bars() as progress:
        router = untrained_router(plan, _OPTIONS.seed, Path(scratch))
        training = train(router, rows, out_of_scope, options, progress, unseen)
        command = _command(out, type, encoder, rows_per_category, left_out)
        training["notes"] = [
            f"Its encoder comes from {BASE_ENCODER} (Apache-2.0), {_made(type, encoder)}, and is "
            f"quantised to int8.",
            f"{len(unseen)} rows whose licence forbids to ship what learned from them were only "
            f"calibrated on.",
            "A language model wrote the prompts that were written for this project.",
            f"{n_leaks} rows that also stand in a test set were removed before.",
            f"Rebuilt by: {command}",
        ]
        save_router(router, out, training)


def _made(type: str, encoder: str | None) -> str:
    """Say what was done to the encoder."""
    if encoder:
        return f"is used as `{encoder}` had it"
    return "was fine-tuned on the rows below" if type in _TUNES else "is used as it is"


def _command(
    out: Path,
    type: str,
    encoder: str | None,
    rows_per_category: int | None,
    left_out: Sequence[str],
) -> str:
    """Return the command line with these options; those that are as by default are left out."""
    given = {
        "--out": [str(out)],
        "--type": [] if type == _TYPE else [type],
        "--encoder": [encoder] if encoder else [],
        "--rows-per-category": [] if rows_per_category is None else [str(rows_per_category)],
        "--leave-out": left_out,
    }
    words = [word for option, values in given.items() for one in values for word in (option, one)]
    return shlex.join(["python", "-m", "routers.build_default", "DATA_FOLDER", *words])


if __name__ == "__main__":
    main()
