"""Replay the tables that the README shows: ``python -m eval.replay_tables FOLDER --out DIR``.

Writes a plot for each table, and ``README.md`` with one line a method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from eval.replay_report import draw
from eval.replay_run import run_replay
from routers.cli import wrong_use

_COE = (
    "Qwen2-7B-Instruct,gemma-2-9b-it,gemma-2-27b-it,Meta-Llama-3.1-70B-Instruct,Qwen2-72B-Instruct"
)
_FOUR_OF_COE = (
    "gemma-2-9b-it,gemma-2-27b-it,Meta-Llama-3.1-70B-Instruct,Qwen2-72B-Instruct,"
    "Qwen2.5-7B-Instruct"
)
_SIZES = "models.csv"


@dataclass(frozen=True, slots=True)
class ReplayedTable:
    """A table of the README.

    Attributes
    ----------
    name : str
        What it is called, and its files are.
    files : tuple of str
        Score tables in the folder, stacked.
    experts : str or None
        Separated by commas; None = all of known size.
    """

    name: str
    files: tuple[str, ...]
    experts: str | None = None


TABLES = (
    ReplayedTable("mmlu_pro_cot", ("mmlu_pro_cot.jsonl.gz",)),
    ReplayedTable(
        "mmlu_pro_bbh_ifeval", ("mmlu_pro_loglik.jsonl.gz", "bbh_ifeval.jsonl.gz"), _FOUR_OF_COE
    ),
    ReplayedTable("zeroeval", ("zeroeval.jsonl.gz",), _COE),
    ReplayedTable("llmrouter", ("llmrouter.jsonl.gz",)),
    ReplayedTable("routerdc", ("routerdc.jsonl.gz",)),
)


def report(found: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Yield the lines of a Markdown report of replays."""
    yield "# Replays\n"
    yield "Written by `make replay`; what the columns mean is in [design.md](../design.md).\n"
    for name, one in found:
        best = one["best_single"]
        yield f"## {name}\n"
        yield (
            f"{one['n']} prompts, {len(one['experts'])} experts, {one['splits']} half-half splits. "
            f"Best single expert: {best['name']}, {best['score']:.4f} at "
            f"{best['active_params_b']:.1f} B. Prompts embedded by the router {one['encoder']}.\n"
        )
        yield f"![score against active parameters]({name}.png)\n"
        yield "| method | area (95%) | minus `coe` (95%) | best score | at B | matches at B |"
        yield "|---|---|---|---|---|---|"
        yield from (_line(method) for method in one["methods"] if method["area"] is not None)
        yield ""


def _line(method: dict[str, Any]) -> str:
    low, high = method["area_ci95"]
    best, at_b, versus = method["best"], method["matches_best_single_at_b"], method.get("vs_coe")
    compared = ""
    if versus is not None:
        compared = "{:+.2f} ({:+.2f} to {:+.2f}): {}".format(
            versus["area"], *versus["area_ci95"], versus["verdict"]
        )
    return (
        f"| {method['name']} | {method['area']:.2f} ({low:.2f} to {high:.2f}) | {compared} "
        f"| {best['score']:.4f} ± {1.96 * best['score_se']:.4f} | {best['active_params_b']:.1f} "
        f"| {'-' if at_b is None else format(at_b, '.1f')} |"
    )


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--encoder", type=click.Path(path_type=Path), help="Artifact whose encoder embeds.")
@click.option("--methods", help="Run these only, separated by commas. [default: all]")
@click.option("--cache", type=click.Path(path_type=Path), help="Where embeddings are kept.")
def main(
    folder: Path, out: Path, encoder: Path | None, methods: str | None, cache: Path | None
) -> None:
    """Replay every table of FOLDER that the README shows."""
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for table in TABLES:
        files = [folder / name for name in table.files]
        with wrong_use():
            one = run_replay(
                files,
                sizes=folder / _SIZES,
                experts=table.experts,
                router_folder=None,
                encoder_folder=encoder,
                methods=methods,
                splits=5,
                seed=0,
                cache=cache,
            )
        draw(one, table.name, out / f"{table.name}.png")
        found.append((table.name, one))
    (out / "README.md").write_text("\n".join(report(found)) + "\n")


if __name__ == "__main__":
    main()
