"""The measuring commands; `gateway.cli` mounts the group as ``coe eval``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.table import Table

from eval.bench.cli import bench_command
from eval.failover.cli import failover, soak_command
from eval.grading import CODE, METRICS
from eval.replay_report import PLOT_SUFFIXES, draw, table_of
from eval.robustness import stability
from eval.router import evaluate, mistakes
from eval.sandbox import isolated
from eval.score import Endpoint, Scored, read_questions, score_experts
from gateway.tables import console_for_tables
from routers.artifact import load_router
from routers.cli import drawable, progress_bars, wrong_use
from routers.data import read_labelled
from routers.latency import latency_ms

_PATH = click.Path(path_type=Path)

_ROUTER_EXAMPLES = """
\b
Examples:
  coe eval router routers/default test.jsonl.gz
  coe eval router my-router test.jsonl --stability --json

Each line of DATA is {"prompt": "...", "category": "..."}; "source" may be added. Lines whose
category is null are counted and left out.
"""


_REPLAY_EXAMPLES = """
\b
Examples:
  coe eval replay scores.jsonl.gz --sizes models.csv
  coe eval replay a.jsonl b.jsonl --sizes models.csv --experts small,big --router routers/default
  coe eval replay scores.jsonl --sizes models.csv --plot replay.png --json

Each line of SCORES is {"id": "...", "prompt": "...", "category": "...", "scores": {expert: 0 to
1}}; SIZES is a CSV model,total_params_b,active_params_b. Only prompts that every expert has a score
for are replayed, and only experts of known size; without --experts, those that miss more than a
quarter of the scores are left out.
"""


@click.group(name="eval")
def eval_group() -> None:
    """Measure routers, mappings and gateways."""


eval_group.add_command(bench_command)
eval_group.add_command(failover)
eval_group.add_command(soak_command)


@eval_group.command(epilog=_ROUTER_EXAMPLES)
@click.argument("folder", metavar="DIR", type=_PATH)
@click.argument("files", metavar="DATA...", nargs=-1, required=True, type=_PATH)
@click.option("--stability", "with_stability", is_flag=True, help="Also perturb the prompts.")
@click.option("--mistakes", "mistakes_file", type=_PATH, help="File for what it gets wrong.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def router(
    folder: Path,
    files: tuple[Path, ...],
    with_stability: bool,
    mistakes_file: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure a router on labelled prompts.

    Accuracy, calibration, coverage and latency, on what the gateway would read of each prompt. The
    lines of --mistakes are JSON, the surest mistakes first: among those are labels that are wrong.
    """
    with wrong_use():
        loaded = load_router(folder)
        rows, n_unlabelled = read_labelled(files)
        if mistakes_file:
            lines = [json.dumps(one, ensure_ascii=False) for one in mistakes(loaded, rows)]
            mistakes_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    found = {"n_unlabelled": n_unlabelled, **evaluate(loaded, rows, seed)}
    prompts = [row.prompt for row in rows]
    found["latency_ms"] = latency_ms(loaded, prompts)
    if with_stability:
        found["stability"] = stability(loaded, prompts, seed)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show(found)


def _with_v1(url: str) -> str:
    """Return the address up to and with /v1: a server's own address is completed."""
    return f"{url.rstrip('/')}/v1" if urlsplit(url).path in {"", "/"} else url.rstrip("/")


def _show(found: dict[str, Any]) -> None:
    console = Console(markup=False, emoji=False)
    metrics = Table("metric", "value", "95% interval", title=f"{found['router']}, n={found['n']}")
    for name in [name.removesuffix("_ci95") for name in found if name.endswith("_ci95")]:
        low, high = found[f"{name}_ci95"]
        metrics.add_row(name, f"{found[name]:.3f}", f"{low:.3f} to {high:.3f}")
    metrics.add_row("source_mean_accuracy", f"{found['source_mean_accuracy']:.3f}", "")
    console.print(metrics)
    if unknown := found["unknown_categories"]:
        console.print(f"no categories of this router, counted as wrong: {', '.join(unknown)}")
    categories = Table("category", "n", "precision", "recall", "F1")
    for name, one in found["per_category"].items():
        shares = (one["precision"], one["recall"], one["f1"])
        categories.add_row(name, str(one["n"]), *("" if x is None else f"{x:.3f}" for x in shares))
    console.print(categories)
    sources = Table("source", "n", "accuracy", "95% interval")
    for name, one in found["per_source"].items():
        low, high = one["accuracy_ci95"]
        sources.add_row(name, str(one["n"]), f"{one['accuracy']:.3f}", f"{low:.3f} to {high:.3f}")
    console.print(sources)
    for name, share in found.get("stability", {}).items():
        console.print(f"same category after {name}: {share:.1%}")
    spent = ", ".join(f"{ms:.2f} ms at {n} words" for n, ms in found["latency_ms"].items())
    console.print(f"median of one text on one core: {spent}; of long texts only the ends are read")


