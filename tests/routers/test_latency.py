from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from routers.base import FloatArray
from routers.latency import latency_ms


class Recording:
    """Answers at once, and keeps what it was asked."""

    name, version, categories_ = "recording", "1", ("a", "b")
    active_params_b = min_margin = 0.0

    def __init__(self) -> None:
        self.asked: list[str] = []

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        self.asked += texts
        return np.full((len(texts), 2), 0.5)


def test_prompts_are_cut_or_repeated_to_each_length() -> None:
    router = Recording()
    spent_ms = latency_ms(router, ["one two three", "word " * 600])
    assert list(spent_ms) == ["20", "100", "500"]
    asked = [text.split() for text in router.asked if text]
    assert [len(words) for words in asked] == [20, 20, 100, 100, 500, 500]
    assert asked[0][:5] == ["one", "two", "three", "one", "two"]


def test_of_many_prompts_a_hundred_are_timed() -> None:
    router = Recording()
    latency_ms(router, [f"prompt {number}" for number in range(1_050)])
    assert len({text.split()[1] for text in router.asked if text}) <= 100
    assert "prompt 0" in router.asked[1]
    assert any("prompt 104" in text for text in router.asked)
