"""What a replay learns from and serves: prompts, their categories, and the experts' scores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from routers.arrays import IntArray
from routers.base import FloatArray
from routers.encoder import SentenceEncoder
from routers.finer import Prompts
from routers.progress import Progress, silent
from routers.scores import Pool, ScoreTable
from routers.surface import surface

UNLABELLED = "unlabelled"
"""Category of the prompts that come without one."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Prompts with scores of every expert.

    Attributes
    ----------
    prompts : Prompts
    labels : tuple of str, length n_prompts
        The category each prompt came with.
    scores : ndarray of float64, shape (n_prompts, n_experts)
        Complete.
    pool : Pool
        The experts, in the order of the columns of `scores`.
    routed : ndarray of float64, shape (n_prompts, n_categories), or None
        Probabilities of a router under test; None = there is none.
    """

    prompts: Prompts
    labels: tuple[str, ...]
    scores: FloatArray
    pool: Pool
    routed: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: IntArray) -> Samples:
        """Return some of the prompts."""
        return Samples(
            self.prompts.rows(indices),
            tuple(self.labels[i] for i in indices),
            self.scores[indices],
            self.pool,
            None if self.routed is None else self.routed[indices],
        )


def make_samples(
    table: ScoreTable, pool: Pool, embeddings: FloatArray, routed: FloatArray | None = None
) -> Samples:
    """Put together what a replay needs; `table` must be complete and in the order of `pool`."""
    labels = tuple(UNLABELLED if name is None else name for name in table.categories)
    prompts = Prompts(embeddings, surface(table.prompts))
    return Samples(prompts, labels, table.scores, pool, routed)


def cache_folder() -> Path:
    """Return where embeddings are kept between runs: ``$XDG_CACHE_HOME/coe-gateway``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coe-gateway"


def embedded(
    prompts: Sequence[str], encoder: SentenceEncoder, folder: Path, progress: Progress = silent
) -> FloatArray:
    """Return the embeddings of prompts, from a file where they were made before.

    Parameters
    ----------
    prompts : sequence of str, length n_prompts
    encoder : SentenceEncoder
    folder : Path
        Holds one file for each list of prompts and encoder.

    Returns
    -------
    ndarray of float64, shape (n_prompts, n_dims)
    """
    content = hashlib.sha256(encoder.digest.encode())
    for prompt in prompts:
        content.update(b"\0" + prompt.encode("utf-8", "surrogatepass"))
    path = folder / f"{content.hexdigest()[:32]}.npy"
    if path.exists():
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    embeddings = encoder.encode(prompts, progress)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.npy")
    np.save(scratch, embeddings.astype(np.float32), allow_pickle=False)
    scratch.replace(path)
    return embeddings.astype(np.float32).astype(np.float64)
