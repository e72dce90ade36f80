"""The commands that make routers; `gateway.cli` mounts them under ``coe``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBars

from routers.artifact import check_target, load_router, read_card, save_router
from routers.base import Router, RouterError
from routers.calibrate import Goal
from routers.calibrate import calibrate as calibrate_router
from routers.card import Card
from routers.data import (
    DataError,
    Row,
    alike_categories,
    contradicting,
    digest,
    places,
    read_prompts,
    read_rows,
)
from routers.distil import OpenTeacher, distilled_rows
from routers.extras import MissingExtraError, import_extra
from routers.figure import FIGURE_SUFFIXES, write_figure
from routers.language import is_english
from routers.language_gate import LanguageGate
from routers.metrics import Answers
from routers.progress import Progress
from routers.report import print_report
from routers.train import TrainOptions, held_out_report, out_of_scope_report
from routers.train import train as train_router
from routers.untrained import MAX_TOKENS, TYPES, Plan, untrained_router

_FEWEST_ROWS = 20
"""Fewer prompts say nothing of where a threshold should be."""
_FOLDS = 5
_SHOWN_PLACES = 6
_Command = TypeVar("_Command", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path)
_SHARE = click.FloatRange(0, 1)
_COUNT = click.IntRange(1)

_DATA_FORMAT = """
Each line of DATA is {"prompt": "...", "category": "..."}; "source" and "licence" may be added.
Files whose names end in .gz are unpacked.
"""
_TRAIN_EXAMPLES = f"""
\b
Examples:
  coe train prompts.jsonl --out my-router
  coe train a.jsonl b.jsonl.gz --out my-router --type knn --max-rows-per-source 1500
  coe train prompts.jsonl --out my-router --out-of-scope chatter.jsonl --figure report.html
  coe train prompts.jsonl --out my-router --type finetuned --encoder BAAI/bge-small-en-v1.5
  coe train unlabelled.jsonl --out my-router --distil llm=general
  coe train unlabelled.jsonl --out my-router --distil llm=general --categories mine.yaml

{_DATA_FORMAT}
"""
_CALIBRATE_EXAMPLES = f"""
\b
Examples:
  coe calibrate my-router recent.jsonl
  coe calibrate my-router recent.jsonl --out-of-scope chatter.jsonl --min-coverage 0.95

