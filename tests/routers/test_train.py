from __future__ import annotations

from random import Random

import pytest

from routers.base import FloatArray, margins
from routers.calibrate import Goal
from routers.data import Row
from routers.default_data.written import asked_rows
from routers.linear import LinearRouter
from routers.metrics import Answers, calibration_error
from routers.train import TrainOptions, train
from tests.prompts import shipped_encoder

TOPICS = ("coding", "law", "medical")
SMALL_TALK = (
    *("hello", "asdf", "What is the capital of France?", "tell me a joke", "good morning!"),
    *("who won the world cup", "what should I name my cat", "thanks, that was great"),
    *("any ideas for a rainy sunday", "how tall is the eiffel tower", "I am bored", "lol"),
    *("play some jazz", "what's your favourite colour", "recommend a good film for tonight"),
)


@pytest.fixture(scope="module")
def few_and_fresh() -> tuple[list[Row], list[Row]]:
    """Return 20 prompts of each topic to learn from, and 50 of each that are not."""
    few, fresh = [], []
    for topic in TOPICS:
        rows = [Row(row.prompt, topic) for row in asked_rows() if row.category == topic]
        chosen = Random(0).sample(rows, 70)
        few += chosen[:20]
        fresh += chosen[20:]
    return few, fresh


def trained(rows: list[Row], goal: Goal | None = None) -> LinearRouter:
    router = LinearRouter(shipped_encoder(), "toy")
    report = train(router, rows, [], TrainOptions(folds=5, goal=goal or Goal()))
    assert (report["held_out"]["n"], report["held_out"]["folds"]) == (60, 5)
    assert report["data"]["out_of_scope"] == 0
    return router


def kept(router: LinearRouter, rows: FloatArray) -> float:
    return float((margins(rows, router.categories_) >= router.min_margin).mean())


def test_twenty_prompts_a_category_make_an_honest_router_that_abstains(
    few_and_fresh: tuple[list[Row], list[Row]],
) -> None:
    few, fresh = few_and_fresh
    router = trained(few)
    rows = router.predict_proba([row.prompt for row in fresh])
    labels = [row.category for row in fresh]
    answers = Answers.of(rows, labels, router.categories_, router.min_margin)
    assert answers.correct.mean() > 0.85
    assert calibration_error(answers) < 0.1
    assert kept(router, rows) > 0.8
    strangers = router.predict_proba(SMALL_TALK)
    assert strangers.max(axis=1).mean() < 0.8
    assert kept(router, strangers) < 0.3


def test_small_talk_can_be_left_out_of_the_threshold(
    few_and_fresh: tuple[list[Row], list[Row]],
) -> None:
    few, _ = few_and_fresh
    router = trained(few, Goal(out_of_scope=0.0, accuracy=0.0))
    assert router.min_margin == 0
