from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routers.bag import BagRouter
from routers.base import FloatArray
from routers.cascade import CascadeRouter, choose_escalation
from routers.knn import KnnRouter
from routers.linear import LinearRouter
from tests.prompts import shipped_encoder, toy_rows


def rows(*confidences: float, right: bool = True) -> FloatArray:
    """Make rows that are this sure of category 0, or of category 1."""
    made = np.array([[c, 1 - c] for c in confidences])
    return made if right else made[:, ::-1]


def escalation(cheap: FloatArray, both: FloatArray, weights: FloatArray | None = None) -> float:
    truth = np.zeros(len(cheap), dtype=np.int64)
    return choose_escalation(
        cheap, both, truth, np.ones(len(cheap)) if weights is None else weights
    )


def test_the_cheap_router_answers_while_it_is_as_good() -> None:
    cheap = np.vstack([rows(0.9, 0.8), rows(0.7, 0.6, right=False)])
    assert escalation(cheap, rows(0.9, 0.9, 0.9, 0.9)) == 0.8


def test_a_cheap_router_that_is_never_worse_answers_everything() -> None:
    cheap = rows(0.9, 0.6)
    assert escalation(cheap, cheap) == 0.6


def test_a_cheap_router_that_is_always_worse_answers_nothing() -> None:
    assert escalation(rows(0.9, 0.6, right=False), rows(0.9, 0.9)) == 1


def test_luck_further_down_does_not_count() -> None:
    cheap = np.vstack([rows(0.9), rows(0.8, right=False), rows(0.7, 0.6)])
    both = np.vstack([rows(0.9, 0.9), rows(0.9, 0.9, right=False)])
    assert escalation(cheap, both) == 0.9


def test_equal_confidences_are_answered_alike() -> None:
    cheap = np.vstack([rows(0.9, 0.8), rows(0.8, right=False)])
    assert escalation(cheap, rows(0.9, 0.9, 0.9)) == 0.9


def test_one_in_a_thousand_may_be_lost() -> None:
    cheap = np.vstack([rows(*np.linspace(0.99, 0.9, 999)), rows(0.8, right=False)])
    both = rows(*[0.9] * 1000)
    assert escalation(cheap, both) == 0.8
    assert escalation(cheap[-900:], both[-900:]) == 0.9


def test_a_text_that_counts_more_may_not_be_lost() -> None:
    cheap = np.vstack([rows(*np.linspace(0.99, 0.9, 999)), rows(0.8, right=False)])
    assert escalation(cheap, rows(*[0.9] * 1000), np.append(np.ones(999), 2.0)) == 0.9


PROMPTS_AND_LABELS = tuple(zip(*((row.prompt, row.category) for row in toy_rows()), strict=True))


@pytest.fixture(scope="module")
def cascade() -> CascadeRouter:
    prompts, labels = PROMPTS_AND_LABELS
    router = CascadeRouter(BagRouter("toy"), KnnRouter(shipped_encoder(), "toy"), "toy")
    router.fit(prompts[::2], labels[::2])
    router.calibrate(prompts[1::2], labels[1::2], np.ones(len(prompts[1::2])))
    return router


TEXTS = [*(row.prompt for row in toy_rows()), "zxcvb", "The moon is far away."]


def test_sure_answers_are_the_cheap_routers_and_others_the_mean_of_both(
    cascade: CascadeRouter,
) -> None:
    cheap, strong = cascade.cheap.predict_proba(TEXTS), cascade.strong.predict_proba(TEXTS)
    sure = cheap.max(axis=1) >= cascade.escalate_below
    assert 0 < sure.sum() < len(TEXTS)
    expected = np.where(sure[:, np.newaxis], cheap, cascade.mean.of(cheap, strong))
    assert cascade.predict_proba(TEXTS).tobytes() == expected.tobytes()


def test_what_the_cheap_router_is_sure_of_is_answered_at_once(cascade: CascadeRouter) -> None:
    sure = cascade.cheap.predict_proba(TEXTS).max(axis=1) >= cascade.escalate_below
    assert [not callable(cascade.predict_or_defer(text)) for text in TEXTS] == sure.tolist()


def test_what_is_deferred_does_not_ask_the_cheap_router_again(
    cascade: CascadeRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [cascade.predict_or_defer(text) for text in TEXTS]
    monkeypatch.setattr(BagRouter, "predict_or_defer", None)
    monkeypatch.setattr(BagRouter, "predict_proba", None)
    deferred = [row for row in found if callable(row)]
    assert deferred
    assert all(row().sum() == pytest.approx(1) for row in deferred)


def test_the_cheap_router_is_less_sure_of_two_prompts_in_one(cascade: CascadeRouter) -> None:
    first, second = "Write a Rust function that reads a CSV file.", "How long do I fry salmon?"
    alone = cascade.cheap.predict_proba([first, second]).max(axis=1)
    assert cascade.cheap.predict_proba([f"{first} {second}"]).max() < alone.min()


def test_every_text_is_embedded_for_finer_categories(cascade: CascadeRouter) -> None:
    assert all(cascade.predict_and_embed(text)[1] is not None for text in TEXTS)


def test_parameters_are_those_of_an_average_prompt(cascade: CascadeRouter) -> None:
    cheap_b, strong_b = cascade.cheap.active_params_b, cascade.strong.active_params_b
    assert cascade.active_params_b == cheap_b + cascade.escalated * strong_b
    assert cascade.active_params_to_embed_b == cheap_b + strong_b
    assert 0 <= cascade.escalated < 1


def test_calibrated_on_nothing_the_strong_router_is_always_asked() -> None:
    router = CascadeRouter(BagRouter("toy"), KnnRouter(shipped_encoder(), "toy"), "toy")
    router.fit(*PROMPTS_AND_LABELS)
    assert router.calibrate([], [], np.empty(0)).shape == (0, 3)
    assert router.escalated == router.escalate_below == 1
    assert router.active_params_b == router.cheap.active_params_b + router.strong.active_params_b


def test_slips_in_spelling_do_not_matter(cascade: CascadeRouter) -> None:
    right, slipped = "Please explain a function", "Pelase expalin a funtcion"
    assert np.array_equal(*cascade.predict_proba([right.lower(), slipped.lower()]))
    assert cascade.predict_proba([right]).tobytes() != cascade.predict_proba(["Pls"]).tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cheap: {"temperature": 1.0}, "an earlier version made it: train it again"),
        (lambda cheap: {**cheap, "type": "linear"}, "linear cannot be its cheap part"),
    ],
)
def test_an_artifact_with_another_cheap_part_is_refused(
    cascade: CascadeRouter, tmp_path: Path, change: Any, message: str
) -> None:
    settings = cascade.write(tmp_path)
    linear = LinearRouter(shipped_encoder(), "toy").fit(*PROMPTS_AND_LABELS)
    (tmp_path / "cheap" / "head.npz").unlink()
    linear_settings = linear.write(tmp_path / "cheap")
    cheap = change({**settings["cheap"], "settings": linear_settings})
    with pytest.raises(ValueError, match=message):
        CascadeRouter.load(tmp_path, "toy", cascade.categories_, {**settings, "cheap": cheap})
