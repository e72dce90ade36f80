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
from rich.table import Table

from routers.artifact import check_target, load_router, read_card, save_router
from routers.base import Router, RouterError
from routers.calibrate import Goal
from routers.calibrate import calibrate as calibrate_router
from routers.card import Card, latency_told, scores_by_category, settings_behind_gate
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
from routers.progress import Progress
from routers.train import TrainOptions, held_out_report
from routers.train import train as train_router
from routers.untrained import TYPES, Plan, untrained_router

_FEWEST_ROWS = 20
"""Fewer prompts say nothing of where a threshold should be."""
_FOLDS = 5
_CASCADE_IS_IDLE = 0.95
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
@click.option("--encoder", help="Folder or Hugging Face name; default: the encoder that ships.")
@click.option("--max-tokens", type=click.IntRange(8, 512), help="Tokens read of one prompt.")
@click.option("--foreign-category", help="Category of all prompts that are not in English.")
@click.option(
    "--distil",
    metavar="TEACHER",
    help="Label the prompts first: by a router artifact, or llm=EXPERT of experts.yaml.",
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
    max_tokens: int | None,
    foreign_category: str | None,
    distil: str | None,
    held_out: float,
    max_rows_per_source: int | None,
    max_rows_per_category: int | None,
    seed: int,
    **shared: Any,  # noqa: ANN401
) -> None:
    """Train a router on labelled prompts.

    It is written as a folder that `router` in experts.yaml names.
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
        if distil is None:
            rows = read_rows(files)
            _warn(files, rows)
        else:
            with _teacher(distil, open_teacher) as teacher:
                rows = distilled_rows(teacher, read_prompts(files), progress)
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
@_goal_options
def calibrate(folder: Path, files: tuple[Path, ...], **shared: Any) -> None:  # noqa: ANN401
    """Fit the threshold of a router anew.

    Its temperature and its threshold are fitted to labelled prompts that it was not trained on,
    and its folder is changed.
    """
    with wrong_use(), progress_bars() as progress:
        router = load_router(folder)
        check_target(folder)
        rows = read_rows(files)
        goal = _goal(shared)
        if isinstance(router, LanguageGate) and not any(is_english(row.prompt) for row in rows):
            raise ValueError(f"{folder} routes English: some prompts must be English; got none")
        out_of_scope = _out_of_scope(shared)
        answers = calibrate_router(router, rows, out_of_scope, goal, progress)
        if len(rows) < _FEWEST_ROWS:
            raise ValueError(
                f"calibrating takes {_FEWEST_ROWS} prompts or more; got {len(rows)}, and a "
                "threshold fitted to so few would be chance. Add prompts; the router is as it was"
            )
        training = dict(read_card(folder).training)
        training["held_out"] = held_out_report(answers, router.categories_)
        training["calibrated"] = {
            "rows": len(rows),
            "out_of_scope": len(out_of_scope),
            "sha256": digest(rows),
            "goal": asdict(goal),
        }
        card = save_router(router, folder, training)
        _report(folder, card, shared)


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


def _teacher(name: str, open_teacher: OpenTeacher | None) -> AbstractContextManager[Router]:
    if Path(name).is_dir():
        return nullcontext(load_router(Path(name)))
    if open_teacher is None:
        raise ValueError(f"--distil must be a router artifact folder here; got {name!r}")
    return open_teacher(name)


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
        _show(folder, card)
    if shared["figure"]:
        write_figure(card, shared["figure"])


def _show(folder: Path, card: Card) -> None:
    scores = card.training["held_out"]
    judged = f"{scores['folds']} folds" if scores.get("folds") else "the hold-out"
    table = Table(
        *("category", "precision", "recall", "F1", "prompts", "else mostly taken for"),
        title=f"{card.name}@{card.version} in {folder}",
    )
    for row, counts in zip(scores_by_category(card), scores["confusion"], strict=True):
        table.add_row(*row, _mistaken(row[0], counts, card))
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print(
        f"{scores['n']} prompts of {judged}, which temperature and threshold are fitted to: "
        f"accuracy {scores['accuracy']:.3f}, macro-F1 {scores['macro_f1']:.3f}, "
        f"calibration error {scores['ece']:.3f}; answers that lead general by "
        f"{card.min_margin:.3f} are kept: {scores['coverage']:.1%} of prompts, accuracy "
        f"{scores['covered_accuracy']:.3f}"
    )
    if n_left_out := card.training.get("data", {}).get("rows_duplicate"):
        console.print(f"{n_left_out} rows were left out as duplicates")
    facts = card.training.get("calibrated", card.training.get("data", {}))
    if not facts.get("out_of_scope"):
        console.print(
            "the threshold is set by small talk of ours, as --out-of-scope names no prompts; "
            "--out-of-scope-share 0 leaves it out"
        )
    if not card.min_margin:
        console.print(
            "note: no prompt is too unsure for its category, so none goes to the general "
            "expert for that; --out-of-scope names prompts that should"
        )
    escalated = settings_behind_gate(card).get("escalated")
    if escalated is not None:
        console.print(f"the encoder is asked for {escalated:.0%} of the prompts{_hint(escalated)}")
    if "latency_ms" in card.training:
        console.print(latency_told(card.training["latency_ms"]))


def _hint(escalated: float) -> str:
    """Say what to do where the cheap stage of a cascade hardly ever answers."""
    if escalated < _CASCADE_IS_IDLE:
        return ""
    return (
        ": the cheap stage saves nothing. Some thousand prompts may tell when it can be trusted; "
        "with fewer, --type linear is smaller"
    )


def _mistaken(category: str, counts: Sequence[int], card: Card) -> str:
    """Name the category that prompts of this one are most often wrongly given."""
    wrong = {
        other: n for other, n in zip(card.categories, counts, strict=True) if other != category
    }
    most = max(wrong, key=lambda other: wrong[other])
    return f"{most} ({wrong[most]})" if wrong[most] else ""
