from __future__ import annotations

import numpy as np
import pytest

from routers.bag import BagRouter
from routers.base import FloatArray
from routers.cascade import CascadeRouter, choose_escalation
from routers.knn import KnnRouter
from tests.prompts import shipped_encoder, toy_rows


def rows(*confidences: float, right: bool = True) -> FloatArray:
    """Make rows that are this sure of category 0, or of category 1."""
    made = np.array([[c, 1 - c] for c in confidences])
    return made if right else made[:, ::-1]


def test_the_cheap_router_answers_while_it_is_as_good() -> None:
    cheap = np.vstack([rows(0.9, 0.8), rows(0.7, 0.6, right=False)])
    strong = rows(0.9, 0.9, 0.9, 0.9)
    assert choose_escalation(cheap, strong, np.zeros(4, dtype=np.int64)) == 0.8


def test_a_cheap_router_that_is_never_worse_answers_everything() -> None:
    cheap = rows(0.9, 0.6)
    assert choose_escalation(cheap, cheap, np.zeros(2, dtype=np.int64)) == 0.6


def test_a_cheap_router_that_is_always_worse_answers_nothing() -> None:
    cheap, strong = rows(0.9, 0.6, right=False), rows(0.9, 0.9)
    assert choose_escalation(cheap, strong, np.zeros(2, dtype=np.int64)) == 1


def test_half_a_percent_may_be_lost() -> None:
    n = 200
    cheap = np.vstack([rows(*np.linspace(0.99, 0.9, n - 1)), rows(0.8, right=False)])
    strong = rows(*[0.9] * n)
    truth = np.zeros(n, dtype=np.int64)
    assert choose_escalation(cheap, strong, truth) == 0.8


@pytest.fixture(scope="module")
def cascade() -> CascadeRouter:
    prompts = [row.prompt for row in toy_rows()]
    labels = [row.category for row in toy_rows()]
    router = CascadeRouter(BagRouter("toy"), KnnRouter(shipped_encoder(), "toy"), "toy")
    router.fit(prompts[::2], labels[::2])
    router.calibrate(prompts[1::2], labels[1::2], np.ones(len(prompts[1::2])))
    return router


def test_sure_answers_are_the_cheap_routers_and_others_the_strong_ones(
    cascade: CascadeRouter,
) -> None:
    texts = [*(row.prompt for row in toy_rows()), "zxcvb", "The moon is far away."]
    cheap, strong = cascade.cheap.predict_proba(texts), cascade.strong.predict_proba(texts)
    sure = cheap.max(axis=1) >= cascade.escalate_below
    assert 0 < sure.sum() < len(texts)
    expected = np.where(sure[:, np.newaxis], cheap, strong)
    assert cascade.predict_proba(texts).tobytes() == expected.tobytes()


def test_parameters_are_those_of_an_average_prompt(cascade: CascadeRouter) -> None:
    cheap_b, strong_b = cascade.cheap.active_params_b, cascade.strong.active_params_b
    assert cascade.active_params_b == cheap_b + cascade.escalated * strong_b
    assert 0 <= cascade.escalated < 1
