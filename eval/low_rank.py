"""Correctness as a product of what a prompt asks and what an expert can do, trained by Adam."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from routers.base import FloatArray

_RATE = 0.01
_DECAYS = (0.9, 0.999)
_MOST_STEPS = 400
_CHECK_EVERY = 10
_HELD_SHARE = 0.2
_START = 0.1
"""Experts start almost alike; unequal starts take longer to forget than the data can teach."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """The form of the product.

    Attributes
    ----------
    rank : int
        Length of what stands for a prompt and for an expert.
    bounded : bool
        Whether what a prompt asks lies between 0 and 1, as discriminations of items do.
    difficulty : bool
        Whether a prompt has a difficulty that all experts face.
    """

    rank: int
    bounded: bool
    difficulty: bool


class LowRankModel:
    """logit of the score = asks(prompt) . can(expert) + level(expert) - difficulty(prompt)."""

    def __init__(self, shape: LowRank, n_dims: int, level: FloatArray, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.shape = shape
        self.parameters: dict[str, FloatArray] = {
            "asks": rng.standard_normal((n_dims, shape.rank)) / np.sqrt(n_dims),
            "can": _START * rng.standard_normal((shape.rank, len(level))) / np.sqrt(shape.rank),
            "level": level,
            "difficulty": np.zeros((n_dims, 1)),
        }

    def expected(self, embeddings: FloatArray) -> FloatArray:
        """Return expected scores, shape (n_prompts, n_experts)."""
        return _sigmoid(self._asked(embeddings) @ self.parameters["can"] + self._rest(embeddings))

    def gradients(self, embeddings: FloatArray, scores: FloatArray) -> dict[str, FloatArray]:
        """Return the gradients of the mean cross-entropy."""
        asked = self._asked(embeddings)
        error = (self.expected(embeddings) - scores) / scores.size
        to_asked = error @ self.parameters["can"].T
        if self.shape.bounded:
            to_asked *= asked * (1.0 - asked)
        found = {
            "asks": embeddings.T @ to_asked,
            "can": asked.T @ error,
            "level": error.sum(axis=0),
        }
        if self.shape.difficulty:
            found["difficulty"] = -embeddings.T @ error.sum(axis=1, keepdims=True)
        return found

    def _asked(self, embeddings: FloatArray) -> FloatArray:
        product: FloatArray = embeddings @ self.parameters["asks"]
        return _sigmoid(product) if self.shape.bounded else product

    def _rest(self, embeddings: FloatArray) -> FloatArray:
        difficulty = embeddings @ self.parameters["difficulty"] if self.shape.difficulty else 0.0
        return np.asarray(self.parameters["level"] - difficulty)


def fit_low_rank(
    shape: LowRank, embeddings: FloatArray, scores: FloatArray, seed: int
) -> LowRankModel:
    """Train on four fifths until the last fifth gets no better; keep the best of the way."""
    n_dims = embeddings.shape[1]
    scaled = embeddings * np.sqrt(n_dims)  # entries of unit variance
    order = np.random.default_rng(seed).permutation(len(scaled))
    n_held = max(1, int(_HELD_SHARE * len(scaled)))
    held, kept = order[:n_held], order[n_held:]
    means = np.clip(scores[kept].mean(axis=0), 0.01, 0.99)
    model = LowRankModel(shape, n_dims, np.log(means / (1 - means)), seed)
    best, best_loss = dict(model.parameters), np.inf
    first = {name: np.zeros_like(value) for name, value in model.parameters.items()}
    second = {name: np.zeros_like(value) for name, value in model.parameters.items()}
    for step in range(1, _MOST_STEPS + 1):
        for name, gradient in model.gradients(scaled[kept], scores[kept]).items():
            first[name] = _DECAYS[0] * first[name] + (1 - _DECAYS[0]) * gradient
            second[name] = _DECAYS[1] * second[name] + (1 - _DECAYS[1]) * gradient**2
            slope = first[name] / (1 - _DECAYS[0] ** step)
            spread = np.sqrt(second[name] / (1 - _DECAYS[1] ** step)) + 1e-8
            value = model.parameters[name]
            model.parameters[name] = value - _RATE * slope / spread
        if step % _CHECK_EVERY == 0:
            loss = _cross_entropy(model.expected(scaled[held]), scores[held])
            if loss < best_loss:
                best, best_loss = dict(model.parameters), loss
    model.parameters = {**best, **_unscaled(best, n_dims)}
    return model


def _unscaled(parameters: dict[str, FloatArray], n_dims: int) -> dict[str, FloatArray]:
    """Return the parameters that take embeddings of unit length."""
    return {name: parameters[name] * np.sqrt(n_dims) for name in ("asks", "difficulty")}


def _cross_entropy(expected: FloatArray, scores: FloatArray) -> float:
    sure = np.clip(expected, 1e-6, 1 - 1e-6)
    return float(-(scores * np.log(sure) + (1 - scores) * np.log(1 - sure)).mean())


def _sigmoid(logits: FloatArray) -> FloatArray:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -30, 30))))
