"""From files to a replay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.baselines import METHODS
from eval.replay import replay
from eval.samples import cache_folder, embedded, make_samples
from routers.artifact import DEFAULT_FOLDER, load_encoder, load_router, read_card
from routers.cli import progress_bars
from routers.data import DataError
from routers.scores import Pool, ScoreTable, read_scores, read_sizes
from routers.text import read_alone

_FEWEST_PROMPTS = 20
_MOST_MISSING = 0.25
"""Experts that miss more of the scores are left out, unless they are asked for by name."""


def run_replay(
    files: Sequence[Path],
    sizes: Path,
    experts: str | None,
    router_folder: Path | None,
    encoder_folder: Path | None,
    methods: str | None,
    splits: int,
    seed: int,
    cache: Path | None,
) -> dict[str, Any]:
    """Read score tables and replay them; see `eval.replay.replay` and ``coe eval replay``.

    Raises
    ------
    ValueError
        A file or an option is wrong; the message says which.
    """
    chosen = _chosen_methods(methods, router_folder is not None)
    table, pool, left_out = _common(read_scores(files), read_sizes(sizes), experts)
    folder = cache or cache_folder()
    encoder_folder = encoder_folder or DEFAULT_FOLDER
    encoder, card = load_encoder(encoder_folder), read_card(encoder_folder)
    with progress_bars() as progress:
        embeddings = embedded(table.prompts, encoder, folder, progress)
    routed, router_active_b = None, encoder.active_params_b
    if router_folder is not None:
        router = load_router(router_folder)
        routed = router.predict_proba([read_alone(prompt) for prompt in table.prompts])
        router_active_b = router.active_params_b
    samples = make_samples(table, pool, embeddings, routed)
    with progress_bars() as progress:
        found = replay(samples, chosen, splits, seed=seed, progress=progress)
    return {
        **found,
        "encoder": f"{card.name}@{card.version}",
        "router_active_params_b": router_active_b,
        "left_out": left_out,
    }


def _chosen_methods(names: str | None, with_router: bool) -> list[str]:
    if names is None:
        return [name for name in METHODS if with_router or name != "given_router"]
    chosen = names.split(",")
    for name in chosen:
        if name not in METHODS:
            raise ValueError(f"--methods must be of {', '.join(METHODS)}; got {name!r}")
    return chosen


def _common(
    table: ScoreTable, pool: Pool, experts: str | None
) -> tuple[ScoreTable, Pool, list[str]]:
    """Return the prompts that every expert has a score for, the experts, and those left out."""
    if experts is None:
        wanted, sparse = _well_scored(table)
    else:
        wanted, sparse = experts.split(","), []
    sized = [name for name in wanted if name in pool.names]
    unsized = [name for name in wanted if name not in pool.names]
    if experts is not None and unsized:
        raise DataError(f"--sizes must hold the sizes of {', '.join(unsized)}. Add them")
    if len(sized) < 2:
        raise DataError(f"two experts or more must have sizes; got {', '.join(sized) or 'none'}")
    common = table.of_experts(sized).complete()
    if len(common) < _FEWEST_PROMPTS:
        unscored = np.isnan(table.of_experts(sized).scores).sum(axis=0).tolist()
        missing = [f"{name} {n}" for name, n in zip(sized, unscored, strict=True) if n]
        mend = (
            f"Missing, of {len(table)}: {', '.join(missing)}. Leave those experts out with "
            "--experts, or score them with coe eval score"
            if missing
            else "Score more prompts"
        )
        raise DataError(
            f"{_FEWEST_PROMPTS} prompts or more must have a score of every expert; got "
            f"{len(common)}. {mend}"
        )
    return common, pool.only(sized), [*unsized, *sparse]


def _well_scored(table: ScoreTable) -> tuple[list[str], list[str]]:
    """Part the experts into those that have enough scores to compare on, and the others."""
    missing = np.isnan(table.scores).mean(axis=0) > _MOST_MISSING
    parted = list(zip(table.experts, missing, strict=True))
    return [name for name, many in parted if not many], [name for name, many in parted if many]