{_DATA_FORMAT}
"""


class WrongUseError(click.ClickException):
    """What was asked cannot be done as asked."""

    exit_code = 2


def drawable(
    *suffixes: str,
) -> Callable[[click.Context, click.Parameter, Path | None], Path | None]:
    """Return a check that refuses a figure that cannot be written, before work is done for it."""

    def check(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
        if path is None:
            return None
        if path.suffix.lower() not in suffixes:
            raise click.BadParameter(f"must end in {', '.join(suffixes)}; got {path.name!r}.")
        if not path.parent.is_dir():
            raise click.BadParameter(f"{path.parent} must be a folder; it is not. Make it first.")
        with wrong_use():
            import_extra("matplotlib", "train")
        return path

    return check


def _goal_options(command: _Command) -> _Command:
    """Add the options that `Goal` and both commands share."""
    defaults = Goal()
    options = (
        click.option(
            "--out-of-scope",
            "out_of_scope_file",
            type=_PATH,
            help='JSON lines with a "prompt" of no category, to set the threshold by. '
            "Without, small talk of ours stands in.",
        ),
        click.option(
            "--min-coverage",
            type=_SHARE,
            default=defaults.min_coverage,
            show_default=True,
            help="Share of prompts that must keep their category.",
        ),
        click.option(
            "--out-of-scope-share",
            type=_SHARE,
            default=defaults.out_of_scope,
            show_default=True,
            help="Share of out-of-scope prompts that should end at the general expert.",
        ),
        click.option(
            "--target-accuracy",
            type=_SHARE,
            default=defaults.accuracy,
            show_default=True,
            help="Without --out-of-scope also: accuracy that the kept categories should have.",
        ),
        click.option(
            "--figure",
            type=_PATH,
            callback=drawable(*FIGURE_SUFFIXES),
            help=f"Draw the report: {', '.join(FIGURE_SUFFIXES[:-1])} or {FIGURE_SUFFIXES[-1]}.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the router card as JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(epilog=_TRAIN_EXAMPLES)
@click.argument("files", metavar="DATA...", nargs=-1, required=True, type=_PATH)
@click.option("--out", required=True, type=_PATH, help="Artifact folder to write.")
@click.option("--type", type=click.Choice(TYPES), default="linear", show_default=True)
@click.option("--name", default="custom", show_default=True, help="The router's name.")
@click.option(
    "--encoder",
    help="Folder or Hugging Face name of a sentence encoder; default: the one that ships.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(8, 512),
    default=MAX_TOKENS,
    show_default=True,
    help="Most tokens that the encoder reads of one prompt, from both ends of a longer one.",
)
@click.option("--foreign-category", help="Category of all prompts that are not in English.")
@click.option(
    "--distil",
    metavar="TEACHER",
    help="Label the prompts first: by a router artifact, or llm=EXPERT of experts.yaml.",
)
@click.option(
    "--categories",
    type=_PATH,
    help="YAML of category: what belongs to it, for llm=EXPERT. [default: the router's own]",
)
@click.option("--held-out", type=click.FloatRange(0.01, 0.5), default=0.1, show_default=True)
@click.option("--max-rows-per-source", type=_COUNT, help="Cap per source and category.")
@click.option("--max-rows-per-category", type=_COUNT, help="Cap per category.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@_goal_options
@click.pass_obj
def train(
    open_teacher: OpenTeacher | None,
    /,
    files: tuple[Path, ...],
    out: Path,
    type: str,
    name: str,
    encoder: str | None,
    max_tokens: int,
    foreign_category: str | None,
    distil: str | None,
    categories: Path | None,
    held_out: float,
    max_rows_per_source: int | None,
    max_rows_per_category: int | None,
    seed: int,
    **shared: Any,  # noqa: ANN401
) -> None:
    """Train a router on labelled prompts.

    It is written as a folder that `router` in experts.yaml names. The labels of --distil are kept
    beside it, in OUT.labels.jsonl: a run that was cut goes on where it was.
    """
    with wrong_use(), tempfile.TemporaryDirectory() as scratch, progress_bars() as progress:
        plan = Plan(type, name, encoder, max_tokens, foreign_category)
        options = TrainOptions(
            seed,
            held_out,
            0 if plan.is_slow else _FOLDS,
            max_rows_per_source,
            max_rows_per_category,
            _goal(shared),
        )
        check_target(out)
        with _teacher(distil, categories, open_teacher) as teacher:
            rows = _rows(files, teacher, out, progress)
        out_of_scope = _out_of_scope(shared)
        router = untrained_router(plan, seed, Path(scratch))
        try:
            training = train_router(router, rows, out_of_scope, options, progress)
        except DataError as error:
            if distil is None and error.rows:
                where = places(files, [rows.index(row) for row in error.rows[:_SHOWN_PLACES]])
                raise DataError(f"{error}: see {', '.join(where)}") from error
            raise
        card = save_router(router, out, training)
        _report(out, card, shared)


@click.command(epilog=_CALIBRATE_EXAMPLES)
@click.argument("folder", metavar="DIR", type=_PATH)
@click.argument("files", metavar="DATA...", nargs=-1, required=True, type=_PATH)
@click.option("--out", type=_PATH, help="Write it here, and leave DIR as it is.")
@_goal_options
def calibrate(
    folder: Path,
    files: tuple[Path, ...],
    out: Path | None,
    **shared: Any,  # noqa: ANN401
) -> None:
    """Fit the threshold of a router anew.

    Its temperature and its threshold are fitted to labelled prompts that it was not trained on.
    DIR is changed, unless --out names another folder.
    """
    with wrong_use(), progress_bars() as progress:
        router = load_router(folder)
        out = out or folder
        check_target(out)
        rows = read_rows(files)
        goal = _goal(shared)
        if isinstance(router, LanguageGate) and not any(is_english(row.prompt) for row in rows):
            raise ValueError(f"{folder} routes English: some prompts must be English; got none")
        out_of_scope = _out_of_scope(shared)
        asked, labels = [row.prompt for row in rows], [row.category for row in rows]
        said = router.predict_proba(asked)
        before = Answers.of(said, labels, router.categories_, router.min_margin)
        answers = calibrate_router(router, rows, out_of_scope, goal, progress)
        if len(rows) < _FEWEST_ROWS:
            raise ValueError(
                f"calibrating takes {_FEWEST_ROWS} prompts or more; got {len(rows)}, and a "
                "threshold fitted to so few would be chance. Add prompts; the router is as it was"
            )
        training = dict(read_card(folder).training)
        training["held_out"] = held_out_report(answers, router.categories_)
        training["out_of_scope"] = out_of_scope_report(router, out_of_scope)
        training["calibrated"] = {
            "rows": len(rows),
            "out_of_scope": len(out_of_scope),
            "sha256": digest(rows),
            "goal": asdict(goal),
            "before": before.scores(),
        }
        card = save_router(router, out, training)
        _report(out, card, shared)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Show on standard error what is being done and how far it is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with ProgressBars(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield update


@contextmanager
def wrong_use() -> Iterator[None]:
    """Turn errors about input, and about files, into a message and exit code 2."""
    try:
        yield
    except (ValueError, OSError, MissingExtraError, RouterError) as error:
        raise WrongUseError(str(error)) from error


def _warn(files: Sequence[Path], rows: Sequence[Row]) -> None:
    """Say on standard error which rows cannot all be meant."""
    for names in alike_categories(rows):
        shown = " and ".join(map(repr, names))
        click.echo(f"warning: {shown} differ in case or spacing only: are they one?", err=True)
    if contradictions := contradicting(rows):
        where = ", ".join(places(files, contradictions[:_SHOWN_PLACES]))
        click.echo(
            f"warning: {len(contradictions)} rows are left out, since their prompts come with two "
            f"categories: {where}{', ...' if len(contradictions) > _SHOWN_PLACES else ''}",
            err=True,
        )


def _teacher(
    name: str | None, categories: Path | None, open_teacher: OpenTeacher | None
) -> AbstractContextManager[Router | None]:
    is_artifact = name is not None and Path(name).is_dir()
    if categories is not None and (name is None or is_artifact):
        raise ValueError("--categories is for --distil llm=EXPERT; a router has its own")
    if name is None:
        return nullcontext()
    if is_artifact:
        return nullcontext(load_router(Path(name)))
    if open_teacher is None:
        raise ValueError(f"--distil must be a router artifact folder here; got {name!r}")
    return open_teacher(name, categories)


def _rows(
    files: Sequence[Path], teacher: Router | None, out: Path, progress: Progress
) -> list[Row]:
    """Read labelled prompts, or have a teacher label prompts and say which it could not."""
    if teacher is None:
        rows = read_rows(files)
        _warn(files, rows)
        return rows
    prompts, target = read_prompts(files), out.resolve()
    log = target.with_name(f"{target.name}.labels.jsonl")
    rows, failures = distilled_rows(teacher, prompts, log, progress)
    if failures:
        shown = ", ".join(places(files, [*failures][:_SHOWN_PLACES]))
        more = ", ..." if len(failures) > _SHOWN_PLACES else ""
        click.echo(
            f"note: {len(failures)} of {len(prompts)} prompts got no label and are left out: "
            f"{shown}{more}; the first because {failures[min(failures)]}",
            err=True,
        )
    return rows


def _goal(shared: dict[str, Any]) -> Goal:
    return Goal(shared["min_coverage"], shared["out_of_scope_share"], shared["target_accuracy"])


def _out_of_scope(shared: dict[str, Any]) -> list[str]:
    file = shared["out_of_scope_file"]
    return read_prompts([file]) if file else []


def _report(folder: Path, card: Card, shared: dict[str, Any]) -> None:
    """Print what was trained, then draw it: a figure that fails takes nothing else with it."""
    if shared["as_json"]:
        click.echo(json.dumps(msgspec.to_builtins(card)))
    else:
        print_report(folder, card, _goal(shared))
    if shared["figure"]:
        write_figure(card, shared["figure"])
