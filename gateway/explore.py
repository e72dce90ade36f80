"""Try out an expert without scores on a share of the prompts that its description fits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from gateway.experts import ExpertRegistry
from routers.base import FloatArray, Router

_DRAWN_BYTES = 8
_DRAWN_MOST = 256.0**_DRAWN_BYTES


@dataclass(frozen=True, slots=True)
class Exploration:
    """What an expert is tried out on.

    Attributes
    ----------
    share : float
        Share, in [0, 1], of the prompts of its domain.
    domain : ndarray of float64, shape (n_categories,)
        The router's probabilities for its description: the prior that stands in for scores.

    References
    ----------
    An expert is added from the embedding of its domain: Nexus (arXiv 2408.15901).
    """

    share: float
    domain: FloatArray

    def share_of(self, probabilities: FloatArray) -> float:
        """Return the share for prompts of such probabilities: by their likeness to the domain."""
        norms = float(np.linalg.norm(probabilities) * np.linalg.norm(self.domain))
        return self.share * float(probabilities @ self.domain) / norms


def explorations(registry: ExpertRegistry, router: Router) -> dict[str, Exploration]:
    """Return what each expert with an `explore_share` is tried out on, in the registry's order."""
    tried = [expert for expert in registry.values() if expert.explore_share]
    domains = router.predict_proba([expert.description for expert in tried])
    return {
        expert.name: Exploration(expert.explore_share, domain)
        for expert, domain in zip(tried, domains, strict=True)
    }


def explored(
    tried: Mapping[str, Exploration],
    text: str,
    probabilities: FloatArray,
    candidates: Collection[str],
) -> tuple[str, ...]:
    """Return the expert that is tried out on a prompt; nobody for most.

    A hash of the prompt decides: the same prompt goes the same way, on every replica.
    """
    for name, exploration in tried.items():
        if name in candidates and _drawn(name, text) < exploration.share_of(probabilities):
            return (name,)
    return ()


def _drawn(name: str, text: str) -> float:
    """Return a number in [0, 1) that is as good as random, and the same every time."""
    content = f"{name}\0{text}".encode("utf-8", "surrogatepass")
    digest = blake2b(content, digest_size=_DRAWN_BYTES).digest()
    return int.from_bytes(digest, "big") / _DRAWN_MOST
