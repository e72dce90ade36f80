from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routers.arrays import IntArray
from routers.bag import BagRouter
from routers.base import FloatArray
from routers.cascade import CascadeRouter, choose_escalation
from routers.knn import KnnRouter
from routers.linear import LinearRouter
from tests.prompts import shipped_encoder, toy_rows

N_TEXTS = 1000


def answers(confidences: FloatArray, categories: IntArray) -> FloatArray:
    """Make rows over three categories that are this sure of these."""
    rows = np.repeat((1 - confidences)[:, np.newaxis] / 2, 3, axis=1)
    rows[np.arange(len(rows)), categories] = confidences
    return rows


def escalation(
    n_texts: int, changed_below: tuple[float, float, float], luck: float = 0.0
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Choose thresholds where a category changes below its confidence, and elsewhere by luck.

    Returns them, with the cheap router's rows and the categories that asking both gives.
    """
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.4, 1.0, n_texts)
    categories = np.arange(n_texts) % 3
    changed = (confidences < np.array(changed_below)[categories]) | (rng.random(n_texts) < luck)
    cheap = answers(confidences, categories)
    both = answers(confidences, np.where(changed, (categories + 1) % 3, categories))
    return choose_escalation(cheap, both, np.ones(n_texts)), cheap, both


def test_a_category_that_changes_more_often_needs_more_confidence() -> None:
    thresholds, cheap, both = escalation(N_TEXTS, (0.5, 0.7, 0.9))
    assert thresholds[0] < thresholds[1] < thresholds[2] < 1
    alone = cheap.max(axis=1) >= thresholds[cheap.argmax(axis=1)]
    changed = cheap.argmax(axis=1) != both.argmax(axis=1)
    assert alone.mean() > 0.3
    assert (alone & changed).mean() < 0.02


def test_a_cheap_router_that_is_never_corrected_answers_everything() -> None:
    thresholds, cheap, _ = escalation(N_TEXTS, (0, 0, 0))
    assert (thresholds == cheap.max(axis=1).min()).all()


def test_a_cheap_router_that_is_always_corrected_answers_nothing() -> None:
    assert (escalation(N_TEXTS, (2, 2, 2))[0] > 1).all()


def test_a_cheap_router_whose_confidence_tells_nothing_answers_next_to_nothing() -> None:
    thresholds, cheap, _ = escalation(N_TEXTS, (0, 0, 0), luck=0.3)
    assert (cheap.max(axis=1) >= thresholds[cheap.argmax(axis=1)]).mean() < 0.05


def test_few_texts_prove_nothing() -> None:
    assert (escalation(100, (0, 0, 0))[0] > 1).all()


@pytest.mark.parametrize("luck", [0.0, 0.08])
def test_a_category_of_which_nothing_was_seen_is_not_trusted(luck: float) -> None:
    rng = np.random.default_rng(0)
    cheap = answers(rng.uniform(0.4, 1.0, N_TEXTS), np.zeros(N_TEXTS, dtype=np.int64))
    changed = (rng.random(N_TEXTS) < luck) & (cheap[:, 0] < 0.7)
    both = np.where(changed[:, np.newaxis], cheap[:, [1, 0, 2]], cheap)
    thresholds = choose_escalation(cheap, both, np.ones(N_TEXTS))
    assert thresholds[0] < 1
    assert (thresholds[1:] > 1).all()


def test_texts_that_count_for_nothing_do_not_matter() -> None:
    thresholds, cheap, both = escalation(N_TEXTS, (0.5, 0.5, 0.5))
    wrong = answers(np.full(N_TEXTS, 0.99), np.zeros(N_TEXTS, dtype=np.int64))
    weights = np.repeat([1.0, 0.0], N_TEXTS)
    with_others = choose_escalation(
        np.vstack([cheap, wrong]), np.vstack([both, wrong[:, ::-1]]), weights
    )
    assert with_others == pytest.approx(thresholds, abs=0.05)


PROMPTS_AND_LABELS = tuple(zip(*((row.prompt, row.category) for row in toy_rows()), strict=True))


@pytest.fixture(scope="module")
def cascade() -> CascadeRouter:
    prompts, labels = PROMPTS_AND_LABELS
    router = CascadeRouter(BagRouter("toy"), KnnRouter(shipped_encoder(), "toy"), "toy")
    router.fit(prompts[::2], labels[::2])
    held_out, truth = prompts[1::2] * N_COPIES, labels[1::2] * N_COPIES
    router.calibrate(held_out, truth, np.ones(len(truth)))
    return router


N_COPIES = 20
"""Of the hold-out: few texts prove nothing."""
TEXTS = [*(row.prompt for row in toy_rows()), "zxcvb", "The moon is far away."]


def test_sure_answers_are_the_cheap_routers_and_others_the_mean_of_both(
    cascade: CascadeRouter,
) -> None:
    cheap, strong = cascade.cheap.predict_proba(TEXTS), cascade.strong.predict_proba(TEXTS)
    sure = cheap.max(axis=1) >= cascade.escalate_below[cheap.argmax(axis=1)]
    assert sure.tolist() == (~cascade.needs_strong(cheap)).tolist()
    assert 0 < sure.sum() < len(TEXTS)
    expected = np.where(sure[:, np.newaxis], cheap, cascade.mean.of(cheap, strong))
    assert cascade.predict_proba(TEXTS).tobytes() == expected.tobytes()


def test_what_the_cheap_router_is_sure_of_is_answered_at_once(cascade: CascadeRouter) -> None:
    sure = ~cascade.needs_strong(cascade.cheap.predict_proba(TEXTS))
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
    assert router.escalated == 1
    certain = np.eye(3)
    assert router.needs_strong(certain).all()
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