@eval_group.command(name="replay", epilog=_REPLAY_EXAMPLES)
@click.argument("files", metavar="SCORES...", nargs=-1, required=True, type=_PATH)
@click.option("--sizes", required=True, type=_PATH, help="CSV of the experts' sizes.")
@click.option("--experts", help="Replay these experts only, separated by commas.")
@click.option("--router", "router_folder", type=_PATH, help="Also map this router's categories.")
@click.option("--encoder", "encoder_folder", type=_PATH, help="Artifact whose encoder embeds.")
@click.option("--methods", help="Run these only, separated by commas. [default: all]")
@click.option("--splits", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--cache", type=_PATH, help="Where embeddings are kept. [default: user's cache]")
@click.option(
    "--plot",
    type=_PATH,
    callback=drawable(*PLOT_SUFFIXES),
    help=f"Also draw score against active parameters: {', '.join(PLOT_SUFFIXES)}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay_command(as_json: bool, plot: Path | None, files: tuple[Path, ...], **asked: Any) -> None:  # noqa: ANN401
    """Replay a score table beside known methods.

    The mapping is fitted on one half of it and serves the other.
    """
    from eval.replay_run import run_replay

    with wrong_use():
        found = run_replay(files, **asked)
    title = ", ".join(path.name.partition(".")[0] for path in files)
    if as_json:
        click.echo(json.dumps(found))
    else:
        console_for_tables(markup=False).print(table_of(found, title))
    if plot is not None:
        with wrong_use():
            draw(found, title, plot)


_SCORE_EXAMPLES = """
\b
Examples:
  coe eval score questions.jsonl --experts small,big --out scores.jsonl
  coe eval score questions.jsonl --experts new --per-category 40 --metric choice --out scores.jsonl
  coe eval score tasks.jsonl --experts small,big --metric code --out scores.jsonl
  coe eval score chats.jsonl --experts small,big --metric judge --judge big --out scores.jsonl
  coe eval score questions.jsonl --experts gpt-4o-mini --url https://api.openai.com/v1 \\
      --key-env OPENAI_API_KEY --out scores.jsonl

Each line of QUESTIONS is {"id": "...", "prompt": "...", "category": "...", "answer": "..."};
"metric" may be added. A run that was cut goes on where it was; another expert adds a column. With
another metric, judge or "answer" the answers that were given are scored anew; with another
"prompt" or --max-tokens they are asked for anew, of the experts that are named.
"""


@eval_group.command(name="score", epilog=_SCORE_EXAMPLES)
@click.argument("files", metavar="QUESTIONS...", nargs=-1, required=True, type=_PATH)
@click.option("--experts", required=True, help="Names, separated by commas.")
@click.option("--out", required=True, type=_PATH, help="The score table to write.")
@click.option("--url", default="http://127.0.0.1:8080/v1", show_default=True, help="Who is asked.")
@click.option("--key-env", help="Environment variable that holds the key.")
@click.option("--metric", type=click.Choice(METRICS), default="exact", show_default=True)
@click.option("--judge", help="Expert that judges, for the metric judge.")
@click.option("--per-category", type=click.IntRange(1), help="Most questions of a category.")
@click.option("--concurrency", type=click.IntRange(1), default=8, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), default=1024, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def score_command(
    files: tuple[Path, ...],
    experts: str,
    out: Path,
    url: str,
    key_env: str | None,
    metric: str,
    per_category: int | None,
    seed: int,
    **limits: Any,  # noqa: ANN401 (options, passed on)
) -> None:
    """Ask experts questions, and write how well each answered.

    Metrics: exact, includes, choice and number compare with `answer`; code runs the answer's Python
    with the tests in `answer`, in a process with limits and, where the system allows it, without
    network; judge lets an expert mark it from 0 to 10, beside the reference in `answer` if there is
    one.
    """
    key = os.environ.get(key_env, "") if key_env else None
    with wrong_use(), progress_bars() as progress:
        if key == "":
            raise ValueError(f"--key-env: the variable {key_env} must be set; it is not. Set it")
        questions = read_questions(files, per_category, seed)
        if CODE in {question.metric or metric for question in questions} and not isolated():
            click.echo("note: no namespaces on this system: code runs with the network", err=True)
        endpoint = Endpoint(_with_v1(url), key, **limits)
        fresh, n_asked = score_experts(
            questions, experts.split(","), endpoint, metric, out, progress
        )
    for name in dict.fromkeys(one.expert for one in fresh):
        click.echo(_summary(name, [one for one in fresh if one.expert == name]))
    again = f", {len(fresh) - n_asked} scored anew" if len(fresh) > n_asked else ""
    click.echo(f"{n_asked} answers asked for{again}; {len(questions)} prompts in {out}")


def _summary(name: str, answers: Sequence[Scored]) -> str:
    """Return what one expert came to, in a line; its seconds serve `coe map --price-of latency`."""
    scores = [one.score for one in answers if one.score is not None]
    timed = [one.seconds for one in answers if one.seconds is not None]
    seconds = f"{fmean(timed):.2f}" if timed else "unknown"
    mean = f"{fmean(scores):.3f}" if scores else "unknown"
    unmarked = len(answers) - len(scores)
    note = f"; {unmarked} without a mark" if unmarked else ""
    return f"{name}: score {mean}, {seconds} s an answer{note}"
